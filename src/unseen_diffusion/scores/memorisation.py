"""Is a sample new? Distances to the references, measured against those of held-out images."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.scores.inputs import as_pair, rows_at_a_time
from unseen_diffusion.scores.intervals import Proportion, wilson


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


def copy_threshold(references: Tensor, heldout: Tensor, quantile: float = 0.01) -> float:
    """The distance to R (M, d) that only a share ``quantile`` of the held-out images H (K, d) undercuts.

    Raises:
        InputError: ``quantile`` is not inside (0, 1), or ``nearest`` refuses the features.
    """
    if not 0 < quantile < 1:
        raise InputError(f"quantile={quantile}: give a share between 0 and 1, e.g. 0.01")
    return float(torch.quantile(nearest(heldout, references)[0], quantile))


def copy_rate(samples: Tensor, references: Tensor, heldout: Tensor, quantile: float = 0.01) -> Proportion:
    """Share of samples (N, d) no farther from R than the ``quantile`` of the distances H -> R.

    New images of the same distribution score about ``quantile``, a replay of the references scores 1. The
    interval is Wilson's.

    Raises:
        InputError: as ``copy_threshold``.
    """
    threshold = copy_threshold(references, heldout, quantile)
    distance, _ = nearest(samples, references)
    return wilson(int((distance <= threshold).sum()), len(distance))
