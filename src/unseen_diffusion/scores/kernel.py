"""Kernel distance (KID: Binkowski et al. 2018, arXiv 1801.01401) over all pairs, with an interval and a test.

The kernel is k(x, y) = (x.y / d + 1)^3 and the estimate of MMD^2 the unbiased one (Gretton et al. 2012,
equation 3): it is zero in the mean for equal distributions, at any number of images, and can therefore be
negative.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair, rows_at_a_time
from unseen_diffusion.scores.intervals import normal_quantile
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

FEW = 2**14  # products of rows that one thread makes in milliseconds
_NAMES = ("the first set", "the second set")


@dataclass(frozen=True)
class KernelDistance:
    """Unbiased MMD^2 (not multiplied by 1000), its jackknife standard error and a normal 95% interval."""

    value: float
    standard_error: float
    low: float
    high: float


@dataclass(frozen=True)
class KernelDifference:
    """Difference of two KIDs to the same images, its jackknife error, a normal 95% interval and p-value of zero."""

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


def kid(x: Tensor, y: Tensor, block: int | None = None) -> KernelDistance:
    """Unbiased MMD^2 between features x (N, d) and y (M, d) over all pairs, with a jackknife interval.

    The jackknife leaves out one image at a time, x and y apart; each replicate follows from the sums of the
    kernel's rows. The interval is for distributions that differ: where they are equal the estimate is not
    normal, and ``permutation_p_value`` is the question to ask.

    Args:
        x: features (N, d), N >= 3.
        y: features (M, d), M >= 3.
        block: rows of the kernel in memory at a time; no result depends on it. None takes 32 MB of them.

    Raises:
        InputError: fewer than 3 images, differing dimensions, or features that are not finite.
    """
    x, y = as_pair(x, y, _NAMES, 3)
    value, without_x, without_y = _leave_one_out(x, y, _row_sums(y, block), block)
    error = sqrt(_jackknife_variance(without_x) + _jackknife_variance(without_y))
    half = normal_quantile(0.95) * error
    return KernelDistance(value, error, value - half, value + half)


def kid_difference(a: Tensor, b: Tensor, target: Tensor, block: int | None = None) -> KernelDifference:
    """KID(a, H) - KID(b, H) of two methods against the same images H, with a paired jackknife interval.

    The jackknife leaves out one image of a, of b, or of H at a time; an image of H leaves both terms at once, so
    that what the two distances owe to the same H cancels. Samples of a and b count as independent.

    Args:
        a: features of one method's samples (N, d), N >= 3.
        b: features of the other's (K, d), K >= 3.
        target: features of H (M, d), M >= 3.
        block: rows of the kernel in memory at a time; no result depends on it.

    Raises:
        InputError: fewer than 3 images, differing dimensions, or features that are not finite.
    """
    a, target = as_pair(a, target, ("the first samples", "the target images"), 3)
    b, target = as_pair(b, target, ("the second samples", "the target images"), 3)
    rows = _row_sums(target, block)
    value_a, without_a, target_a = _leave_one_out(a, target, rows, block)
    value_b, without_b, target_b = _leave_one_out(b, target, rows, block)
    value = value_a - value_b
    variance = sum(_jackknife_variance(replicates) for replicates in (without_a, without_b, target_a - target_b))
    error = sqrt(variance)
    half = normal_quantile(0.95) * error
    p_value = 2 * NormalDist().cdf(-abs(value) / error) if error > 0 else float(value == 0)
    return KernelDifference(value, error, value - half, value + half, p_value)


def permutation_p_value(x: Tensor, y: Tensor, permutations: int, seed: int, block: int | None = None) -> float:
    """P-value of "x and y have the same distribution": the share of relabelled sets at least as far apart.

    The observed labelling counts as one of the permutations, so the value lies in [1 / (permutations + 1), 1]
    and the test is exact (Phipson and Smyth 2010).

    Args:
        x: features (N, d), N >= 3.
        y: features (M, d), M >= 3.
        permutations: number of random relabellings, at least 1.
        seed: permutation i is a function of (seed, i).
        block: rows of the kernel in memory at a time; no result depends on it.

    Raises:
        InputError: fewer than 3 images, differing dimensions, features that are not finite, no permutations.
    """
    if permutations < 1:
        raise InputError(f"permutations={permutations}: give 1 or more, e.g. 1000")
    x, y = as_pair(x, y, _NAMES, 3)
    pooled, n, m = torch.cat([x, y]), len(x), len(y)
    first = torch.zeros(n + m, permutations + 1, dtype=torch.float64)  # 1 where an image is labelled x
    first[:n, 0] = 1
    for index in range(permutations):
        first[torch.randperm(n + m, generator=generator(seed, "permutation", index))[:n], index + 1] = 1
    inside, rows = torch.zeros(permutations + 1, dtype=torch.float64), []
    for start, kernel in _kernel_blocks(pooled, pooled, block):
        inside += (first[start : start + len(kernel)] * (kernel @ first)).sum(0)
        rows.append(kernel.sum(1))
    sums = torch.cat(rows)
    across = first.T @ sums - inside
    values = _mmd(inside, sums.sum() - inside - 2 * across, across, n, m)
    tied = values[0] - 1e-12 * sums.abs().max() / (n + m)  # equal labellings differ by rounding
    return int((values >= tied).sum()) / (permutations + 1)


def _leave_one_out(x: Tensor, y: Tensor, rows_yy: Tensor, block: int | None) -> tuple[float, Tensor, Tensor]:
    """MMD^2 of x (N, d) and y (M, d), and its values without each image of x (N,) and of y (M,)."""
    rows_xx, rows_xy, rows_yx = _row_sums(x, block), [], torch.zeros(len(y), dtype=x.dtype)
    for _, kernel in _kernel_blocks(x, y, block):
        rows_xy.append(kernel.sum(1))
        rows_yx += kernel.sum(0)
    across = torch.cat(rows_xy)
    n, m = len(x), len(y)
    xx, yy, xy = rows_xx.sum(), rows_yy.sum(), across.sum()
    without_x = _mmd(xx - 2 * rows_xx, yy, xy - across, n - 1, m)
    without_y = _mmd(xx, yy - 2 * rows_yy, xy - rows_yx, n, m - 1)
    return float(_mmd(xx, yy, xy, n, m)), without_x, without_y


def _kernel_blocks(x: Tensor, y: Tensor, block: int | None) -> Iterator[tuple[int, Tensor]]:
    """(first row, k(x_rows, y)) block by block, each valid until the next; the diagonal is zero where ``y`` is ``x``.

    All blocks share their memory: anew for each, it grew to gigabytes in the holes of the heap.
    """
    size = rows_at_a_time(block, len(y))
    memory = x.new_empty(min(size, len(x)), len(y))
    for start in range(0, len(x), size):
        rows = x[start : start + size]
        kernel = _products(rows, y, memory[: len(rows)]).div_(x.shape[1]).add_(1).pow_(3)
        if y is x:
            kernel.diagonal(start).zero_()
        yield start, kernel


def _products(x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    """x @ y.T, the same bits for any number of threads: BLAS divides long sums among them where few are asked."""
    if len(x) * len(y) > FEW:
        return torch.mm(x, y.T, out=out)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return torch.mm(x, y.T, out=out)
    finally:
        torch.set_num_threads(threads)


def _row_sums(x: Tensor, block: int | None) -> Tensor:
    """Sums over the other images of k(x_i, x_j): (N,) float64."""
    return torch.cat([kernel.sum(1) for _, kernel in _kernel_blocks(x, x, block)])


def _mmd(xx: Tensor, yy: Tensor, xy: Tensor, n: int, m: int) -> Tensor:
    """Unbiased MMD^2 from the sums of the kernel over pairs; works on vectors of replicates."""
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def _jackknife_variance(replicates: Tensor) -> float:
    """Efron and Stein 1981: (n - 1) / n times the sum of squared deviations of the leave-one-out values."""
    count = len(replicates)
    return float((replicates - replicates.mean()).square().sum()) * (count - 1) / count
