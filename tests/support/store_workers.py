"""Processes for the tests of the store: killed while they make an artefact, or making one together.

python store_workers.py kills|together ROOT NUMBER: one start of torch, then forks of it. Prints JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.shards import RowWise

ROWS, BATCH, PAUSE = 40, 2, 0.03


class Appends(Protocol):
    """A list, or a file that remains after its process is killed."""

    def append(self, start: int, /) -> None: ...


class Journal:
    """A file of numbers, which keeps those written before its process was killed."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, start: int, /) -> None:
        with self.path.open("a") as file:
            file.write(f"{start}\n")

    def numbers(self) -> list[int]:
        return [int(line) for line in self.path.read_text().split()] if self.path.exists() else []


def rows_of(made: Appends | None = None) -> RowWise:
    """Rows that take time to make, as an inversion does; ``made`` gets the first row of each shard that is begun."""

    def make(rows: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if made is not None:
            made.append(rows.start)
        time.sleep(PAUSE)
        x = torch.sin(torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None] * torch.arange(1, 400))
        return {"x": x, "half": x[:, :3].half()}, {"evaluations": len(rows)}

    def finish(tensors: dict[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"evaluations": sum(part["evaluations"] for part in parts), "mean": float(tensors["x"].mean())}

    return RowWise(ROWS, BATCH, make, finish)


def get(root: Path, made: Appends | None = None) -> Artefact:
    return Store(root).get_or_make_rows("slow", 1, {"seed": 0}, rows_of(made))


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("slow/*/rows-*.safetensors"))


def kills(root: Path, number: int) -> dict[str, Any]:
    """Starts a process and kills it at a random moment, ``number`` times; then lets one finish.

    Returns the facts, and for each process the shards that were there before it and after it, and those it began.
    """
    rng, starts = random.Random(0), list[dict[str, list[int]]]()
    for index in range(number + 1):
        before, journal = finished(root), Journal(root / f"made-{index}")
        child = os.fork()
        if child == 0:
            get(root, journal)
            os._exit(0)
        if index < number:
            time.sleep(rng.uniform(0, 4 * PAUSE))
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        starts.append({"before": before, "made": journal.numbers(), "after": finished(root)})
    return {"starts": starts, "facts": get(root).facts}


def finished(root: Path) -> list[int]:
    """First row of each shard in the store."""
    return [int(name.split("-")[1]) for name in shards(root)]


def together(root: Path, number: int) -> dict[str, Any]:
    """Lets ``number`` processes make one artefact at the same time; returns what each has made."""
    children, reports = [], []
    for index in range(number):
        report = root / f"report-{index}.json"
        reports.append(report)
        child = os.fork()
        if child == 0:
            made: list[int] = []
            artefact = get(root, made)
            report.write_text(json.dumps({"made": made, "evaluations": artefact.spent.evaluations}))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return {"reports": [json.loads(report.read_text()) for report in reports]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps({"kills": kills, "together": together}[sys.argv[1]](folder, int(sys.argv[3]))))
