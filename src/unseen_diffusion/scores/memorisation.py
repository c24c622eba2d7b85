"""Copies of the references: samples that are nearer to a reference than held-out images are."""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int64
from scipy.stats import betabinom
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair, attained_rank, rows_at_a_time
from unseen_diffusion.scores.intervals import Proportion, wilson
from unseen_diffusion.utils.errors import InputError


def nearest(x: Tensor, refs: Tensor, block: int | None = None) -> tuple[Float64[Tensor, "n"], Int64[Tensor, "n"]]:
    """Euclidean distance (N,) float64 from x (N, d) to the nearest of ``refs`` (M, d), and its index (N,).

    One matrix product per block, about the mean of the references, gives the index. The distance then comes from the
    difference itself: |x|^2 - 2 x.y + |y|^2 would lose half the digits of small distances (a copy has 0).

    Raises:
        InputError: no images, differing dimensions, or features that are not finite.
    """
    x, refs = as_pair(x, refs, ("the samples", "the references"), 1)
    size = rows_at_a_time(block, len(refs))
    centre = refs.mean(0)
    centred = refs - centre
    norms = centred.square().sum(1)
    indices = [(norms - 2 * (rows - centre) @ centred.T).argmin(1) for rows in x.split(size)]
    index = torch.cat(indices)
    return torch.linalg.vector_norm(x - refs[index], dim=1), index


@dataclass(frozen=True)
class CopyRate(Proportion):
    """Share of samples that count as copies, with Wilson's interval for a fixed threshold.

    Attributes:
        expected: mean share among new images of the domain, over draws of the held-out images behind the threshold.
        p_value: probability of at least as many copies among new images of the domain.
    """

    expected: float
    p_value: float


def copy_threshold(references: Tensor, heldout: Tensor, quantile: float = 0.01) -> float:
    """The k-th smallest distance from H (M, d) to R (K, d), k = floor(quantile (M + 1)) and at least 1.

    A new image of the domain lies nearer with probability k / (M + 1): at most ``quantile`` for M of
    1 / quantile - 1 or more.

    Raises:
        InputError: ``quantile`` is not inside (0, 1), or ``nearest`` refuses the features.
    """
    return _threshold(nearest(heldout, references)[0], quantile)


def copy_rate(samples: Tensor, references: Tensor, heldout: Tensor, quantile: float = 0.01) -> CopyRate:
    """Share of samples (N, d) no farther from R than ``copy_threshold``; a replay of the references scores 1.

    If samples are new images of the domain (exchangeable with H) and no distances are tied, the number of copies has a
    beta-binomial distribution, whatever the distribution of the distances. So the p-value is exact, also for a
    threshold from few held-out images.

    Raises:
        InputError: as ``copy_threshold``.
    """
    return share_below(nearest(samples, references)[0], nearest(heldout, references)[0], quantile)


def share_below(of_samples: Tensor, of_heldout: Tensor, quantile: float) -> CopyRate:
    """``copy_rate`` from the distances of samples (N,) and held-out images (M,) to the nearest reference."""
    threshold = _threshold(of_heldout, quantile)
    count, total, rank = int((of_samples <= threshold).sum()), len(of_samples), int((of_heldout <= threshold).sum())
    p_value = float(betabinom.sf(count - 1, total, rank, len(of_heldout) + 1 - rank))
    share = wilson(count, total)
    return CopyRate(count, total, share.share, share.low, share.high, rank / (len(of_heldout) + 1), p_value)


def _threshold(distances: Tensor, quantile: float) -> float:
    """The k-th smallest of the held-out distances (M,), k as in ``copy_threshold``."""
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}: give a share between 0 and 1, e.g. 0.01")
    rank = max(1, attained_rank(len(distances), quantile))
    return float(distances.kthvalue(rank).values)
