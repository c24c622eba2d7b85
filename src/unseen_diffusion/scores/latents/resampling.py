"""P-values from resampled nulls, exact at any size, and what many of them together say."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.scores.intervals import normal_quantile
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def upper_p(null: Float[Tensor, " b"], value: float) -> float:
    """Share of the null at or above ``value``, the observation counted in (Phipson and Smyth 2010)."""
    return (1 + int((null >= value).sum())) / (len(null) + 1)


def two_sided_p(null: Float[Tensor, " b"], value: float) -> float:
    """Twice the smaller tail, at most 1."""
    low = (1 + int((null <= value).sum())) / (len(null) + 1)
    return min(1.0, 2 * min(low, upper_p(null, value)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of Holm 1979, valid under any dependence, in the order given."""
    count = len(p_values)
    adjusted, running = [0.0] * count, 0.0
    for rank, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (count - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def require_count(name: str, count: int) -> None:
    """Raises InputError where there is nothing to resample."""
    if count < 1:
        raise InputError(f"{name}={count}: give 1 or more, e.g. 999")


@dataclass(frozen=True)
class Discrepancy:
    """An unbiased two-sample discrepancy: 0 in the mean for equal distributions, so it can be negative.

    Attributes:
        value: the estimate, in the units of the kernel.
        standard_error: by jackknife over latents; up to sqrt(2) too wide for sets that hardly differ, where pairs
            and not single latents carry the noise (Efron and Stein 1981: never too narrow in the mean).
        low: lower end of a normal 95% interval; meant for sets that differ.
        high: its upper end.
        p_value: of "both sets have one distribution", by permutation of the labels: exact.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


def discrepancy(kernel: Float[Tensor, "N N"], first: int, permutations: int, seed: int) -> Discrepancy:
    """mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of different latents (Gretton et al. 2012, eq. 3).

    With k = <x, y> this is the squared distance of the centres, with k = -|x - y| the energy distance of
    Szekely and Rizzo 2013. All permutations follow from one product of the kernel with the labels.

    Args:
        kernel: over the pooled latents, symmetric; its diagonal is not used.
        first: latents of the first set, at least 3 of each.
        permutations: random relabellings, at least 1.
        seed: relabelling i is the stream (seed, "permutation", i).
    """
    require_count("permutations", permutations)
    count = len(kernel)
    kernel = kernel.clone().fill_diagonal_(0)
    labels = torch.zeros(count, permutations + 1, dtype=torch.float64)  # 1 where a latent is labelled first
    labels[:first, 0] = 1
    for index in range(permutations):
        labels[torch.randperm(count, generator=generator(seed, "permutation", index))[:first], index + 1] = 1
    sums = kernel.sum(1)
    own = kernel @ labels
    inside = (labels * own).sum(0)
    across = labels.T @ sums - inside
    values = _unbiased(inside, sums.sum() - inside - 2 * across, across, first, count - first)
    tied = float(values[0]) - 1e-12 * float(sums.abs().max()) / count  # equal labellings differ by rounding
    error = _jackknife(own[:, 0], sums, first)
    half = normal_quantile(0.95) * error
    value = float(values[0])
    return Discrepancy(value, error, value - half, value + half, upper_p(values[1:], tied))


def _unbiased(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
    """The U-statistic from sums over ordered pairs; works on vectors of replicates."""
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _jackknife(to_first: Tensor, sums: Tensor, first: int) -> float:
    """Standard error by leaving out one latent at a time, each set apart, from the sums of the kernel's rows."""
    n, m = first, len(sums) - first
    to_second = sums - to_first
    xx, xy, yy = to_first[:n].sum(), to_second[:n].sum(), to_second[n:].sum()
    without_x = _unbiased(xx - 2 * to_first[:n], yy, xy - to_second[:n], n - 1, m)
    without_y = _unbiased(xx, yy - 2 * to_second[n:], xy - to_first[n:], n, m - 1)
    parts = [
        float((part - part.mean()).square().sum()) * (len(part) - 1) / len(part) for part in (without_x, without_y)
    ]
    return sqrt(sum(parts))
