"""Checks of a resumed training: no other training in its folder, the same configuration, and the same precision."""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.state import CHECKPOINT
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import locked, read_json, write_json

log = logging.getLogger(__name__)

LOCK = ".training.lock"
FACTS = "training.json"  # the configuration of a folder's training
FIRST_FILES = (FACTS, "images.json", "images.raw")
CHANGEABLE = (
    "steps",
    "checkpoint_every",
    "sample_every",
    "accumulate",
    "keep",
)  # keys of loop that a resume may change
UNCOMPARED = ("folder", "notes", "about", "quality_samples")  # other keys that a resume may change
EARLIER = {"fp16": False, "ema_others": []}  # values for trainings from before these keys of loop existed


def resolve_precision(config: DictConfig, device: torch.device) -> DictConfig:
    """A training's config with ``bf16=auto`` replaced by true or false.

    A resumed training keeps its precision. A new one uses bfloat16 where the device has instructions for it. Elsewhere
    bfloat16 is emulated, 12 times slower than float32 (measured on a CPU with AVX2).
    """
    if config.loop.bf16 != "auto":
        return config
    path = Path(config.folder) / FACTS
    if (path.parent / CHECKPOINT).exists() and path.exists():
        chosen = bool(read_json(path)["loop"]["bf16"])
    else:
        chosen = not config.loop.get("fp16") and computes_bf16(device)
    config = copy.deepcopy(config)
    config.loop.bf16 = chosen
    return config


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


@contextmanager
def exclusive(folder: Path, processes: Processes) -> Iterator[None]:
    """Keeps other trainings out of ``folder``; the first process of a training holds the lock for all of them.

    Raises:
        InputError: another training holds the lock.
    """
    with locked(folder / LOCK) if processes.first else nullcontext(True) as mine:
        if mine is False:
            raise InputError(
                f"training.folder={folder}: another training is running in this folder; choose another folder, or "
                "wait until it ends"
            )
        if mine is None:
            log.warning(
                "training.folder=%s: this file system has no locks; do not start a second training in this folder",
                folder,
            )
        yield


def check_resumable(folder: Path, config: dict[str, Any]) -> None:
    """Refuses to resume a training with another configuration; writes the configuration to ``folder``.

    ``data`` identifies the images by a fingerprint. Older trainings recorded paths instead, which are not compared.

    Raises:
        InputError: a value differs from that of the checkpoint.
    """
    now = {key: value for key, value in config.items() if key not in UNCOMPARED}
    now["loop"] = {key: value for key, value in now["loop"].items() if key not in CHANGEABLE}
    path = folder / FACTS
    if (folder / CHECKPOINT).exists() and path.exists():
        before = read_json(path)
        before["loop"] = EARLIER | before["loop"]
        now["loop"] = EARLIER | now["loop"]
        if "data" in before and "fingerprint" not in before["data"]:
            before["data"] = {key: before["data"].get(key, value) for key, value in now["data"].items()}
        for key in sorted({*now, *before}):
            if now.get(key) != before.get(key):
                raise InputError(
                    f"training.{key}={now.get(key)}: the checkpoint in {folder} was trained with {before.get(key)}; "
                    "choose another training.folder, or delete that one"
                )
    write_json(path, now)


def remove_unused(folder: Path) -> None:
    """Deletes the decoded images and the configuration of a training without a checkpoint: its images were refused."""
    if not (folder / CHECKPOINT).exists():
        for name in FIRST_FILES:
            (folder / name).unlink(missing_ok=True)


def remove_unfinished(folder: Path) -> None:
    """Deletes the temporary files of interrupted writes: checkpoints and decoded images."""
    for stem in (Path(CHECKPOINT).stem, "images"):
        for path in folder.glob(f".{stem}-*"):
            path.unlink(missing_ok=True)
