"""Priors over latents at the mixing step: fit to the references' latents, then draw candidates.

A prior is a small frozen config with ``fit``; what it returns draws candidate i from the stream
(seed, "candidate", i) alone.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.seeds import generator, normal_rows

Latents = Float[Tensor, "n c h w"]
IdLatents = Float[Tensor, "m c h w"]  # of the model's own domain; as many as there are


@dataclass(frozen=True)
class FittedPrior(ABC):
    """A prior with its parameters: every field is a tensor, so that ``restore(kind, tensors)`` gives it back."""

    @abstractmethod
    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        """Candidates of these indices, float32; each depends on (seed, index) alone."""

    def tensors(self) -> dict[str, Tensor]:
        """The fitted parameters, for storage."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@runtime_checkable
class Prior(Protocol):
    """What a config of the ``prior`` group builds."""

    name: str

    @property
    def minimum_references(self) -> int:
        """Fewest references that determine the prior."""
        ...

    @property
    def id_latents(self) -> int:
        """Latents of the model's own domain that ``fit`` needs; mostly 0."""
        ...

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        """Fits to reference latents (N, C, H, W)."""
        ...


@dataclass(frozen=True)
class GaussianBase:
    """What the Gaussian priors share."""

    name: str

    @property
    def minimum_references(self) -> int:
        return 2

    @property
    def id_latents(self) -> int:
        return 0

    def _residuals(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Mean (C, H, W) and residuals (N, C, H, W) in float64."""
        require(self.name, len(latents), self.minimum_references)
        mean = latents.double().mean(0)
        return mean, latents.double() - mean


def require(name: str, count: int, minimum: int) -> None:
    """Raises InputError where a prior gets fewer references than it needs."""
    if count < minimum:
        raise InputError(f"prior={name}: {count} references, but it needs {minimum} or more; raise domain.references")


@dataclass(frozen=True)
class DiagonalNormal(FittedPrior):
    """m + scale * z; ``scale`` (C, H, W), or () for all coordinates alike."""

    mean: Tensor
    scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        z = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices))
        return (self.mean + self.scale * z.double()).float()


@dataclass(frozen=True)
class Isotropic(GaussianBase):
    """The paper's prior: mean vector and one variance, that of the residuals around the mean."""

    name: str = "isotropic"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> DiagonalNormal:
        mean, residuals = self._residuals(latents)
        variance = residuals.square().sum() / ((len(latents) - 1) * mean.numel())
        return DiagonalNormal(mean, variance.sqrt())


@dataclass(frozen=True)
class Diagonal(GaussianBase):
    """Mean vector and one variance per coordinate."""

    name: str = "diagonal"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self._residuals(latents)
        return DiagonalNormal(mean, (residuals.square().sum(0) / (len(latents) - 1)).sqrt())


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


@dataclass(frozen=True)
class LowRank(GaussianBase):
    """The ``rank`` leading eigenvectors of the sample covariance, and the mean variance of all others.

    The maximum-likelihood probabilistic PCA of Tipping and Bishop 1999, with N - 1 for N.
    """

    rank: int = 30
    name: str = "low_rank"

    @property
    def minimum_references(self) -> int:
        return self.rank + 2

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self._residuals(latents)
        if self.rank < 1 or self.rank >= mean.numel():
            raise InputError(f"prior.rank={self.rank}: give a number between 1 and {mean.numel() - 1}")
        _, singular, directions = torch.linalg.svd(residuals.flatten(1), full_matrices=False)
        variances = singular.square() / (len(latents) - 1)
        rest = variances[self.rank :].sum() / (mean.numel() - self.rank)
        leading = directions[: self.rank].contiguous()
        return LowRankNormal(mean, leading, variances[: self.rank].sqrt(), rest.sqrt())


@dataclass(frozen=True)
class EmpiricalNormal(FittedPrior):
    """m + X^T w / sqrt(N - 1), w ~ N(0, I_N): covariance exactly X^T X / (N - 1); ``residuals`` X (N, C, H, W)."""

    mean: Tensor
    residuals: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        count = len(self.residuals)
        w = normal_rows((count,), seed, "candidate", list(indices)).double()
        return (self.mean + torch.einsum("bn,nchw->bchw", w, self.residuals) / math.sqrt(count - 1)).float()


@dataclass(frozen=True)
class SampleCovariance(GaussianBase):
    """Mean vector and the full sample covariance, of rank N - 1 at most."""

    name: str = "sample_covariance"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        return EmpiricalNormal(*self._residuals(latents))


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


@dataclass(frozen=True)
class Stationary(GaussianBase):
    """Mean image, and residuals taken as a (circularly) stationary field with covariance across channels."""

    name: str = "stationary"

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        mean, residuals = self._residuals(latents)
        spectrum = torch.fft.fft2(residuals, norm="ortho")
        covariance = torch.einsum("nchw,ndhw->hwcd", spectrum, spectrum.conj()) / (len(latents) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        scaled = vectors * values.clamp(min=0).sqrt()[..., None, :]
        return StationaryNormal(mean, torch.view_as_real(scaled @ vectors.mH).contiguous())


@dataclass(frozen=True)
class StandardNormal(FittedPrior):
    """N(0, I); ``shape`` (3,) int64 of a latent."""

    shape: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        return normal_rows(tuple(self.shape.tolist()), seed, "candidate", list(indices))


@dataclass(frozen=True)
class Standard(GaussianBase):
    """N(0, I): what ordinary sampling would use, blind to the references."""

    name: str = "standard"

    @property
    def minimum_references(self) -> int:
        return 0

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        return StandardNormal(torch.tensor(latents.shape[1:]))


def slerp(a: Latents, b: Latents, u: Float[Tensor, " n"]) -> Latents:
    """Spherical interpolation (Shoemake 1985) of rows of ``a`` and ``b`` at u in [0, 1], in float64.

    Interpolates on the circle arc of the unnormalised vectors: sin((1-u) w)/sin(w) a + sin(u w)/sin(w) b with w
    the angle between them; linear where they are parallel.
    """
    x, y, u = a.double().flatten(1), b.double().flatten(1), u.double()[:, None]
    cosine = (x * y).sum(1, keepdim=True) / (x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True))
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    parallel = sine < 1e-6
    safe = torch.where(parallel, 1.0, sine)
    first = torch.where(parallel, 1 - u, ((1 - u) * angle).sin() / safe)
    second = torch.where(parallel, u, (u * angle).sin() / safe)
    return (first * x + second * y).reshape(a.shape).float()


@dataclass(frozen=True)
class SlerpReferences(FittedPrior):
    """Points on arcs between two different references, u uniform in [0, 1]."""

    latents: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        count = len(self.latents)
        pairs, positions = [], []
        for index in indices:
            rng = generator(seed, "candidate", index)
            pairs.append(torch.randperm(count, generator=rng)[:2])
            positions.append(torch.rand((), generator=rng))
        pair = torch.stack(pairs)
        return slerp(self.latents[pair[:, 0]], self.latents[pair[:, 1]], torch.stack(positions))


@dataclass(frozen=True)
class SlerpToId(FittedPrior):
    """Points on arcs from a reference to a draw from the isotropic Gaussian of the model's own domain."""

    latents: Tensor
    id_mean: Tensor
    id_scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        draws = [generator(seed, "slerp", index) for index in indices]
        rows = torch.stack([torch.randint(len(self.latents), (), generator=rng) for rng in draws])
        u = torch.stack([torch.rand((), generator=rng) for rng in draws])
        drawn = DiagonalNormal(self.id_mean, self.id_scale).sample(indices, seed)
        return slerp(self.latents[rows], drawn, u)


@dataclass(frozen=True)
class Slerp:
    """Slerp between two references, or (``towards: id``) the released code's reference-to-ID-Gaussian variant."""

    towards: str = "references"
    id_count: int = 200
    name: str = "slerp"

    def __post_init__(self) -> None:
        if self.towards not in ("references", "id"):
            raise InputError(f"prior.towards={self.towards}: choose references or id")

    @property
    def minimum_references(self) -> int:
        return 1 if self.id_latents else 2

    @property
    def id_latents(self) -> int:
        return self.id_count if self.towards == "id" else 0

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        require(self.name, len(latents), self.minimum_references)
        if not self.id_latents:
            return SlerpReferences(latents)
        if id_latents is None:
            raise InputError("prior.towards=id: needs latents of the model's own domain")
        own = Isotropic().fit(id_latents)
        return SlerpToId(latents, own.mean, own.scale)


@dataclass(frozen=True)
class ReplayedLatents(FittedPrior):
    """The references in a fixed order, again from the start when they run out."""

    latents: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        return self.latents[torch.tensor(list(indices), dtype=torch.long) % len(self.latents)]


@dataclass(frozen=True)
class Replay:
    """The cheat: the inverted references themselves. Scores almost perfectly and generates nothing new."""

    name: str = "replay"

    @property
    def minimum_references(self) -> int:
        return 1

    @property
    def id_latents(self) -> int:
        return 0

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        require(self.name, len(latents), self.minimum_references)
        return ReplayedLatents(latents)


FITTED: dict[str, type[FittedPrior]] = {
    kind.__name__: kind
    for kind in (
        DiagonalNormal,
        LowRankNormal,
        EmpiricalNormal,
        StationaryNormal,
        StandardNormal,
        SlerpReferences,
        SlerpToId,
        ReplayedLatents,
    )
}


def restore(kind: str, tensors: dict[str, Tensor]) -> FittedPrior:
    """A fitted prior from its class name and what ``tensors`` returned."""
    return FITTED[kind](**tensors)
