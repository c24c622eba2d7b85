"""The images that a base model is trained on, and those that it is measured on."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.training.cards import own_images, plain_config
from unseen_diffusion.training.data import (
    OwnImages,
    check_decoded,
    decode_once,
    hold_out,
    images_digest,
    open_images,
)
from unseen_diffusion.training.loop import LoopSettings
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.resume import check_resumable, remove_unused
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

ON_DEVICE = 2**31  # bytes of images that fit on the device; more stay where they are


@dataclass(frozen=True)
class TrainingImages:
    """The images of a training.

    Attributes:
        images: (N, C, size, size) uint8.
        rows: (T,) int64, the images to train on.
        held_images: (M, C, size, size) uint8: ``images``, or test images from elsewhere.
        held: (V,) int64, rows of ``held_images`` for the validation loss; may be empty.
        test: (K, C, size, size) uint8 that the samples are scored against, or None.
        origin: where the images come from, for messages.
    """

    images: Tensor
    rows: Tensor
    held_images: Tensor
    held: Tensor
    test: Tensor | None
    origin: str


def load_images(config: DictConfig, settings: LoopSettings, folder: Path, processes: Processes) -> TrainingImages:
    """Loads the images of a training, after a check that ``folder`` has no checkpoint of another training.

    Raises:
        InputError: no or too few images, an unreadable one, or another training's folder.
    """
    load = _own_images if own_images(config) else _given_files
    data = load(config, settings, folder, processes)
    if len(data.rows) < settings.batch_size:
        raise InputError(
            f"{data.origin}: {len(data.rows)} images to train on, fewer than one batch; give more, or set "
            f"training.loop.batch_size={max(1, len(data.rows))} or less"
        )
    return data


def _own_images(config: DictConfig, settings: LoopSettings, folder: Path, processes: Processes) -> TrainingImages:
    """Images of the ``data`` group; the first process decodes them while the others wait."""
    own: OwnImages = build(config.data, "data")
    if processes.first:
        pool = own.pool()
        plain = plain_config(config)
        # The fingerprint depends on the images, not on their paths.
        plain["data"] = {"validation": own.validation, "fingerprint": pool.fingerprint}
        check_resumable(folder, plain)
        try:
            decode_once(pool, own.size, own.channels, folder)
            check_decoded(own.images.name, open_images(folder), pool)
        except InputError:
            remove_unused(folder)
            raise
    processes.wait()
    images = open_images(folder)
    rows, held = hold_out(len(images), own.validation, settings.seed)
    return TrainingImages(images, rows, images, held, None, f"data.path={own.path}")


def _given_files(config: DictConfig, settings: LoopSettings, folder: Path, processes: Processes) -> TrainingImages:
    """Images of the Parquet files that ``training.data`` names, and their test images."""
    images = _read(config, config.data.path)
    test = None if config.data.test_path is None else _read(config, config.data.test_path)
    if processes.first:
        plain = plain_config(config)
        plain["data"] = {"size": config.data.size, "channels": config.data.channels}
        plain["data"] |= {"fingerprint": images_digest(images), "test": None if test is None else images_digest(test)}
        check_resumable(folder, plain)
        check_decoded(str(config.data.path), images, None)
    held_images = images[:0] if test is None else test
    order = torch.randperm(len(held_images), generator=generator(settings.seed, "validation"))
    rows, held = torch.arange(len(images)), order[: config.data.validation].sort().values
    return TrainingImages(images, rows, held_images, held, test, f"training.data.path={config.data.path}")


def _read(config: DictConfig, path: str) -> Tensor:
    return read_parquet(path, config.data.size, config.data.channels)[0]


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """Copies the images to the device, unless they are too many."""
    return images.to(device) if images.nbytes <= ON_DEVICE else images
