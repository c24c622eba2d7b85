"""The trainer: exact resume, seeded data order, and a folder at the end that ``unseen run`` takes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from PIL import Image
from safetensors.torch import load_file

from unseen_diffusion.composition import expand
from unseen_diffusion.errors import InputError
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.optimisation import epoch_rows, update_ema
from unseen_diffusion.training.diffusion_recipe import train_diffusion
from unseen_diffusion.training.loop import LoopSettings, learning_rate

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
    "training.quality_samples=64",
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


def test_resume_is_exact(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that dies between checkpoints and starts again ends with the same bits."""
    from unseen_diffusion.training import loop

    whole = train(photos, tmp_path / "whole", 7)
    update, calls = loop.update_ema, []

    def dies(*arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        update(*arguments)

    monkeypatch.setattr(loop, "update_ema", dies)
    with pytest.raises(KeyboardInterrupt):
        train(photos, tmp_path / "cut", 7)
    monkeypatch.setattr(loop, "update_ema", update)
    resumed = train(photos, tmp_path / "cut", 7)
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
    assert {"loss.png", "samples.png", "unseen.json", "model_index.json"} <= {p.name for p in weights.iterdir()}
    assert len(pd.read_csv(weights.parent / "loss.csv")) == 3


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
    with pytest.raises(InputError, match="keep=6: give whole steps between 1 and steps=5"):
        train(photos, tmp_path / "kept", 5, "training.loop.keep=[6]")


def test_epochs_are_permutations() -> None:
    """Every image once an epoch, whatever the batch size; a function of (seed, step) alone."""
    rows = torch.cat([epoch_rows(10, 4, step, seed=3) for step in range(5)])
    assert sorted(rows[:10].tolist()) == list(range(10))
    assert sorted(rows[10:].tolist()) == list(range(10))
    assert rows[:10].tolist() != rows[10:].tolist()
    assert torch.equal(rows[:8], epoch_rows(10, 8, 0, seed=3))


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    """Linear, then a cosine."""
    settings = LoopSettings(100, 4, 1.0, 0.0, 10, 0.9, 1.0, False, 0, 10, 10)
    rates = [learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[55] == pytest.approx(0.5)
    assert rates[99] < 1e-3
    with pytest.raises(InputError, match="steps=0"):
        LoopSettings(0, 4, 1.0, 0.0, 10, 0.9, 1.0, False, 0, 10, 10)


def test_ema_follows_the_recursion() -> None:
    """ema <- d ema + (1 - d) w with d = min(decay, (1 + s) / (10 + s))."""
    ema, network = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    before = ema.weight.detach().clone()
    update_ema(ema, network, 0.9, step=2)
    torch.testing.assert_close(ema.weight, 0.25 * before + 0.75 * network.weight)
