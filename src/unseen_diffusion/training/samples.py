"""Exports a base model's weights during its training as a diffusers folder, and draws samples from it."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from omegaconf import DictConfig
from torch import Tensor

from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.folders import WEIGHTS
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import denoise
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.training.state import TrainState
from unseen_diffusion.utils.files import write_json
from unseen_diffusion.utils.images import grid, quantise, save_png
from unseen_diffusion.utils.seeds import generator, normal_rows
from unseen_diffusion.utils.tensors import write_tensors

SHEET = 64  # uncurated samples on a sheet
PIXELS = 2**18  # pixels that are sampled at once: 64 images of 64x64
SAMPLING = SolverSettings(name="dpmpp_2m", grid="karras", steps=25)  # of all samples during a training


def export(ema: UNet2DModel, scheduler: DDPMScheduler, factor: int, folder: Path) -> None:
    """Writes averaged weights as a diffusers folder, in half precision."""
    ema.save_config(folder / "unet")
    scheduler.save_config(folder / "scheduler")
    half = {name: value.half() for name, value in ema.state_dict().items()}
    write_tensors(folder / "unet" / WEIGHTS, half, {"format": "pt"})
    write_json(folder / "unseen.json", {"pixel_unshuffle": factor})
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", **index})


def export_all(state: TrainState, scheduler: DDPMScheduler, factor: int, folder: Path) -> None:
    """Writes all averages of the weights at this step: weights-STEP, and weights-STEP-ema-DECAY for the others."""
    kept = folder / f"weights-{state.step:06d}"
    export(state.ema, scheduler, factor, kept)
    for decay, average in state.others.items():
        export(average, scheduler, factor, kept.with_name(f"{kept.name}-ema-{decay}"))


def sample(folder: Path, count: int, seed: int, device: torch.device) -> Tensor:
    """Draws uncurated samples of an exported model, (count, C, H, W) uint8."""
    model = DiffusersModel(str(folder), device=device)
    nodes = make_grid(model.schedule, SAMPLING.grid, SAMPLING.steps, model.schedule.timesteps - 1)
    noise = normal_rows(model.shape, seed, "base", range(count))
    at_once = max(1, min(64, PIXELS // model.shape[-1] ** 2))
    return quantise(denoise(model, noise, nodes, 0.0, seed, solver=SAMPLING.name, batch_size=at_once, progress=True))


def sample_count(config: DictConfig, scored: bool) -> int:
    """How many samples are drawn: a sheet, or more where they are scored."""
    return max(SHEET, config.quality_samples) if scored else SHEET


def save_sheet(samples: Tensor, path: Path) -> None:
    """Writes the first samples as a PNG, eight in a row."""
    save_png(grid(samples[:SHEET], 8, 2), path)


def sheet_path(folder: Path, state: TrainState) -> Path:
    """Path of the sheet of samples at this step."""
    return folder / f"samples-{state.step:06d}.png"


def training_kid(images: Tensor, target: Tensor, config: DictConfig) -> tuple[float, float, float]:
    """KID, with its interval, between the test images' features and as many training images as there are samples."""
    rows = torch.randperm(len(images), generator=generator(config.loop.seed, "quality"))[: sample_count(config, True)]
    distance = kid(extract(EmbeddedFeatures(), images[rows]), target)
    return distance.value, distance.low, distance.high
