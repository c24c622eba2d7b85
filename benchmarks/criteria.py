"""Benchmark of rejection: proposals drawn and judged per second, one at a time, in batches, and by exact statistics.

    python benchmarks/geometry.py [--save benchmarks/geometry.json] [--budget SECONDS]

All three draw from the same isotropic Gaussian prior and measure the same three statistics against k = 10 of N = 1000
references, drawn anew for each candidate. ``loop``: one candidate at a time in float32, as the paper describes it, its
geometry already vectorised over the 10 references. ``pairs``: the same with a Python loop over the 45 pairs.
``direct`` and ``exact_statistics``: the routes of ``rejection.select``, with the preparation of each stated apart.
All times are processor seconds of one thread, so that other work on the machine does not count.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.files import write_json
from unseen_diffusion.geometry import References
from unseen_diffusion.priors import DiagonalNormal
from unseen_diffusion.rejection.reduced import BLOCK, ExactStatistics
from unseen_diffusion.rejection.routes import Direct

K = 10
SHAPES = {3072: (3, 32, 32), 196608: (3, 256, 256)}


def degrees(u: Tensor, v: Tensor) -> Tensor:
    """Angle between two vectors."""
    return ((u @ v) / (u.norm() * v.norm())).clamp(-1, 1).acos().rad2deg()


def vectorised(candidate: Tensor, z: Tensor) -> Tensor:
    """The three statistics of one candidate, float32."""
    legs = z - candidate
    lengths = legs.norm(dim=1)
    first, second = torch.triu_indices(K, K, offset=1)
    cosine = (legs @ legs.T)[first, second] / (lengths[first] * lengths[second])
    origin = (z @ candidate) / (z.norm(dim=1) * candidate.norm())
    angles = [value.clamp(-1, 1).acos().rad2deg().mean() for value in (cosine, origin)]
    return torch.stack([lengths.mean(), *angles])


def pairwise(candidate: Tensor, z: Tensor) -> Tensor:
    """The same, one reference and one pair at a time."""
    distances = torch.stack([(candidate - one).norm() for one in z])
    pairs = torch.stack([degrees(a - candidate, b - candidate) for a, b in combinations(z, 2)])
    origins = torch.stack([degrees(candidate, one) for one in z])
    return torch.stack([distances.mean(), pairs.mean(), origins.mean()])


def rate(job: Callable[[], int], budget: float) -> float:
    """Proposals per processor second, from as many calls as ``budget`` of them hold, after one warm-up."""
    job()
    done, started = 0, time.process_time()
    while (elapsed := time.process_time() - started) < budget:
        done += job()
    return done / elapsed


def benchmark(d: int, count: int, budget: float) -> dict[str, float]:
    """Rates of every way at one dimension, and their ratios to the vectorised loop."""
    prior = DiagonalNormal(torch.zeros(SHAPES[d], dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))
    z = torch.randn(count, d)
    mean, scale = torch.zeros(d), torch.tensor(1.0)
    started = time.process_time()
    references = References.of(z.reshape(-1, *SHAPES[d]))
    gram_seconds = time.process_time() - started
    started = time.process_time()
    exact = ExactStatistics(prior, references, K, 0, SHAPES[d])
    frame_seconds = time.process_time() - started
    direct = Direct(prior, references, K, 0, chunk=256)

    def loop(measure: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], int]:
        def job() -> int:
            measure(mean + scale * torch.randn(d), z[torch.randperm(count)[:K]])
            return 1

        return job

    position = iter(range(10**9))

    def judged(way: Any, group: int) -> Callable[[], int]:
        def job() -> int:
            start = next(position) * group
            return len(way.judge(start, start + group))

        return job

    rates = {
        "pairs": rate(loop(pairwise), budget),
        "loop": rate(loop(vectorised), budget),
        "direct": rate(judged(direct, direct.group), budget),
        "exact_statistics": rate(judged(exact, BLOCK), budget),
    }
    started = time.process_time()
    for index in range(exact.start, exact.start + 4):
        exact.keep(index)
    exact.latents(list(range(exact.start, exact.start + 4)), 0)
    forming = (time.process_time() - started) / 4
    ratios = {f"{name}_over_loop": value / rates["loop"] for name, value in rates.items() if name != "loop"}
    ratios |= {f"{name}_over_pairs": rates[name] / rates["pairs"] for name in ("direct", "exact_statistics")}
    named = {f"{name}_per_second": value for name, value in rates.items()}
    return (
        named
        | ratios
        | {
            "gram_seconds": gram_seconds,
            "exact_preparation_seconds": frame_seconds,
            "exact_seconds_per_accepted": forming,
        }
    )


def hardware() -> str:
    """Processor, cores and threads."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    return (
        f"{name}, {os.cpu_count()} cores (load {load:.1f} at the start), {torch.get_num_threads()} torch threads, "
        f"torch {torch.__version__}"
    )


def main() -> None:
    """Runs all, prints a table, saves JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="JSON file")
    parser.add_argument("--budget", type=float, default=6.0, help="seconds per rate")
    parser.add_argument("--references", type=int, default=1000)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, Any] = {"hardware": hardware(), "references": chosen.references, "k": K}
    print(results["hardware"])
    for d in SHAPES:
        results[f"d{d}"] = benchmark(d, chosen.references, chosen.budget)
        for name, value in results[f"d{d}"].items():
            print(f"d={d:<8} {name:<30} {value:>12.4g}")
    if chosen.save:
        write_json(chosen.save, results)


if __name__ == "__main__":
    main()
