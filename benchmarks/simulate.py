"""1,000 workers that share a store: service times measured here, the simulation checked against real processes."""

import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.measuring import Row
from benchmarks.service import BATCH, job_times, real, scheduler_times, store_times
from benchmarks.simulation import Outcome, Scene, Times, floor, simulate
from unseen_diffusion.store.objects import LocalObjects

WORKERS = 1000
SECONDS = 10.0  # of a shard: about what 64 images of 256 x 256 take an H100 in 16 + 16 evaluations, see docs/scaling.md
# One kill per worker and day; 5 % of the workers take three times as long.
TROUBLE = {"kills": 1 / 24, "restart": 60.0, "slow": 0.05}
IMAGES = (1_000, 10_000, 100_000, 1_000_000)
SMALL = Scene(shards=100, seconds=0.1, workers=1, servers=os.cpu_count() or 1)


def service_rows(times: Times, reading: float) -> list[Row]:
    """The input of the simulation."""
    found = [
        Row(f"store: {kind}", 1000 * getattr(times, kind), "ms")
        for kind in ("create", "read", "beat", "delete", "listing")
    ]
    size = BATCH * 3 * 32 * 32 * 4 / (1 << 20)
    found += [Row(f"store: write a shard of {size:.2f} MB", 1000 * times.write, "ms")]
    found += [Row("store: read such a shard and check it", 1000 * reading, "ms")]
    found += [Row("store: listing, more for each entry", 1e6 * times.entry, "us")]
    return [*found, Row("worker: look at a listing, for each shard", 1e6 * times.look, "us")]


def scheduler_rows() -> list[Row]:
    """The cost of a sweep before, between and beside its jobs."""
    found = []
    for count in (100, 1000):
        seconds = scheduler_times(count)
        found.append(Row(f"sweep of {count} jobs: manifest written", seconds["recording"], "s"))
        found.append(Row(f"sweep of {count} jobs: unseen status", seconds["status"], "s"))
    jobs = job_times()
    found.append(
        Row(
            "unseen run of one small job, all artefacts there",
            jobs["one"],
            "processor s",
            limit="imports, checks of all points",
        )
    )
    return [*found, Row("each further job of the sweep", jobs["further"], "processor s", limit="scores, tables")]


def validation_rows(times: Times) -> list[Row]:
    """Real processes of this machine against the simulation of the same shards."""
    found = []
    for workers in (1, 2, 3):
        scene = replace(SMALL, workers=workers)
        measured, simulated = real(scene), simulate(scene, times).makespan
        label = f"{workers} real worker(s), {scene.shards} shards of {scene.seconds} s: measured"
        found.append(Row(label, measured, "s", f"simulated: {simulated:.2f} s", measured / simulated, "other load"))
    return found


def describe(outcome: Outcome, scene: Scene) -> str:
    """The store's load, and the kind of request that takes most of its time."""
    kind, seconds = outcome.busy.most_common(1)[0]
    share = sum(outcome.busy.values()) / (scene.servers * outcome.makespan)
    return f"store {share:.0%} busy, most with {kind} ({seconds / sum(outcome.busy.values()):.0%})"


def scene_rows(label: str, scene: Scene, times: Times, trouble: bool = False) -> list[Row]:
    """Makespan over its lower bound, and the shares of the time."""
    found = simulate(scene, times)
    least, said = floor(scene, found), describe(found, scene)
    bound = f"work / workers, or a shard: {least:.1f} s"
    rows = [Row(f"{label}: makespan", found.makespan, "s", bound, found.makespan / least, said)]
    if trouble:
        vain = found.lost / found.computed
        return [*rows, Row(f"{label}: computed in vain", vain, "of all computing", "", None, f"{found.killed} kills")]
    used = found.work / (scene.workers * found.makespan)
    requests = sum(found.requests.values()) / found.makespan
    rows.append(Row(f"{label}: utilisation", used, "of all workers' time", "1", 1 / used))
    return [*rows, Row(f"{label}: requests", requests, "a second")]


def simulate_rows(times: Times, reading: float) -> list[Row]:
    """From 1e3 to 1e6 images; then with kills and slow workers, and with other shards, pauses and stores."""
    found = []
    base = Scene(shards=1, seconds=SECONDS, workers=WORKERS, servers=SMALL.servers)
    sizes = {images: replace(base, shards=-(-images // BATCH)) for images in IMAGES}
    for images, scene in sizes.items():
        found += scene_rows(f"{images:,} images", scene, times)
    for images, scene in sizes.items():
        found += scene_rows(f"{images:,} images, trouble", replace(scene, **TROUBLE), times, trouble=True)
    few, many = sizes[IMAGES[0]], sizes[IMAGES[-1]]
    found += scene_rows(f"{IMAGES[0]:,} images, pauses of 5 s", replace(few, pause=5.0), times)
    found += scene_rows(
        f"{IMAGES[-1]:,} images, 32 times as fast a store", replace(many, servers=32 * base.servers), times
    )
    large = replace(many, shards=many.shards // 8, seconds=8 * SECONDS)
    found += scene_rows(f"{IMAGES[-1]:,} images, shards of {8 * BATCH}", large, replace(times, write=8 * times.write))
    total = WORKERS * many.shards * reading / many.servers
    label = f"{IMAGES[-1]:,} images: all workers read all shards at the end"
    return [*found, Row(label, total, "s", f"one of them: {total / WORKERS:.1f} s", WORKERS, "the store")]


def simulation(device: torch.device) -> list[Row]:
    """1,000 workers of one store, simulated with service times measured here, and the simulation checked."""
    with TemporaryDirectory() as name:
        times, reading = store_times(LocalObjects(Path(name)))
    rows = service_rows(times, reading) + scheduler_rows() + validation_rows(times)
    return rows + simulate_rows(times, reading)
