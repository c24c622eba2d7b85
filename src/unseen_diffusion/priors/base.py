"""What every prior is: a small frozen config with ``fit``, and a fitted object that draws candidates.

Candidate i belongs to the streams (seed, purpose, i) alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

Latents = Float[Tensor, "n c h w"]
IdLatents = Float[Tensor, "m c h w"]  # of the model's own domain; as many as there are


@runtime_checkable
class Coordinates(Protocol):
    """Draws of a prior's coordinates along its axes."""

    def __call__(self, noise: Float[Tensor, "b q"], u: Float[Tensor, " b"]) -> Float[Tensor, "b q"]:
        """From standard normal ``noise`` and, for what is discrete, ``u`` uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class SphericalRest:
    """c = mean + y axes + scale e: y along q orthonormal axes, e ~ N(0, 1) on their orthogonal complement.

    The form behind the exact shortcut for rejection. The axes are ``weights @ rows`` (or ``rows`` themselves), so
    that axes spanned by many rows need not be formed.

    Attributes:
        mean: (d,) float64.
        rows: (p, d) float64.
        weights: (q, p) float64, or None where the rows are the axes.
        scale: standard deviation of the rest, 0 where there is none.
        coordinates: draws y.
    """

    mean: Tensor
    rows: Tensor
    weights: Tensor | None
    scale: float
    coordinates: Coordinates

    def along(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n q"]:
        """Coordinates of vectors along the axes."""
        products = vectors @ self.rows.T
        return products if self.weights is None else products @ self.weights.T

    def combine(self, coordinates: Float[Tensor, "n q"]) -> Float[Tensor, "n d"]:
        """The vectors with these coordinates."""
        return (coordinates if self.weights is None else coordinates @ self.weights) @ self.rows


@dataclass(frozen=True)
class FittedPrior(ABC):
    """A prior with its parameters: every field is a tensor, so that ``restore(kind, tensors)`` gives it back."""

    @abstractmethod
    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        """Candidates of these indices, float32; each depends on (seed, index) alone."""

    def spherical(self) -> "SphericalRest | None":
        """The prior as a few coordinates and a spherical rest; None where its rest is not spherical."""
        return None

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
