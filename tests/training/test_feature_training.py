"""Training of the feature network: distortions, augmentation, balance, and the recipe from config to card."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor

from support import ROOT
from unseen_diffusion.domains.faces import Faces
from unseen_diffusion.domains.textures import Textures
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures, FeatureNetwork
from unseen_diffusion.training.cards import training_command
from unseen_diffusion.training.distortions import DISTORTIONS, KINDS, distort
from unseen_diffusion.training.feature_recipe import feature_sources, train_features
from unseen_diffusion.training.features import (
    SYMMETRIES,
    FeatureLoss,
    Source,
    TrainingSet,
    augment,
    distortion_accuracy,
    domain_accuracy,
    domain_source,
)
from unseen_diffusion.training.resume import LOCK
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import locked, read_json
from unseen_diffusion.utils.images import dequantise, quantise
from unseen_diffusion.utils.seeds import generator

CONF = str(ROOT / "conf")


def smooth(count: int, channels: int = 3) -> Tensor:
    """Images (N, C, 32, 32) in [-0.9, 0.9] with structure at low frequencies."""
    coarse = torch.rand(count, channels, 5, 5, generator=generator(0, "smooth")) * 1.8 - 0.9
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def apply(kind: str, x: Tensor, strength: float, seed: int = 0) -> Tensor:
    kinds = torch.full((len(x),), KINDS.index(kind))
    return distort(x, kinds, torch.full((len(x),), strength), generator(seed, kind))


# ---------------------------------------------------------------- distortions


@pytest.mark.parametrize("kind", KINDS)
def test_distortions_keep_the_form_and_repeat(kind: str) -> None:
    x = smooth(6)
    changed = apply(kind, x, 0.5)
    assert changed.shape == x.shape
    assert changed.abs().max() <= 1
    assert torch.equal(changed, apply(kind, x, 0.5))
    assert torch.equal(changed, x) == (kind == "none")


@pytest.mark.parametrize("kind", KINDS[1:])
def test_distortions_grow_with_their_strength(kind: str) -> None:
    x = smooth(40)
    change = [float((apply(kind, x, strength) - x).abs().mean()) for strength in (0.0, 0.5, 1.0)]
    assert 0.004 < change[0] < change[1] < change[2]


def test_each_image_gets_its_own_kind() -> None:
    x = smooth(len(KINDS))
    mixed = distort(x, torch.arange(len(KINDS)), torch.ones(len(KINDS)), generator(0, "mixed"))
    same = [torch.equal(image, original) for image, original in zip(mixed, x, strict=True)]
    assert same == [kind == "none" for kind in KINDS]


def test_shuffle_moves_whole_blocks() -> None:
    x = smooth(3)
    shuffled = apply("shuffle", x, 1.0)
    torch.testing.assert_close(shuffled.flatten(1).sort().values, x.flatten(1).sort().values)
    blocks = x.unfold(2, 8, 8).unfold(3, 8, 8)
    moved = (shuffled.unfold(2, 8, 8).unfold(3, 8, 8) != blocks).any(-1).any(-1).any(1)
    assert moved.all()
    weakest = apply("shuffle", x, 0.0).unfold(2, 8, 8).unfold(3, 8, 8)
    assert (weakest != blocks).any(-1).any(-1).any(1).sum((-2, -1)).tolist() == [2, 2, 2]


def test_phase_keeps_spectrum_and_mean() -> None:
    x = smooth(3)
    changed = DISTORTIONS["phase"](x, torch.ones(3), generator(0, "phase"))
    torch.testing.assert_close(changed.mean((-2, -1)), x.mean((-2, -1)), atol=1e-5, rtol=0)
    before, after = torch.fft.rfft2(x).abs(), torch.fft.rfft2(changed).abs()
    torch.testing.assert_close(after[..., 1:16], before[..., 1:16], atol=1e-3, rtol=1e-3)


def test_colour_leaves_no_grey() -> None:
    grey = smooth(8, channels=1).expand(-1, 3, -1, -1)
    assert ((apply("colour", grey, 0.0).amax(1) - apply("colour", grey, 0.0).amin(1)).mean((1, 2)) > 0.05).all()
    for kind in ("blur", "shuffle", "phase", "blend", "low_resolution"):
        changed = apply(kind, grey, 1.0)
        torch.testing.assert_close(changed, changed[:, :1].expand_as(changed), atol=1e-5, rtol=0)


# ---------------------------------------------------------------- data


def source(name: str, count: int, value: int, rows: int, symmetry: str = "none") -> Source:
    images = torch.full((count, 3, 32, 32), value, dtype=torch.uint8)
    return Source(images, (name,) * count, symmetry, rows)


def test_augmentation_respects_the_symmetry() -> None:
    ramp = torch.linspace(-0.8, 0.8, 32).expand(200, 3, 32, 32).contiguous()  # brightens to the right
    for number, symmetry in enumerate(SYMMETRIES):
        x = augment(ramp, torch.full((200,), number), generator(0, symmetry))
        across = (x[..., -1] - x[..., 0]).mean((1, 2))
        down = (x[:, :, -1] - x[:, :, 0]).mean((1, 2))
        assert x.shape == ramp.shape
        assert bool((across < -1).any()) == (symmetry != "none")
        assert bool((down.abs() > 1).any()) == (symmetry == "square")


def test_augmentation_shifts_by_at_most_two_pixels() -> None:
    dot = torch.full((100, 1, 32, 32), -1.0)
    dot[:, :, 16, 16] = 0.5
    x = augment(dot, torch.zeros(100, dtype=torch.int64), generator(0, "dot"))
    places = (x > 0).nonzero()
    assert len(places) == 100
    assert (places[:, 2:] - 16).abs().max() == 2
    assert 0.3 < x.amax((1, 2, 3)).min() < x.amax((1, 2, 3)).max() < 0.7


def test_balance_bounds_the_repeats_of_small_classes() -> None:
    two = Source(torch.zeros(30, 3, 32, 32, dtype=torch.uint8), ("b/x",) * 10 + ("b/y",) * 20, "none", 100)
    data = TrainingSet.balanced([source("c", 4, 0, 100), two, source("a", 500, 0, 100)], most_repeats=5)
    assert data.classes == ("a", "b/x", "b/y", "c")
    assert data.draws.bincount().tolist() == [100, 50, 50, 20]
    assert data.labels.bincount().tolist() == [500, 10, 20, 4]
    assert torch.equal(data.labels, data.labels.sort().values)


def test_batches_carry_their_labels_and_repeat() -> None:
    data = TrainingSet.balanced([source("dark", 5, 40, 50), source("light", 90, 200, 50)], most_repeats=10)
    loss = FeatureLoss(data, distorted=0.5, smoothing=0.0, device=torch.device("cpu"))
    x, labels, kinds = loss.batch(torch.arange(100), generator(0, "step", 3))
    plain = kinds == 0
    assert labels.tolist() == [0] * 50 + [1] * 50
    assert torch.equal((x[plain].mean((1, 2, 3)) > 0).long(), labels[plain])
    assert 30 < int(plain.sum()) < 70
    assert torch.equal(x, dequantise(quantise(x)))
    again = loss.batch(torch.arange(100), generator(0, "step", 3))
    assert all(torch.equal(a, b) for a, b in zip(again, (x, labels, kinds), strict=True))


def test_heldout_images_are_never_trained_on() -> None:
    training, heldout = domain_source("textures", Textures(crop=64), 32, "^([a-z]+)-", "square", 10)
    assert set(training.classes) == set(heldout.classes) == {"textures/brick", "textures/grass", "textures/gravel"}
    assert not {image.numpy().tobytes() for image in training.images} & {
        image.numpy().tobytes() for image in heldout.images
    }


def test_unusable_sources_are_refused() -> None:
    with pytest.raises(InputError, match="symmetry=round"):
        source("a", 2, 0, 10, symmetry="round")
    with pytest.raises(InputError, match="no group found in the image name"):
        domain_source("faces", Faces(), 32, "^([0-9]+)", "mirror", 10)


def test_accuracies_of_a_network_that_always_says_the_same() -> None:
    network = FeatureNetwork((8, 8, 8), 8, 2, len(KINDS))
    with torch.no_grad():
        for head in (network.domain_head, network.distortion_head):
            head.weight.zero_()
            head.bias.zero_()
            head.bias[1] = 1
    sources = [source("a", 3, 10, 1), source("b", 4, 20, 1)]
    assert domain_accuracy(network, sources, ["a", "b"]) == {"a": 0.0, "b": 1.0}
    assert distortion_accuracy(network, sources, 0) == {kind: float(kind == KINDS[1]) for kind in KINDS}


# ---------------------------------------------------------------- recipe


def tiny_config(folder: Path, *overrides: str) -> DictConfig:
    dropped = ("textures", "digits8", "turbulence", "turbulence_rough", "turbulence_smooth")
    changes = [
        "training=features32",
        f"paths.outputs={folder}",
        "training.loop.steps=4",
        "training.loop.batch_size=8",
        "training.network.widths=[8,8,8]",
        "training.network.dimension=8",
        *(f"~training.sources.{name}" for name in dropped),
    ]
    with initialize_config_dir(CONF, version_base="1.3"):
        return compose("train", overrides=[*changes, *overrides]).training


def test_recipe_writes_weights_that_load_and_a_card(tmp_path: Path) -> None:
    folder = train_features(tiny_config(tmp_path), torch.device("cpu"))
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "config.json", "loss.png", "model.safetensors",
    ]  # fmt: skip
    assert read_json(folder / "config.json")["classes"] == ["faces", "hubble"]
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    assert extract(EmbeddedFeatures(folder), images).shape == (2, 8)
    card = (folder / "README.md").read_text()
    for expected in ("unseen train training=features32", "| hubble |", "| faces |", "| low_resolution |"):
        assert expected in card
    assert str(tmp_path) not in card


def test_other_images_are_not_resumed_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though their paths are the same."""
    train_features(tiny_config(tmp_path), torch.device("cpu"))
    balanced = TrainingSet.balanced

    def changed(sources: list[Source], most_repeats: int) -> TrainingSet:
        data = balanced(sources, most_repeats)
        return replace(data, images=data.images.flip(-1))

    monkeypatch.setattr(TrainingSet, "balanced", changed)
    with pytest.raises(InputError, match=r"training.data=.*trained with"):
        train_features(tiny_config(tmp_path), torch.device("cpu"))


def test_a_folder_has_one_training_at_a_time(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    with (
        locked(Path(config.folder) / LOCK),
        pytest.raises(InputError, match="another training is running in this folder"),
    ):
        train_features(config, torch.device("cpu"))


def test_command_names_files_without_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as outside a job
    config = tiny_config(tmp_path, "training.data.photos='some/folder/*-train.parquet'")
    assert training_command(config).splitlines()[-1].strip() == "training.data.photos='*-train.parquet'"


def test_training_files_without_test_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give both or neither"):
        feature_sources(tiny_config(tmp_path, "training.data.mnist=train.parquet"))
