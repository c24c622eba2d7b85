"""Content-addressed artefacts: made once, written atomically, found again by what determines them."""

import hashlib
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.files import atomic_folder, atomic_path, read_json, sha256, write_json

TENSORS = "tensors.safetensors"
RECORD = "artefact.json"
LIBRARIES = ("unseen-diffusion", "torch", "diffusers", "numpy", "safetensors")


@dataclass(frozen=True)
class Artefact:
    """What a stage made.

    Attributes:
        key: SHA-256 over stage, stage version and inputs, hexadecimal.
        tensors: its arrays, on the CPU.
        facts: its numbers and names, as JSON values.
        seconds: what making it took.
        reused: True if it was found instead of made.
        folder: where it lies.
    """

    key: str
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    seconds: float
    reused: bool
    folder: Path


def key_of(stage: str, stage_version: int, inputs: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of what determines an artefact."""
    text = json.dumps([stage, stage_version, inputs], sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def environment() -> dict[str, str]:
    """Versions for provenance."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


class Store:
    """Artefacts below ``root``/<stage>/<key>. Parallel processes share it: each key is made once."""

    def __init__(self, root: Path | str):
        self.root = Path(root)

    def get_or_make(
        self,
        stage: str,
        stage_version: int,
        inputs: dict[str, Any],
        make: Callable[[], tuple[dict[str, Tensor], dict[str, Any]]],
    ) -> Artefact:
        """The artefact of these inputs: read where it exists, else made by ``make`` and written.

        Args:
            stage: name of the arrow.
            stage_version: raised whenever the stage's meaning changes.
            inputs: JSON values that determine the result, upstream keys included.
            make: returns (tensors, facts).

        Raises:
            InputError: a stored artefact does not match its checksum.
        """
        key = key_of(stage, stage_version, inputs)
        folder = self.root / stage / key[:24]
        if folder.is_dir():
            return self._read(folder, key)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            if folder.is_dir():
                return self._read(folder, key)
            started = time.monotonic()
            tensors, facts = make()
            seconds = time.monotonic() - started
            self._write(folder, key, stage, stage_version, inputs, tensors, facts, seconds)
        tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
        return Artefact(key, tensors, facts, seconds, False, folder)

    def _write(
        self,
        folder: Path,
        key: str,
        stage: str,
        stage_version: int,
        inputs: dict[str, Any],
        tensors: dict[str, Tensor],
        facts: dict[str, Any],
        seconds: float,
    ) -> None:
        with atomic_folder(folder) as temporary:
            with atomic_path(temporary / TENSORS) as path:  # safetensors leaves files that only their owner can read
                save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)
            record = {
                "key": key,
                "stage": stage,
                "stage_version": stage_version,
                "inputs": inputs,
                "facts": facts,
                "seconds": seconds,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
                "environment": environment(),
                "sha256": sha256(temporary / TENSORS),
            }
            write_json(temporary / RECORD, record)

    def _read(self, folder: Path, key: str) -> Artefact:
        record = read_json(folder / RECORD)
        tensors = folder / TENSORS
        if record["key"] != key or not tensors.is_file() or sha256(tensors) != record["sha256"]:
            raise InputError(f"{folder}: the artefact does not match its checksum; delete this folder and run again")
        return Artefact(key, load_file(tensors), record["facts"], record["seconds"], True, folder)
