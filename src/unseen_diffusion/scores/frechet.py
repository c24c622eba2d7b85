"""Frechet distance of Gaussians fitted to two sets of features (FID: Heusel et al. 2017, arXiv 1706.08500).

With square-root factors A^T A = S1 and B^T B = S2 of the covariances, tr (S1 S2)^(1/2) is the nuclear norm
(sum of singular values) of A B^T. The centred features themselves are such factors, so a few images in many
dimensions need no d x d matrix, no matrix square root and no regularisation.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from unseen_diffusion.scores.inputs import as_features, as_pair
from unseen_diffusion.utils.errors import InputError

EXACT_COUNT = 4096  # up to this many images are factored at once; larger sets are streamed
_BATCH = 4096


@dataclass(frozen=True)
class FeatureStatistics:
    """Moments of any number of images in constant memory, float64.

    The mean is stored as its difference from an image of the set: far from the origin, every batch would cost a plain
    mean some of the digits that the distance of two sets needs.

    Attributes:
        count: images.
        origin: the first image, or any fixed point near the images (d,).
        offset: mean of the images minus ``origin`` (d,).
        scatter: sum_i (x_i - mean)(x_i - mean)^T (d, d).
    """

    count: int
    origin: Tensor
    offset: Tensor
    scatter: Tensor

    @property
    def mean(self) -> Tensor:
        """Mean of the images (d,)."""
        return self.origin + self.offset

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> "FeatureStatistics":
        """Statistics of all images in an iterable of feature batches (n, d).

        Raises:
            InputError: there is no batch, one is empty or not finite, or the dimensions differ.
        """
        statistics: FeatureStatistics | None = None
        for batch in batches:
            statistics = cls.of_batch(batch) if statistics is None else statistics.update(batch)
        if statistics is None:
            raise InputError("no features: statistics need at least one batch")
        return statistics

    @classmethod
    def of_batch(cls, features: Tensor) -> "FeatureStatistics":
        """Statistics of one batch (n, d).

        Raises:
            InputError: no features, or features that are not finite.
        """
        features = as_features(features, "the batch", 1)
        relative = features - features[0]
        offset = relative.mean(0)
        centred = relative - offset
        return cls(len(features), features[0].clone(), offset, centred.T @ centred)

    def update(self, features: Tensor) -> "FeatureStatistics":
        """These statistics with a batch (n, d) added.

        Raises:
            InputError: no features, features that are not finite, or of another dimension.
        """
        return self.merge(FeatureStatistics.of_batch(features))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of the union, by the pairwise update of Chan, Golub and LeVeque 1979 (no cancellation).

        Raises:
            InputError: the dimensions differ.
        """
        if len(self.origin) != len(other.origin):
            raise InputError(
                f"statistics of {len(self.origin)} and of {len(other.origin)} dimensions cannot be merged; "
                "extract all images with the same extractor"
            )
        count = self.count + other.count
        shift = _shift(other, self)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        offset = self.offset + shift * (other.count / count)
        return FeatureStatistics(count, self.origin, offset, self.scatter + other.scatter + between)

    def factor(self) -> Tensor:
        """F (d, d) with F^T F the unbiased covariance, from its eigenvectors.

        Eigenvalues within rounding of zero count as zero: their square roots would not be small.
        """
        values, vectors = torch.linalg.eigh(self.scatter / (self.count - 1))
        noise = values[-1].clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
        return torch.where(values > noise, values, 0).sqrt()[:, None] * vectors.T


def frechet_distance(x: Tensor, y: Tensor) -> float:
    """FID of features x (N, d) and y (M, d): |mx - my|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), at least 0.

    Each set is factored exactly up to ``EXACT_COUNT`` images and from its streamed covariance above. The
    covariances are the unbiased ones (divided by N - 1), as in the reference implementation.

    Raises:
        InputError: fewer than 2 images, differing dimensions, or features that are not finite.
    """
    x, y = as_pair(x, y, ("the first set", "the second set"), 2)
    (offset_x, factor_x), (offset_y, factor_y) = (_offset_and_factor(features, y[0]) for features in (x, y))
    return _distance(offset_x - offset_y, factor_x, factor_y)


def frechet_from_statistics(x: FeatureStatistics, y: FeatureStatistics) -> float:
    """``frechet_distance`` from streamed statistics.

    Raises:
        InputError: fewer than 2 images in a set, or differing dimensions.
    """
    for statistics in (x, y):
        if statistics.count < 2:
            raise InputError(f"statistics of {statistics.count} image(s): this score needs at least 2")
    if len(x.origin) != len(y.origin):
        raise InputError(
            f"statistics of {len(x.origin)} and of {len(y.origin)} dimensions; use the same extractor for both"
        )
    return _distance(_shift(x, y), x.factor(), y.factor())


def _shift(x: FeatureStatistics, y: FeatureStatistics) -> Tensor:
    """Difference of the means (d,), precise relative to that difference even far from the origin."""
    return (x.origin - y.origin) + (x.offset - y.offset)


def _offset_and_factor(x: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Mean minus origin (d,) and F (k, d), k <= d, with F^T F the unbiased covariance of features (N, d)."""
    if len(x) > EXACT_COUNT:
        statistics = FeatureStatistics.of(x.split(_BATCH))
        return statistics.origin - origin + statistics.offset, statistics.factor()
    relative = x - origin
    offset = relative.mean(0)
    centred = (relative - offset) / sqrt(len(x) - 1)
    if len(x) > x.shape[1]:  # the triangle of the QR decomposition is a smaller factor of the same covariance
        centred = torch.linalg.qr(centred, mode="r").R
    return offset, centred


def _distance(shift: Tensor, factor_x: Tensor, factor_y: Tensor) -> float:
    traces = factor_x.square().sum() + factor_y.square().sum()
    overlap = torch.linalg.svdvals(factor_x @ factor_y.T).sum()
    return max(0.0, float(shift.square().sum() + traces - 2 * overlap))
