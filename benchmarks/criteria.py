"""c. Proposals drawn and judged per second: one at a time, in batches, and by exact statistics.

All measure the same three statistics against k = 10 of N = 1000 references, drawn anew for each candidate.
``loop``: one candidate at a time in float32, as the paper describes it, its geometry vectorised over the 10
references. ``pairs``: the same with a Python loop over the 45 pairs. ``direct`` and ``exact_statistics``: the routes
of ``rejection.select``.
"""

from collections.abc import Callable
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from benchmarks.measuring import Row, clock, normal
from unseen_diffusion.priors import DiagonalNormal, FittedPrior, LowRank, SampleCovariance
from unseen_diffusion.rejection.geometry import References, draw_references, statistics
from unseen_diffusion.rejection.reduced import BLOCK, ExactStatistics
from unseen_diffusion.rejection.routes import Direct
from unseen_diffusion.utils.seeds import generator

K, COUNT, BUDGET = 10, 1000, 1.5  # references per candidate, references, processor seconds per rate
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
    """The three statistics, with one reference and one pair at a time."""
    distances = torch.stack([(candidate - one).norm() for one in z])
    pairs = torch.stack([degrees(a - candidate, b - candidate) for a, b in combinations(z, 2)])
    origins = torch.stack([degrees(candidate, one) for one in z])
    return torch.stack([distances.mean(), pairs.mean(), origins.mean()])


def rate(job: Callable[[], int]) -> float:
    """Proposals per processor second, from as many calls as the budget holds, after one warm-up."""
    device = torch.device("cpu")
    job()
    done, started = 0, clock(device)
    while (elapsed := clock(device) - started) < BUDGET:
        done += job()
    return done / elapsed


def loop(measure: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> Callable[[], int]:
    """Judges one candidate per call."""

    rng = generator(0, "criteria")

    def job() -> int:
        measure(torch.randn(z.shape[1], generator=rng), z[torch.randperm(len(z), generator=rng)[:K]])
        return 1

    return job


def judged(route: Any, group: int) -> Callable[[], int]:
    """Judges a new group of candidates per call."""
    position = iter(range(10**9))

    def job() -> int:
        start = next(position) * group
        return len(route.judge(start, start + group))

    return job


def same_statistics(references: References, d: int) -> float:
    """Largest difference between batched statistics and the loop's, in degrees or units of distance."""
    candidates, drawn = normal(20, *SHAPES[d], stream=3), draw_references(len(references), K, 0, range(20))
    batched = statistics(candidates, references, drawn)
    singly = [vectorised(c.flatten(), references.flat[chosen]) for c, chosen in zip(candidates, drawn, strict=True)]
    return float((batched - torch.stack(singly)).abs().max())


def criteria(device: torch.device) -> list[Row]:
    """Runs on the CPU, because candidates are drawn there."""
    return [row for d in SHAPES for row in at_dimension(d)]


def at_dimension(d: int) -> list[Row]:
    """Rates of every implementation, and their ratios to the loops."""
    z = normal(COUNT, d, stream=2)
    latents = z.reshape(-1, *SHAPES[d])
    started = clock(torch.device("cpu"))
    references = References.of(latents)
    rows = [Row(f"d={d}: products of references, once", clock(torch.device("cpu")) - started, "s")]
    unit = torch.tensor(1.0, dtype=torch.float64)
    isotropic = DiagonalNormal(torch.zeros(SHAPES[d], dtype=torch.float64), unit)
    noise = torch.empty(max(1, (1 << 20) // d), d)
    direct = Direct(isotropic, references, K, 0, chunk=256)
    rates = {
        "pairs": rate(loop(pairwise, z)),
        "loop": rate(loop(vectorised, z)),
        "direct": rate(judged(direct, direct.group)),
        "draws": rate(lambda: len(noise.normal_())),
    }
    rows += [Row(f"d={d}: {name}", rates[name], "candidates/s") for name in ("pairs", "loop")]
    floor = f"drawing float32 noise alone: {rates['draws']:.0f}/s"
    distance = rates["draws"] / rates["direct"]
    rows.append(Row(f"d={d}: direct", rates["direct"], "candidates/s", floor, distance, "drawing candidates"))
    for name in ("pairs", "loop"):
        gain, most = rates["direct"] / rates[name], rates["draws"] / rates[name]
        bound = f"most that drawing allows: {most:.1f}"
        rows.append(Row(f"d={d}: direct over {name}", gain, "x (goal 10)", bound, most / gain, "drawing candidates"))
    rows.append(Row(f"d={d}: direct against loop", same_statistics(references, d), "largest difference", "0"))
    for prior in _priors(latents, isotropic):
        rows += _exact_rows(d, *prior, references, rates)
    return rows


def _priors(latents: Tensor, isotropic: FittedPrior) -> list[tuple[str, FittedPrior]]:
    """Fits three kinds of priors. At the large d, low rank and covariance use 100 references (memory, time)."""
    few = latents[:100] if latents[0].numel() > 10000 else latents
    found: list[tuple[str, FittedPrior]] = [("isotropic", isotropic)]
    found += [(f"low_rank 30 of {len(few)}", LowRank(rank=30).fit(few))]
    found += [(f"sample_covariance of {len(few)}", SampleCovariance().fit(few))]
    return found


def _exact_rows(d: int, name: str, prior: FittedPrior, references: References, rates: dict[str, float]) -> list[Row]:
    """The exact route: its rate and ratio to the loops, and what an accepted candidate costs."""
    cpu = torch.device("cpu")
    exact = ExactStatistics(prior, references, K, 0, SHAPES[d])
    fast = rate(judged(exact, BLOCK))
    started = clock(cpu)
    exact.keep(exact.start)
    exact.latents([exact.start], 0)
    forming = clock(cpu) - started
    label = f"d={d}: exact_statistics, {name}"
    limit = "Cholesky of k x k, gathers" if name == "isotropic" else "coordinates a proposal"
    return [
        Row(label, fast, "candidates/s", "no work of order d", None, limit),
        Row(f"{label} over loop", fast / rates["loop"], "x (goal 1000)" if d > 10000 else "x", "", None, limit),
        Row(f"{label} over pairs", fast / rates["pairs"], "x", "", None, limit),
        Row(f"{label}, forming one", forming, "s", "one draw of d numbers", forming * rates["draws"], "float64"),
    ]
