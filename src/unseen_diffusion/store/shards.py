"""Row-wise making: an artefact of many rows in shards, each written whole as soon as it is computed.

A shard is a safetensors file ``rows-START-STOP.DIGEST.safetensors``: tensors of rows START to STOP, and in its header
the artefact's key, its JSON facts and the seconds that it took. DIGEST, the first 16 digits of the file's SHA-256,
stands in the name, so that one rename makes a shard and says what it must contain. ``plan.json`` fixes the boundaries
for all workers while the artefact is being made, by the batch size of the first of them.
"""

import json
import logging
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from unseen_diffusion.store.claims import Claims, Pause
from unseen_diffusion.store.objects import Objects
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.files import seal, unseal
from unseen_diffusion.utils.tensors import pack

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Facts = dict[str, Any]
Made = tuple[Tensors, Facts]

PLAN = "plan.json"
SHARD = re.compile(r"rows-(\d+)-(\d+)\.([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class RowWise:
    """How to make an artefact whose rows do not depend on one another.

    Attributes:
        rows: how many.
        batch: rows of a shard, where no other worker has begun with shards of another size.
        make: rows -> (tensors whose first dimension is these rows, JSON facts). It may be called for any rows, in any
            order, by any worker, and must return the same each time.
        finish: whole tensors and the facts of all shards, in order -> facts of the artefact.
        found: told of rows that are done already, or by other workers; for progress.
    """

    rows: int
    batch: int
    make: Callable[[range], Made]
    finish: Callable[[Tensors, Sequence[Facts]], Facts]
    found: Callable[[int], None] = lambda rows: None


class Spent(NamedTuple):
    """What this process has spent: seconds, and network evaluations as facts count them."""

    seconds: float = 0.0
    evaluations: int = 0

    def plus(self, seconds: float, evaluations: int) -> "Spent":
        """With more of both."""
        return Spent(self.seconds + seconds, self.evaluations + evaluations)


class Whole(NamedTuple):
    """All rows.

    Attributes:
        tensors: whole, on the CPU.
        facts: of each shard, in order.
        seconds: what all shards took together.
    """

    tensors: Tensors
    facts: list[Facts]
    seconds: float


def cut(rows: int, size: int) -> list[range]:
    """0 to ``rows`` in pieces of ``size``; no rows are one empty piece, so that shapes are known."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)] or [range(0)]


def stem(folder: str, rows: range) -> str:
    """Start of a shard's name."""
    return f"{folder}/rows-{rows.start:08d}-{rows.stop:08d}"


def make_missing(
    objects: Objects, claims: Claims, folder: str, key: str, how: RowWise, spent: Spent
) -> tuple[list[str], Spent]:
    """Makes the shards that are missing, sharing the work with whoever makes the same artefact.

    Listing a folder costs as much as it has entries, so that it is done as seldom as will do: one list is worked
    through until a shard of it turns out to be another's, and one who waits for others looks at single claims.

    Returns:
        The names of all shards, in order, when they are there; and what this process has spent, ``spent`` included.
    """
    plan = agree(objects, folder, how)
    seen: set[range] = set()
    pause = claims.pause()

    def mine(rows: range) -> bool:
        nonlocal spent, pause
        made = _make(objects, claims, folder, key, how, rows)
        if made is not None:
            spent, pause = spent.plus(*made), claims.pause()
            seen.add(rows)
        return made is not None

    while True:
        names = objects.names(f"{folder}/")
        done = present(names)
        for rows in plan:
            if rows in done and rows not in seen:
                how.found(len(rows))
                seen.add(rows)
        if not (missing := [rows for rows in plan if rows not in done]):
            return [done[rows] for rows in plan], spent
        free, claimed = _split(missing, folder, names)
        if not _work_through(free, mine):
            _wait(objects, folder, claimed, mine, pause)


def _work_through(free: list[range], mine: Callable[[range], bool]) -> bool:
    """Makes shards from a random place on, so that workers seldom meet, until the list is seen to be old."""
    first, some = random.randrange(len(free)) if free else 0, False
    for rows in free[first:] + free[:first]:
        if mine(rows):
            some = True
        elif some:
            break
    return some


def _wait(objects: Objects, folder: str, claimed: list[range], mine: Callable[[range], bool], pause: Pause) -> None:
    """Until one of these claims is given up, or was a dead worker's and its shard is made."""
    while True:
        pause()
        rows = random.choice(claimed) if claimed else None
        if rows is None or objects.read(f"{stem(folder, rows)}.claim") is None or mine(rows):
            return


def _make(objects: Objects, claims: Claims, folder: str, key: str, how: RowWise, rows: range) -> Spent | None:
    """One shard, if nobody else is at it or has just ended it."""
    with claims.hold(f"{stem(folder, rows)}.claim") as mine:
        if not mine or present(objects.names(f"{stem(folder, rows)}.")):
            return None
        started = time.monotonic()
        tensors, facts = how.make(rows)
        seconds = time.monotonic() - started
        write(objects, folder, key, rows, tensors, facts, seconds)
    return Spent(seconds, facts.get("evaluations", 0))


def agree(objects: Objects, folder: str, how: RowWise) -> list[range]:
    """The boundaries that all workers use: those of the first, or of shards that are there already."""
    name = f"{folder}/{PLAN}"

    def size_of(data: bytes) -> int:
        plan = unseal(data) or {}
        return plan["size"] if plan.get("rows") == how.rows else 0

    while True:
        if data := objects.get(name, lambda data: size_of(data) > 0):
            return cut(how.rows, size_of(data))
        lengths = Counter(len(rows) for rows in present(objects.names(f"{folder}/")))
        size = lengths.most_common(1)[0][0] if lengths else how.batch
        objects.create(name, plan_of(how.rows, size))


def plan_of(rows: int, size: int) -> bytes:
    """Content of ``plan.json``."""
    return seal({"rows": rows, "size": max(1, size)})


def size(names: Sequence[str]) -> int:
    """Rows of the largest of these shards."""
    return max(len(rows) for rows in present(set(names)))


def present(names: set[str]) -> dict[range, str]:
    """Shards by their rows; of several with the same rows, the first by name."""
    found: dict[range, str] = {}
    for name in sorted(names, reverse=True):
        if match := SHARD.fullmatch(name.rsplit("/", 1)[1]):
            found[range(int(match[1]), int(match[2]))] = name
    return found


def _split(missing: list[range], folder: str, names: set[str]) -> tuple[list[range], list[range]]:
    """Missing shards that nobody has claimed, and the others."""
    claimed = [rows for rows in missing if f"{stem(folder, rows)}.claim" in names]
    return [rows for rows in missing if f"{stem(folder, rows)}.claim" not in names], claimed


def write(objects: Objects, folder: str, key: str, rows: range, tensors: Tensors, facts: Facts, seconds: float) -> None:
    """One shard, whole or not at all."""
    header = {"key": key, "rows": f"{rows.start}-{rows.stop}"}
    header["made"] = json.dumps({"facts": facts, "seconds": seconds}, allow_nan=False)
    data = pack(tensors, header)
    objects.put(f"{stem(folder, rows)}.{short_digest(data)}.safetensors", data)


def read(objects: Objects, name: str, key: str) -> Made | None:
    """Tensors, and the header's {"facts", "seconds"}; None where the shard is missing or was damaged."""
    match = SHARD.fullmatch(name.rsplit("/", 1)[1])
    data = objects.get(name, lambda data: match is not None and short_digest(data) == match[3], expected=True)
    if data is None or match is None:
        return None
    header = header_of(data)
    if (header["key"], header["rows"]) != (key, f"{int(match[1])}-{int(match[2])}"):
        log.warning("%s: a shard of something else; made again", objects.folder / name)
        objects.delete(name)
        return None
    return safetensors.torch.load(data), json.loads(header["made"])


def read_all(objects: Objects, key: str, names: Sequence[str], rows: int) -> Whole | None:
    """All shards as one, or None where one is missing or damaged (then named in the log)."""
    tensors: Tensors = {}
    facts, seconds = list[Facts](), 0.0
    place = 0
    for name in names:
        shard = read(objects, name, key)
        if shard is None:
            return None
        for label, part in shard[0].items():
            if label not in tensors:
                tensors[label] = torch.empty((rows, *part.shape[1:]), dtype=part.dtype)
            tensors[label][place : place + len(part)] = part
        place += len(part)
        facts.append(shard[1]["facts"])
        seconds += shard[1]["seconds"]
    return Whole(tensors, facts, seconds)


def tidy(objects: Objects, folder: str, names: Sequence[str]) -> None:
    """Deletes what a finished artefact needs no more; a shard that does not belong to it is named in the log."""
    for name in objects.names(f"{folder}/") - set(names):
        if SHARD.fullmatch(name.rsplit("/", 1)[1]):
            log.warning("%s: an extra shard; deleted", objects.folder / name)
            objects.delete(name)
        elif name.endswith(("/" + PLAN, ".claim")) and not name.endswith("/artefact.claim"):
            objects.delete(name)
    objects.tidy(f"{folder}/")


def header_of(data: bytes) -> dict[str, str]:
    """The strings in a safetensors file's header."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def short_digest(data: bytes) -> str:
    """The first 16 digits of SHA-256."""
    return digest(data)[:16]
