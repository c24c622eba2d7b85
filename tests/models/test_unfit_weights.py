"""Weights and configs that do not fit each other, variants of weights, and near matches: one line each."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import TinyModelFolder
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.folders import WEIGHTS, resolve, variant_of
from unseen_diffusion.models.options import inspect_model
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json

STEM = WEIGHTS.removesuffix(".safetensors")
UNET, SCHEDULER, INDEX = "unet/config.json", "scheduler/scheduler_config.json", "model_index.json"


@pytest.fixture
def folder(tiny_model_folder: TinyModelFolder, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_model_folder(), tmp_path / "broken"))


def change_weights(folder: Path, change: Callable[[dict[str, Any]], None], name: str = WEIGHTS) -> None:
    weights = load_file(folder / "unet" / WEIGHTS)
    change(weights)
    save_file(weights, folder / "unet" / name, metadata={"format": "pt"})


def refuses(make: Callable[..., Any], folder: Path | str, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make(str(folder), **options)
    assert "\n" not in str(caught.value)


def first(weights: dict[str, Any], value: float) -> None:
    weights["conv_in.weight"].view(-1)[0] = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.update({"extra.weight": torch.ones(2)}), r"no place for 1 tensors .* such as extra\.weight"),
        (lambda w: w.update({"b.x": torch.ones(2), "a.x": torch.ones(1)}), r"no place for 2 tensors .* such as a\.x"),
        (lambda w: w.pop("conv_out.bias"), r"do not fit its config \(1 tensors, such as conv_out\.bias\)"),
        (lambda w: w.update({"conv_out.bias": torch.ones(7)}), r"do not fit its config|cannot be read"),
        (lambda w: first(w, math.nan), r"tensor conv_in\.weight is not finite"),
        (lambda w: first(w, math.inf), r"tensor conv_in\.weight is not finite"),
        (lambda w: first(w, -math.inf), r"tensor conv_in\.weight is not finite"),
        (lambda w: first(w, 3e38), r"output: 1 of 1 \(row 0\) is not finite; check its weights"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, change: Any, message: str) -> None:
    change_weights(folder, change)
    if "output" in message:  # a large weight alone is no error: what the network returns is
        change_weights(folder, lambda w: [w[name].fill_(3e38) for name in ("conv_in.bias", "conv_out.bias")])
        change_weights(folder, lambda w: w["conv_out.weight"].fill_(3e38))
    refuses(DiffusersModel, folder, message)


def test_attention_that_the_config_leaves_out_is_noticed(folder: Path) -> None:
    config = read_json(folder / UNET)
    plain = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    write_json(folder / UNET, config | plain)
    refuses(DiffusersModel, folder, r"config has no place for \d+ tensors of its weights, such as .*attentions")


@pytest.mark.parametrize("name", ["time_proj.W", "time_proj.weight"])
def test_what_older_versions_saved_twice_is_no_surprise(tmp_path: Path, name: str) -> None:
    from support import families

    folder = families.make("ncsnpp", tmp_path / "ncsnpp")
    change_weights(folder, lambda w: w.update({name: w["time_proj.weight"].clone()}))
    assert DiffusersModel(str(folder)).evaluations == 0


def test_the_trial_is_one_uncounted_forward_that_draws_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[int] = []
    predict = DiffusersModel._predict
    monkeypatch.setattr(
        DiffusersModel, "_predict", lambda self, x, node: tried.append(len(x)) or predict(self, x, node)
    )
    before = torch.random.get_rng_state()
    assert DiffusersModel(str(folder)).evaluations == 0
    assert tried == [1]
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("size", [27, 9, 1])
def test_a_size_that_the_network_cannot_take_is_one_line(folder: Path, size: int) -> None:
    write_json(folder / UNET, read_json(folder / UNET) | {"sample_size": size})
    refuses(DiffusersModel, folder, rf"unet cannot take a state of 3x{size}x{size} \(.*\); correct sample_size")


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        (UNET, "sample_size", 0, "sample_size=0: give a whole number"),
        (UNET, "sample_size", -8, "sample_size=-8: give"),
        (UNET, "sample_size", 10**9, "sample_size=1000000000: give"),
        (UNET, "sample_size", 8.0, "sample_size 8"),
        (UNET, "sample_size", True, "sample_size True"),
        (UNET, "sample_size", "8", "sample_size 8"),
        (UNET, "sample_size", None, "sample_size None"),
        (UNET, "sample_size", [8, 8, 8], "sample_size"),
        (UNET, "in_channels", 0, "in_channels=0: give"),
        (UNET, "in_channels", "three", "in_channels=three: give"),
        (UNET, "in_channels", 10**8, "in_channels=100000000: give"),
        (UNET, "out_channels", -3, "out_channels=-3: give"),
        (UNET, "out_channels", [3], r"out_channels=\[3\]: give"),
        (UNET, "block_out_channels", [], r"block_out_channels"),
        (UNET, "block_out_channels", [8] * 40, r"block_out_channels"),
        (UNET, "block_out_channels", 8, "block_out_channels=8"),
        (UNET, "layers_per_block", 10**6, "layers_per_block"),
        (UNET, "num_class_embeds", 10**12, "num_class_embeds"),
        (UNET, "_class_name", ["UNet2DModel"], "network .*; known: UNet2DModel"),
        (SCHEDULER, "num_train_timesteps", 0, "num_train_timesteps=0: give"),
        (SCHEDULER, "num_train_timesteps", 1, "num_train_timesteps=1: give"),
        (SCHEDULER, "num_train_timesteps", -5, "num_train_timesteps=-5: give"),
        (SCHEDULER, "num_train_timesteps", 10**13, "num_train_timesteps=10000000000000: give"),
        (SCHEDULER, "num_train_timesteps", 1000.5, r"num_train_timesteps=1000\.5: give"),
        (SCHEDULER, "num_train_timesteps", "many", "num_train_timesteps=many: give"),
        (SCHEDULER, "beta_schedule", "cosine_of_mine", "describes no noise schedule of DDPMScheduler"),
        (SCHEDULER, "beta_schedule", [], "describes no noise schedule"),
        (SCHEDULER, "beta_start", -0.5, "describes no noise schedule"),
        (SCHEDULER, "beta_start", math.nan, "describes no noise schedule"),
        (SCHEDULER, "beta_end", math.inf, "describes no noise schedule"),
        (SCHEDULER, "beta_end", 5.0, "describes no noise schedule"),
        (SCHEDULER, "beta_end", "large", "describes no noise schedule"),
        (SCHEDULER, "beta_end", {"a": 1}, "describes no noise schedule"),
        (SCHEDULER, "prediction_type", ["epsilon"], "broken"),
        (SCHEDULER, "_class_name", {"a": 1}, "is not supported; known"),
        (INDEX, "unet", ["diffusers"], r"unet in model_index\.json is"),
        (INDEX, "unet", [1, 2], r"unet in model_index\.json is"),
        (INDEX, "unet", 5, "no unet and no transformer"),
        (INDEX, "unet", [None, None], "no unet and no transformer"),
        (INDEX, "vae", ["diffusers", "AutoencoderKL"], "vae"),
    ],
)
def test_what_json_may_ask_for_is_bounded(folder: Path, file: str, key: str, value: Any, message: str) -> None:
    """By the JSON alone, in one line that names the folder."""
    write_json_with_nan(folder / file, read_json(folder / file) | {key: value})
    refuses(inspect_model, folder, message)


def write_json_with_nan(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("file", [UNET, SCHEDULER, INDEX, "unseen.json"])
@pytest.mark.parametrize("text", ["[]", "null", "3", '"text"', "[" * 5000, "", "{", "\x00"])
def test_json_that_holds_no_object_is_refused(folder: Path, file: str, text: str) -> None:
    (folder / file).write_text(text)
    refuses(inspect_model, folder, "config is an object|not a readable JSON|nested too deeply")


@pytest.mark.parametrize("value", [0, -1, 1.5, "2", None, 10**9, [2]])
def test_pixel_unshuffle_is_a_small_whole_number(folder: Path, value: Any) -> None:
    write_json(folder / "unseen.json", {"pixel_unshuffle": value})
    refuses(inspect_model, folder, "pixel_unshuffle")


# --- variants ---


def keep_variants(folder: Path, *names: str, full: bool = False) -> None:
    """Weights under these variants' names, each a little larger than the last; those of full precision go."""
    weights = load_file(folder / "unet" / WEIGHTS)
    for number, name in enumerate(names):
        scaled = {key: (value * (1 + number)).half() for key, value in weights.items()}
        save_file(scaled, folder / "unet" / f"{STEM}.{name}.safetensors", metadata={"format": "pt"})
    if not full:
        (folder / "unet" / WEIGHTS).unlink()


def test_the_only_variant_is_read(folder: Path) -> None:
    expected = load_file(folder / "unet" / WEIGHTS)["conv_in.weight"].half().float()
    keep_variants(folder, "fp16")
    inspect_model(str(folder))
    unnamed, named = DiffusersModel(str(folder)), DiffusersModel(str(folder), variant="fp16")
    assert torch.equal(unnamed.network.conv_in.weight, expected)
    assert unnamed.fingerprint == named.fingerprint
    refuses(inspect_model, folder, r"model\.variant=fp32: .* choose one of fp16, or leave it out", variant="fp32")


def test_full_precision_comes_first_unless_a_variant_is_named(folder: Path, tiny_model_folder: TinyModelFolder) -> None:
    keep_variants(folder, "ema", full=True)
    plain = DiffusersModel(str(folder))
    assert plain.fingerprint == DiffusersModel(str(tiny_model_folder())).fingerprint
    assert DiffusersModel(str(folder), variant="ema").fingerprint != plain.fingerprint


def test_several_variants_are_to_choose_from(folder: Path) -> None:
    keep_variants(folder, "fp16", "non_ema")
    for make in (inspect_model, DiffusersModel):
        refuses(make, folder, r"variants fp16, non_ema only; choose one, e\.g\. model\.variant=fp16")
    fingerprints = {DiffusersModel(str(folder), variant=name).fingerprint for name in ("fp16", "non_ema")}
    assert len(fingerprints) == 2


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_sharded_and_pickled_variants_load(folder: Path, variant: str | None) -> None:
    expected = DiffusersModel(str(folder)).network
    (folder / "unet" / WEIGHTS).unlink()
    expected.save_pretrained(folder / "unet", variant="fp16", max_shard_size="20KB")
    assert len(list((folder / "unet").glob("*-of-*"))) > 1
    loaded = DiffusersModel(str(folder), variant=variant).network
    assert torch.equal(loaded.conv_in.weight, expected.conv_in.weight)
    for path in (folder / "unet").glob(f"{STEM}*"):
        path.unlink()
    torch.save(expected.state_dict(), folder / "unet" / f"{STEM}.fp16.bin")
    assert torch.equal(DiffusersModel(str(folder), variant=variant).network.conv_in.weight, expected.conv_in.weight)


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        (f"{STEM}.safetensors", "unet", None),
        (f"{STEM}.fp16.safetensors", "unet", "fp16"),
        (f"{STEM}.non_ema.bin", "vae", "non_ema"),
        (f"{STEM}.safetensors.index.json", "unet", None),
        (f"{STEM}.safetensors.index.fp16.json", "unet", "fp16"),
        (f"{STEM}-00001-of-00002.safetensors", "unet", None),
        (f"{STEM}.fp16-00001-of-00002.safetensors", "unet", None),
        ("model.fp16.safetensors", "text_encoder", "fp16"),
        ("pytorch_model.fp16.bin", "text_encoder", "fp16"),
        ("model.fp16.safetensors", "unet", None),
    ],
)
def test_variants_by_name(name: str, part: str, expected: str | None) -> None:
    assert variant_of(name, part) == expected


@pytest.mark.parametrize(
    ("remote", "variant", "fetched"),
    [
        ([WEIGHTS, f"{STEM}.fp16.safetensors"], None, {WEIGHTS}),
        ([WEIGHTS, f"{STEM}.fp16.safetensors"], "fp16", {f"{STEM}.fp16.safetensors"}),
        ([f"{STEM}.fp16.safetensors"], None, {f"{STEM}.fp16.safetensors"}),
        ([f"{STEM}.fp16.safetensors"], "fp32", {f"{STEM}.fp16.safetensors"}),
        ([f"{STEM}.bin", f"{STEM}.fp16.safetensors"], None, {f"{STEM}.bin"}),
        ([f"{STEM}.fp16.bin"], None, {f"{STEM}.fp16.bin"}),
    ],
)
def test_the_hub_is_asked_for_variants(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    remote: list[str],
    variant: str | None,
    fetched: set[str],
) -> None:
    from fnmatch import fnmatch

    local = tmp_path / "snapshot"
    names = [INDEX, UNET, SCHEDULER, *(f"unet/{name}" for name in remote)]

    def download(path: str, revision: str | None, allow_patterns: list[str]) -> str:
        for name in names:
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / (name if name.endswith(".json") else f"unet/{WEIGHTS}"), local / name)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    resolve("owner/name", variant=variant)
    assert {path.name for path in (local / "unet").iterdir() if path.suffix != ".json"} == fetched


# --- near matches ---


@pytest.mark.parametrize("other", ["model.safetensors", "diffusion_flax_model.msgpack", "weights.ckpt"])
def test_weights_of_another_name_are_mentioned(folder: Path, other: str) -> None:
    (folder / "unet" / WEIGHTS).rename(folder / "unet" / other)
    refuses(inspect_model, folder, rf"no unet/{STEM}\.safetensors \(but unet/{other}, whose name or format is not read")


def test_a_folder_that_is_nearly_named_or_one_level_deeper_is_suggested(folder: Path) -> None:
    refuses(inspect_model, folder.with_name("Brokn"), rf"no such folder; did you mean {folder}\?")
    refuses(inspect_model, folder.parent, rf"no unet/config\.json; did you mean {folder}\?")
    refuses(inspect_model, "embedded:photo32", "no such embedded model; choose one of digits32, photos32")
