"""PQMass (Lemos et al. 2024, arXiv 2402.04355): a test that two sets of features have the same distribution.

Some images of both sets divide the space into regions: each other image belongs to the nearest of them. Pearson's
chi-squared test compares how many images of the two sets lie in each region.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from scipy.stats import chi2_contingency
from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair
from unseen_diffusion.scores.intervals import combined_p
from unseen_diffusion.scores.metrics import NEAR, Metric
from unseen_diffusion.scores.suite import DomainViews, Views
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def region_p(x: Tensor, y: Tensor, centres: Tensor) -> float:
    """P-value of Pearson's test for the counts of x (N, d) and y (M, d) in the regions nearest to ``centres`` (K, d).

    Regions without any image are left out, and there is no correction for continuity. A single region tells nothing: 1.
    """
    nearest = [torch.cdist(part, centres).argmin(1).bincount(minlength=len(centres)) for part in (x, y)]
    counts = torch.stack(nearest)
    counts = counts[:, counts.sum(0) > 0]
    return float(chi2_contingency(counts.numpy(), correction=False).pvalue) if counts.shape[1] > 1 else 1.0


def pqmass(x: Tensor, y: Tensor, regions: int = 100, repeats: int = 20, seed: int = 0) -> float:
    """P-value of "x and y have the same distribution", over several random divisions into regions.

    The centres are images of both sets at random, and are not counted themselves. The p-values of the divisions depend
    on each other: twice their median is a p-value (Vovk and Wang 2020).

    Args:
        x: features (N, d).
        y: features (M, d).
        regions: K, at most half of all images.
        repeats: number of divisions.
        seed: division i is a function of (seed, i).

    Raises:
        InputError: too few images for the regions, differing dimensions, or features that are not finite.
    """
    x, y = as_pair(x, y, ("the samples", "the target images"), 2)
    total = len(x) + len(y)
    if not 2 <= regions <= total // 2:
        raise InputError(f"regions={regions}: {total} images allow 2 to {total // 2}; give a number in this range")
    pooled, found = torch.cat([x, y]), []
    for index in range(repeats):
        order = torch.randperm(total, generator=generator(seed, "regions", index))
        rest = order[regions:]
        parts = pooled[rest[rest < len(x)]], pooled[rest[rest >= len(x)]]
        if min(map(len, parts)) == 0:
            raise InputError(f"regions={regions}: they leave no image of one set; give a smaller number")
        found.append(region_p(*parts, pooled[order[:regions]]))
    return combined_p(found)


@settings("scores.extra.pqmass")
class PQMass:
    """PQMass against the held-out images, in the run's features."""

    columns: ClassVar[Mapping[str, Metric]] = {"pqmass": Metric("PQM p", "PQMass, p-value", "", "p", NEAR)}
    regions: Count
    """regions into which the features are divided; at most half of all images"""
    repeats: Count
    """random divisions behind the p-value"""

    def __call__(self, samples: Views, domain: DomainViews) -> Mapping[str, float]:
        target = domain.target.features
        regions = min(self.regions, (len(samples.features) + len(target)) // 2)
        return {"pqmass": pqmass(samples.features, target, regions, self.repeats)}
