"""Intervals of shares and of means, p-values, and Holm's correction for several tests. Needs no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, log, sqrt
from statistics import NormalDist, fmean, median, stdev

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, stdtr, stdtrit

from unseen_diffusion.utils.errors import InputError


@dataclass(frozen=True)
class Proportion:
    """The share ``count`` / ``total`` in [0, 1], and the bounds of its interval."""

    count: int
    total: int
    share: float
    low: float
    high: float


def normal_quantile(level: float) -> float:
    """Half-width of a two-sided normal interval in standard errors: 1.96 for ``level`` 0.95.

    Raises:
        InputError: ``level`` is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level}: give a confidence level between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(count: int, total: int, level: float = 0.95) -> Proportion:
    """Wilson 1927: score interval of a binomial share; it keeps its coverage at shares of 0 and 1.

    Args:
        count: successes, 0..total.
        total: trials, at least 1.
        level: two-sided confidence level in (0, 1).

    Raises:
        InputError: no trials, or a count outside 0..total.
    """
    if total < 1 or not 0 <= count <= total:
        raise InputError(f"{count} of {total}: a share needs a count between 0 and a total of 1 or more")
    z = normal_quantile(level)
    share = count / total
    shrink = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z * sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / shrink
    # At shares of 0 and 1 the bound is the share itself; the formula would be off by rounding.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(count, total, share, low, high)


@dataclass(frozen=True)
class MeanInterval:
    """Mean of ``count`` independent values, its standard error, bounds, and the p-value of a mean of zero."""

    mean: float
    standard_error: float
    low: float
    high: float
    p_value: float
    count: int


def t_interval(values: Sequence[float], level: float = 0.95, correlation: float = 0.0) -> MeanInterval:
    """Student's interval for the mean of values that are independent, or equally correlated.

    Values from overlapping draws are correlated. Their sample variance S^2 is then too small by 1 - rho, and the mean
    of n keeps the variance S^2 (1 / n + rho / (1 - rho)) (Nadeau and Bengio 2003, section 3).

    The p-value is that of the two-sided t test of a mean of zero. If all values are equal, the interval is a point, and
    the p-value is 1 (all zero) or that of the sign test, 2^(1 - n).

    Args:
        values: one per repetition, at least 2, e.g. one score per reference draw.
        level: two-sided confidence level in (0, 1).
        correlation: rho in [0, 1) of two values; for draws from a pool, the share of images that two draws have in
            common (``inflation``).

    Raises:
        InputError: fewer than 2 values, one that is not finite, or a level or correlation outside its range.
    """
    normal_quantile(level)  # checks the level
    count, factor = len(values), inflation(len(values), correlation)
    if count < 2:
        raise InputError(f"{count} value{'s' * (count != 1)}: an interval needs at least 2 independent draws")
    if not all(isfinite(value) for value in values):
        raise InputError(f"values {[float(value) for value in values if not isfinite(value)]}: give finite scores")
    average, error = fmean(values), stdev(values) * sqrt(factor / count)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return MeanInterval(average, error, average - half, average + half, _t_test(average, error, count), count)


def share_interval(found: MeanInterval, most: float = 1.0) -> MeanInterval:
    """The interval of a mean of shares on the scale of log odds: it stays within [0, most] (delta method).

    A mean at an end of the range has no log odds: its interval is cut there.

    Args:
        found: the mean of shares, and its interval.
        most: upper end of the shares.
    """
    mean, half = found.mean / most, (found.high - found.mean) / most
    if not 0 < mean < 1:
        low, high = (min(most, max(0.0, bound)) for bound in (found.low, found.high))
        return replace(found, low=min(low, found.mean), high=max(high, found.mean))
    odds, width = log(mean / (1 - mean)), half / (mean * (1 - mean))
    return replace(found, low=most * float(expit(odds - width)), high=most * float(expit(odds + width)))


def inflation(draws: int, correlation: float) -> float:
    """The factor 1 + n rho / (1 - rho) by which correlated draws make the variance of their mean larger than S^2 / n.

    For a score that is a mean over the images of a draw, rho is the share of images that two draws have in common, and
    the factor is exact. For a score of products of images rho is smaller, about that share squared, and the factor is
    too large: the interval then covers more than its level.

    Raises:
        InputError: a correlation outside [0, 1).
    """
    if not 0 <= correlation < 1:
        raise InputError(f"correlation={correlation}: give the share that two draws have in common, 0 or more, below 1")
    return 1 + draws * correlation / (1 - correlation)


def crossed_interval(table: Sequence[Sequence[float]], level: float = 0.95, correlation: float = 0.0) -> MeanInterval:
    """Interval for the mean of scores over reference draws (rows) crossed with seeds (columns), both random.

    Every draw uses the same seeds, so more draws do not average out the effect of a seed. With the mean squares of the
    two-way layout without replication, the variance of the mean is (f (MS_draw - MS_rest) + MS_seed) / (D S) (Scheffe
    1959, chapter 7), where f is the ``inflation`` by draws that overlap. It is taken to be at least that of either
    factor alone; the degrees of freedom are Satterthwaite's (1946), not below the smaller of D - 1 and S - 1, or those
    of the factor. One seed gives Student's interval over draws, one draw that over seeds.

    Args:
        table: a row of scores per draw, one per seed, D S >= 2.
        level: two-sided confidence level in (0, 1).
        correlation: as in ``t_interval``, of two draws.

    Raises:
        InputError: rows of differing lengths, or ``t_interval`` refuses the values.
    """
    draws, seeds = len(table), len(table[0]) if table else 0
    if any(len(row) != seeds for row in table):
        raise InputError("scores of draws and seeds: every draw needs the same seeds")
    if draws < 2 or seeds < 2:
        return t_interval([value for row in table for value in row], level, correlation if draws > 1 else 0.0)
    t_interval([value for row in table for value in row], level)  # checks that all are finite
    values, factor = np.asarray(table, dtype=np.float64), inflation(draws, correlation)
    if values.min() == values.max():  # exactly, without the rounding of a mean
        value = float(values[0, 0])
        return MeanInterval(value, 0.0, value, value, _t_test(value, 0.0, max(draws, seeds)), draws)
    average = float(values.mean())
    of_draws, of_seeds = values.mean(1) - average, values.mean(0) - average
    rest = values - average - of_draws[:, None] - of_seeds
    freedom = np.array([draws - 1, seeds - 1, (draws - 1) * (seeds - 1)])
    squares = np.array([seeds * (of_draws**2).sum(), draws * (of_seeds**2).sum(), (rest**2).sum()]) / freedom
    total, degrees = max((float(square), float(free)) for square, free in zip(squares[:2], freedom, strict=False))
    parts = squares * np.array([factor, 1, factor])
    both = float(parts[0] + parts[1] - parts[2])
    if both > total:
        total, degrees = both, max(both**2 / float((parts**2 / freedom).sum()), float(freedom.min()))
    error = sqrt(total / (draws * seeds))
    half = float(stdtrit(degrees, (1 + level) / 2)) * error
    p_value = _t_test(average, error, degrees + 1)
    return MeanInterval(average, error, average - half, average + half, p_value, draws)


def _t_test(average: float, error: float, count: float) -> float:
    """Two-sided p-value of a mean of zero: of the t test, or of the sign test where all values are equal."""
    if error == 0:
        return 1.0 if average == 0 else 2.0 ** (1 - count)
    return 2 * float(stdtr(count - 1, -abs(average) / error))


def paired_difference(a: Sequence[float], b: Sequence[float], level: float = 0.95) -> MeanInterval:
    """Student's interval and test for the mean of a - b over draws that both methods share.

    Args:
        a: scores of one method, one per draw.
        b: scores of the other on the same draws, in the same order.
        level: two-sided confidence level in (0, 1).

    Raises:
        InputError: differing numbers of draws, or ``t_interval`` refuses the differences.
    """
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} values: a paired difference needs the same draws on both sides")
    return t_interval([first - second for first, second in zip(a, b, strict=True)], level)


def normal_p(value: float, standard_error: float) -> float:
    """Two-sided p-value of "the value is zero" for a normal estimate; without error, 1 for zero, else 0."""
    return 2 * NormalDist().cdf(-abs(value) / standard_error) if standard_error > 0 else float(value == 0)


def upper_p(null: ArrayLike, value: float) -> float:
    """Share of null draws at or above ``value``, which itself counts as a draw (Phipson and Smyth 2010)."""
    draws = np.asarray(null)
    return (1 + int((draws >= value).sum())) / (len(draws) + 1)


def two_sided_p(null: ArrayLike, value: float) -> float:
    """Twice the smaller tail of the null draws, at most 1; ``value`` itself counts as a draw."""
    draws = np.asarray(null)
    low = (1 + int((draws <= value).sum())) / (len(draws) + 1)
    return min(1.0, 2 * min(low, upper_p(draws, value)))


def combined_p(p_values: Sequence[float]) -> float:
    """Twice the median: a p-value of one hypothesis from several, whatever their dependence (Vovk and Wang 2020).

    Raises:
        InputError: no p-values, or one outside [0, 1].
    """
    _check_p_values(p_values)
    return min(1.0, 2 * median(p_values)) if len(p_values) > 1 else float(p_values[0])


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm 1979: p-values adjusted for the number of tests, in the given order; reject those at or below the level.

    The i-th smallest of m is multiplied by m - i + 1, made non-decreasing along that order, and cut at 1.

    Raises:
        InputError: no p-values, or one outside [0, 1].
    """
    _check_p_values(p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * float(p_values[index])))
        adjusted[index] = highest
    return adjusted


def _check_p_values(p_values: Sequence[float]) -> None:
    """Raises InputError where there are no p-values, or one is outside [0, 1]."""
    if not p_values:
        raise InputError("no p-values: give at least one")
    if broken := [float(p) for p in p_values if not 0 <= p <= 1]:
        raise InputError(f"p-values {broken}: give numbers between 0 and 1")
