"""Fixtures that several test files share."""

import errno
import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the hub; read when huggingface_hub is first imported

import pytest
import torch
from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import unseen_diffusion
from support import ROOT, TinyModelFolder
from unseen_diffusion.utils.files import write_json


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyModelFolder:
    """Makes the diffusers folder of a tiny random UNet2DModel pipeline; equal arguments share one folder.

    Read-only by agreement: a test that wants to change a folder copies it first.
    """
    made: dict[tuple[object, ...], Path] = {}

    def make(
        channels: int = 3,
        size: int = 8,
        prediction_type: str = "epsilon",
        learned_variance: bool = False,
        pixel_unshuffle: int = 1,
        scheduler: str = "DDPMScheduler",
        seed: int = 0,
    ) -> Path:
        arguments = (channels, size, prediction_type, learned_variance, pixel_unshuffle, scheduler, seed)
        if arguments in made:
            return made[arguments]
        inputs = channels * pixel_unshuffle**2
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            unet = UNet2DModel(
                sample_size=size // pixel_unshuffle,
                in_channels=inputs,
                out_channels=inputs * (2 if learned_variance else 1),
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                attention_head_dim=8,
                norm_num_groups=4,
            )
        kind = {"DDPMScheduler": DDPMScheduler, "DDIMScheduler": DDIMScheduler}[scheduler]
        folder = tmp_path_factory.mktemp("models") / "tiny"
        DDPMPipeline(unet, kind(prediction_type=prediction_type)).save_pretrained(folder)
        if pixel_unshuffle > 1:
            write_json(folder / "unseen.json", {"pixel_unshuffle": pixel_unshuffle})
        made[arguments] = folder
        return folder

    return make


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no flock."""

    def absent(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", absent)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, as a user of the wheel has; processes started in it find the package and the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNSEEN_RUN_ID", raising=False)
    monkeypatch.delenv("UNSEEN_CONF", raising=False)
    package = Path(unseen_diffusion.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(package), str(ROOT / "tests"), str(ROOT))))
    return tmp_path
