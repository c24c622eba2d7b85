"""The share of samples in the target domain, by a classifier and by conformal distances: report both.

The classifier compares two domains and cannot recognise images that belong to neither. The distances use one domain
and cannot recognise another one that lies within its spread.
"""

from math import ceil, floor, hypot, nan, sqrt
from typing import NamedTuple

import torch
from scipy.stats import beta
from torch import Tensor

from unseen_diffusion.scores.inputs import as_features, as_pair, attained_rank
from unseen_diffusion.scores.intervals import normal_quantile, wilson
from unseen_diffusion.scores.logistic import fit_logistic
from unseen_diffusion.scores.neighbours import RESOLUTION, neighbour_squares
from unseen_diffusion.utils.errors import InputError


class TargetShare(NamedTuple):
    """Share of samples in the target domain, with an interval within [0, 1]; noise may put the value itself outside.

    Attributes:
        value: (raw - fpr) / (tpr - fpr); NaN, with its interval, where the classifier cannot separate the domains.
        low: lower bound.
        high: upper bound.
        raw: share of samples classified as target.
        tpr: share of target images classified as target.
        fpr: share of in-distribution images classified as target.
    """

    value: float
    low: float
    high: float
    raw: float
    tpr: float
    fpr: float


class ConformalShare(NamedTuple):
    """Share of samples that pass the conformal test over the share of real images that do, with an interval."""

    value: float
    low: float
    high: float


def classifier_share(samples: Tensor, target: Tensor, source: Tensor, level: float = 0.95) -> TargetShare:
    """Rogan and Gladen 1978: the share of samples in the target domain, from an imperfect classifier.

    Two logistic classifiers separate target from in-distribution images, one trained on the even and one on the odd
    rows of both sets. Each is tested on the other rows, and both classify the samples, which must not be among the
    rows. The interval is Fieller's (1954), with the classifiers taken as fixed.

    Args:
        samples: features (N, d).
        target: features of held-out target images (M, d), M >= 4.
        source: features of in-distribution images (K, d), K >= 4.
        level: two-sided confidence level in (0, 1). The share is NaN where tpr does not exceed fpr at this level.

    Raises:
        InputError: too few images, differing dimensions, or features that are not finite.
    """
    samples = as_features(samples, "the samples", 1)
    target, source = as_pair(target, source, ("the target images", "the in-distribution images"), 4)
    as_pair(samples, target, ("the samples", "the target images"), 1)
    called = [torch.zeros(len(x), dtype=torch.float64) for x in (samples, target, source)]
    for seen, unseen in ((0, 1), (1, 0)):
        classify = fit_logistic(target[seen::2], source[seen::2])
        called[0] += 0.5 * (classify(samples) > 0)
        called[1][unseen::2] = (classify(target[unseen::2]) > 0).double()
        called[2][unseen::2] = (classify(source[unseen::2]) > 0).double()
    return _adjusted(called[0], called[1], called[2], normal_quantile(level))


def conformal_share(
    samples: Tensor, target: Tensor, k: int = 5, alpha: float = 0.05, block: int | None = None
) -> ConformalShare:
    """Share of samples with a conformal p > alpha over the share of real images with it (Vovk et al. 2005).

    The strangeness of a sample is the distance to its k-th nearest neighbour in H, that of an image of H the distance
    to its k-th nearest among the others; p = (1 + images of H at least as strange) / (M + 1).

    The interval contains the choice of H: Wilson's for the samples, combined (MOVER; Zou and Donner 2008) with the
    shares at the ends of a 95% interval for the threshold, of which H is a sample (its rank has a beta distribution).

    Args:
        samples: features (N, d).
        target: features of H (M, d), M > k. Below M = 1 / alpha - 1 no sample can be rejected: the share is NaN.
        k: which neighbour.
        alpha: level of the test in (0, 1).
        block: rows of the distance matrix in memory at a time; no result depends on it.

    Raises:
        InputError: too few images, differing dimensions, features that are not finite, alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha={alpha}: give the level of the test between 0 and 1, e.g. 0.05")
    target = as_features(target, "the target images", k + 1)
    samples, target = as_pair(samples, target, ("the samples", "the target images"), 1)
    count = len(target)
    real = real_pass_rate(count, alpha)
    if real == 1:
        return ConformalShare(nan, nan, nan)
    centre = target.mean(0)
    samples, target = samples - centre, target - centre
    usual = neighbour_squares(target, None, k, block).sort().values
    strange = neighbour_squares(samples, target, k, block)
    margin = RESOLUTION * (samples.square().sum(1) + target.square().sum(1).max())
    as_strange = count - torch.searchsorted(usual, strange - margin)
    rank = attained_rank(count, alpha)
    share = wilson(int((1 + as_strange > rank).sum()), len(samples))
    tails = beta.ppf([0.025, 0.975], rank, count + 1 - rank) * (count + 1)  # of the ranks that other H would give
    wide, narrow = (_share_above(as_strange, edge) for edge in (floor(tails[0]), ceil(tails[1])))
    low = share.share - hypot(share.share - share.low, share.share - narrow)
    high = share.share + hypot(share.high - share.share, wide - share.share)
    return ConformalShare(share.share / real, max(0.0, low) / real, min(1.0, high) / real)


def _share_above(as_strange: Tensor, rank: int) -> float:
    """Share of samples that would pass if the threshold had another rank among the images of H."""
    return float((1 + as_strange > rank).double().mean())


def real_pass_rate(count: int, alpha: float = 0.05) -> float:
    """Share of new real images that pass the test against M others: 1 - floor(alpha (M + 1)) / (M + 1).

    It exceeds 1 - alpha where M is small, and is 1 where no image can be rejected.
    """
    return 1 - attained_rank(count, alpha) / (count + 1)


def _adjusted(samples: Tensor, target: Tensor, source: Tensor, z: float) -> TargetShare:
    """Fieller's interval for the share in raw - fpr = share (tpr - fpr), from calls in [0, 1]."""
    (raw, raw_var), (tpr, tpr_var), (fpr, fpr_var) = (_share(calls, z) for calls in (samples, target, source))
    over, gap = raw - fpr, tpr - fpr
    # The bounds solve (over - share gap)^2 = z^2 (raw_var + share^2 tpr_var + (1 - share)^2 fpr_var).
    square = gap**2 - z**2 * (tpr_var + fpr_var)
    # With equal domains, a chance difference between the halves counts in both directions: twice the variance.
    if gap <= 0 or gap**2 <= 2 * z**2 * (tpr_var + fpr_var):
        return TargetShare(nan, nan, nan, raw, tpr, fpr)
    middle = over * gap - z**2 * fpr_var
    constant = over**2 - z**2 * (raw_var + fpr_var)
    half = sqrt(max(0.0, middle**2 - square * constant))
    low, high = (min(1.0, max(0.0, (middle + side * half) / square)) for side in (-1, 1))
    return TargetShare(over / gap, low, high, raw, tpr, fpr)


def _share(calls: Tensor, z: float) -> tuple[float, float]:
    """Mean of decisions (0 or 1) and its variance by Agresti and Coull 1998, which is not zero at shares of 0 and 1."""
    count, total = float(calls.sum()), len(calls)
    smooth = (count + z**2 / 2) / (total + z**2)
    return count / total, smooth * (1 - smooth) / (total + z**2)
