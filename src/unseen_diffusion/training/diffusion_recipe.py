"""Training of a base model: from its config to a documented diffusers folder."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DModel
from omegaconf import DictConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unseen_diffusion.models.folders import WEIGHTS, resolve
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.reports.tracking import NoTracker, Tracker
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.training.cards import plain_config
from unseen_diffusion.training.diffusion_card import document
from unseen_diffusion.training.images import TrainingImages, load_images, on_device
from unseen_diffusion.training.journal import Journal, journal
from unseen_diffusion.training.loop import LoopSettings, new_state, seeded, train
from unseen_diffusion.training.noise import noise_schedule, prediction_type
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.resume import exclusive, resolve_precision
from unseen_diffusion.training.samples import export, export_all, sample, sample_count, save_sheet, sheet_path
from unseen_diffusion.training.state import TrainState
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.files import read_json

log = logging.getLogger(__name__)


def train_diffusion(config: DictConfig, device: torch.device, tracker: Tracker | None = None) -> Path:
    """Trains a base model; returns the diffusers folder of its averaged weights, written by the first process."""
    config = resolve_precision(config, device)
    settings: LoopSettings = build(config.loop, "training.loop")
    processes = Processes(device, settings.precision)
    processes.parts(settings.batch_size, settings.accumulate)
    scheduler = noise_schedule(config)
    state = new_state(first_network(config), settings, processes.device)
    with exclusive(Path(config.folder), processes):
        return _trained(config, settings, scheduler, state, processes, tracker)


def _trained(
    config: DictConfig,
    settings: LoopSettings,
    scheduler: DDPMScheduler,
    state: TrainState,
    processes: Processes,
    tracker: Tracker | None,
) -> Path:
    """Trains the base model of ``train_diffusion``, while the training's folder is locked."""
    device, folder = processes.device, Path(config.folder)
    weights = folder / "weights"
    data = load_images(config, settings, folder, processes)
    log.info("%d training images from %s", len(data.rows), data.origin)
    loss, held = losses(config, scheduler, data, device)
    target = None if data.test is None else extract(EmbeddedFeatures(), data.test)
    tracker = tracker if tracker and processes.first else NoTracker()
    with journal(tracker, config.name, plain_config(config)) as book:
        report = Report(config, settings, scheduler, held, target, device, book)
        train(settings, state, len(data.rows), loss, folder, processes, report, book)
        if processes.first and not sheet_path(folder, state).exists():  # steps were lowered to the checkpoint's
            report(state)
    if processes.first:
        export(state.ema, scheduler, config.network.pixel_unshuffle, weights)
        document(config, data, target, state, weights, processes)
    return weights


def losses(
    config: DictConfig, scheduler: DDPMScheduler, data: TrainingImages, device: torch.device
) -> tuple[DiffusionLoss, DiffusionLoss]:
    """The loss on the training images, and the one on the held-out images."""
    factor = config.network.pixel_unshuffle
    images = on_device(data.images, device)
    held_images = images if data.held_images is data.images else on_device(data.held_images, device)
    alphas, kind, gamma = scheduler.alphas_cumprod, prediction_type(config), config.get("min_snr")
    loss = DiffusionLoss(images, alphas, factor, config.flip, device, data.rows, kind, min_snr=gamma)
    return loss, DiffusionLoss(held_images, alphas, factor, False, device, data.held, kind)


@dataclass(frozen=True)
class Report:
    """Measures a training at some steps: validation losses, exported weights, a sheet of samples, and their KID.

    Attributes:
        config: of the training.
        settings: of its loop.
        scheduler: of its noise.
        held: loss on held-out images.
        target: features of the test images, for the KID of the samples; None where there are no test images.
        device: samples are drawn on it.
        book: records the measured values and the sheet.
    """

    config: DictConfig
    settings: LoopSettings
    scheduler: DDPMScheduler
    held: DiffusionLoss
    target: Tensor | None
    device: torch.device
    book: Journal

    def __call__(self, state: TrainState) -> None:
        """Measures at the step of ``state``, and adds the values to it."""
        folder, factor = Path(self.config.folder), self.config.network.pixel_unshuffle
        numbers = validation_losses(state, self.held, self.settings.seed)
        export(state.ema, self.scheduler, factor, folder / "weights")
        if state.step in self.settings.keep:
            export_all(state, self.scheduler, factor, folder)
        count = sample_count(self.config, scored=self.target is not None)
        samples = sample(folder / "weights", count, self.settings.seed, self.device)
        path = sheet_path(folder, state)
        save_sheet(samples, path)
        if self.target is not None:
            distance = kid(extract(EmbeddedFeatures(), samples), self.target)
            numbers |= {"kid": distance.value, "kid_low": distance.low, "kid_high": distance.high}
        state.record(numbers)
        self.book.write(state.step, numbers, {"samples": path})


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


def validation_losses(state: TrainState, held: DiffusionLoss, seed: int) -> dict[str, float]:
    """The validation loss of the averaged weights, and of the other averages, if images are held out for it."""
    if not len(held.kept):
        return {}
    averages = {"validation_loss": state.ema} | {f"validation_loss_ema_{d}": net for d, net in state.others.items()}
    return {name: validation_loss(network, held, seed) for name, network in averages.items()}
