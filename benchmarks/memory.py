"""f. Peak memory of inversion, prior fit and scores for growing N, each in a process of its own."""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.measuring import Row
from unseen_diffusion.models import GaussianModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.priors import LowRank, SampleCovariance, fit_streamed
from unseen_diffusion.scores.frechet import FeatureStatistics, frechet_from_statistics
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import invert
from unseen_diffusion.utils.seeds import generator

COUNTS = (1000, 10_000, 100_000)
BATCH, SHAPE, FEATURES = 500, (3, 16, 16), 64


def batches(count: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Numbers that are generated when needed, as if they were read from shards."""
    for start in range(0, count, BATCH):
        yield torch.randn(min(BATCH, count - start), *shape, generator=generator(0, "memory", start))


def inversion_of_shards(count: int) -> None:
    """Inverts one shard after the other; the network is a formula, so only the loop's memory is measured."""
    d = torch.Size(SHAPE).numel()
    model = GaussianModel(torch.zeros(SHAPE), None, torch.linspace(0.1, 2, d), linear_schedule())
    grid = make_grid(model.schedule, "karras", 4, 500)
    for batch in batches(count, SHAPE):
        invert(model, batch, grid, [500])


def inversion_at_once(count: int) -> None:
    """All images in one call, which returns all latents."""
    d = torch.Size(SHAPE).numel()
    model = GaussianModel(torch.zeros(SHAPE), None, torch.linspace(0.1, 2, d), linear_schedule())
    invert(model, torch.cat(list(batches(count, SHAPE))), make_grid(model.schedule, "karras", 4, 500), [500])


def low_rank_streamed(count: int) -> None:
    """Fits a rank of 30 from batches."""
    fit_streamed(LowRank(rank=30), lambda: batches(count, SHAPE))


def covariance_streamed(count: int) -> None:
    """Fits the sample covariance from batches."""
    fit_streamed(SampleCovariance(), lambda: batches(count, SHAPE))


def low_rank_at_once(count: int) -> None:
    """Fits a rank of 30 by a singular value decomposition of all residuals."""
    LowRank(rank=30).fit(torch.cat(list(batches(count, SHAPE))))


def fid_streamed(count: int) -> None:
    """FID from mergeable moments."""
    x, y = (FeatureStatistics.of(batches(count, (FEATURES,))) for _ in range(2))
    frechet_from_statistics(x, y)


def kid_at_once(count: int) -> None:
    """KID of all pairs, in blocks of kernel rows."""
    kid(torch.cat(list(batches(count, (FEATURES,)))), torch.cat(list(batches(count, (FEATURES,)))))


JOBS = {
    job.__name__: job
    for job in (
        inversion_of_shards,
        inversion_at_once,
        low_rank_streamed,
        covariance_streamed,
        low_rank_at_once,
        fid_streamed,
        kid_at_once,
    )
}
# The work of these grows too fast for a benchmark.
MOST = {"low_rank_at_once": 10_000, "kid_at_once": 10_000}
LIMITS = {
    "inversion_at_once": "parts, images, latents recorded and states of the solver",
    "low_rank_at_once": "float64 residuals, their decomposition",
    "kid_at_once": "a block of kernel rows, 32 MB",
}


def peak() -> float:
    """Largest resident set of this process so far, MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's survives the start of a program: it would be the parent's
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / (1 << 10)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def child(name: str, count: int) -> None:
    """Runs one job and prints the rise of the peak memory above that of an import and a small run."""
    torch.set_num_threads(1)
    JOBS[name](BATCH)
    before = peak()
    JOBS[name](count)
    print(json.dumps(peak() - before))


def memory(device: torch.device) -> list[Row]:
    """MB above a run of one batch: 0 where memory is constant in N."""
    rows = []
    for name in JOBS:
        for count in COUNTS:
            if count > MOST.get(name, count):
                continue
            command = [sys.executable, "-m", "benchmarks.memory", name, str(count)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            numbers = 2 * FEATURES if "id_" in name else torch.Size(SHAPE).numel()  # a row's; scores compare two sets
            held = count * numbers * 4 / (1 << 20)
            streaming = "streamed" in name or "shards" in name
            floor = "0: constant in N" if streaming else f"the numbers themselves: {held:.0f} MB"
            figure, limit = json.loads(done.stdout), LIMITS.get(name, "")
            rows.append(Row(f"{name}, N={count}", figure, "MB above one batch", floor, None, limit))
    return rows


if __name__ == "__main__":
    child(sys.argv[1], int(sys.argv[2]))
