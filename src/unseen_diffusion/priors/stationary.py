"""Stationary fields: per-frequency covariance across channels, alone or beside leading directions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from unseen_diffusion.priors.base import FittedPrior, IdLatents, Latents, Prior
from unseen_diffusion.priors.gaussian import principal
from unseen_diffusion.priors.rank import NEGLIGIBLE, chosen_rank, least_references
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.seeds import normal_rows


@dataclass(frozen=True)
class StationaryNormal(FittedPrior):
    """m + F^-1 [S(f)^(1/2) F z]; ``roots`` (H, W, C, C, 2) float64: S(f)^(1/2) per 2-D frequency, as real pairs."""

    mean: Tensor
    roots: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices)).double()
        spectrum = torch.fft.fft2(z, norm="ortho")
        shaped = torch.einsum("hwcd,bdhw->bchw", torch.view_as_complex(self.roots), spectrum)
        return (self.mean + torch.fft.ifft2(shaped, norm="ortho").real).float()


def cross_spectrum(residuals: Tensor) -> Tensor:
    """E[F x F x^*] per frequency, with N - 1: (H, W, C, C) complex128 of residuals (N, C, H, W)."""
    spectrum = torch.fft.fft2(residuals, norm="ortho")
    return torch.einsum("nchw,ndhw->hwcd", spectrum, spectrum.conj()) / (len(residuals) - 1)


@settings("prior")
class Stationary(Prior):
    """Mean image, and residuals taken as a (circularly) stationary field with covariance across channels."""

    name: str = "stationary"

    fitted: ClassVar = StationaryNormal

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self.residuals(latents)
        values, vectors = torch.linalg.eigh(cross_spectrum(residuals))
        scaled = vectors * values.clamp(min=0).sqrt()[..., None, :]
        return StationaryNormal(mean, torch.view_as_real(scaled @ vectors.mH).contiguous())


@dataclass(frozen=True)
class StationaryLowRankNormal(FittedPrior):
    """m + T^(1/2) y with y a low-rank normal in whitened coordinates.

    Attributes:
        mean: (C, H, W).
        roots: (H, W, C, C, 2) float64: T(f)^(1/2) per frequency, as real pairs.
        directions: (k, d) orthonormal rows in whitened coordinates.
        scales: (k,) standard deviations along them.
        residual_scale: () of all other whitened directions.
    """

    mean: Tensor
    roots: Tensor
    directions: Tensor
    scales: Tensor
    residual_scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices)).double()
        along = z.flatten(1) @ self.directions.T
        shaped = (along * (self.scales - self.residual_scale)) @ self.directions
        y = self.residual_scale * z + shaped.reshape(z.shape)
        return (self.mean + filtered(y, torch.view_as_complex(self.roots))).float()


def filtered(fields: Tensor, response: Tensor) -> Tensor:
    """F^-1 [response(f) F x] of real fields (N, C, H, W); ``response`` (H, W, C, C) with response(-f) its conjugate."""
    spectrum = torch.fft.fft2(fields, norm="ortho")
    return torch.fft.ifft2(torch.einsum("hwcd,bdhw->bchw", response, spectrum), norm="ortho").real


@settings("prior")
class StationaryLowRank(Prior):
    """Sigma = T^(1/2) (V diag(l_k) V^T + s^2 (I - V V^T)) T^(1/2): a stationary field plus what it misses.

    T is the stationary covariance of ``Stationary``. The residuals are whitened with T^(-1/2) (its pseudo-inverse:
    frequencies and colours without power stay at zero), and probabilistic PCA with ``rank`` directions is fitted to the
    result. For a stationary field the result is white noise; for a stack of fixed patterns, the patterns remain. With
    rank ``auto``, the held-out likelihood is that in whitened coordinates; T is estimated once, from all.
    """

    rank: Count | Literal["auto"] = 30
    """number of leading directions; auto: the one with the greatest likelihood of held-out references"""
    name: str = "stationary_low_rank"

    fitted: ClassVar = StationaryLowRankNormal

    @property
    def minimum_references(self) -> int:
        return least_references(self.rank)

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self.residuals(latents)
        values, vectors = torch.linalg.eigh(cross_spectrum(residuals))
        powered = values > NEGLIGIBLE * values.max()
        roots = torch.where(powered, values, 0).sqrt()
        inverse = torch.where(powered, 1 / roots, 0)
        white = filtered(residuals, (vectors * inverse[..., None, :]) @ vectors.mH).flatten(1)
        dimension = int(powered.sum())
        rank = chosen_rank(self.rank, white, dimension)
        variances, directions = principal(white)
        rest = variances[rank:].sum() / (dimension - rank)
        response = torch.view_as_real((vectors * roots[..., None, :]) @ vectors.mH).contiguous()
        leading = directions[:rank].contiguous()
        return StationaryLowRankNormal(mean, response, leading, variances[:rank].sqrt(), rest.sqrt())
