"""The trainer: exact resume, seeded data order, and a folder at the end that ``unseen run`` takes."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from safetensors.torch import load_file

from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.losses import validation_loss
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.training.diffusion_recipe import train_diffusion
from unseen_diffusion.training.loop import LoopSettings, learning_rate, seeded
from unseen_diffusion.training.optimisation import epoch_rows, update_ema
from unseen_diffusion.training.resume import resolve_precision
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json
from unseen_diffusion.utils.seeds import generator

SMALL = [
    "training.data.size=16",
    "training.network.image_size=16",
    "training.network.block_out_channels=[16,16]",
    "training.network.attention=[false,false]",
    "training.network.attention_head_dim=8",
    "training.network.norm_num_groups=8",
    "training.loop.batch_size=8",
    "training.loop.warmup_steps=2",
    "training.loop.checkpoint_every=3",
    "training.loop.sample_every=100",
    "training.loop.bf16=false",
    "training.quality_samples=8",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 random pictures in a Parquet file."""
    rng = np.random.default_rng(0)
    cells = []
    for _ in range(40):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
        cells.append({"bytes": buffer.getvalue()})
    path = tmp_path_factory.mktemp("data") / "photos.parquet"
    pd.DataFrame({"image": cells, "label": 0}).to_parquet(path)
    return path


def train(photos: Path, folder: Path, steps: int, *more: str) -> Path:
    """The weights of a tiny training."""
    paths = [f"training.data.path={photos}", f"paths.outputs={folder}", f"training.loop.steps={steps}"]
    (config,) = expand("train", [*SMALL, *paths, *more]).points
    return train_diffusion(config.training, torch.device("cpu"))


def dying(update: Callable[..., None], last: int) -> Callable[..., None]:
    """``update``, until it is called for the ``last`` time."""
    calls: list[int] = []

    def dies(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == last:
            raise KeyboardInterrupt
        update(*arguments)

    return dies


def test_resume_is_exact(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that dies between checkpoints and starts again ends with the same bits."""
    from unseen_diffusion.training import loop

    others = "training.loop.ema_others=[0.0,0.5]"
    whole = train(photos, tmp_path / "whole", 7, others)
    update = loop.update_ema
    monkeypatch.setattr(loop, "update_ema", dying(update, 3 * 5))  # three averages
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "cut", 7, others)
    monkeypatch.setattr(loop, "update_ema", update)
    resumed = train(photos, tmp_path / "cut", 7, others)
    name = "checkpoint.safetensors"
    first, second = load_file(whole.parent / name), load_file(resumed.parent / name)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_the_folder_is_complete(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A diffusers folder with half-precision weights, a card with the command, a loss curve and samples."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # as outside a job
    weights = train(photos, tmp_path, 3, f"training.data.test_path={photos}")
    model = DiffusersModel(str(weights))
    assert model.shape == (3, 16, 16)
    stored = load_file(weights / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    card = (weights / "README.md").read_text()
    assert "unseen train training=photos32 \\\n  training.data.path='photos.parquet'" in card
    assert "KID x 1000" in card
    assert "(averaged weights, 40 held-out images)" in card
    measured = pd.read_csv(weights.parent / "validation.csv")
    assert measured.columns.tolist() == ["step", "validation_loss", "kid", "kid_low", "kid_high"]
    assert f"its own samples | {1000 * measured['kid'].item():.1f} " in card
    assert {"loss.png", "samples.png", "unseen.json", "model_index.json"} <= {p.name for p in weights.iterdir()}
    assert len(pd.read_csv(weights.parent / "loss.csv")) == 3


@pytest.mark.parametrize(("kind", "name"), [("sample", "x0"), ("v_prediction", "v")])
def test_a_network_learns_what_its_folder_says_it_predicts(photos: Path, tmp_path: Path, kind: str, name: str) -> None:
    """Training and validation loss are those of the exported model, in the parameterisation that its card names."""
    more = [f"+training.schedule.prediction_type={kind}", f"training.data.test_path={photos}"]
    weights = train(photos, tmp_path, 3, *more)
    measured = pd.read_csv(weights.parent / "validation.csv")["validation_loss"].item()
    model = DiffusersModel(str(weights))
    images = read_parquet(str(photos), 16, 3)[0]
    assert measured == pytest.approx(validation_loss(model.network, model.loss(images), 0), rel=1e-3)
    network = seeded(expand("train", [*SMALL, f"training.data.path={photos}"]).points[0].training.network, 0)
    loss = model.loss(images, flip=True)
    first = loss(network, *loss.batch(epoch_rows(len(images), 8, 0, 0), generator(0, "step", 0)))
    assert pd.read_csv(weights.parent / "loss.csv")["loss"][0] == pytest.approx(first.item(), rel=1e-4)
    assert f"| diffusion | {name}-prediction, " in (weights / "README.md").read_text()


def test_a_checkpoint_of_another_network_is_refused(photos: Path, tmp_path: Path) -> None:
    """One line instead of a shape mismatch."""
    train(photos, tmp_path, 3)
    with pytest.raises(InputError, match=r"training.network=.*trained with"):
        train(photos, tmp_path, 4, "training.network.block_out_channels=[24,24]")


def test_resuming_with_other_settings_is_refused(photos: Path, tmp_path: Path) -> None:
    """A checkpoint of seed 0 never becomes a model of seed 1; more steps are fine."""
    train(photos, tmp_path, 3)
    with pytest.raises(InputError, match=r"training.loop=.*trained with"):
        train(photos, tmp_path, 3, "training.loop.seed=1")
    train(photos, tmp_path, 4)


def test_what_is_trained_on_are_images_not_paths(photos: Path, tmp_path: Path) -> None:
    """Other images at the same path are refused; the same ones elsewhere resume, as do trainings that knew paths."""
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    shutil.copyfile(photos, first)
    path = train(first, tmp_path, 3).parent / "training.json"
    shutil.move(first, second)
    train(second, tmp_path, 4)
    pd.read_parquet(second).iloc[::-1].to_parquet(first)
    with pytest.raises(InputError, match=r"training.data=.*trained with"):
        train(first, tmp_path, 4)
    known = read_json(path)
    old = {"path": "elsewhere.parquet", "test_path": None, "size": 16, "channels": 3}
    write_json(path, {**known, "data": old})
    train(second, tmp_path, 5)
    assert read_json(path) == known
    write_json(path, {**known, "data": {**old, "size": 32}})
    with pytest.raises(InputError, match=r"training.data=.*trained with"):
        train(second, tmp_path, 5)


def test_steps_may_be_lowered_to_the_checkpoint(photos: Path, tmp_path: Path) -> None:
    """Its samples are made then, for the card; below it, nothing is trained back."""
    from unseen_diffusion.training import loop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "update_ema", dying(loop.update_ema, 5))
        with pytest.raises(KeyboardInterrupt):
            train(photos, tmp_path, 7)
    weights = train(photos, tmp_path, 3)
    assert "| optimisation | 3 steps of 8" in (weights / "README.md").read_text()
    assert (weights / "samples.png").is_file()
    with pytest.raises(InputError, match=r"training.loop.steps=2: the checkpoint in .* is at step 3; give as many"):
        train(photos, tmp_path, 2)


def test_weights_are_kept_along_the_way(photos: Path, tmp_path: Path) -> None:
    """Each is what a training to that step under the same schedule of rates holds; keeping changes nothing."""
    plain, kept = train(photos, tmp_path / "plain", 5), train(photos, tmp_path / "kept", 5, "training.loop.keep=[2,5]")
    part = "unet/diffusion_pytorch_model.safetensors"
    early, late, last = (load_file(folder / part) for folder in (kept.parent / "weights-000002", kept, plain))
    for key, value in last.items():
        assert torch.equal(value, late[key]), key
    assert any(not torch.equal(value, last[key]) for key, value in early.items())
    assert torch.equal(load_file(kept.parent / "weights-000005" / part)["conv_in.weight"], last["conv_in.weight"])
    assert DiffusersModel(str(kept.parent / "weights-000002")).shape == (3, 16, 16)
    with pytest.raises(InputError, match="keep=6: give steps between 1 and steps=5"):
        train(photos, tmp_path / "kept", 5, "training.loop.keep=[6]")


def test_a_further_average_is_that_of_a_training_with_its_decay(photos: Path, tmp_path: Path) -> None:
    """To the last bit, and so is its validation loss; a decay of 0 is the weights themselves."""
    more = ["training.loop.keep=[4]", f"training.data.test_path={photos}", "training.data.validation=8"]
    both = train(
        photos, tmp_path / "both", 4, "training.loop.ema_decay=0.3", "training.loop.ema_others=[0.6,0.0]", *more
    )
    alone = train(photos, tmp_path / "alone", 4, "training.loop.ema_decay=0.6", *more)
    part = "unet/diffusion_pytorch_model.safetensors"
    expected = load_file(alone / part)
    for key, value in load_file(both.parent / "weights-000004-ema-0.6" / part).items():
        assert torch.equal(value, expected[key]), key
    assert not torch.equal(load_file(both / part)["conv_in.weight"], expected["conv_in.weight"])
    last = load_file(both.parent / "checkpoint.safetensors")
    assert torch.equal(last["ema_0.0.conv_in.weight"], last["network.conv_in.weight"])
    first, second = (pd.read_csv(folder.parent / "validation.csv") for folder in (both, alone))
    assert first["validation_loss_ema_0.6"].tolist() == second["validation_loss"].tolist()
    assert {f"validation_loss_ema_{decay}" for decay in (0.6, 0.0)} < set(first.columns)


def test_a_training_starts_from_given_weights(photos: Path, tmp_path: Path) -> None:
    """Those of an earlier one, or of any diffusers folder with the same network; others are refused in one line."""
    start, part = train(photos, tmp_path / "start", 3), "unet/diffusion_pytorch_model.safetensors"
    still = train(photos, tmp_path / "still", 1, f"training.start={start}", "training.loop.learning_rate=0")
    for key, value in load_file(start / part).items():
        assert torch.equal(load_file(still / part)[key], value), key
    assert f"| began as | {start.name} |" in (still / "README.md").read_text()
    assert f"training.start={start.name}" in (still / "README.md").read_text()
    for wrong, expected in (
        ([f"training.start={tmp_path / 'absent'}"], r"training.start=.*absent: no such folder"),
        (["training.start=embedded:photos32"], "training.start=embedded:photos32: not the weights of training.network"),
        ([f"training.start={start}", "training.network.pixel_unshuffle=1"], "training.start=.*: not the weights of"),
    ):
        with pytest.raises(InputError, match=expected):
            train(photos, tmp_path / "wrong", 1, *wrong)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize(("has", "expected"), [({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({}, False)])
def test_bf16_where_the_device_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: dict[str, bool], expected: bool
) -> None:
    """And a training that is resumed on another machine keeps the precision that it began with."""
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: has)
    given = ["training.data.path=x", f"paths.outputs={tmp_path}", "training.loop.bf16=auto"]
    (config,) = expand("train", given).points
    settled = resolve_precision(config.training, torch.device("cpu"))
    assert settled.loop.bf16 is expected
    assert settled.folder == config.training.folder
    assert resolve_precision(config.training, torch.device("mps")).loop.bf16 is False
    (half,) = expand("train", [*given, "training.loop.fp16=true"]).points
    assert resolve_precision(half.training, torch.device("cpu")).loop.bf16 is False

    folder = Path(config.training.folder)
    folder.mkdir(parents=True)
    (folder / "training.json").write_text(json.dumps({"loop": {"bf16": not expected}}))
    assert resolve_precision(config.training, torch.device("cpu")).loop.bf16 is expected
    (folder / "checkpoint.safetensors").touch()
    assert resolve_precision(config.training, torch.device("cpu")).loop.bf16 is not expected


def test_epochs_are_permutations() -> None:
    """Every image once an epoch, whatever the batch size; a function of (seed, step) alone."""
    rows = torch.cat([epoch_rows(10, 4, step, seed=3) for step in range(5)])
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert torch.equal(rows[:8], epoch_rows(10, 8, 0, seed=3))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    """Linear, then a cosine."""
    given = expand("train", ["training.data.path=x", "training.loop.steps=100", "training.loop.warmup_steps=10"])
    settings: LoopSettings = build(given.points[0].training.loop)
    settings = replace(settings, learning_rate=1.0)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3


def test_ema_follows_the_recursion() -> None:
    """ema <- d ema + (1 - d) w with d = min(decay, (1 + s) / (10 + s))."""
    ema, network = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    before = ema.weight.detach().clone()
    update_ema(ema, network, 0.9, step=2)
    torch.testing.assert_close(ema.weight, 0.25 * before + 0.75 * network.weight)
