"""Content-addressed artefacts: computed once, stored under a key of all their inputs, and checked at every read.

An artefact is the folder ``root``/<stage>/<key>. It holds tensors, in one safetensors file or in shards of rows, and
``artefact.json``, which is written last and makes the artefact complete. See docs/store.md.
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from unseen_diffusion.store import shards
from unseen_diffusion.store.claims import Claims
from unseen_diffusion.store.objects import LocalObjects, Objects
from unseen_diffusion.store.shards import Cost, Facts, RowWise, StageOutput, Tensors
from unseen_diffusion.utils.digests import digest, json_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import seal, unseal
from unseen_diffusion.utils.tensors import pack

TENSORS = "tensors.safetensors"
RECORD = "artefact.json"
LIBRARIES = ("unseen-diffusion", "torch", "diffusers", "numpy", "safetensors")


@dataclass(frozen=True)
class Artefact:
    """The result of a stage.

    Attributes:
        key: SHA-256 over stage, stage version and inputs, hexadecimal.
        tensors: its arrays, on the CPU.
        facts: its numbers and names, as JSON values.
        seconds: time that it took, summed over all workers.
        reused: True if this process computed no part of it.
        spent: its cost to this process.
        folder: where it is stored.
    """

    key: str
    tensors: Tensors
    facts: Facts
    seconds: float
    reused: bool
    spent: Cost
    folder: Path


def key_of(stage: str, stage_version: int, inputs: dict[str, Any]) -> str:
    """The key of an artefact: SHA-256, hexadecimal, over the canonical JSON of all that determines it."""
    return json_digest([stage, stage_version, inputs])


@dataclass(frozen=True)
class Recipe:
    """All that determines an artefact: stage, stage version, and inputs as JSON values."""

    stage: str
    version: int
    inputs: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """See ``key_of``."""
        return key_of(self.stage, self.version, self.inputs)

    @property
    def folder(self) -> str:
        """The artefact's folder, relative to the store's root."""
        return f"{self.stage}/{self.key[:24]}"

    def record(self, facts: Facts, seconds: float, contents: dict[str, Any]) -> bytes:
        """The content of ``artefact.json``."""
        record = {
            "key": self.key,
            "stage": self.stage,
            "stage_version": self.version,
            "inputs": self.inputs,
            "facts": facts,
            "seconds": seconds,
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "environment": environment(),
        }
        return seal(record | contents)


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """Versions of Python and of the libraries, for provenance."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


class Store:
    """Artefacts below ``root``: a folder, or s3://bucket/prefix with a local copy in a folder below ``cache``.

    Any number of processes, on any number of machines, can share it. Each artefact is computed once; workers that need
    the same artefact of rows split its shards among themselves.
    """

    def __init__(self, root: Path | str, cache: Path | str | None = None):
        self.objects = open_objects(root, cache)
        self.root = self.objects.folder
        self.claims = Claims(self.objects)

    def get_or_make(
        self, stage: str, stage_version: int, inputs: dict[str, Any], make: Callable[[], StageOutput]
    ) -> Artefact:
        """Reads the artefact of these inputs; if it does not exist, calls ``make`` and writes the result.

        Args:
            stage: name of the stage.
            stage_version: raised whenever the stage's meaning changes.
            inputs: JSON values that determine the result, upstream keys included.
            make: returns (tensors, facts).

        Raises:
            InputError: the store cannot be written to, or is full.
        """
        recipe = Recipe(stage, stage_version, inputs)

        def make_and_write() -> Artefact:
            started = time.monotonic()
            tensors, facts = make()
            seconds = time.monotonic() - started
            spent = Cost(seconds, facts.get("evaluations", 0))
            if (found := self._find(recipe)) is not None:  # another worker took over, thinking this one dead
                return replace(found, spent=spent, reused=False)
            data = pack(tensors)
            record = recipe.record(facts, seconds, {"sha256": digest(data)})
            self.objects.put(f"{recipe.folder}/{TENSORS}", data)
            self.objects.put(f"{recipe.folder}/{RECORD}", record)
            self.objects.tidy(f"{recipe.folder}/")
            tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            return Artefact(recipe.key, tensors, facts, seconds, False, spent, self.root / recipe.folder)

        return self.claims.once(f"{recipe.folder}/artefact.claim", lambda: self._find(recipe), make_and_write)

    def get_or_make_rows(self, stage: str, stage_version: int, inputs: dict[str, Any], work: RowWise) -> Artefact:
        """Like ``get_or_make``, for an artefact of independent rows: ``work`` computes it shard by shard.

        Every process that asks for it takes part: it claims a free shard, computes and writes it, then the next, until
        all exist. A killed process loses the shard it was computing; other processes, or the next start, compute it.

        Raises:
            InputError: the store cannot be written to, or is full.
        """
        recipe, spent = Recipe(stage, stage_version, inputs), Cost()
        while True:
            if (found := self._find(recipe)) is None:
                names, spent = shards.make_missing(self.objects, self.claims, recipe.folder, recipe.key, work, spent)
                found = self._complete(recipe, work, names)
            if found is not None:
                return replace(found, spent=spent, reused=spent == Cost())

    def _complete(self, recipe: Recipe, work: RowWise, names: list[str]) -> Artefact | None:
        """Completes an artefact of shards: one worker reads all of them and writes the record, the others read it.

        Returns:
            The artefact; None where a shard is missing or damaged.
        """
        folder = recipe.folder

        def make() -> Artefact | None:
            whole = shards.read_all(self.objects, recipe.key, names, work.rows)
            if whole is None:
                return None
            facts = work.finish(whole.tensors, whole.facts)
            if (found := self._find(recipe)) is not None:  # another worker took over, thinking this one dead
                return found
            files = [name.rsplit("/", 1)[1] for name in names]
            contents = {"rows": work.rows, "size": shards.size(names), "shards": files}
            self.objects.put(f"{folder}/{RECORD}", recipe.record(facts, whole.seconds, contents))
            shards.tidy(self.objects, folder, [*names, f"{folder}/{RECORD}"])
            return Artefact(recipe.key, whole.tensors, facts, whole.seconds, False, Cost(), self.root / folder)

        return self.claims.once(f"{folder}/artefact.claim", lambda: self._find(recipe), make)

    def _record(self, recipe: Recipe) -> dict[str, Any] | None:
        """Reads ``artefact.json``; None where it is missing, damaged or belongs to another artefact."""

        def record(data: bytes) -> dict[str, Any] | None:
            found = parse(data) or {}
            return found if found.get("key") == recipe.key and {"sha256", "shards"} & found.keys() else None

        data = self.objects.get(f"{recipe.folder}/{RECORD}", lambda data: record(data) is not None)
        return record(data) if data else None

    def _find(self, recipe: Recipe) -> Artefact | None:
        """Reads a complete artefact; None where there is none. The log names files that are damaged or missing."""
        record = self._record(recipe)
        if record is None:
            return None
        folder = recipe.folder
        tensors = self._tensors(recipe, record)
        if tensors is None:
            if "shards" in record:  # intact shards stay in use
                self.objects.create(f"{folder}/{shards.PLAN}", shards.plan_of(record["rows"], record["size"]))
            self.objects.delete(f"{folder}/{RECORD}")
            return None
        return Artefact(recipe.key, tensors, record["facts"], record["seconds"], True, Cost(), self.root / folder)

    def _tensors(self, recipe: Recipe, record: dict[str, Any]) -> Tensors | None:
        if "shards" in record:
            names = [f"{recipe.folder}/{name}" for name in record["shards"]]
            whole = shards.read_all(self.objects, recipe.key, names, record["rows"])
            return whole.tensors if whole else None
        name, sha256 = f"{recipe.folder}/{TENSORS}", record["sha256"]
        data = self.objects.get(name, lambda data: digest(data) == sha256, expected=True)
        return None if data is None else safetensors.torch.load(data)


def parse(data: bytes) -> dict[str, Any] | None:
    """Parses a record; None where it is damaged. Records of version 0.2, which had no shards, carry no checksum."""
    record = unseal(data, required=False)
    return record if record is None or "shards" not in record else unseal(data)


def tensor_names(folder: Path | str) -> list[str]:
    """The names of a complete artefact's tensors.

    Raises:
        InputError: the artefact is missing or damaged.
    """
    return list(_load(*_files(Path(folder))[0]))


def load_tensor(folder: Path | str, name: str, most: int | None = None) -> Tensor:
    """Reads a tensor of a complete artefact, or its first ``most`` rows without reading further shards.

    Raises:
        InputError: the artefact is missing or damaged.
    """
    parts: list[Tensor] = []
    for path, start in _files(Path(folder)):
        tensors = _load(path, start)
        if name not in tensors:
            raise InputError(f"{folder}: the artefact has no tensor {name}; delete this folder and run again")
        parts.append(tensors[name])
        if most is not None and sum(map(len, parts)) >= most:
            break
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole if most is None else whole[:most]


def _files(folder: Path) -> list[tuple[Path, str]]:
    """The files of a complete artefact, in order, each with the start of its SHA-256."""
    record = parse((folder / RECORD).read_bytes()) if (folder / RECORD).is_file() else None
    if record is None:
        raise InputError(f"{folder / RECORD}: missing or damaged; run again to compute it")
    return [(folder / name, name.split(".")[1]) for name in record.get("shards", ())] or [
        (folder / TENSORS, record["sha256"])
    ]


def _load(path: Path, digest_start: str) -> Tensors:
    data = path.read_bytes() if path.is_file() else b""
    if not digest(data).startswith(digest_start):
        raise InputError(f"{path}: missing or damaged; run again to compute it")
    return safetensors.torch.load(data)


def open_objects(location: Path | str, cache: Path | str | None = None) -> Objects:
    """Opens a folder, or s3://bucket/prefix with a local copy in a folder below ``cache``.

    Raises:
        InputError: an address of another kind, or one that cannot be used here.
    """
    text = str(location)
    if "://" not in text:
        return LocalObjects(location)
    from unseen_diffusion.store.bucket import BucketObjects

    if cache is None:
        raise InputError(
            f"paths.store={text}: a bucket needs a local folder for its copies; pass Store(..., cache=FOLDER)"
        )
    return BucketObjects(text, cache)
