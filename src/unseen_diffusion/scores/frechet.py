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

from unseen_diffusion.errors import InputError
from unseen_diffusion.scores.inputs import as_features, as_pair

EXACT_COUNT = 4096  # up to this many images a set is factored as it is; more are streamed
_BATCH = 4096


@dataclass(frozen=True)
class FeatureStatistics:
    """Count, mean (d,) and scatter sum_i (x_i - mean)(x_i - mean)^T (d, d), float64: constant memory in N."""

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def empty(cls, dimension: int) -> "FeatureStatistics":
        """Statistics of no images."""
        zeros = torch.zeros(dimension, dimension, dtype=torch.float64)
        return cls(0, zeros.new_zeros(dimension), zeros)

    @classmethod
    def of(cls, batches: Iterable[Tensor]) -> "FeatureStatistics":
        """Statistics of all images in an iterable of feature batches (n, d).

        Raises:
            InputError: there is no batch, or ``update`` refuses one.
        """
        statistics: FeatureStatistics | None = None
        for batch in batches:
            statistics = (statistics or cls.empty(batch.shape[-1])).update(batch)
        if statistics is None:
            raise InputError("no features: statistics need at least one batch")
        return statistics

    def update(self, features: Tensor) -> "FeatureStatistics":
        """These statistics with a batch (n, d) added.

        Raises:
            InputError: features that are not finite, or of another dimension.
        """
        features = as_features(features, "the batch", 1)
        mean = features.mean(0)
        centred = features - mean
        return self.merge(FeatureStatistics(len(features), mean, centred.T @ centred))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of the union, by the pairwise update of Chan, Golub and LeVeque 1979 (no cancellation).

        Raises:
            InputError: the dimensions differ.
        """
        if len(self.mean) != len(other.mean):
            raise InputError(
                f"statistics of {len(self.mean)} and of {len(other.mean)} dimensions do not merge; "
                "extract all images with the same extractor"
            )
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + shift * (other.count / count), self.scatter + other.scatter + between
        )

    def factor(self) -> Tensor:
        """F (d, d) with F^T F the unbiased covariance, from its eigenvectors.

        Eigenvalues that rounding alone can produce count as zero: their square roots would not be small.
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
    return _distance(*_mean_and_factor(x), *_mean_and_factor(y))


def frechet_from_statistics(x: FeatureStatistics, y: FeatureStatistics) -> float:
    """``frechet_distance`` from streamed statistics.

    Raises:
        InputError: fewer than 2 images in a set, or differing dimensions.
    """
    for statistics in (x, y):
        if statistics.count < 2:
            raise InputError(f"statistics of {statistics.count} image(s): this score needs at least 2")
    if len(x.mean) != len(y.mean):
        raise InputError(
            f"statistics of {len(x.mean)} and of {len(y.mean)} dimensions; use the same extractor for both"
        )
    return _distance(x.mean, x.factor(), y.mean, y.factor())


def _mean_and_factor(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and F (k, d), k <= d, with F^T F the unbiased covariance of float64 features (N, d)."""
    if len(x) > EXACT_COUNT:
        statistics = FeatureStatistics.of(x.split(_BATCH))
        return statistics.mean, statistics.factor()
    mean = x.mean(0)
    centred = (x - mean) / sqrt(len(x) - 1)
    if len(x) > x.shape[1]:  # the triangle of the QR decomposition is a smaller factor of the same covariance
        centred = torch.linalg.qr(centred, mode="r").R
    return mean, centred


def _distance(mean_x: Tensor, factor_x: Tensor, mean_y: Tensor, factor_y: Tensor) -> float:
    shift = (mean_x - mean_y).square().sum()
    traces = factor_x.square().sum() + factor_y.square().sum()
    overlap = torch.linalg.svdvals(factor_x @ factor_y.T).sum()
    return max(0.0, float(shift + traces - 2 * overlap))
