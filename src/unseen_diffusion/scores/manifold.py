"""Fidelity and coverage by nearest neighbours.

Precision and recall: Kynkaanniemi et al. 2019, arXiv 1904.06991. Density and coverage: Naeem et al. 2020, arXiv
2002.09797.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair
from unseen_diffusion.scores.neighbours import nearer, neighbour_squares, squared_distances


class Manifold(NamedTuple):
    """Shares and counts of samples and target images inside each other's balls (see ``prdc``).

    Attributes:
        precision: share of samples inside a ball of the target, in [0, 1].
        recall: share of target images inside a ball of the samples, in [0, 1].
        density: target balls that a sample lies in, over k; 1 in the mean for equal distributions, up to M / k.
        coverage: share of target balls that hold a sample, in [0, 1].
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(samples: Tensor, target: Tensor, k: int = 5, block: int | None = None) -> Manifold:
    """Precision, recall, density and coverage of samples (N, d) against target images H (M, d).

    Each image of a set has a ball that reaches to its k-th nearest neighbour in that set, surface excluded.

    Args:
        samples: features (N, d), N > k.
        target: features (M, d), M > k.
        k: the neighbour at the radius of a ball.
        block: rows of the distance matrix in memory at a time; no result depends on it.

    Raises:
        InputError: k or fewer images in a set, differing dimensions, or features that are not finite.
    """
    samples, target = as_pair(samples, target, ("the samples", "the target images"), k + 1)
    centre = target.mean(0)
    samples, target = samples - centre, target - centre
    sample_radii = neighbour_squares(samples, None, k, block)
    target_radii = neighbour_squares(target, None, k, block)
    inside = torch.zeros(len(samples), dtype=torch.int64)
    covered, recalled = torch.zeros(2, len(target), dtype=torch.bool)
    for rows, values, margin in squared_distances(samples, target, block):
        in_target = nearer(values, target_radii, margin)
        inside[rows] = in_target.sum(1)
        covered |= in_target.any(0)
        recalled |= nearer(values, sample_radii[rows, None], margin).any(0)
    return Manifold(
        precision=_share(inside > 0),
        recall=_share(recalled),
        density=int(inside.sum()) / (k * len(samples)),
        coverage=_share(covered),
    )


def _share(hits: Tensor) -> float:
    return int(hits.sum()) / len(hits)
