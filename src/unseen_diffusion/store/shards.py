"""Shards: an artefact of many independent rows is written in pieces, each as soon as it is computed.

A shard is a safetensors file ``rows-START-STOP.DIGEST.safetensors``. It holds the tensors of rows START to STOP, and in
its header the artefact's key, the JSON facts and the seconds that it took. DIGEST is the first 16 digits of the file's
SHA-256: one rename publishes a shard together with its checksum. While the artefact is being computed, ``plan.json``
fixes the boundaries of all shards, by the batch size of the first worker. A plan that is lost, with the record, is
recovered from the names of the shards.
"""

import json
import logging
import random
import re
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from unseen_diffusion.store.claims import Claims, Pause
from unseen_diffusion.store.objects import Objects
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.files import seal, unseal
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.tensors import pack

log = logging.getLogger(__name__)

Tensors = dict[str, Tensor]
Facts = dict[str, Any]
StageOutput = tuple[Tensors, Facts]

PLAN = "plan.json"
SHARD = re.compile(r"rows-(\d+)-(\d+)\.([0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class RowWise:
    """How to compute an artefact whose rows do not depend on one another: its functions and sizes.

    Attributes:
        rows: number of rows.
        batch: rows of a shard, unless another worker has begun with shards of another size.
        make: rows -> (tensors whose first dimension is these rows, JSON facts). It may be called for any rows, in any
            order, by any worker, and must return the same each time.
        finish: whole tensors and the facts of all shards, in order -> facts of the artefact.
        on_existing: called with the number of rows that were computed earlier or by other workers; for progress bars.
    """

    rows: int
    batch: int
    make: Callable[[range], StageOutput]
    finish: Callable[[Tensors, Sequence[Facts]], Facts]
    on_existing: Callable[[int], None] = lambda rows: None


class Cost(NamedTuple):
    """What this process has spent on an artefact.

    Attributes:
        seconds: time.
        evaluations: NFE, network function evaluations, as facts count them.
    """

    seconds: float = 0.0
    evaluations: int = 0

    def plus(self, seconds: float, evaluations: int) -> "Cost":
        """A copy with these seconds and evaluations added."""
        return Cost(self.seconds + seconds, self.evaluations + evaluations)


class Whole(NamedTuple):
    """All shards of an artefact, joined.

    Attributes:
        tensors: all rows, on the CPU.
        facts: facts of each shard, in order.
        seconds: sum over all shards.
    """

    tensors: Tensors
    facts: list[Facts]
    seconds: float


def cut(rows: int, size: int) -> list[range]:
    """Splits 0..``rows`` into ranges of ``size``; no rows give one empty range, so that shapes are known."""
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)] or [range(0)]


def stem(folder: str, rows: range) -> str:
    """Start of the name of a shard, up to its digest."""
    return f"{folder}/rows-{rows.start:08d}-{rows.stop:08d}"


def make_missing(
    objects: Objects, claims: Claims, folder: str, key: str, work: RowWise, cost: Cost
) -> tuple[list[str], Cost]:
    """Computes the missing shards, together with all other workers on the same artefact.

    Listing a folder takes time in proportion to its entries, so workers list rarely. A worker computes the free shards
    of one list until another worker has taken one of them. While it waits, it reads single claims only.

    Returns:
        The names of all shards, in order, once all exist; and ``cost`` plus the cost of this call.
    """
    plan = shared_boundaries(objects, folder, key, work)
    seen: set[range] = set()
    pause = claims.pause()

    def try_to_make(rows: range) -> bool:
        nonlocal cost, pause
        added = _make(objects, claims, folder, key, work, rows)
        if added is not None:
            cost, pause = cost.plus(*added), claims.pause()
            seen.add(rows)
        return added is not None

    while True:
        names = objects.names(f"{folder}/")
        done = present(names)
        for rows in plan:
            if rows in done and rows not in seen:
                work.on_existing(len(rows))
                seen.add(rows)
        if not (missing := [rows for rows in plan if rows not in done]):
            return [done[rows] for rows in plan], cost
        free, claimed = split_by_claim(missing, folder, names)
        if not _make_free(free, try_to_make):
            _wait(objects, folder, claimed, try_to_make, pause)


def _make_free(free: list[range], try_to_make: Callable[[range], bool]) -> bool:
    """Computes free shards from a random one on, so that workers rarely collide, until the list proves outdated.

    Returns:
        Whether it computed any shard.
    """
    first, any_made = random.randrange(len(free)) if free else 0, False
    for rows in free[first:] + free[:first]:
        if try_to_make(rows):
            any_made = True
        elif any_made:
            break
    return any_made


def _wait(
    objects: Objects, folder: str, claimed: list[range], try_to_make: Callable[[range], bool], pause: Pause
) -> None:
    """Waits until a claim is released, or takes over a dead worker's claim and computes its shard."""
    while True:
        pause()
        rows = random.choice(claimed) if claimed else None
        if rows is None or objects.read(f"{stem(folder, rows)}.claim") is None or try_to_make(rows):
            return


def _make(objects: Objects, claims: Claims, folder: str, key: str, work: RowWise, rows: range) -> Cost | None:
    """Computes one shard and returns its cost; None where another worker computes it or has just finished it."""
    with claims.hold(f"{stem(folder, rows)}.claim") as is_held:
        if not is_held or present(objects.names(f"{stem(folder, rows)}.")):
            return None
        started = time.monotonic()
        tensors, facts = work.make(rows)
        seconds = time.monotonic() - started
        write(objects, folder, key, rows, tensors, facts, seconds)
    return Cost(seconds, facts.get("evaluations", 0))


def shared_boundaries(objects: Objects, folder: str, key: str, work: RowWise) -> list[range]:
    """The boundaries that all workers use: those of existing shards, or of the first worker."""
    name = f"{folder}/{PLAN}"

    def size_of(data: bytes) -> int:
        plan = unseal(data) or {}
        return plan["size"] if plan.get("rows") == work.rows else 0

    while True:
        if data := objects.get(name, lambda data: size_of(data) > 0):
            return cut(work.rows, size_of(data))
        size = _size_of_existing(objects, folder, key, work)
        objects.create(name, plan_of(work.rows, size))


def _size_of_existing(objects: Objects, folder: str, key: str, work: RowWise) -> int:
    """The size with which the shards in a folder were cut; where they disagree, only intact shards count."""
    names = objects.names(f"{folder}/")
    existing = set(present(names))
    size = recovered_size(existing, work.rows, work.batch)
    if existing <= set(cut(work.rows, size)):
        return size
    shards = sorted(name for name in names if SHARD.fullmatch(name.rsplit("/", 1)[1]))
    intact = {name for name in shards if read(objects, name, key) is not None}
    return recovered_size(set(present(intact)), work.rows, work.batch)


def recovered_size(shards: Collection[range], rows: int, batch: int) -> int:
    """The size that keeps as many rows of these shards as possible when 0..``rows`` is cut by it.

    The last shard is shorter than the others. It alone admits several sizes, each a divisor of its first row.

    Args:
        shards: rows of existing shards.
        rows: number of rows of the artefact.
        batch: preferred size; of equally good sizes, the nearest to it is chosen.
    """

    def merit(size: int) -> tuple[int, int, int]:
        kept = [shard for shard in shards if _is_piece(shard, rows, size)]
        return sum(map(len, kept)), len(kept), -abs(size - batch)

    return max({batch, *(size for shard in shards for size in _possible_sizes(shard, rows))}, key=merit)


def _is_piece(shard: range, rows: int, size: int) -> bool:
    """Whether cutting 0..``rows`` by ``size`` gives this shard."""
    return shard.start % size == 0 and shard.stop == min(shard.start + size, rows)


def _possible_sizes(shard: range, rows: int) -> list[int]:
    """All sizes by which cutting 0..``rows`` gives this shard; one where several give the same pieces."""
    if shard.stop < rows or not shard.start:
        sizes = [len(shard)]
    else:
        sizes = [size for size in range(len(shard), shard.start + 1) if size and shard.start % size == 0]
    return [size for size in sizes if size and _is_piece(shard, rows, size)]


def plan_of(rows: int, size: int) -> bytes:
    """Content of ``plan.json``."""
    return seal({"rows": rows, "size": max(1, size)})


def size(names: Sequence[str]) -> int:
    """Number of rows in the largest of these shards."""
    return max(len(rows) for rows in present(set(names)))


def present(names: set[str]) -> dict[range, str]:
    """The shards among these names, by their rows; of several with the same rows, the first by name."""
    shards: dict[range, str] = {}
    for name in sorted(names, reverse=True):
        if match := SHARD.fullmatch(name.rsplit("/", 1)[1]):
            shards[range(int(match[1]), int(match[2]))] = name
    return shards


def split_by_claim(missing: list[range], folder: str, names: set[str]) -> tuple[list[range], list[range]]:
    """Splits missing shards into unclaimed and claimed ones."""
    claimed = [rows for rows in missing if f"{stem(folder, rows)}.claim" in names]
    return [rows for rows in missing if f"{stem(folder, rows)}.claim" not in names], claimed


def write(objects: Objects, folder: str, key: str, rows: range, tensors: Tensors, facts: Facts, seconds: float) -> None:
    """Writes one shard, whole or not at all."""
    header = {"key": key, "rows": f"{rows.start}-{rows.stop}"}
    header["made"] = json.dumps({"facts": facts, "seconds": seconds}, allow_nan=False)
    data = pack(tensors, header)
    objects.put(f"{stem(folder, rows)}.{short_digest(data)}.safetensors", data)


def read(objects: Objects, name: str, key: str) -> StageOutput | None:
    """Reads a shard's tensors and its header's {"facts", "seconds"}; None where it is missing or damaged."""
    match = SHARD.fullmatch(name.rsplit("/", 1)[1])
    data = objects.get(name, lambda data: match is not None and short_digest(data) == match[3], expected=True)
    if data is None or match is None:
        return None
    header = header_of(data)
    if (header["key"], header["rows"]) != (key, f"{int(match[1])}-{int(match[2])}"):
        log.warning("%s: belongs to another artefact; computing it again", objects.folder / name)
        objects.delete(name)
        return None
    return safetensors.torch.load(data), json.loads(header["made"])


def read_all(objects: Objects, key: str, names: Sequence[str], rows: int) -> Whole | None:
    """Reads and joins all shards; None where one is missing or damaged, which the log names."""
    tensors: Tensors = {}
    facts, seconds = list[Facts](), 0.0
    start = 0
    for name in names:
        shard = read(objects, name, key)
        if shard is None:
            return None
        for label, part in shard[0].items():
            if label not in tensors:
                tensors[label] = torch.empty((rows, *part.shape[1:]), dtype=part.dtype)
            tensors[label][start : start + len(part)] = part
        start += len(part)
        facts.append(shard[1]["facts"])
        seconds += shard[1]["seconds"]
    return Whole(tensors, facts, seconds)


def tidy(objects: Objects, folder: str, names: Sequence[str]) -> None:
    """Deletes what a finished artefact no longer needs; the log names shards that do not belong to it."""
    for name in objects.names(f"{folder}/") - set(names):
        if SHARD.fullmatch(name.rsplit("/", 1)[1]):
            log.warning("%s: not one of this artefact's shards; deleted", objects.folder / name)
            objects.delete(name)
        elif name.endswith(("/" + PLAN, ".claim")) and not name.endswith("/artefact.claim"):
            objects.delete(name)
    objects.tidy(f"{folder}/")


def header_of(data: bytes) -> dict[str, str]:
    """The metadata strings in the header of a safetensors file."""
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def short_digest(data: bytes) -> str:
    """The first 16 digits of SHA-256, as in the names of shards."""
    return digest(data)[:16]


__getattr__ = new_names(__name__)
