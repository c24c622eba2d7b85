"""CMMD (Jayasumana et al. 2024, arXiv 2401.09603): MMD^2 with a Gaussian kernel between CLIP embeddings, times 1000.

As in the authors' release, the means include an image's kernel with itself: the value is positive even for equal
distributions, by about 1000 (1 - mean kernel) (1 / N + 1 / M), so compare sets of equal size.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair, rows_at_a_time
from unseen_diffusion.scores.metrics import NEAR, Metric
from unseen_diffusion.scores.suite import DomainViews, Views
from unseen_diffusion.utils.checked import Positive, settings

SCALE = 1000


def cmmd(x: Tensor, y: Tensor, sigma: float = 10.0, block: int | None = None) -> float:
    """1000 (mean k(x, x') + mean k(y, y') - 2 mean k(x, y)), k = exp(-|x - y|^2 / (2 sigma^2)), over all pairs.

    Args:
        x: embeddings (N, d) of unit norm.
        y: embeddings (M, d) of unit norm.
        sigma: width of the kernel.
        block: rows of the kernel in memory at a time; no result depends on it beyond rounding.

    Raises:
        InputError: no images, differing dimensions, or features that are not finite.
    """
    x, y = as_pair(x, y, ("the samples", "the target images"), 1)
    within = _mean_kernel(x, x, sigma, block) + _mean_kernel(y, y, sigma, block)
    return SCALE * (within - 2 * _mean_kernel(x, y, sigma, block))


def _mean_kernel(x: Tensor, y: Tensor, sigma: float, block: int | None) -> float:
    total, norms = 0.0, y.square().sum(1)
    for rows in x.split(rows_at_a_time(block, len(y))):
        squares = rows.square().sum(1, keepdim=True) + norms - 2 * rows @ y.T
        total += float(torch.exp(-squares / (2 * sigma**2)).sum())
    return total / (len(x) * len(y))


@settings("scores.extra.cmmd")
class Cmmd:
    """CMMD against the held-out images; published with features=clip."""

    columns: ClassVar[Mapping[str, Metric]] = {"cmmd": Metric("CMMD", "CMMD x1000", "lower", "number", NEAR)}
    sigma: Positive
    """width of the Gaussian kernel; 10 as published, for embeddings of unit norm"""

    def __call__(self, samples: Views, domain: DomainViews) -> Mapping[str, float]:
        return {"cmmd": cmmd(samples.features, domain.target.features, self.sigma)}
