"""Is a sample new? Distances to the references, measured against those of held-out images."""

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

    The index is found by one matrix product per block, around the mean of the references; the distance is
    then taken from the difference itself, since |x|^2 - 2 x.y + |y|^2 loses half the digits where it matters
    (a copy has 0).

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
    """Share of samples that count as copies, with Wilson's interval at the threshold as it is.

    Attributes:
        expected: what new images of the domain score on average over the held-out images that set the threshold.
        p_value: of so many copies or more among new images of the domain.
    """

    expected: float
    p_value: float


def copy_threshold(references: Tensor, heldout: Tensor, quantile: float = 0.01) -> float:
    """The k-th smallest distance from H (M, d) to R (K, d), k = floor(quantile (M + 1)) and at least 1.

    A new image of the domain undercuts it with probability k / (M + 1), which is at most ``quantile`` where M is
    1 / quantile - 1 or more.

    Raises:
        InputError: ``quantile`` is not inside (0, 1), or ``nearest`` refuses the features.
    """
    return _threshold(nearest(heldout, references)[0], quantile)


def copy_rate(samples: Tensor, references: Tensor, heldout: Tensor, quantile: float = 0.01) -> CopyRate:
    """Share of samples (N, d) no farther from R than ``copy_threshold``; a replay of the references scores 1.

    Under "samples are new images of the domain", that is exchangeable with H, the number of copies has a
    beta-binomial distribution, whatever that of the distances is, if none are tied: the p-value is exact, and allows
    for a threshold that few held-out images set.

    Raises:
        InputError: as ``copy_threshold``.
    """
    known, _ = nearest(heldout, references)
    threshold = _threshold(known, quantile)
    distance, _ = nearest(samples, references)
    count, total, rank = int((distance <= threshold).sum()), len(distance), int((known <= threshold).sum())
    p_value = float(betabinom.sf(count - 1, total, rank, len(known) + 1 - rank))
    found = wilson(count, total)
    return CopyRate(count, total, found.share, found.low, found.high, rank / (len(known) + 1), p_value)


def _threshold(distances: Tensor, quantile: float) -> float:
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}: give a share between 0 and 1, e.g. 0.01")
    rank = max(1, attained_rank(len(distances), quantile))
    return float(distances.kthvalue(rank).values)
