"""Digests: the values that artefact keys, fingerprints and seeds are built from, which must never change."""

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import unseen_diffusion
from unseen_diffusion.domains.base import fingerprint
from unseen_diffusion.models.analytic import GaussianModel, linear_schedule
from unseen_diffusion.models.loading import weights_digest
from unseen_diffusion.models.pipeline import Options, _fingerprint
from unseen_diffusion.runs.stages import LatentSet
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.store.artefacts import key_of
from unseen_diffusion.store.bucket import local_folder
from unseen_diffusion.training.data import images_digest
from unseen_diffusion.utils.digests import array_digest, digest, file_digest, json_digest, raw_digest, tensor_digest
from unseen_diffusion.utils.files import seal, unseal
from unseen_diffusion.utils.seeds import generator

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
COUNTED = torch.arange(6, dtype=torch.uint8).reshape(2, 3)


def test_bytes_and_texts(tmp_path: Path) -> None:
    """One after the other, as if they were one; the same from a file."""
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    assert digest("abc") == digest(b"a", "bc") == raw_digest(iter(["ab", b"c"])).hex() == file_digest(path) == ABC
    assert digest("ä") == digest("ä".encode())


def test_json_values() -> None:
    """The order of entries does not count; what JSON cannot carry is refused."""
    assert json_digest({"b": [1, 2.0], "a": None}) == json_digest({"a": None, "b": [1, 2.0]})
    assert json_digest([1]) != json_digest([1.0])
    for value in (float("nan"), {1}):
        with pytest.raises((TypeError, ValueError)):
            json_digest(value)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (COUNTED.numpy(), "6dbfa661f92b4bffd7cb2ea7e83c24ad44681b06d5cc1edd6f144af02fe540e4"),
        (COUNTED.float().numpy(), "3378efc20f15f0e870a04920ebd06243767f44dd6de3dfc84997ea2f41bc964c"),
        (COUNTED.float().numpy().T, "af77613a63fcfaf1cd4dc1e86626be804b2828e279f2576df99ad97a4a68db48"),
        (np.array(1.5), "72ced3fbec649a26566669cc71790a5384a7dd4ffe7a1fe812649bd958d28f68"),
    ],
)
def test_arrays(array: np.ndarray, expected: str) -> None:
    """Type, shape and values count; the layout in memory does not."""
    assert array_digest(array) == array_digest(array.copy()) == expected


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (COUNTED, "96b830c19a99c5a6ab37c06170bd5151fc6ad7a7eb5d4447b97d3b0e65056ad8"),
        (COUNTED.T, "7a8b8d3ad0e67ce881fbf84915325c2e2c6b7ce8e1aa98120d9bd3dda091aa9d"),
        (COUNTED.float(), "e20933188a476ce2418266391f2f875503b2dbea37a1f5a230c18b535bc495b5"),
    ],
)
def test_tensors(tensor: torch.Tensor, expected: str) -> None:
    """As for arrays."""
    assert tensor_digest(tensor) == tensor_digest(tensor.contiguous()) == expected


def test_keys_of_artefacts() -> None:
    """Upstream keys and fingerprints enter the keys of artefacts: a change of any orphans what is stored."""
    network = nn.Linear(2, 1)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[1.0, 2.0]]))
        network.bias.fill_(3)
    gaussian = GaussianModel(torch.zeros(1, 2, 2), None, torch.ones(4), linear_schedule())
    latents = LatentSet(500.0, torch.arange(4.0).reshape(1, 1, 2, 2), [3])
    model = _fingerprint(["aa", "bb"], Options(guidance=2.0, initial_seed=3), network)
    assert {
        "stage": key_of("stage", 1, {"t": 500.0, "name": "ä"}),
        "latents": latents.key,
        "pool": fingerprint(names=["ä", "b"], size=8, channels=1),
        "data set": images_digest(COUNTED, COUNTED.float()),
        "weights": weights_digest(network),
        "model": model,
        "analytic model": gaussian.fingerprint,
        "features": Pixels(side=4).fingerprint,
        "bucket": local_folder("s3://a/b", "http://x"),
    } == {
        "stage": "bfa03cc362f5cd8ecc267b0a87d9d5ab418abb37638571b3e420deabd843764b",
        "latents": "c99a4a446e3b12b275e7506bdacd6f0d1b72afdf78c1664fdf4be64d44623b85",
        "pool": "553bd670b14535de1dc00259ca1c26cce2831a123924a991bd7214cf03b65fc2",
        "data set": "111625c41502a57976b4ced0e3c25ebd400eb1ac88012421632b27d8eb16f0ae",
        "weights": "929c27949683e31de876d3252e308f89b3a85ca51d44c08e2d80264745551ccc",
        "model": "16766b077cbff2c22f171158e8e9ccc3f42c566bb42c7abcec7893791e47ca75",
        "analytic model": "3935aca50a9b8b6343b6c5daf7e60ea30586cb754e3bd74790b4ecd37c27edd3",
        "features": "19c17b0ef91ce624d2ebb20100c6ab8236d7b789df3e61cf7ec826b9c41d6332",
        "bucket": "s3-a-c13fd084f093",
    }


def test_random_streams() -> None:
    """A seed that changed would change every sample."""
    assert generator(0, "candidate", 17).initial_seed() == 15000537230227851378


def test_sealed_records() -> None:
    sealed = seal({"b": 1, "a": "ä"})
    assert b'"checksum": "78892fb919682f85e08161f2cd8e0e904520a093cd75421077a1c865e59e90c6"' in sealed
    assert unseal(sealed) == {"b": 1, "a": "ä"}
    assert unseal(sealed.replace(b"1", b"2", 1)) is None


def test_one_module_computes_digests() -> None:
    """Nothing else imports hashlib, in any form, at any place of a file."""
    package = Path(unseen_diffusion.__file__).parent
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            users |= {path.name for name in names if name.partition(".")[0] == "hashlib"}
    assert users == {"digests.py"}


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_different_json_values_have_different_digests(one: Any, other: Any) -> None:
    """1, 1.0 and true differ; the order of entries does not count, nor does a round trip through a file."""
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (json_digest(one) == json_digest(other)) == same
    assert json_digest(json.loads(json.dumps(one))) == json_digest(one)
    assert key_of("stage", 1, {"a": one, "b": other}) == key_of("stage", 1, {"b": other, "a": one})
    if not same:
        assert key_of("stage", 1, {"a": one, "b": other}) != key_of("stage", 1, {"a": other, "b": one})


SHAPES = st.lists(st.integers(0, 3), max_size=3)
TYPES = st.sampled_from([torch.uint8, torch.int64, torch.float32, torch.float64])


@given(SHAPES, TYPES, SHAPES, TYPES)
def test_tensors_of_another_shape_or_type_have_another_digest(
    shape: list[int], kind: torch.dtype, other_shape: list[int], other_kind: torch.dtype
) -> None:
    """Also where the bytes are the same: of zeros, or of no values at all."""
    same = (shape, kind) == (other_shape, other_kind)
    one, other = torch.zeros(shape, dtype=kind), torch.zeros(other_shape, dtype=other_kind)
    assert (tensor_digest(one) == tensor_digest(other)) == same
    if one.numel():
        assert tensor_digest(one) != tensor_digest(one + 1)


@given(st.floats(0, 999), st.lists(st.integers(0, 99), min_size=1, max_size=5), st.integers(0, 4))
def test_keys_of_latents_follow_step_values_and_noise_streams(t: float, indices: list[int], at: int) -> None:
    latents = torch.arange(4.0 * len(indices)).reshape(-1, 1, 2, 2)
    before, at = LatentSet(t, latents, indices).key, at % len(indices)
    assert LatentSet(t, latents.clone(), list(indices)).key == before
    changed = latents.clone()
    changed[at, 0, 0, 0] += 1
    others = [LatentSet(t + 1, latents, indices), LatentSet(t, changed, indices)]
    others.append(LatentSet(t, latents, [*indices[:at], indices[at] + 1, *indices[at + 1 :]]))
    others.append(LatentSet(t, latents.reshape(-1, 1, 4, 1), indices))
    assert len({before, *(one.key for one in others)}) == 5


@given(
    st.text("abc/.: ", min_size=1, max_size=12),
    st.text("abc/.: ", max_size=12),
    st.sampled_from([None, "http://x", "http://y"]),
)
def test_each_bucket_has_its_own_folder(one: str, other: str, endpoint: str | None) -> None:
    """A name without slashes, whatever the address."""
    first, second = (local_folder(f"s3://bucket/{prefix}", endpoint) for prefix in (one, other))
    assert (first == second) == (one == other)
    assert Path(first).name == first
    assert first != local_folder(f"s3://bucket/{one}", "http://z")
