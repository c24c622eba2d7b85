"""Unbiased MMD^2 of two sets, with a jackknife interval and a permutation test.

Two users: the kernel distance of features (KID: Binkowski et al. 2018, arXiv 1801.01401), whose kernel is
k(x, y) = (x.y / d + 1)^3, and ``discrepancy`` for any kernel matrix. The estimate is the unbiased one (Gretton et al.
2012, equation 3): its mean is zero for equal distributions, at any number of images, so it can be negative.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair, require_count, rows_at_a_time
from unseen_diffusion.scores.intervals import normal_p, normal_quantile, upper_p
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

FEW = 2**14  # entries of a product that one thread computes in milliseconds
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


@dataclass(frozen=True)
class Discrepancy:
    """Unbiased MMD^2 of two sets under any kernel: its mean is 0 for equal distributions, so it can be negative.

    Attributes:
        value: the estimate, in the units of the kernel.
        standard_error: by jackknife over single rows; up to sqrt(2) too wide for sets that hardly differ, where pairs
            of rows carry the noise (Efron and Stein 1981: never too narrow in the mean).
        low: lower end of a normal 95% interval; valid for sets that differ.
        high: its upper end.
        p_value: of "both sets have the same distribution", by permutation of the labels: exact.
    """

    value: float
    standard_error: float
    low: float
    high: float
    p_value: float


class Replicates(NamedTuple):
    """MMD^2 of x (N, d) and y (M, d), and its values without each row of x (N,) and without each row of y (M,)."""

    value: float
    without_x: Tensor
    without_y: Tensor


def kid(x: Tensor, y: Tensor, block: int | None = None) -> KernelDistance:
    """Unbiased MMD^2 between features x (N, d) and y (M, d) over all pairs, with a jackknife interval.

    The jackknife leaves out one image of x or of y at a time; each replicate follows from the sums of the kernel's
    rows. The interval is valid for distributions that differ. For equal distributions the estimate is not normal:
    use ``permutation_p_value``.

    Args:
        x: features (N, d), N >= 3.
        y: features (M, d), M >= 3.
        block: rows of the kernel in memory at a time; no result depends on it. None takes 32 MB of them.

    Raises:
        InputError: fewer than 3 images, differing dimensions, or features that are not finite.
    """
    x, y = as_pair(x, y, _NAMES, 3)
    value, without_x, without_y = _kid_replicates(x, y, _row_sums(y, block), block)
    error = sqrt(jackknife_variance(without_x) + jackknife_variance(without_y))
    half = normal_quantile(0.95) * error
    return KernelDistance(value, error, value - half, value + half)


def kid_difference(a: Tensor, b: Tensor, target: Tensor, block: int | None = None) -> KernelDifference:
    """KID(a, H) - KID(b, H) of two methods against the same images H, with a paired jackknife interval.

    The jackknife leaves out one image of a, of b, or of H at a time. An image of H leaves both distances at once, so
    the noise that they share through H cancels. Samples of a and b count as independent.

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
    value_a, without_a, target_a = _kid_replicates(a, target, rows, block)
    value_b, without_b, target_b = _kid_replicates(b, target, rows, block)
    value = value_a - value_b
    error = sqrt(sum(jackknife_variance(values) for values in (without_a, without_b, target_a - target_b)))
    half = normal_quantile(0.95) * error
    return KernelDifference(value, error, value - half, value + half, normal_p(value, error))


def permutation_p_value(
    x: Tensor,
    y: Tensor,
    permutations: int,
    seed: int,
    block: int | None = None,
    clusters: Tensor | None = None,
) -> float:
    """P-value of "x and y have the same distribution": the share of relabelled sets at least as far apart.

    The observed labelling counts as one of the permutations, so the value lies in [1 / (permutations + 1), 1]
    and the test is exact (Phipson and Smyth 2010). Images that depend on each other are not exchangeable, their
    clusters are: each keeps one label then, and the sets keep their sizes up to one cluster (``cluster_labels``).

    Args:
        x: features (N, d), N >= 3.
        y: features (M, d), M >= 3.
        permutations: number of random relabellings, at least 1.
        seed: permutation i is a function of (seed, i).
        block: rows of the kernel in memory at a time; no result depends on it.
        clusters: (N + M,) a number for each row of x, then of y; rows of one number belong together. None: each row is
            independent.

    Raises:
        InputError: fewer than 3 images, differing dimensions, features that are not finite, no permutations, or another
            number of clusters than rows.
    """
    require_count("permutations", permutations)
    x, y = as_pair(x, y, _NAMES, 3)
    pooled = torch.cat([x, y])
    labels = _labels(len(pooled), len(x), permutations, seed, clusters)
    inside, rows = torch.zeros(permutations + 1, dtype=torch.float64), []
    for start, kernel in _kernel_blocks(pooled, pooled, block):
        inside += (labels[start : start + len(kernel)] * (kernel @ labels)).sum(0)
        rows.append(kernel.sum(1))
    return _permutation_test(labels, inside, torch.cat(rows))[1]


def discrepancy(
    kernel: Float[Tensor, "N N"], first: int, permutations: int, seed: int, clusters: Tensor | None = None
) -> Discrepancy:
    """mean k(x, x') + mean k(y, y') - 2 mean k(x, y) over pairs of different rows (Gretton et al. 2012, eq. 3).

    With k = <x, y> this is the squared distance of the centres, with k = -|x - y| the energy distance of
    Szekely and Rizzo 2013. All permutations follow from one product of the kernel with the labels.

    Args:
        kernel: over the pooled rows of both sets, symmetric; its diagonal is not used.
        first: rows of the first set, at least 3 of each.
        permutations: random relabellings, at least 1.
        seed: relabelling i is the stream (seed, "permutation", i).
        clusters: as in ``permutation_p_value``.

    Raises:
        InputError: no permutations, or another number of clusters than rows.
    """
    require_count("permutations", permutations)
    kernel = kernel.clone().fill_diagonal_(0)
    labels = _labels(len(kernel), first, permutations, seed, clusters)
    sums = kernel.sum(1)
    to_labelled = kernel @ labels
    value, p_value = _permutation_test(labels, (labels * to_labelled).sum(0), sums)
    to_first = to_labelled[:, 0]
    to_second = sums - to_first
    _, without_x, without_y = _replicates(to_first[:first], to_second[:first], to_first[first:], to_second[first:])
    error = sqrt(jackknife_variance(without_x) + jackknife_variance(without_y))
    half = normal_quantile(0.95) * error
    return Discrepancy(value, error, value - half, value + half, p_value)


def unbiased_mmd(xx: Tensor, yy: Tensor, xy: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
    """Gretton et al. 2012, eq. 3: MMD^2 of n and m rows from sums of the kernel over ordered pairs of different rows.

    Args:
        xx: sum over pairs within the first set: a number, or one per replicate.
        yy: the same within the second set.
        xy: sum of k(x, y) over all x and y.
        n: rows of the first set, or of each replicate's.
        m: rows of the second set, likewise.
    """
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)


def jackknife_variance(replicates: Float[Tensor, " n"]) -> float:
    """Efron and Stein 1981: (n - 1) / n times the sum of squared deviations of the leave-one-out values."""
    count = len(replicates)
    return float((replicates - replicates.mean()).square().sum()) * (count - 1) / count


def _labels(count: int, first: int, permutations: int, seed: int, clusters: Tensor | None) -> Float[Tensor, "N P"]:
    """1 where a row belongs to the first set: column 0 as observed, the others relabelled at random."""
    labels = torch.zeros(count, permutations + 1, dtype=torch.float64)
    labels[:first, 0] = 1
    if clusters is not None and len(clusters) != count:
        raise InputError(f"clusters of {len(clusters)} rows for {count} rows; give one number for each")
    numbers = None if clusters is None else clusters.unique(return_inverse=True)[1]
    if numbers is None or int(numbers.max()) + 1 == count:
        for index in range(permutations):
            labels[torch.randperm(count, generator=generator(seed, "permutation", index))[:first], index + 1] = 1
        return labels
    sizes = numbers.bincount()
    for index in range(permutations):
        order = torch.randperm(len(sizes), generator=generator(seed, "permutation", index))
        labels[:, index + 1] = cluster_labels(sizes, order, first)[numbers]
    return labels


def cluster_labels(sizes: Tensor, order: Tensor, first: int) -> Tensor:
    """1 for the clusters of the first set: those at the beginning of an order, with nearly ``first`` rows together.

    Clusters have different sizes, so the two sets can only be as near to their own sizes as whole clusters allow. Each
    set keeps 2 rows or more; where that cannot be, all clusters stay together, and the test does not reject.

    Args:
        sizes: (C,) rows of each cluster.
        order: (C,) a permutation of the clusters.
        first: rows of the first set.
    """
    rows = sizes[order].cumsum(0)
    off = (rows - first).abs().double()
    off[(rows < 2) | (rows > int(rows[-1]) - 2)] = torch.inf
    labels = torch.zeros(len(sizes), dtype=torch.float64)
    if bool(off.isfinite().any()):
        labels[order[: int(off.argmin()) + 1]] = 1
    return labels


def _permutation_test(labels: Tensor, inside: Tensor, sums: Tensor) -> tuple[float, float]:
    """MMD^2 as observed and its p-value.

    Args:
        labels: (N, P), as ``_labels`` returns them.
        inside: (P,) sums of the kernel over pairs within the labelled set.
        sums: (N,) sums of the kernel's rows.
    """
    across = labels.T @ sums - inside
    first = labels.sum(0)
    values = unbiased_mmd(inside, sums.sum() - inside - 2 * across, across, first, len(sums) - first)
    values = values.nan_to_num(nan=torch.inf)  # a relabelling that is not possible counts against rejecting
    observed = float(values[0])
    tied = observed - 1e-12 * float(sums.abs().max()) / len(sums)  # equal labellings differ by rounding
    return observed, upper_p(values[1:], tied)


def _replicates(xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Replicates:
    """Leave-one-out values of MMD^2 from sums of the kernel's rows.

    Args:
        xx: (N,) from each row of x to the other rows of x.
        xy: (N,) from each row of x to all of y.
        yx: (M,) from each row of y to all of x.
        yy: (M,) from each row of y to the other rows of y.
    """
    n, m = len(xx), len(yy)
    total_xx, total_yy, total_xy = xx.sum(), yy.sum(), xy.sum()
    without_x = unbiased_mmd(total_xx - 2 * xx, total_yy, total_xy - xy, n - 1, m)
    without_y = unbiased_mmd(total_xx, total_yy - 2 * yy, total_xy - yx, n, m - 1)
    return Replicates(float(unbiased_mmd(total_xx, total_yy, total_xy, n, m)), without_x, without_y)


def _kid_replicates(x: Tensor, y: Tensor, rows_yy: Tensor, block: int | None) -> Replicates:
    """Leave-one-out values of the KID of features x (N, d) and y (M, d); ``rows_yy`` are the row sums of y."""
    rows_xx, rows_xy, rows_yx = _row_sums(x, block), [], torch.zeros(len(y), dtype=x.dtype)
    for _, kernel in _kernel_blocks(x, y, block):
        rows_xy.append(kernel.sum(1))
        rows_yx += kernel.sum(0)
    return _replicates(rows_xx, torch.cat(rows_xy), rows_yx, rows_yy)


def _kernel_blocks(x: Tensor, y: Tensor, block: int | None) -> Iterator[tuple[int, Tensor]]:
    """(first row, k(x_rows, y)) block by block, each valid until the next; the diagonal is zero where ``y`` is ``x``.

    All blocks share one buffer: allocating one per block fragmented the heap up to gigabytes.
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
    """x @ y.T with the same bits for any number of threads.

    BLAS divides long sums among threads where the product is small, so small products run on one thread.
    """
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
