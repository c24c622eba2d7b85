"""Content-addressed artefacts: made once, checked whenever they are read, found again by what determines them.

An artefact is the folder ``root``/<stage>/<key>: its tensors, in one safetensors file or in shards of rows, and
``artefact.json``, which is written last and makes it complete. See docs/store.md.
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
from unseen_diffusion.store.shards import Facts, Made, RowWise, Spent, Tensors
from unseen_diffusion.utils.digests import digest, json_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import seal, unseal
from unseen_diffusion.utils.tensors import pack

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
        seconds: what making it took, by all who took part.
        reused: True if all of it was found instead of made.
        spent: what this process spent on it.
        folder: where it lies.
    """

    key: str
    tensors: Tensors
    facts: Facts
    seconds: float
    reused: bool
    spent: Spent
    folder: Path


def key_of(stage: str, stage_version: int, inputs: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON of what determines an artefact."""
    return json_digest([stage, stage_version, inputs])


@dataclass(frozen=True)
class Recipe:
    """What determines an artefact: stage, its version, and inputs as JSON values."""

    stage: str
    version: int
    inputs: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """See ``key_of``."""
        return key_of(self.stage, self.version, self.inputs)

    @property
    def folder(self) -> str:
        """Where it lies below the store's root."""
        return f"{self.stage}/{self.key[:24]}"

    def record(self, facts: Facts, seconds: float, contents: dict[str, Any]) -> bytes:
        """Content of ``artefact.json``."""
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
    """Versions for provenance."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


class Store:
    """Artefacts below ``root``: a folder, or s3://bucket/prefix with a folder below ``cache`` in front of it.

    Any number of processes, on any number of machines, share it: each artefact is made once, and the shards of a
    row-wise one are split among those who want it.
    """

    def __init__(self, root: Path | str, cache: Path | str | None = None):
        self.objects = open_objects(root, cache)
        self.root = self.objects.folder
        self.claims = Claims(self.objects)

    def get_or_make(self, stage: str, stage_version: int, inputs: dict[str, Any], make: Callable[[], Made]) -> Artefact:
        """The artefact of these inputs: read where it exists, else made by ``make`` and written.

        Args:
            stage: name of the arrow.
            stage_version: raised whenever the stage's meaning changes.
            inputs: JSON values that determine the result, upstream keys included.
            make: returns (tensors, facts).

        Raises:
            InputError: the store cannot be written to, or is full.
        """
        recipe = Recipe(stage, stage_version, inputs)

        def made() -> Artefact:
            started = time.monotonic()
            tensors, facts = make()
            seconds = time.monotonic() - started
            spent = Spent(seconds, facts.get("evaluations", 0))
            if (found := self._find(recipe)) is not None:  # of a worker that took this one for dead
                return replace(found, spent=spent, reused=False)
            data = pack(tensors)
            record = recipe.record(facts, seconds, {"sha256": digest(data)})
            self.objects.put(f"{recipe.folder}/{TENSORS}", data)
            self.objects.put(f"{recipe.folder}/{RECORD}", record)
            self.objects.tidy(f"{recipe.folder}/")
            tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
            return Artefact(recipe.key, tensors, facts, seconds, False, spent, self.root / recipe.folder)

        return self.claims.once(f"{recipe.folder}/artefact.claim", lambda: self._find(recipe), made)

    def get_or_make_rows(self, stage: str, stage_version: int, inputs: dict[str, Any], how: RowWise) -> Artefact:
        """The same for an artefact of independent rows, made shard by shard as ``how`` says.

        Whoever asks for it takes part: claims a free shard, computes and writes it, then the next, until all are there.
        A process that is killed loses the shard it was at; the others, or the next start, go on with what is missing.

        Raises:
            InputError: the store cannot be written to, or is full.
        """
        recipe, spent = Recipe(stage, stage_version, inputs), Spent()
        while True:
            if (found := self._find(recipe)) is None:
                names, spent = shards.make_missing(self.objects, self.claims, recipe.folder, recipe.key, how, spent)
                found = self._complete(recipe, how, names)
            if found is not None:
                return replace(found, spent=spent, reused=spent == Spent())

    def _complete(self, recipe: Recipe, how: RowWise, names: list[str]) -> Artefact | None:
        """One worker reads all shards and writes the record, the others wait and read what it chose.

        None where a shard is missing or damaged.
        """
        folder = recipe.folder

        def make() -> Artefact | None:
            whole = shards.read_all(self.objects, recipe.key, names, how.rows)
            if whole is None:
                return None
            facts = how.finish(whole.tensors, whole.facts)
            if (found := self._find(recipe)) is not None:  # of a worker that took this one for dead
                return found
            files = [name.rsplit("/", 1)[1] for name in names]
            contents = {"rows": how.rows, "size": shards.size(names), "shards": files}
            self.objects.put(f"{folder}/{RECORD}", recipe.record(facts, whole.seconds, contents))
            shards.tidy(self.objects, folder, [*names, f"{folder}/{RECORD}"])
            return Artefact(recipe.key, whole.tensors, facts, whole.seconds, False, Spent(), self.root / folder)

        return self.claims.once(f"{folder}/artefact.claim", lambda: self._find(recipe), make)

    def _record(self, recipe: Recipe) -> dict[str, Any] | None:
        """What makes an artefact complete; None where it is not, or the record was damaged."""

        def record(data: bytes) -> dict[str, Any] | None:
            found = parse(data) or {}
            return found if found.get("key") == recipe.key and {"sha256", "shards"} & found.keys() else None

        data = self.objects.get(f"{recipe.folder}/{RECORD}", lambda data: record(data) is not None)
        return record(data) if data else None

    def _find(self, recipe: Recipe) -> Artefact | None:
        """A complete artefact; None where there is none. What is damaged or missing is named in the log."""
        record = self._record(recipe)
        if record is None:
            return None
        folder = recipe.folder
        tensors = self._tensors(recipe, record)
        if tensors is None:
            if "shards" in record:  # those that are intact stay in use
                self.objects.create(f"{folder}/{shards.PLAN}", shards.plan_of(record["rows"], record["size"]))
            self.objects.delete(f"{folder}/{RECORD}")
            return None
        return Artefact(recipe.key, tensors, record["facts"], record["seconds"], True, Spent(), self.root / folder)

    def _tensors(self, recipe: Recipe, record: dict[str, Any]) -> Tensors | None:
        if "shards" in record:
            names = [f"{recipe.folder}/{name}" for name in record["shards"]]
            whole = shards.read_all(self.objects, recipe.key, names, record["rows"])
            return whole.tensors if whole else None
        name, sha256 = f"{recipe.folder}/{TENSORS}", record["sha256"]
        data = self.objects.get(name, lambda data: digest(data) == sha256, expected=True)
        return None if data is None else safetensors.torch.load(data)


def parse(data: bytes) -> dict[str, Any] | None:
    """A record, or None where it is damaged; those without a seal are of version 0.2, which had no shards."""
    record = unseal(data, required=False)
    return record if record is None or "shards" not in record else unseal(data)


def tensor_names(folder: Path | str) -> list[str]:
    """Names of a complete artefact's tensors.

    Raises:
        InputError: it is not there, or damaged.
    """
    return list(_load(*_files(Path(folder))[0]))


def load_tensor(folder: Path | str, name: str, most: int | None = None) -> Tensor:
    """A tensor of a complete artefact, or its first ``most`` rows: no shard beyond them is read.

    Raises:
        InputError: it is not there, or damaged.
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
    """Files of a complete artefact, in order, each with the start of its SHA-256."""
    record = parse((folder / RECORD).read_bytes()) if (folder / RECORD).is_file() else None
    if record is None:
        raise InputError(f"{folder / RECORD}: missing or damaged; run again to make it")
    return [(folder / name, name.split(".")[1]) for name in record.get("shards", ())] or [
        (folder / TENSORS, record["sha256"])
    ]


def _load(path: Path, digest_start: str) -> Tensors:
    data = path.read_bytes() if path.is_file() else b""
    if not digest(data).startswith(digest_start):
        raise InputError(f"{path}: missing or damaged; run again to make it")
    return safetensors.torch.load(data)


def open_objects(location: Path | str, cache: Path | str | None = None) -> Objects:
    """The objects of a folder, or of s3://bucket/prefix with a folder below ``cache`` in front of it.

    Raises:
        InputError: another kind of address, or one that cannot be used here.
    """
    text = str(location)
    if "://" not in text:
        return LocalObjects(location)
    from unseen_diffusion.store.bucket import BucketObjects

    if cache is None:
        raise InputError(f"paths.store={text}: a bucket needs a local folder in front of it")
    return BucketObjects(text, cache)
