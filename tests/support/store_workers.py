"""Processes for the tests of the store: killed while they make an artefact, or making one together.

python store_workers.py ROOT: one start of torch, then forks of it for every report. Prints the reports as JSON.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.claims import Claims
from unseen_diffusion.store.shards import RowWise
from unseen_diffusion.utils.liveness import Clock

ROWS, BATCH, PAUSE = 40, 2, 0.03
DEADLINE = 120  # seconds after which a process is killed that has not ended


class Appends(Protocol):
    """A list, or what outlives a killed process."""

    def append(self, start: int, /) -> None: ...


class Journal:
    """A file of numbers; one written before a kill stays."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, start: int, /) -> None:
        with self.path.open("a") as file:
            file.write(f"{start}\n")

    def numbers(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


def rows_of(made: Appends | None = None, pause: float = 0.0) -> RowWise:
    """Rows of numbers; each shard takes ``pause`` seconds, and ``made`` gets the first row of each shard begun."""

    def make(rows: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if made is not None:
            made.append(rows.start)
        time.sleep(pause)
        x = torch.sin(torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None] * torch.arange(1, 400))
        return {"x": x, "half": x[:, :3].half()}, {"evaluations": len(rows)}

    def finish(tensors: dict[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"evaluations": sum(part["evaluations"] for part in parts), "mean": float(tensors["x"].mean())}

    return RowWise(ROWS, BATCH, make, finish)


def get(root: Path, made: Appends | None = None, pause: float = 0.0) -> Artefact:
    return Store(root).get_or_make_rows("slow", 1, {"seed": 0}, rows_of(made, pause))


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("slow/*/rows-*.safetensors"))


def kills(root: Path, number: int) -> dict[str, Any]:
    """Starts a process and kills it at a random moment, ``number`` times; then one ends in peace.

    Returns the facts, and for each process the shards that were there before it and after it, and those it began.
    """
    rng, starts = random.Random(0), list[dict[str, list[int]]]()
    for index in range(number + 1):
        before, journal = finished(root), Journal(root / f"made-{index}")
        child = os.fork()
        if child == 0:
            signal.alarm(DEADLINE)
            get(root, journal, PAUSE)
            os._exit(0)
        if index < number:
            time.sleep(rng.uniform(0, 4 * PAUSE))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        starts.append({"before": before, "made": journal.numbers(), "after": finished(root)})
    return {"starts": starts, "facts": get(root).facts}


def finished(root: Path) -> list[int]:
    """First rows of the shards that are there."""
    return [int(name.split("-")[1]) for name in shards(root)]


def in_parallel(root: Path, number: int, work: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
    """What ``number`` processes return that do the same at the same time."""
    children = []
    paths = [root / f"report-{index}.json" for index in range(number)]
    for path in paths:
        child = os.fork()
        if child == 0:
            signal.alarm(DEADLINE)
            path.write_text(json.dumps(work()))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [json.loads(path.read_text()) for path in paths]


def together(root: Path, number: int) -> list[dict[str, Any]]:
    """Processes make one artefact of rows together; what each made."""

    def work() -> dict[str, Any]:
        made: list[int] = []
        artefact = get(root, made, PAUSE)
        return {"made": made, "evaluations": artefact.spent.evaluations}

    return in_parallel(root, number, work)


def once(root: Path, number: int) -> list[dict[str, Any]]:
    """Processes want one artefact without rows; making it ends when another process has been refused its claim."""
    reading, writing = os.pipe()

    def work() -> dict[str, Any]:
        made: list[int] = []

        def make() -> tuple[dict[str, Tensor], dict[str, Any]]:
            made.append(1)
            os.read(reading, 1)
            return {"x": torch.ones(2)}, {}

        class Telling(Clock):
            def sleep(self, seconds: float) -> None:
                os.write(writing, b".")
                super().sleep(seconds)

        store = Store(root)
        store.claims = Claims(store.objects, clock=Telling())
        artefact = store.get_or_make("one", 1, {}, make)
        return {"made": made, "reused": artefact.reused, "x": artefact.tensors["x"].tolist()}

    return in_parallel(root, number, work)


@dataclass(frozen=True)
class Workers:
    """What processes reported, and the folder with a store for each of ``kills``, ``together`` and ``once``."""

    root: Path
    reports: dict[str, Any]


def run_workers(root: Path) -> Workers:
    """All reports, by one start of torch."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr
    return Workers(root, json.loads(done.stdout))


def main(root: Path) -> None:
    """Writes all reports to stdout."""
    torch.set_num_threads(1)
    modes = {"kills": (kills, 20), "together": (together, 3), "once": (once, 2)}
    for name in modes:
        (root / name).mkdir(parents=True)
    print(json.dumps({name: work(root / name, number) for name, (work, number) in modes.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
