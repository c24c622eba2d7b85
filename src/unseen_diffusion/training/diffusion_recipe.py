"""From the config of a base model to a finished, documented diffusers folder."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.folders import WEIGHTS, resolve
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.models.parameterisations import PREDICTION_TYPES
from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.reports.tracking import NoTracker, Tracker
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import SolverSettings, denoise
from unseen_diffusion.training.cards import (
    fact_table,
    own_images,
    plain_config,
    save_loss_curve,
    start_name,
    training_command,
)
from unseen_diffusion.training.data import OwnImages, decode_once, hold_out, images_digest, open_images
from unseen_diffusion.training.journal import journal
from unseen_diffusion.training.loop import (
    LoopSettings,
    alone,
    check_resumable,
    new_state,
    seeded,
    settle_precision,
    train,
)
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.state import TrainState
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.files import atomic_path, read_json, write_json
from unseen_diffusion.utils.images import grid, quantise, save_png
from unseen_diffusion.utils.seeds import generator, normal_rows
from unseen_diffusion.utils.tensors import write_tensors

log = logging.getLogger(__name__)

SHEET = 64  # uncurated samples on a sheet
ON_DEVICE = 2**31  # bytes of images that are kept on the device; more stay where they are
PIXELS = 2**18  # of the images that are sampled at once: 64 of 64x64
BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")
SAMPLING = SolverSettings(name="dpmpp_2m", grid="karras", steps=25)  # of every sample here


@dataclass(frozen=True)
class TrainingImages:
    """What a base model is trained on, and what it is measured on.

    Attributes:
        images: (N, C, size, size) uint8.
        rows: (T,) int64, the images to train on.
        held_images: (M, C, size, size) uint8: ``images``, or test images from elsewhere.
        held: (V,) int64, the rows of ``held_images`` for the validation loss; there may be none.
        test: (K, C, size, size) uint8 that the samples are scored against, or None.
        origin: where the images are from, for messages.
    """

    images: Tensor
    rows: Tensor
    held_images: Tensor
    held: Tensor
    test: Tensor | None
    origin: str


def train_diffusion(config: DictConfig, device: torch.device, tracker: Tracker | None = None) -> Path:
    """Trains a base model; returns the diffusers folder of its averaged weights, written by the first process."""
    config = settle_precision(config, device)
    settings: LoopSettings = build(config.loop, "training.loop")
    processes = Processes(device, settings.precision)
    processes.parts(settings.batch_size, settings.accumulate)
    scheduler = noise_schedule(config)
    state = new_state(first_network(config), settings, processes.device)
    with alone(Path(config.folder), processes):
        return trained(config, settings, scheduler, state, processes, tracker)


def trained(
    config: DictConfig,
    settings: LoopSettings,
    scheduler: DDPMScheduler,
    state: TrainState,
    processes: Processes,
    tracker: Tracker | None,
) -> Path:
    """``train_diffusion`` once the training's folder is locked."""
    device = processes.device
    folder = Path(config.folder)
    weights = folder / "weights"
    data = load_images(config, settings, folder, processes)
    log.info("%d training images from %s", len(data.rows), data.origin)
    factor = config.network.pixel_unshuffle
    images = on_device(data.images, device)
    held_images = images if data.held_images is data.images else on_device(data.held_images, device)
    alphas, kind, gamma = scheduler.alphas_cumprod, predicted(config), config.get("min_snr")
    loss = DiffusionLoss(images, alphas, factor, config.flip, device, data.rows, kind, min_snr=gamma)
    held = DiffusionLoss(held_images, alphas, factor, False, device, data.held, kind)
    target = None if data.test is None else extract(EmbeddedFeatures(), data.test)
    plain = plain_config(config)

    with journal(tracker if tracker and processes.first else NoTracker(), config.name, plain) as book:

        def sheet(current: TrainState) -> None:
            numbers = validation_losses(current, held, settings.seed)
            export(current.ema, scheduler, factor, weights)
            if current.step in settings.keep:
                export_all(current, scheduler, factor, folder)
            samples = sample(weights, SHEET if target is None else scored(config), settings.seed, device)
            path = sheet_path(folder, current)
            save_png(grid(samples[:SHEET], 8, 2), path)
            if target is not None:
                distance = kid(extract(EmbeddedFeatures(), samples), target)
                numbers |= {"kid": distance.value, "kid_low": distance.low, "kid_high": distance.high}
            current.record(numbers)
            book.write(current.step, numbers, {"samples": path})

        train(settings, state, len(data.rows), loss, folder, processes, sheet, book)
        if processes.first and not sheet_path(folder, state).exists():  # steps were lowered to those of a checkpoint
            sheet(state)
    if processes.first:
        export(state.ema, scheduler, factor, weights)
        document(config, data, target, state, weights, processes)
    return weights


def noise_schedule(config: DictConfig) -> DDPMScheduler:
    """What ``training.schedule`` means.

    Raises:
        InputError: an unknown kind, or numbers that make no schedule.
    """
    given = config.schedule
    if given.get("beta_schedule", BETAS[0]) not in BETAS:
        raise InputError(f"training.schedule.beta_schedule={given.beta_schedule}: choose one of {', '.join(BETAS)}")
    if (kind := predicted(config)) not in PREDICTION_TYPES:
        raise InputError(f"training.schedule.prediction_type={kind}: choose one of {', '.join(PREDICTION_TYPES)}")
    try:
        scheduler = DDPMScheduler(**given)
        Schedule(scheduler.alphas_cumprod)
    except (RuntimeError, TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in given.items())
        raise InputError(f"training.schedule ({shown}): {first_line(error)}; see unseen train --cfg job") from error
    return scheduler


def predicted(config: DictConfig) -> Any:
    """What the network is trained to predict, as diffusers calls it."""
    return config.schedule.get("prediction_type", "epsilon")


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """The images there, unless they are too many."""
    return images.to(device) if images.nbytes <= ON_DEVICE else images


def first_network(config: DictConfig) -> UNet2DModel:
    """The network before the first step: initialised by the seed, or with the weights of ``training.start``.

    Raises:
        InputError: no such folder, or the weights are of another network.
    """
    network = seeded(config.network, config.loop.seed)
    if (start := config.get("start")) is None:
        return network
    try:
        folder = resolve(start)
    except InputError as error:
        raise InputError(str(error).replace("model.path", "training.start")) from error
    path, facts = folder / "unet" / WEIGHTS, folder / "unseen.json"
    factor = read_json(facts)["pixel_unshuffle"] if facts.is_file() else 1
    try:
        network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"training.start={start}: not the weights of training.network; {first_line(error)}") from error
    if factor != config.network.pixel_unshuffle:
        raise InputError(f"training.start={start}: set training.network.pixel_unshuffle={factor}")
    return network


def document(
    config: DictConfig,
    data: TrainingImages,
    target: Tensor | None,
    state: TrainState,
    weights: Path,
    processes: Processes,
) -> None:
    """Curves, samples and card of a finished training, in the folder of its weights."""
    save_loss_curve(state.history, weights / "loss.png", state.measured)
    with atomic_path(weights / "samples.png") as temporary:
        shutil.copyfile(sheet_path(weights.parent, state), temporary)
    quality = None
    if target is not None and "kid" in state.measured:
        last = {name: float(rows[-1, 1]) for name, rows in state.measured.items()}
        quality = {
            "its own samples": (last["kid"], last["kid_low"], last["kid_high"]),
            "as many training images (the floor)": floor(data.images[data.rows], target, config),
        }
    with atomic_path(weights / "README.md") as temporary:
        temporary.write_text(model_card(config, data, state, quality, processes.count), encoding="utf-8")


def sheet_path(folder: Path, state: TrainState) -> Path:
    """Of the samples at this step."""
    return folder / f"samples-{state.step:06d}.png"


def scored(config: DictConfig) -> int:
    """How many samples are scored."""
    return max(SHEET, config.quality_samples)


def validation_losses(state: TrainState, held: DiffusionLoss, seed: int) -> dict[str, float]:
    """The validation loss of the averaged weights, and of the other averages, if images are held out for it."""
    if not len(held.kept):
        return {}
    averages = {"validation_loss": state.ema} | {f"validation_loss_ema_{d}": net for d, net in state.others.items()}
    return {name: validation_loss(network, held, seed) for name, network in averages.items()}


def load_images(config: DictConfig, settings: LoopSettings, folder: Path, processes: Processes) -> TrainingImages:
    """The images of a training, after a check that ``folder`` has no checkpoint of another one.

    Own images are decoded by the first process, while the others wait.

    Raises:
        InputError: no or too few images, an unreadable one, or another training's folder.
    """
    plain = plain_config(config)
    if own_images(config):
        own: OwnImages = build(config.data, "data")
        if processes.first:
            pool = own.pool()
            # The images themselves count, wherever they lie.
            plain["data"] = {"validation": own.validation, "fingerprint": pool.fingerprint}
            check_resumable(folder, plain)
            decode_once(pool, own.size, own.channels, folder)
        processes.wait()
        images = open_images(folder)
        rows, held = hold_out(len(images), own.validation, settings.seed)
        data = TrainingImages(images, rows, images, held, None, f"data.path={own.path}")
    else:
        images = _read(config, config.data.path)
        test = None if config.data.test_path is None else _read(config, config.data.test_path)
        if processes.first:
            plain["data"] = {"size": config.data.size, "channels": config.data.channels}
            plain["data"] |= {
                "fingerprint": images_digest(images),
                "test": None if test is None else images_digest(test),
            }
            check_resumable(folder, plain)
        held_images = images[:0] if test is None else test
        order = torch.randperm(len(held_images), generator=generator(settings.seed, "validation"))
        rows, held = torch.arange(len(images)), order[: config.data.validation].sort().values
        data = TrainingImages(images, rows, held_images, held, test, f"training.data.path={config.data.path}")
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
    half = {name: value.half() for name, value in ema.state_dict().items()}
    write_tensors(folder / "unet" / WEIGHTS, half, {"format": "pt"})
    write_json(folder / "unseen.json", {"pixel_unshuffle": factor})
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    write_json(folder / "model_index.json", {"_class_name": "DDPMPipeline", **index})


def export_all(state: TrainState, scheduler: DDPMScheduler, factor: int, folder: Path) -> None:
    """All averages of the weights at this step: weights-STEP, and weights-STEP-ema-DECAY for the others."""
    kept = folder / f"weights-{state.step:06d}"
    export(state.ema, scheduler, factor, kept)
    for decay, average in state.others.items():
        export(average, scheduler, factor, kept.with_name(f"{kept.name}-ema-{decay}"))


def sample(folder: Path, count: int, seed: int, device: torch.device) -> Tensor:
    """Uncurated samples of an exported model, (count, C, H, W) uint8."""
    model = DiffusersModel(str(folder), device=device)
    nodes = make_grid(model.schedule, SAMPLING.grid, SAMPLING.steps, model.schedule.timesteps - 1)
    noise = normal_rows(model.shape, seed, "base", range(count))
    at_once = max(1, min(64, PIXELS // model.shape[-1] ** 2))
    return quantise(denoise(model, noise, nodes, 0.0, seed, solver=SAMPLING.name, batch_size=at_once, progress=True))


def floor(images: Tensor, target: Tensor, config: DictConfig) -> tuple[float, float, float]:
    """KID to the features of the test images, with its interval, of as many training images as samples are scored."""
    rows = torch.randperm(len(images), generator=generator(config.loop.seed, "quality"))[: scored(config)]
    distance = kid(extract(EmbeddedFeatures(), images[rows]), target)
    return distance.value, distance.low, distance.high


def model_card(
    config: DictConfig,
    data: TrainingImages,
    state: TrainState,
    quality: dict[str, tuple[float, float, float]] | None,
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
        how = f"{scored(config)} samples, {SAMPLING.name}, {SAMPLING.grid} grid, {SAMPLING.steps} evaluations"
        lines.append(f"\n## Quality\n\nKID x 1000 to the test images, embedded features ({how}):\n")
        shown = {
            name: f"{1000 * value:.1f} (95% {1000 * low:.1f} to {1000 * high:.1f})"
            for name, (value, low, high) in quality.items()
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
    settings: LoopSettings = build(loop, "training.loop")
    precision = {"bf16": "bf16 autocast", "fp16": "fp16 autocast"}.get(settings.precision, "float32")
    facts: dict[str, Any] = {
        "data": f"{len(data.rows):,} images of {shape}" + (f": {config.about}" if config.about else ""),
        "parameters": f"{sum(p.numel() for p in state.ema.parameters()):,}, stored in half precision",
        "network": f"UNet2DModel on {on}, channels {list(network.config.block_out_channels)}",
        "diffusion": f"{PREDICTION_TYPES[predicted(config)]}-prediction, {config.schedule.beta_schedule} betas "
        f"{config.schedule.beta_start} to {config.schedule.beta_end}, {config.schedule.num_train_timesteps} steps",
        "optimisation": f"{state.step} steps of {loop.batch_size}, AdamW at {loop.learning_rate}, cosine, "
        f"averaged weights ({loop.ema_decay}), {precision}" + (f", {processes} processes" if processes > 1 else ""),
        "seed": loop.seed,
        "loss": f"{last:.4f} (mean of the last 200 steps)",
    }
    if (losses := state.measured.get("validation_loss")) is not None:
        facts["validation loss"] = f"{losses[-1, 1]:.4f} (averaged weights, {len(data.held):,} held-out images)"
    if config.get("min_snr"):
        facts["loss weights"] = f"min-SNR, gamma {config.min_snr}; the validation loss has none"
    if config.get("start"):
        facts["began as"] = start_name(config)
    if config.notes:
        facts["notes"] = config.notes
    return facts
