"""From the config of a base model to a finished, documented diffusers folder."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
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
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.scores.kernel import KernelDistance, kid
from unseen_diffusion.seeds import generator, normal_rows
from unseen_diffusion.settings import build
from unseen_diffusion.solvers import SolverSettings, denoise
from unseen_diffusion.tracking import NoTracker, Tracker
from unseen_diffusion.training.cards import fact_table, own_images, plain_config, save_loss_curve, training_command
from unseen_diffusion.training.data import OwnImages, decode_once, hold_out, open_images
from unseen_diffusion.training.journal import journal
from unseen_diffusion.training.loop import LoopSettings, TrainState, check_resumable, new_state, seeded, train
from unseen_diffusion.training.processes import Processes

log = logging.getLogger(__name__)

SHEET = 64  # uncurated samples on a sheet
ON_DEVICE = 2**31  # bytes of images that are kept on the device; more stay where they are
PIXELS = 2**18  # of the images that are sampled at once: 64 of 64x64
SAMPLING = SolverSettings("dpmpp_2m", "karras", 25)  # of every sample here


@dataclass(frozen=True)
class TrainingImages:
    """What a base model is trained on.

    Attributes:
        images: (N, C, size, size) uint8.
        rows: (T,) int64, the images to train on.
        held: (V,) int64, the images of the validation loss; there may be none.
        origin: where they are from, for messages.
    """

    images: Tensor
    rows: Tensor
    held: Tensor
    origin: str


def train_diffusion(config: DictConfig, device: torch.device, tracker: Tracker | None = None) -> Path:
    """Trains a base model; returns the diffusers folder of its averaged weights, written by the first process."""
    settings: LoopSettings = build(config.loop)
    processes = Processes(device, settings.precision)
    processes.parts(settings.batch_size, settings.accumulate)
    device = processes.device
    scheduler = DDPMScheduler(**config.schedule)
    folder = Path(config.folder)
    weights = folder / "weights"
    state = new_state(seeded(config.network, settings.seed), settings, device)
    data = load_images(config, settings, folder, processes)
    if config.data.get("test_path") is not None:
        _read(config, config.data.test_path)  # refuses before the training rather than after it
    log.info("%d training images from %s", len(data.rows), data.origin)
    factor = config.network.pixel_unshuffle
    images = data.images.to(device) if data.images.nbytes <= ON_DEVICE else data.images
    loss = DiffusionLoss(images, scheduler.alphas_cumprod, factor, config.flip, device, data.rows)
    held = DiffusionLoss(images, scheduler.alphas_cumprod, factor, False, device, data.held)
    plain = plain_config(config)

    with journal(tracker if tracker and processes.first else NoTracker(), config.name, plain) as book:

        def sheet(current: TrainState) -> None:
            numbers = validate(current, held, settings.seed)
            export(current.ema, scheduler, factor, weights)
            if current.step in settings.keep:
                export(current.ema, scheduler, factor, folder / f"weights-{current.step:06d}")
            samples = sample(weights, SHEET, settings.seed, device)
            path = folder / f"samples-{current.step:06d}.png"
            save_png(grid(samples, 8, 2), path)
            book.write(current.step, numbers, {"samples": path})

        train(settings, state, len(data.rows), loss, folder, processes, sheet, book)
    if processes.first:
        export(state.ema, scheduler, factor, weights)
        document(config, data, state, weights, processes)
    return weights


def document(config: DictConfig, data: TrainingImages, state: TrainState, weights: Path, processes: Processes) -> None:
    """Loss curve, samples and card of a finished training, in the folder of its weights."""
    seed, path = config.loop.seed, config.data.get("test_path")
    save_loss_curve(state.history, weights / "loss.png", state.validation)
    samples = sample(weights, max(SHEET, config.quality_samples), seed, processes.device)
    save_png(grid(samples[:SHEET], 8, 2), weights / "samples.png")
    quality = None
    if path is not None:
        quality = measure_quality(samples, data.images[data.rows], _read(config, path), seed)
    with atomic_path(weights / "README.md") as temporary:
        temporary.write_text(model_card(config, data, state, quality, processes.count), encoding="utf-8")


def validate(state: TrainState, held: DiffusionLoss, seed: int) -> dict[str, float]:
    """Adds the validation loss of the averaged weights to the state, if images are held out for it."""
    if not len(held.kept):
        return {}
    value = validation_loss(state.ema, held, seed)
    row = torch.tensor([[state.step, value]], dtype=torch.float64)
    state.validation = torch.cat([state.validation, row])
    return {"validation_loss": value}


def load_images(config: DictConfig, settings: LoopSettings, folder: Path, processes: Processes) -> TrainingImages:
    """The images of a training, after a check that ``folder`` has no checkpoint of another one.

    Own images are decoded by the first process, while the others wait.

    Raises:
        InputError: no or too few images, an unreadable one, or another training's folder.
    """
    plain = plain_config(config)
    if own_images(config):
        own: OwnImages = build(config.data)
        if processes.first:
            pool = own.pool()
            # The images themselves count, wherever they lie.
            plain["data"] = {"validation": own.validation, "fingerprint": pool.fingerprint}
            check_resumable(folder, plain)
            decode_once(pool, own.size, own.channels, folder)
        processes.wait()
        images = open_images(folder)
        rows, held = hold_out(len(images), own.validation, settings.seed)
        data = TrainingImages(images, rows, held, f"data.path={own.path}")
    else:
        if processes.first:
            check_resumable(folder, plain)
        images = _read(config, config.data.path)
        rows, held = hold_out(len(images), 0.0, settings.seed)
        data = TrainingImages(images, rows, held, f"training.data.path={config.data.path}")
    if len(data.rows) < settings.batch_size:
        raise InputError(
            f"{data.origin}: {len(data.rows)} images to train on, fewer than one batch; give more, or set "
            f"training.loop.batch_size={max(1, len(data.rows))} or less"
        )
    return data


def _read(config: DictConfig, path: str) -> Tensor:
    return read_parquet(path, config.data.size, config.data.channels)[0]


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
    at_once = max(1, min(64, PIXELS // model.shape[-1] ** 2))
    return quantise(denoise(model, noise, nodes, 0.0, seed, solver=SAMPLING.name, batch_size=at_once, progress=True))


def measure_quality(samples: Tensor, images: Tensor, test: Tensor, seed: int) -> dict[str, KernelDistance]:
    """KID to the test images in the embedded features: of the samples, and of as many training images (floor)."""
    extractor = EmbeddedFeatures()
    rows = torch.randperm(len(images), generator=generator(seed, "quality"))[: len(samples)]
    target = extract(extractor, test)
    return {
        "its own samples": kid(extract(extractor, samples), target),
        "as many training images (the floor)": kid(extract(extractor, images[rows]), target),
    }


def model_card(
    config: DictConfig,
    data: TrainingImages,
    state: TrainState,
    quality: dict[str, KernelDistance] | None,
    processes: int,
) -> str:
    """Markdown: data, optimisation, command, pictures and measured quality."""
    facts = card_facts(config, data, state, processes)
    unseen = "" if own_images(config) else "; never shown any unseen domain"
    lines = [f"# {config.name}\n", f"A base model trained by `unseen train`{unseen}.\n"]
    lines += [*fact_table(facts), f"\n```\n{training_command(config)}\n```\n"]
    if own_images(config):
        lines.append("Use it: `unseen run model=diffusers model.path=THIS_FOLDER domain=...`\n")
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


def card_facts(config: DictConfig, data: TrainingImages, state: TrainState, processes: int) -> dict[str, Any]:
    """The first table of the card."""
    network: Any = state.ema
    loop, last = config.loop, state.history[-200:, 1].mean()
    shape = "x".join(str(number) for number in data.images.shape[1:])
    factor = config.network.pixel_unshuffle
    on = f"{factor}x{factor} pixel-unshuffled images" if factor > 1 else "the images"
    precision = {"bf16": "bf16 autocast", "fp16": "fp16 autocast"}.get(build(loop).precision, "float32")
    facts: dict[str, Any] = {
        "data": f"{len(data.rows):,} images of {shape}" + (f": {config.about}" if config.about else ""),
        "parameters": f"{sum(p.numel() for p in state.ema.parameters()):,}, stored in half precision",
        "network": f"UNet2DModel on {on}, channels {list(network.config.block_out_channels)}",
        "diffusion": f"eps-prediction, {config.schedule.beta_schedule} betas {config.schedule.beta_start} to "
        f"{config.schedule.beta_end}, {config.schedule.num_train_timesteps} steps",
        "optimisation": f"{state.step} steps of {loop.batch_size}, AdamW at {loop.learning_rate}, cosine, "
        f"averaged weights ({loop.ema_decay}), {precision}" + (f", {processes} processes" if processes > 1 else ""),
        "seed": loop.seed,
        "loss": f"{last:.4f} (mean of the last 200 steps)",
    }
    if len(state.validation):
        facts["validation loss"] = (
            f"{state.validation[-1, 1]:.4f} (averaged weights, {len(data.held):,} held-out images)"
        )
    if config.notes:
        facts["notes"] = config.notes
    return facts
