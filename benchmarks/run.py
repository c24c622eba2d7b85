"""Benchmarks: ratios within one run, each beside its floor. Nothing here is a test.

    python benchmarks/run.py [--model PATH] [--save benchmarks/results.json]

overhead   inversion and denoising against bare network forwards of the same batch, dtype and count
criteria   the batched geometric statistics against a loop over candidates, with the same decisions
"""

import argparse
import os
import platform
import statistics as stats
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.files import write_json
from unseen_diffusion.geometry import References, draw_references, statistics
from unseen_diffusion.grids import make_grid
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.solvers import denoise, invert


def seconds(job: Callable[[], Any], repeats: int = 3) -> float:
    """Median wall time after one warm-up."""
    job()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()
        times.append(time.perf_counter() - started)
    return stats.median(times)


def overhead(path: str, batch: int = 64, steps: int = 10) -> dict[str, float]:
    """Seconds of bare forwards, inversion and denoising, and their ratios."""
    model = DiffusersModel(path)
    images = torch.rand(batch, *model.shape) * 2 - 1
    grid = make_grid(model.schedule, "uniform_t", steps, 500)
    t = torch.full((batch,), 250.0)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(steps):
            unet_forward(model.unet, images, t, model.factor)

    floor = seconds(bare)
    up = seconds(lambda: invert(model, images, grid, [500], batch_size=batch))
    down = seconds(lambda: denoise(model, images, grid, 0.0, 0, batch_size=batch))
    noisy = seconds(lambda: denoise(model, images, grid, 0.2, 0, batch_size=batch))
    return {
        "bare_seconds": floor,
        "inversion_over_bare": up / floor,
        "denoising_over_bare": down / floor,
        "denoising_eta_over_bare": noisy / floor,
        "evaluations_per_second": batch * steps / floor,
    }


def one_by_one(candidates: Tensor, references: Tensor, drawn: Tensor) -> Tensor:
    """The three statistics as published: differences, norms and angles of each candidate in turn, float32."""
    rows = []
    first, second = torch.triu_indices(drawn.shape[1], drawn.shape[1], offset=1)
    for candidate, chosen in zip(candidates, drawn, strict=True):
        z = references[chosen]
        legs = z - candidate
        lengths = legs.norm(dim=1)
        cosine = (legs @ legs.T) / lengths[:, None] / lengths[None, :]
        origin = (z @ candidate) / (z.norm(dim=1) * candidate.norm())
        pair = cosine[first, second].clamp(-1, 1).acos().rad2deg()
        rows.append(torch.stack([lengths.mean(), pair.mean(), origin.clamp(-1, 1).acos().rad2deg().mean()]))
    return torch.stack(rows)


def criteria(dimension: int, references: int = 1000, candidates: int = 512) -> dict[str, float]:
    """Candidates a second, batched and one by one, and the largest difference of their statistics."""
    z = torch.randn(references, 1, 1, dimension)
    c = torch.randn(candidates, 1, 1, dimension)
    drawn = draw_references(references, 10, 0, range(candidates))
    prepared = References.of(z)
    batched = seconds(lambda: statistics(c, prepared, drawn))
    loop = seconds(lambda: one_by_one(c.flatten(1), prepared.flat, drawn))
    difference = (statistics(c, prepared, drawn) - one_by_one(c.flatten(1), prepared.flat, drawn)).abs().max()
    return {
        "batched_per_second": candidates / batched,
        "loop_per_second": candidates / loop,
        "speedup": loop / batched,
        "largest_difference": float(difference),
    }


def main() -> None:
    """Runs all, prints a table, saves JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:photos32", help="diffusers folder, hub id or embedded:NAME")
    parser.add_argument("--save", type=Path, help="JSON file")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    results = {
        "hardware": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} torch threads, torch {torch.__version__}",
        "overhead": overhead(chosen.model),
        "criteria_d3072": criteria(3072),
    }
    for name, value in results.items():
        lines = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in lines:
            print(f"{name:<15} {key:<26} {number if isinstance(number, str) else f'{number:.4g}'}")
    if chosen.save:
        write_json(chosen.save, results)


if __name__ == "__main__":
    main()
