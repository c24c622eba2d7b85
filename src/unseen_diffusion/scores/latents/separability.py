"""Separability of two sets of latents: by distances alone, by a hyperplane, and by any difference of distributions.

What each detects. *Distances* (Dasgupta 1999; Vempala and Wang 2004; Blum, Hopcroft and Kannan, chapter 2): the
centres' distance against d^(1/4) times the spread, and three rules that use nothing but distances; they detect
differences of centres and radii, never of directions. *The classifier* detects any difference of the means, weighted
by the covariance, but no difference of spread. *The energy distance* is zero for equal distributions only, but in high
dimension it mostly depends on means and total variances (Zhu and Shao 2021). None of them knows where a difference
comes from: the caller must invert both sets alike, or it may be one of inversion and not of domains (docs/theory.md).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unseen_diffusion.scores.kernel import Discrepancy, discrepancy
from unseen_diffusion.scores.latents.gram import Latents, Pooled
from unseen_diffusion.scores.latents.linear import LinearSeparation, linear_separation
from unseen_diffusion.scores.latents.rates import ErrorRate, error_rate

RULES = ("own_distances", "centres", "shells")


@dataclass(frozen=True)
class DistanceSeparation:
    """Separation of two sets by distances alone.

    Attributes:
        centres: squared distance of the centres |m_1 - m_2|^2, without the noise of their estimates.
        raw_distance: distance of the sample means, which is positive even for equal distributions.
        distance: sqrt(max(0, centres.value)).
        spreads: root mean variance per coordinate of each set.
        threshold: d^(1/4) max(spreads), the condition for spherical Gaussians.
        effective_threshold: max over the sets of (tr S^2)^(1/4), its form for any covariance S: greater for
            latents whose variance is concentrated in few directions.
        errors: leave-one-out error of each rule of ``RULES``.
    """

    centres: Discrepancy
    raw_distance: float
    distance: float
    spreads: tuple[float, float]
    threshold: float
    effective_threshold: float
    errors: dict[str, ErrorRate]


@dataclass(frozen=True)
class Separation:
    """The three tests of two sets of n and m latents with ``dimension`` coordinates."""

    n: int
    m: int
    dimension: int
    distances: DistanceSeparation
    linear: LinearSeparation
    energy: Discrepancy


def separability(x: Latents, y: Latents, seed: int, permutations: int = 999, folds: int = 5) -> Separation:
    """Compares latents x (n, ...) with y (m, ...), as rows of d coordinates.

    Costs one (n + m, d) matrix product in float64; the rest is in (n + m) x (n + m). The sets must be independent
    draws. The same images inverted twice, or states of the same trajectories, are pairs: then the p-values are wrong
    (near 1), and so are the errors (a latent's nearest neighbour is its twin in the other set).

    Args:
        x: latents of the first set, at least max(3, folds).
        y: latents of the second set, at least max(3, folds).
        seed: of permutations and folds; the same seed gives the same result.
        permutations: of the labels, for each p-value.
        folds: of the cross-validation.

    Raises:
        InputError: too few latents, shapes that differ, values that are not finite, no spread, bad counts.
    """
    pooled = Pooled.of(x, y)
    linear = linear_separation(pooled, seed, permutations, folds)
    squared = pooled.squared_distances()
    energy = discrepancy(-squared.sqrt(), pooled.first, permutations, seed)
    distances = _by_distances(pooled, squared, permutations, seed)
    return Separation(pooled.first, pooled.second, pooled.dimension, distances, linear, energy)


def distance_separation(x: Latents, y: Latents, seed: int, permutations: int = 999) -> DistanceSeparation:
    """The test by distances alone; arguments and errors as in ``separability``."""
    pooled = Pooled.of(x, y)
    return _by_distances(pooled, pooled.squared_distances(), permutations, seed)


def energy_distance(x: Latents, y: Latents, seed: int, permutations: int = 999) -> Discrepancy:
    """2 E|x - y| - E|x - x'| - E|y - y'| with its permutation test; arguments and errors as in ``separability``."""
    pooled = Pooled.of(x, y)
    return discrepancy(-pooled.squared_distances().sqrt(), pooled.first, permutations, seed)


def _by_distances(pooled: Pooled, squared: Tensor, permutations: int, seed: int) -> DistanceSeparation:
    """The test by distances, from the Gram matrix and the squared distances."""
    n, d = pooled.first, pooled.dimension
    centres = discrepancy(pooled.gram, n, permutations, seed)
    blocks = (slice(0, n), slice(n, None))
    spreads = tuple(math.sqrt(_total_variance(squared[block, block]) / d) for block in blocks)
    squares = [_trace_of_square(pooled.gram[block, block]) for block in blocks]
    gram = pooled.gram
    raw = float(gram[:n, :n].mean() + gram[n:, n:].mean() - 2 * gram[:n, n:].mean())
    return DistanceSeparation(
        centres=centres,
        raw_distance=math.sqrt(max(0.0, raw)),
        distance=math.sqrt(max(0.0, centres.value)),
        spreads=(spreads[0], spreads[1]),
        threshold=d**0.25 * max(spreads),
        effective_threshold=max(0.0, *squares) ** 0.25,
        errors=_rule_errors(squared, n, d),
    )


def _total_variance(squared: Tensor) -> float:
    """tr S, unbiased: half the mean squared distance between different latents of one set."""
    count = len(squared)
    return float(squared.sum()) / (2 * count * (count - 1))


def _trace_of_square(gram: Tensor) -> float:
    """tr S^2 of one set, unbiased for Gaussians (Bai and Saranadasa 1996, section 3)."""
    n = len(gram)
    centred = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    square, trace = float(centred.square().sum()) / (n - 1) ** 2, float(centred.diagonal().sum()) / (n - 1)
    return (n - 1) ** 2 / ((n - 2) * (n + 1)) * (square - trace**2 / (n - 1))


def _rule_errors(squared: Tensor, n: int, d: int) -> dict[str, ErrorRate]:
    """Leave-one-out errors of the three rules: a latent is misclassified where its set is not the nearer one.

    - own_distances: mean squared distance to the set's other latents. It fails for the wider of two sets unless the
      centres are far enough apart to outweigh the difference of the variances.
    - centres: squared distance to the set's centre, without the noise of its estimate.
    - shells: -2 log density of the spherical Gaussian around that centre, so that radii count too.
    """
    to_first, to_second = squared[:, :n].sum(1), squared[:, n:].sum(1)
    sides = ((slice(0, n), to_first, to_second), (slice(n, None), to_second, to_first))
    wrong: dict[str, list[int]] = {rule: [] for rule in RULES}
    for index, (rows, to_own, to_other) in enumerate(sides):
        other = sides[1 - index][0]
        own_count, other_count = len(squared[rows]), len(squared[other])
        own = to_own[rows] / (own_count - 1)
        across = to_other[rows] / other_count
        # tr S of the latent's set without the latent itself, and of the other set.
        rest = squared[rows, rows].sum() - 2 * to_own[rows]
        own_variance = rest / (2 * (own_count - 1) * (own_count - 2))
        other_variance = _total_variance(squared[other, other])
        wrong["own_distances"].append(int((own >= across).sum()))
        wrong["centres"].append(int((own - own_variance >= across - other_variance).sum()))
        scores = _shell(own - own_variance, own_variance, d)
        others = _shell(across - other_variance, torch.full_like(across, other_variance), d)
        wrong["shells"].append(int((scores >= others).sum()))
    return {rule: error_rate(counts[0], n, counts[1], len(squared) - n) for rule, counts in wrong.items()}


def _shell(to_centre: Tensor, variance: Tensor, d: int) -> Tensor:
    """-2 log density of N(centre, (variance / d) I) over d, up to a constant; -inf inside a set without spread."""
    tiny = torch.finfo(variance.dtype).tiny
    return to_centre / variance.clamp(min=tiny) + (variance.clamp(min=tiny) / d).log()
