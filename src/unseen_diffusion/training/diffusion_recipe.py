"""From the config of a base model to a finished, documented diffusers folder."""

import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from hydra.utils import instantiate
from omegaconf import DictConfig
from safetensors.torch import save_file
from torch import Tensor

from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.errors import InputError
from unseen_diffusion.features.base import extract
from unseen_diffusion.features.embedded import EmbeddedFeatures
from unseen_diffusion.files import atomic_path, write_json
from unseen_diffusion.grids import make_grid
from unseen_diffusion.images import grid, quantise, save_png
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.folders import WEIGHTS
from unseen_diffusion.scores.kernel import KernelDistance, kid
from unseen_diffusion.seeds import generator, normal_rows
from unseen_diffusion.solvers import SolverSettings, denoise
from unseen_diffusion.training.cards import fact_table, plain_config, save_loss_curve, training_command
from unseen_diffusion.training.diffusion import EpsLoss
from unseen_diffusion.training.loop import LoopSettings, TrainState, check_resumable, new_state, seeded, train

log = logging.getLogger(__name__)

SHEET = 64  # uncurated samples on a sheet
SAMPLING = SolverSettings("dpmpp_2m", "karras", 25)  # of every sample here


def train_diffusion(config: DictConfig, device: torch.device) -> Path:
    """Trains a base model on images from Parquet; returns the diffusers folder of its averaged weights."""
    settings: LoopSettings = instantiate(config.loop)
    scheduler = DDPMScheduler(**config.schedule)
    data = config.data
    images, _ = read_parquet(data.path, data.size, data.channels)
    test = None if data.test_path is None else read_parquet(data.test_path, data.size, data.channels)[0]
    if len(images) < settings.batch_size:
        raise InputError(f"training.data.path={data.path}: {len(images)} images, fewer than one batch")
    log.info("%d training images from %s", len(images), data.path)
    factor = config.network.pixel_unshuffle
    state = new_state(seeded(config.network, settings.seed), settings, device)
    loss = EpsLoss(images, scheduler, factor, config.flip, device)
    folder = Path(config.folder)
    weights = folder / "weights"
    check_resumable(folder, plain_config(config))

    def sheet(current: TrainState) -> None:
        export(current.ema, scheduler, factor, weights)
        samples = sample(weights, SHEET, settings.seed, device)
        save_png(grid(samples, 8, 2), folder / f"samples-{current.step:06d}.png")

    train(settings, state, len(images), loss, folder, sheet, device)
    export(state.ema, scheduler, factor, weights)
    save_loss_curve(state.history, weights / "loss.png")
    samples = sample(weights, max(SHEET, config.quality_samples), settings.seed, device)
    save_png(grid(samples[:SHEET], 8, 2), weights / "samples.png")
    quality = None if test is None else measure_quality(samples, images, test, settings.seed)
    with atomic_path(weights / "README.md") as temporary:
        temporary.write_text(model_card(config, len(images), state, quality), encoding="utf-8")
    return weights


def export(ema: UNet2DModel, scheduler: DDPMScheduler, factor: int, folder: Path) -> None:
    """Writes the averaged weights as a diffusers folder, in half precision."""
    ema.save_config(folder / "unet")
    scheduler.save_config(folder / "scheduler")
    half = {name: value.detach().half().cpu().contiguous() for name, value in ema.state_dict().items()}
    with atomic_path(folder / "unet" / WEIGHTS) as temporary:
        save_file(half, temporary, metadata={"format": "pt"})
    write_json(folder / "unseen.json", {"pixel_unshuffle": factor})
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", **index})


def sample(folder: Path, count: int, seed: int, device: torch.device) -> Tensor:
    """Uncurated samples of an exported model, (count, C, H, W) uint8."""
    model = DiffusersModel(str(folder), device=device)
    nodes = make_grid(model.schedule, SAMPLING.grid, SAMPLING.steps, model.schedule.timesteps - 1)
    noise = normal_rows(model.shape, seed, "base", range(count))
    return quantise(denoise(model, noise, nodes, 0.0, seed, solver=SAMPLING.name, progress=True))


def measure_quality(samples: Tensor, images: Tensor, test: Tensor, seed: int) -> dict[str, KernelDistance]:
    """KID to the test images in the embedded features: of the samples, and of as many training images (floor)."""
    extractor = EmbeddedFeatures()
    rows = torch.randperm(len(images), generator=generator(seed, "quality"))[: len(samples)]
    target = extract(extractor, test)
    return {
        "its own samples": kid(extract(extractor, samples), target),
        "as many training images (the floor)": kid(extract(extractor, images[rows]), target),
    }


def model_card(config: DictConfig, count: int, state: TrainState, quality: dict[str, KernelDistance] | None) -> str:
    """Markdown: data, optimisation, command, pictures and measured quality."""
    loop, network, last = config.loop, config.network, state.history[-200:, 1].mean()
    facts: dict[str, Any] = {
        "data": f"{count:,} images of {config.data.channels}x{config.data.size}x{config.data.size}: {config.about}",
        "parameters": f"{sum(p.numel() for p in state.ema.parameters()):,}, stored in half precision",
        "network": f"UNet2DModel on {network.pixel_unshuffle}x{network.pixel_unshuffle} pixel-unshuffled images, "
        f"channels {list(network.block_out_channels)}",
        "diffusion": f"eps-prediction, {config.schedule.beta_schedule} betas {config.schedule.beta_start} to "
        f"{config.schedule.beta_end}, {config.schedule.num_train_timesteps} steps",
        "optimisation": f"{state.step} steps of {loop.batch_size}, AdamW at {loop.learning_rate}, cosine, "
        f"averaged weights ({loop.ema_decay}), {'bf16 autocast' if loop.bf16 else 'float32'}",
        "seed": loop.seed,
        "loss": f"{last:.4f} (mean of the last 200 steps)",
    }
    if config.notes:
        facts["notes"] = config.notes
    lines = [f"# {config.name}\n", "A base model trained by `unseen train`; never shown any unseen domain.\n"]
    lines += [*fact_table(facts), f"\n```\n{training_command(config)}\n```\n"]
    if quality:
        count_scored = max(SHEET, config.quality_samples)
        how = f"{count_scored} samples, {SAMPLING.name}, {SAMPLING.grid} grid, {SAMPLING.steps} evaluations"
        lines.append(f"\n## Quality\n\nKID x 1000 to the test images, embedded features ({how}):\n")
        shown = {
            name: f"{1000 * d.value:.1f} (95% {1000 * d.low:.1f} to {1000 * d.high:.1f})" for name, d in quality.items()
        }
        lines += fact_table(shown)
    pictures = "![64 uncurated samples](samples.png)\n\n![loss](loss.png)\n"
    return "\n".join([*lines, f"\n## {SHEET} uncurated samples, and the loss\n\n{pictures}"])
