"""Service times of the store and of the scheduler on this machine, and real workers that share a store."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.simulation import Cluster, Scene, Times
from unseen_diffusion.store import shards
from unseen_diffusion.store.claims import Claims
from unseen_diffusion.store.objects import LocalObjects, Objects
from unseen_diffusion.store.shards import RowWise
from unseen_diffusion.sweeps.manifest import Manifest, Point, write_manifest
from unseen_diffusion.sweeps.states import SweepState
from unseen_diffusion.sweeps.status import STATUS, Status
from unseen_diffusion.utils.seeds import normal_rows

BATCH, SHAPE = 64, (3, 32, 32)  # images per shard
MANY = 5000  # entries of a long listing
JOB = (  # a whole run without a network
    "model=analytic",
    "model.size=16",
    "domain=digits8",
    "domain.references=24",
    "domain.validation=10",
    "domain.heldout=20",
    "features=pixels",
    "features.side=8",
    "solver.steps=2",
    "samples=12",
    "scores=lean",
    "tracking=none",
    "progress=false",
)


def took(job: Callable[[int], Any], repeats: int, of: Callable[[list[float]], float] = median) -> float:
    """Median (or another statistic) of the wall seconds of the calls with 0, 1, 2, ..."""
    times = []
    for index in range(repeats):
        started = time.perf_counter()
        job(index)
        times.append(time.perf_counter() - started)
    return of(times)


def store_times(objects: Objects, many: int = MANY, repeats: int = 100) -> tuple[Times, float]:
    """Seconds of each kind of request, and seconds to read and check a shard."""
    claim, folder = bytes(200), "stage/times"  # about a claim's size
    rows = [range(i * BATCH, (i + 1) * BATCH) for i in range(repeats)]
    tensors = {"x": normal_rows(SHAPE, 0, "shard", range(BATCH))}
    create = took(lambda i: objects.create(f"{folder}/{i}.claim", claim), repeats)
    read = took(lambda i: objects.read(f"{folder}/{i}.claim"), repeats)
    beat = took(lambda i: objects.put(f"{folder}/{i}.claim", claim), repeats)
    for i in range(repeats):  # claims rewritten a moment ago would wait for the disk
        objects.create(f"{folder}/{i}.new.claim", claim)
    delete = took(lambda i: objects.delete(f"{folder}/{i}.new.claim"), repeats)
    for i in range(repeats):
        objects.delete(f"{folder}/{i}.claim")
    write = took(lambda i: shards.write(objects, folder, "key", rows[i], tensors, {}, 0.0), repeats)
    names = sorted(objects.names(f"{folder}/"))
    reading = took(lambda i: shards.read(objects, names[i], "key"), repeats)
    # Listing only computes, and takes long: the minimum is the time without other load.
    few = took(lambda i: objects.names(f"{folder}/"), 20, min)
    for start in range(0, many * BATCH, BATCH):
        objects.put(f"stage/many/rows-{start:08d}-{start + BATCH:08d}.0123456789abcdef.safetensors", b"")
    long = took(lambda i: objects.names("stage/many/"), 20, min)
    entry = (long - few) / (many - len(names))
    found, plan = objects.names("stage/many/"), shards.cut(many * BATCH, BATCH)

    def look(index: int) -> None:
        done = shards.present(found)
        shards.split_by_claim([piece for piece in plan if piece not in done], "stage/many", found)

    times = Times(
        create, read, beat, delete, write, max(0.0, few - entry * len(names)), entry, took(look, 10, min) / many
    )
    return times, reading


def scheduler_times(count: int) -> dict[str, float]:
    """Seconds to record a sweep of some number of jobs, and to read their states."""
    with TemporaryDirectory() as name:
        folder, config = Path(name), {f"group{i}": {f"key{j}": j for j in range(10)} for i in range(20)}
        points = [Point([f"seed={i}"], config) for i in range(count)]
        manifest = Manifest([], name, None, True, points, 0, "")
        recording = took(lambda i: write_manifest(folder, manifest), 3, min)
        status = Status("done", "2026-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00")
        for i in range(count):
            (folder / str(i)).mkdir()
            (folder / str(i) / STATUS).write_text(json.dumps(asdict(status)))
        return {"recording": recording, "status": took(lambda i: SweepState.of(folder).plain(), 5, min)}


def job_times() -> dict[str, float]:
    """Processor seconds of a command with one small job whose artefacts all exist, and of a further job."""

    def spent(folder: str, seeds: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "unseen_diffusion.cli", "run", "-m", *JOB, f"seed={seeds}"]
        with TemporaryDirectory() as swept:
            place = [f"hydra.sweep.dir={swept}", f"paths.store={folder}"]
            subprocess.run([*command, *place], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    with TemporaryDirectory() as store:
        spent(store, "0,1,2")
        one, three = spent(store, "0"), spent(store, "0,1,2")
        return {"one": one, "further": (three - one) / 2}


def together(folder: Path, scene: Scene) -> float:
    """Seconds that real processes of this machine take; each shard is a pause and a file of its size."""
    costs, tensors = Cluster(scene, Times()).costs, normal_rows(SHAPE, 0, "shard", range(BATCH))

    def make(rows: range) -> shards.Made:
        time.sleep(costs[rows.start // BATCH])
        return {"x": tensors[: len(rows)]}, {}

    how = RowWise(scene.shards * BATCH, BATCH, make, lambda tensors, facts: {})
    children, started = [], time.time() + 0.5
    for _ in range(scene.workers):
        if (child := os.fork()) == 0:
            objects = LocalObjects(folder)
            time.sleep(max(0.0, started - time.time()))
            shards.make_missing(objects, Claims(objects), "stage/together", "key", how, shards.Cost())
            os._exit(0)
        children.append(child)
    for child in children:
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("a worker failed")
    return time.time() - started


def real(scene: Scene) -> float:
    """Runs ``together`` in a new process, because forks of a process with threads may hang."""
    command = [sys.executable, "-m", "benchmarks.service", json.dumps(asdict(scene))]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        print(together(Path(name), Scene(**json.loads(sys.argv[1]))))
