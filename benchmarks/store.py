"""Shards of safetensors, as the store writes them, against zarr 3 with CRC32C and one writer per chunk: docs/store.md.

Processor seconds, as everywhere here; wall time stands beside them, since zarr checks chunks in threads. Nothing is
flushed to the disk by either, so that the files live in memory at first.
"""

import random
import statistics as stats
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measuring import Row, normal
from unseen_diffusion.store import shards
from unseen_diffusion.store.artefacts import Store, load_tensor
from unseen_diffusion.store.objects import LocalObjects
from unseen_diffusion.store.shards import RowWise, cut

SIZES = ((1000, (3, 32, 32)), (64, (3, 256, 256)))
BATCHES = (16, 64)
ROUNDS, FLIPS = 7, 256
KEY = "0" * 64
PLAIN, OURS, WHOLE, ZARR = "plain files", "safetensors shards", "the same with claims and record", "zarr"
LIMITS = {
    OURS: "SHA-256 and copies",
    WHOLE: "a claim a shard, and all of it read again at the end",
    ZARR: "its own layers; CRC32C in threads",
}

Job = Callable[[Path], Any]


def store(device: torch.device) -> list[Row]:
    """Latents in shards: safetensors with SHA-256 (the store) against zarr 3 with CRC32C, one chunk a shard."""
    if find_spec("zarr") is None:
        raise SystemExit("store: needs zarr, which nothing else does: pip install -c constraints.txt zarr")
    rows = []
    for count, shape in SIZES:
        latents = normal(count, *shape)
        for batch in BATCHES:
            words = f"{count} of {'x'.join(map(str, shape))} by {batch}"
            with tempfile.TemporaryDirectory() as folder:
                rows += _speeds(latents, batch, words, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        return rows + _damage(normal(128, 3, 32, 32), Path(folder))


# ---------------------------------------------------------------- formats


def write_plain(x: Tensor, batch: int) -> Job:
    """The lower bound: the numbers alone, one file per shard."""

    def job(folder: Path) -> None:
        for rows in cut(len(x), batch):
            (folder / str(rows.start)).write_bytes(x[rows.start : rows.stop].numpy().data)

    return job


def write_shards(x: Tensor, batch: int) -> Job:
    """Writes shards as the store does, each under a temporary name first."""

    def job(folder: Path) -> None:
        for rows in cut(len(x), batch):
            shards.write(LocalObjects(folder), "a", KEY, rows, {"x": x[rows.start : rows.stop]}, {}, 0.0)

    return job


def write_store(x: Tensor, batch: int) -> Job:
    """All steps of the store: plan, claims, shards, reading everything again, record."""
    how = RowWise(len(x), batch, lambda rows: ({"x": x[rows.start : rows.stop]}, {}), lambda tensors, facts: {})
    return lambda folder: Store(folder).get_or_make_rows("stage", 1, {}, how)


def write_zarr(x: Tensor, batch: int) -> Job:
    """Writes zarr chunks: NaN where nothing was written, no compression, one checksum per chunk."""

    def job(folder: Path) -> None:
        array = create_zarr(folder, x, batch)
        for rows in cut(len(x), batch):
            array[rows.start : rows.stop] = x[rows.start : rows.stop].numpy()

    return job


def create_zarr(folder: Path, x: Tensor, batch: int) -> Any:
    """Creates an empty array with chunks of ``batch`` rows."""
    import zarr
    from zarr.codecs import Crc32cCodec

    return zarr.create_array(
        str(folder / "x.zarr"),
        shape=x.shape,
        chunks=(min(batch, len(x)), *x.shape[1:]),
        dtype="float32",
        fill_value=float("nan"),
        compressors=Crc32cCodec(),
    )


def read_plain(x: Tensor) -> Job:
    """The lower bound: the bytes read directly into one tensor."""

    def job(folder: Path) -> None:
        whole = np.empty(x.shape, np.float32)
        for path in folder.iterdir():
            start, count = int(path.name), path.stat().st_size * len(x) // whole.nbytes
            with path.open("rb", buffering=0) as file:
                file.readinto(whole[start : start + count].data)

    return job


def read_shards(x: Tensor) -> Job:
    """Reads shards, checks them and joins them to one tensor."""

    def job(folder: Path) -> None:
        objects = LocalObjects(folder)
        found = shards.present(objects.names("a/"))
        names = [found[rows] for rows in sorted(found, key=lambda rows: rows.start)]
        whole = shards.read_all(objects, KEY, names, len(x))
        if whole is None or not torch.equal(whole.tensors["x"][-1], x[-1]):
            raise AssertionError("the shards read are not those written")

    return job


def read_zarr(x: Tensor) -> Job:
    """Reads zarr chunks, checked, as one tensor."""

    def job(folder: Path) -> None:
        if not torch.equal(torch.from_numpy(opened(folder)[:])[-1], x[-1]):
            raise AssertionError("the array read is not that written")

    return job


def opened(folder: Path) -> Any:
    """Opens the array for reading."""
    import zarr

    return zarr.open_array(str(folder / "x.zarr"), mode="r")


# ---------------------------------------------------------------- figures


def _speeds(x: Tensor, batch: int, words: str, root: Path) -> list[Row]:
    """Writing, reading, files, bytes, completeness."""
    megabytes = x.numel() * 4 / 1e6
    writers = {
        PLAIN: write_plain(x, batch),
        OURS: write_shards(x, batch),
        WHOLE: write_store(x, batch),
        ZARR: write_zarr(x, batch),
    }
    written, folders = _times(writers, lambda name: Path(tempfile.mkdtemp(dir=root)))
    readers = {PLAIN: read_plain(x), OURS: read_shards(x), ZARR: read_zarr(x)}
    read, _ = _times(readers, folders.__getitem__)
    checks = {
        OURS: lambda folder: shards.present(LocalObjects(folder).names("a/")).keys() == set(cut(len(x), batch)),
        ZARR: lambda folder: opened(folder).nchunks_initialized == len(cut(len(x), batch)),
    }
    if not all(check(folders[name]) for name, check in checks.items()):
        raise AssertionError("what was written is not complete")
    checked, _ = _times(checks, folders.__getitem__)
    rows = _rates(written, f"{words}: write", megabytes) + _rates(read, f"{words}: read", megabytes)
    for name in (OURS, ZARR):
        files = [path for path in folders[name].rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        share = f"{size:,} bytes, {size / (x.numel() * 4) - 1:.4%} above the numbers"
        rows.append(Row(f"{words}: files, {name}", len(files), "files", share))
    for name, (spent, wall) in checked.items():
        rows.append(Row(f"{words}: all there? {name}", 1e3 * spent, "ms", f"{1e3 * wall:.2g} ms of wall time"))
    return rows


def _rates(times: dict[str, tuple[float, float]], words: str, megabytes: float) -> list[Row]:
    """MB per processor second, and relative to plain files."""
    floor = megabytes / times[PLAIN][0]
    rows = []
    for name, (spent, wall) in times.items():
        if name != PLAIN:
            value, limit = megabytes / spent, f"{LIMITS[name]}; {megabytes / wall:,.0f} MB/s of wall time"
            best = f"{PLAIN}, unchecked: {floor:,.0f} MB/s"
            rows.append(Row(f"{words}, {name}", value, "MB/s", best, floor / value, limit))
    return rows


def _times(
    jobs: dict[str, Job], folder_of: Callable[[str], Path]
) -> tuple[dict[str, tuple[float, float]], dict[str, Path]]:
    """Median processor and wall seconds of each job, in turns after a warm-up; and the last folder of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    folders = {}
    for _ in range(ROUNDS + 1):
        for name, job in jobs.items():
            folders[name] = folder_of(name)
            started = time.process_time(), time.perf_counter()
            job(folders[name])
            times[name].append((time.process_time() - started[0], time.perf_counter() - started[1]))
    medians = {}
    for name, pairs in times.items():
        spent, wall = zip(*pairs[1:], strict=True)
        medians[name] = stats.median(spent), stats.median(wall)
    return medians, folders


# ---------------------------------------------------------------- damage


def _damage(x: Tensor, root: Path) -> list[Row]:
    """Flips a random bit in each kind of file, and counts how often wrong numbers are read without an error."""
    ours, theirs = root / "ours", root / "theirs"
    folder = write_store(x, 16)(ours).folder
    write_zarr(x, 16)(theirs)
    readers: dict[str, tuple[list[Path], Callable[[], Any]]] = {
        f"shards, {OURS}": (sorted(folder.glob("rows-*")), lambda: load_tensor(folder, "x").numpy()),
        f"record, {OURS}": ([folder / "artefact.json"], lambda: load_tensor(folder, "x").numpy()),
        "chunks, zarr": (sorted(filter(Path.is_file, theirs.glob("x.zarr/c/**/*"))), lambda: opened(theirs)[:]),
        "metadata, zarr": ([theirs / "x.zarr" / "zarr.json"], lambda: opened(theirs)[:]),
    }
    rows = []
    for name, (files, read) in readers.items():
        outcomes = _outcomes(files, read, x.numpy())
        words = f"of {FLIPS}; {outcomes['refused']} refused, {outcomes['same']} without effect"
        rows.append(Row(f"flipped bytes read as other numbers: {name}", outcomes["other"], "flips", words))
    return rows


def _outcomes(files: list[Path], read: Callable[[], Any], truth: np.ndarray) -> dict[str, int]:
    """What reading gives after each of ``FLIPS`` flipped bits: refused, the same numbers, or others."""
    found, rng = {"refused": 0, "same": 0, "other": 0}, random.Random(0)
    for _ in range(FLIPS):
        path = rng.choice(files)
        before = path.read_bytes()
        data = bytearray(before)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(data)
        try:
            same = np.array_equal(read(), truth)
            found["same" if same else "other"] += 1
        except Exception:  # any error counts as a refusal
            found["refused"] += 1
        path.write_bytes(before)
    return found
