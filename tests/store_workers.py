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
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.shards import RowWise
from unseen_diffusion.store import Artefact, Store

ROWS, BATCH, PAUSE = 40, 2, 0.03


def rows_of(made: list[int] | None = None) -> RowWise:
    """Rows of numbers that take time, as an inversion would; ``made`` gets the first row of each shard."""

    def make(rows: range) -> tuple[dict[str, Tensor], dict[str, Any]]:
        time.sleep(PAUSE)
        if made is not None:
            made.append(rows.start)
        x = torch.sin(torch.arange(rows.start, rows.stop, dtype=torch.float64)[:, None] * torch.arange(1, 400))
        return {"x": x, "half": x[:, :3].half()}, {"evaluations": len(rows)}

    def finish(tensors: dict[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {"evaluations": sum(part["evaluations"] for part in parts), "mean": float(tensors["x"].mean())}

    return RowWise(ROWS, BATCH, make, finish)


def get(root: Path, made: list[int] | None = None) -> Artefact:
    return Store(root).get_or_make_rows("slow", 1, {"seed": 0}, rows_of(made))


def shards(root: Path) -> list[str]:
    return sorted(path.name for path in root.glob("slow/*/rows-*.safetensors"))


def kills(root: Path, number: int) -> dict[str, Any]:
    """Starts and kills a process at a random moment, ``number`` times; then one ends in peace."""
    rng, counts = random.Random(0), []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            get(root)
            os._exit(0)
        time.sleep(rng.uniform(0, 4 * PAUSE))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        counts.append(len(shards(root)))
    made: list[int] = []
    artefact = get(root, made)
    return {"counts": counts, "last": len(made), "facts": artefact.facts}


def together(root: Path, number: int) -> dict[str, Any]:
    """``number`` processes make one artefact at the same time; what each made."""
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
