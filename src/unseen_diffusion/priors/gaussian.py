"""Gaussian priors: isotropic, diagonal, low rank, sample covariance, shrunk covariance, N(0, I)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.priors.base import Batches, FittedPrior, IdLatents, Latents, Prior, SphericalRest
from unseen_diffusion.priors.combination import Combination
from unseen_diffusion.priors.rank import NEGLIGIBLE, chosen_rank, least_references
from unseen_diffusion.priors.streaming import all_directions, leading_directions, moments
from unseen_diffusion.utils.checked import Count, Positive, Share, settings
from unseen_diffusion.utils.seeds import normal_rows

# Numbers per part of a batch: few enough to stay in a processor's cache between two passes.
CACHED = 1 << 16


def no_coordinates(noise: Float[Tensor, "b q"], u: Float[Tensor, " b"]) -> Float[Tensor, "b q"]:
    """Draws no coordinates, for a prior without axes."""
    return noise


@dataclass(frozen=True)
class ScaledCoordinates:
    """y_k = scale_k e_k, independent normal; ``scales`` (q,)."""

    scales: Tensor

    def __call__(self, noise: Float[Tensor, "b q"], u: Float[Tensor, " b"]) -> Float[Tensor, "b q"]:
        return noise * self.scales


@dataclass(frozen=True)
class DiagonalNormal(FittedPrior):
    """m + scale * z; ``scale`` (C, H, W), or () for all coordinates alike."""

    mean: Tensor
    scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        rows = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices))
        for part in rows.split(max(1, CACHED // self.mean.numel())):
            part.copy_(part.double().mul_(self.scale).add_(self.mean))
        return rows

    def spherical(self) -> SphericalRest | None:
        if self.scale.ndim:
            return None
        mean = self.mean.flatten()
        return SphericalRest(mean, mean.new_empty(0, len(mean)), None, float(self.scale), no_coordinates)


@settings("prior")
class Isotropic(Prior):
    """The paper's prior: mean vector and one variance, that of the residuals around the mean."""

    name: str = "isotropic"

    fitted: ClassVar = DiagonalNormal
    spherical: ClassVar = True

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> DiagonalNormal:
        mean, residuals = self.residuals(latents)
        variance = residuals.square().sum() / ((len(latents) - 1) * mean.numel())
        return DiagonalNormal(mean, variance.sqrt())

    def fit_batches(self, batches: Batches) -> FittedPrior:
        _, mean, variances = moments(self, batches)
        return DiagonalNormal(mean, variances.mean().sqrt())


@settings("prior")
class Diagonal(Prior):
    """Mean vector and one variance per coordinate."""

    name: str = "diagonal"

    fitted: ClassVar = DiagonalNormal

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self.residuals(latents)
        return DiagonalNormal(mean, (residuals.square().sum(0) / (len(latents) - 1)).sqrt())

    def fit_batches(self, batches: Batches) -> FittedPrior:
        _, mean, variances = moments(self, batches)
        return DiagonalNormal(mean, variances.sqrt())


@dataclass(frozen=True)
class LowRankNormal(FittedPrior):
    """m + V diag(s_k) V^T z + s (I - V V^T) z; ``directions`` (k, d) orthonormal rows."""

    mean: Tensor
    directions: Tensor
    scales: Tensor
    residual_scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices)).double()
        along = z.flatten(1) @ self.directions.T
        shaped = (along * (self.scales - self.residual_scale)) @ self.directions
        return (self.mean + self.residual_scale * z + shaped.reshape(z.shape)).float()

    def spherical(self) -> SphericalRest:
        along = ScaledCoordinates(self.scales)
        return SphericalRest(self.mean.flatten(), self.directions, None, float(self.residual_scale), along)


def principal(residuals: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Variances (r,), with N - 1, and orthonormal directions (r, d) of the sample covariance, r = min(N, d)."""
    _, singular, directions = torch.linalg.svd(residuals, full_matrices=False)
    return singular.square() / (len(residuals) - 1), directions


def leading(mean: Tensor, residuals: Tensor, rank: int) -> LowRankNormal:
    """Probabilistic PCA of that rank: its directions, and the mean variance of all others."""
    variances, directions = principal(residuals.flatten(1))
    rest = variances[rank:].sum() / (mean.numel() - rank)
    return LowRankNormal(mean, directions[:rank].contiguous(), variances[:rank].sqrt(), rest.sqrt())


@settings("prior")
class LowRank(Prior):
    """The ``rank`` leading eigenvectors of the sample covariance, and the mean variance of all others.

    The maximum-likelihood probabilistic PCA of Tipping and Bishop 1999, with N - 1 for N.
    """

    rank: Count | Literal["auto"] = 30
    """number of eigenvectors; auto: the one with the greatest likelihood of held-out references"""
    name: str = "low_rank"

    fitted: ClassVar = LowRankNormal
    spherical: ClassVar = True

    @property
    def minimum_references(self) -> int:
        return least_references(self.rank)

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self.residuals(latents)
        return leading(mean, residuals, chosen_rank(self.rank, residuals.flatten(1)))

    def fit_batches(self, batches: Batches) -> FittedPrior:
        if isinstance(self.rank, str):
            return super().fit_batches(batches)
        rank = self.rank
        count, mean, variances = moments(self, batches)
        values, directions = leading_directions(rank, batches, mean, count)
        left = max(0.0, float(variances.sum()) - float(values[:rank].sum()))
        rest = torch.tensor(left / (mean.numel() - rank), dtype=torch.float64)
        return LowRankNormal(mean, directions[:rank].contiguous(), values[:rank].sqrt(), rest.sqrt())


@dataclass(frozen=True)
class EmpiricalNormal(FittedPrior):
    """m + X^T w / sqrt(N - 1), w ~ N(0, I_N): covariance exactly X^T X / (N - 1); ``residuals`` X (N, C, H, W)."""

    mean: Tensor
    residuals: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        count = len(self.residuals)
        w = normal_rows((count,), seed, "candidate", list(indices)).double()
        return (self.mean + torch.einsum("bn,nchw->bchw", w, self.residuals) / math.sqrt(count - 1)).float()

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        count = len(self.residuals)
        w = normal_rows((count,), seed, "candidate", list(indices)).double() / math.sqrt(count - 1)
        return Combination(torch.arange(count).expand(len(w), -1), w, centred=True)

    def spherical(self) -> SphericalRest:
        rows = self.residuals.flatten(1)
        weights, variances = span(rows)
        return SphericalRest(self.mean.flatten(), rows, weights, 0.0, ScaledCoordinates(variances.sqrt()))

    def contains_references(self, count: int) -> bool:
        return True


def span(residuals: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor]:
    """Weights (q, n) of the rows that give orthonormal principal axes, and the variances (q,) along them.

    From the Gram matrix, without forming the axes; directions whose variance is rounding error are left out.
    """
    squares, vectors = torch.linalg.eigh(residuals @ residuals.T)
    kept = squares > NEGLIGIBLE * squares[-1]
    squares, vectors = squares[kept], vectors[:, kept]
    return (vectors / squares.sqrt()).T.contiguous(), squares / (len(residuals) - 1)


@settings("prior")
class SampleCovariance(Prior):
    """Mean vector and the full sample covariance, of rank N - 1 at most."""

    name: str = "sample_covariance"

    fitted: ClassVar = EmpiricalNormal
    spherical: ClassVar = True

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        return EmpiricalNormal(*self.residuals(latents))

    def fit_batches(self, batches: Batches) -> FittedPrior:
        count, mean, _ = moments(self, batches)
        values, directions = all_directions(self, batches, mean, count)
        kept = values > NEGLIGIBLE * values[0]
        return LowRankNormal(mean, directions[kept].contiguous(), values[kept].sqrt(), torch.zeros_like(values[0]))


def ledoit_wolf(residuals: Float[Tensor, "n d"]) -> float:
    """The optimal share of the scaled identity, Ledoit and Wolf 2004 (J. Multivariate Anal. 88), in [0, 1].

    With S = X^T X / N, mu = tr(S) / d, a^2 = |S - mu I|^2 / d and b^2 = sum |x x^T - S|^2 / (N^2 d): b^2 / a^2.
    All of it follows from the Gram matrix X X^T. ``residuals`` have mean zero.
    """
    count, d = residuals.shape
    gram = residuals @ residuals.T
    square = gram.square().sum() / count**2
    spread = square - (gram.trace() / count) ** 2 / d
    noise = (gram.diagonal().square().sum() / count - square) / count
    return float(noise.clamp(min=0) / spread) if float(spread) > float(noise) else 1.0


@settings("prior")
class Shrinkage(Prior):
    """(1 - a) S + a tr(S) / d I: the sample covariance S (N - 1) shrunk towards a scaled identity."""

    amount: Share | None = None
    """share a of the identity; null takes Ledoit and Wolf's estimate of the best one in mean squared error"""
    name: str = "shrinkage"

    fitted: ClassVar = LowRankNormal
    spherical: ClassVar = True

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self.residuals(latents)
        flat = residuals.flatten(1)
        amount = ledoit_wolf(flat) if self.amount is None else self.amount
        variances, directions = principal(flat)
        rest = amount * variances.sum() / mean.numel()
        return LowRankNormal(mean, directions, ((1 - amount) * variances + rest).sqrt(), rest.sqrt())

    def fit_batches(self, batches: Batches) -> FittedPrior:
        if self.amount is None:
            return super().fit_batches(batches)
        count, mean, _ = moments(self, batches)
        values, directions = all_directions(self, batches, mean, count)
        rest = self.amount * values.sum() / mean.numel()
        return LowRankNormal(mean, directions, ((1 - self.amount) * values + rest).sqrt(), rest.sqrt())


@dataclass(frozen=True)
class StandardNormal(FittedPrior):
    """N(0, std^2 I); ``shape`` (3,) int64 of a latent, ``std`` () float64."""

    shape: Tensor
    std: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        noise = normal_rows(tuple(self.shape.tolist()), seed, "candidate", list(indices))
        return noise * float(self.std)

    def spherical(self) -> SphericalRest:
        mean = torch.zeros(int(self.shape.prod()), dtype=torch.float64)
        return SphericalRest(mean, mean.new_empty(0, len(mean)), None, float(self.std), no_coordinates)


@settings("prior")
class Standard(Prior):
    """N(0, std^2 I), as in ordinary sampling; ignores the references."""

    name: str = "standard"
    std: Positive = 1.0
    """standard deviation of a latent's coordinates; a run sets that of the schedule's states at the mixing step"""

    fitted: ClassVar = StandardNormal
    spherical: ClassVar = True

    @property
    def minimum_references(self) -> int:
        return 0

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        self.check_latents(latents)
        return StandardNormal(torch.tensor(latents.shape[1:]), torch.tensor(self.std, dtype=torch.float64))

    def at_step(self, schedule: Schedule, t: float) -> Prior:
        """N(0, I) as wide as the schedule's states at ``t``: sqrt(alpha^2 + sigma^2), 1 if variance-preserving."""
        return replace(self, std=schedule.state_std(t))
