"""Priors with more than one centre: Gaussian mixtures and kernel densities."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from scipy.optimize import minimize_scalar
from torch import Tensor

from unseen_diffusion.priors.base import FittedPrior, IdLatents, Latents, Prior, SphericalRest
from unseen_diffusion.priors.gaussian import LowRankNormal, leading, span
from unseen_diffusion.priors.rank import chosen_rank, least_references
from unseen_diffusion.utils.checked import Count, Positive, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator, normal_rows

# Least variance of a component along a whitened axis: below it, components close in on single references.
FLOOR = 1e-2
# Least bandwidth searched, relative to the references' own scale.
NARROWEST = 1e-3


@dataclass(frozen=True)
class CentredCoordinates:
    """y = centre_j + scale_j e with j drawn by weight; ``centres`` and ``scales`` (J, q), ``weights`` (J,)."""

    weights: Tensor
    centres: Tensor
    scales: Tensor

    def __call__(self, noise: Float[Tensor, "b q"], u: Float[Tensor, " b"]) -> Float[Tensor, "b q"]:
        chosen = torch.searchsorted(self.weights.cumsum(0), u.double(), right=True).clamp(max=len(self.weights) - 1)
        return self.centres[chosen] + self.scales[chosen] * noise


def uniforms(seed: int, purpose: str, indices: Sequence[int]) -> Float[Tensor, " b"]:
    """One number in [0, 1) per index, float64, from the stream (seed, purpose, index)."""
    draws = [torch.rand((), dtype=torch.float64, generator=generator(seed, purpose, index)) for index in indices]
    return torch.stack(draws) if draws else torch.empty(0, dtype=torch.float64)


@dataclass(frozen=True)
class MixtureNormal(FittedPrior):
    """m + V^T (centre_j + scale_j e) + s (I - V V^T) z, component j drawn by weight.

    Attributes:
        mean: (C, H, W).
        directions: V (q, d), orthonormal rows.
        weights: (J,), of sum 1.
        centres: (J, q).
        scales: (J, q) standard deviations along the directions.
        residual_scale: () of all other directions.
    """

    mean: Tensor
    directions: Tensor
    weights: Tensor
    centres: Tensor
    scales: Tensor
    residual_scale: Tensor

    @property
    def coordinates(self) -> CentredCoordinates:
        """The mixture along the directions."""
        return CentredCoordinates(self.weights, self.centres, self.scales)

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices)).double()
        along = z.flatten(1) @ self.directions.T
        drawn = self.coordinates(along, uniforms(seed, "component", indices))
        shaped = (drawn - self.residual_scale * along) @ self.directions
        return (self.mean + self.residual_scale * z + shaped.reshape(z.shape)).float()

    def spherical(self) -> SphericalRest:
        mean = self.mean.flatten()
        return SphericalRest(mean, self.directions, None, float(self.residual_scale), self.coordinates)

    def contains_references(self, count: int) -> bool:
        """True if every reference has its own centre, from which its latent can be computed."""
        return len(self.centres) >= count and bool(self.centres.any())


@settings("prior")
class InSubspace(Prior):
    """Base class of densities in the leading ``rank`` directions; the rest is isotropic, as in ``LowRank``."""

    rank: Count | Literal["auto"] = 30
    """number of leading directions; auto: the one with the greatest likelihood of held-out references"""

    fitted: ClassVar = MixtureNormal
    spherical: ClassVar = True

    @property
    def minimum_references(self) -> int:
        return least_references(self.rank)

    def _whitened(self, latents: Latents) -> tuple[LowRankNormal, Tensor]:
        """Probabilistic PCA, and the references' coordinates (N, q) in units of its scales.

        Raises:
            InputError: a direction without variance.
        """
        mean, residuals = self.residuals(latents)
        flat = residuals.flatten(1)
        fitted = leading(mean, residuals, chosen_rank(self.rank, flat))
        if float(fitted.scales[-1]) <= 1e-6 * float(fitted.scales[0]):
            raise InputError(f"prior.rank={self.rank}: the references vary in fewer directions; give a lower rank")
        return fitted, flat @ fitted.directions.T / fitted.scales


@settings("prior")
class Mixture(InSubspace):
    """A Gaussian mixture in the leading ``rank`` directions, isotropic beyond (EM, diagonal covariances).

    The number of components is that of the lowest BIC (Schwarz 1978): at most ``components``, and at most half the
    number of references. One component is ``LowRank``. The mixture keeps the references' mean, and their variance along
    every leading direction.
    Components cannot be narrower than a tenth of the references' own spread, or they would replay references.
    """

    components: Count = 8
    """largest number of components; the lowest BIC chooses it"""
    name: str = "gmm"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        normal, white = self._whitened(latents)
        weights, centres, variances = fit_mixture(white, min(self.components, len(white) // 2))
        whole = (weights[:, None] * (centres.square() + variances)).sum(0)
        scale = normal.scales / whole.sqrt()
        shaped = (scale * centres, scale * variances.sqrt())
        return MixtureNormal(normal.mean, normal.directions, weights, *shaped, normal.residual_scale)


def fit_mixture(points: Float[Tensor, "n q"], most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (J,), centres and variances (J, q) of the mixture of lowest BIC with 1 to ``most`` components."""
    # Slow to import, and needed here only.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    data = points.numpy()
    fits = []
    with warnings.catch_warnings():
        # An EM run that stops at its limit is still a valid mixture, and BIC judges it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for count in range(1, most + 1):
            em = GaussianMixture(count, covariance_type="diag", reg_covar=FLOOR, n_init=2, random_state=0)
            fits.append(em.fit(data))
    best = min(fits, key=lambda em: em.bic(data))
    weights, centres, variances = (torch.tensor(x) for x in (best.weights_, best.means_, best.covariances_))
    return weights / weights.sum(), centres, variances


@dataclass(frozen=True)
class KernelNormal(FittedPrior):
    """A reference chosen at random plus h z; ``latents`` (N, C, H, W), ``bandwidth`` ()."""

    latents: Tensor
    bandwidth: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.latents.shape[1:]), seed, "candidate", list(indices))
        chosen = (uniforms(seed, "component", indices) * len(self.latents)).long()
        return (self.latents[chosen].double() + self.bandwidth * z.double()).float()

    def spherical(self) -> SphericalRest:
        flat = self.latents.double().flatten(1)
        mean = flat.mean(0)
        rows, h = flat - mean, float(self.bandwidth)
        weights, _ = span(rows)
        centres = (rows @ rows.T) @ weights.T
        equal = torch.full((len(flat),), 1 / len(flat), dtype=torch.float64)
        along = CentredCoordinates(equal, centres, torch.full_like(centres, h))
        return SphericalRest(mean, rows, weights, h, along)

    def contains_references(self, count: int) -> bool:
        return True


@settings("prior")
class KernelDensity(Prior):
    """A reference plus h times white noise: the kernel density estimate of Rosenblatt and Parzen.

    As the bandwidth h goes to 0 it replays the references, and at every h its variance exceeds theirs by h^2 in each
    coordinate.
    """

    bandwidth: Positive | None = None
    """standard deviation h of the noise; null: the one with the greatest leave-one-out likelihood"""
    name: str = "kde"

    fitted: ClassVar = KernelNormal
    spherical: ClassVar = True

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        _, residuals = self.residuals(latents)
        flat = residuals.flatten(1)
        if self.bandwidth is None:
            scale = float((flat.square().sum() / ((len(flat) - 1) * flat.shape[1])).sqrt())
            h = best_bandwidth(squared_distances(flat, flat), flat.shape[1], scale)
        else:
            h = self.bandwidth
        return KernelNormal(latents.float(), torch.tensor(h, dtype=torch.float64))


@settings("prior")
class SubspaceKernelDensity(InSubspace):
    """A kernel density of the whitened leading ``rank`` coordinates, isotropic beyond.

    Coordinates sqrt(1 - h^2) y_i + h e about a reference y_i: drawn towards the mean so that the covariance stays
    that of the references (Silverman and Young 1987). h = 1 is ``LowRank``; h -> 0 replays the references' leading
    coordinates.
    """

    bandwidth: Annotated[float, Field(gt=0, le=1)] | None = None
    """bandwidth h; null: the one with the greatest leave-one-out likelihood"""
    name: str = "kde_subspace"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        normal, white = self._whitened(latents)
        h = best_shrunk_bandwidth(white) if self.bandwidth is None else self.bandwidth
        # White coordinates have variance 1 with N - 1: with N equal weights, the centres need the factor N / (N - 1).
        count = len(white)
        centres = math.sqrt((1 - h**2) * count / (count - 1)) * white * normal.scales
        scales = (h * normal.scales).expand_as(centres).contiguous()
        weights = torch.full((count,), 1 / count, dtype=torch.float64)
        return MixtureNormal(normal.mean, normal.directions, weights, centres, scales, normal.residual_scale)


def squared_distances(points: Float[Tensor, "n d"], centres: Float[Tensor, "m d"]) -> Float[Tensor, "n m"]:
    """|x_i - y_j|^2 by inner products."""
    squares = points.square().sum(1)[:, None] + centres.square().sum(1)
    return (squares - 2 * points @ centres.T).clamp(min=0)


def left_out(squared: Float[Tensor, "n n"], h: float, d: int) -> float:
    """Mean log-density of each point under isotropic kernels of width h about all others, in d coordinates."""
    exponents = (-squared / (2 * h**2)).fill_diagonal_(-math.inf)
    inside = torch.logsumexp(exponents, 1).mean() - math.log(len(squared) - 1)
    return float(inside) - d * math.log(h) - d / 2 * math.log(2 * math.pi)


def best_bandwidth(squared: Float[Tensor, "n n"], d: int, scale: float) -> float:
    """The width of the greatest leave-one-out likelihood, between ``NARROWEST`` and 10 times ``scale``."""
    if scale <= 0:
        raise InputError("prior.bandwidth=null: the references are all alike; give a number")
    bounds = (math.log(NARROWEST * scale), math.log(10 * scale))
    return _searched(lambda log_h: -left_out(squared, math.exp(log_h), d), bounds)


def best_shrunk_bandwidth(white: Float[Tensor, "n q"]) -> float:
    """The h in (0, 1] of the greatest leave-one-out likelihood of sqrt(1 - h^2) y_i + h e."""

    def loss(log_h: float) -> float:
        h = math.exp(log_h)
        return -left_out(squared_distances(white, math.sqrt(max(0.0, 1 - h**2)) * white), h, white.shape[1])

    h = _searched(loss, (math.log(NARROWEST), 0.0))
    return 1.0 if loss(0.0) <= loss(math.log(h)) else h


def _searched(loss: Callable[[float], float], bounds: tuple[float, float]) -> float:
    """exp of the minimiser within bounds: the best of 40 points, refined between its neighbours.

    Raises:
        InputError: it is the lower end, where kernels replay the references.
    """
    points = torch.linspace(*bounds, 40, dtype=torch.float64).tolist()
    values = [loss(point) for point in points]
    best = values.index(min(values))
    if best == 0:
        raise InputError("prior.bandwidth=null: references repeat each other, and the best width is 0; give a number")
    inner = (points[best - 1], points[min(best + 1, len(points) - 1)])
    return math.exp(float(minimize_scalar(loss, bounds=inner, method="bounded", options={"xatol": 1e-6}).x))
