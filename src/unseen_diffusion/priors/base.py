"""The base classes of priors: a checked config with ``fit``, and a fitted prior that draws candidates.

Candidate i depends on the random streams (seed, purpose, i) alone. A new prior is one file with two classes::

    @settings("prior")
    class Wide(Prior):
        fitted: ClassVar = WideNormal  # whose fields are tensors

        def fit(self, latents, id_latents=None): ...
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.priors.combination import Combination
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.checks import is_finite, require_finite
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

Latents = Float[Tensor, "n c h w"]
IdLatents = Float[Tensor, "m c h w"]  # latents of the base model's own domain; any number
REMEDY = "invert the references again with model.dtype=float32"  # for latents that are not finite
Batches = Callable[[], Iterable[Latents]]  # returns the same batches at every call


@runtime_checkable
class Coordinates(Protocol):
    """Draws of a prior's coordinates along its axes."""

    def __call__(self, noise: Float[Tensor, "b q"], u: Float[Tensor, " b"]) -> Float[Tensor, "b q"]:
        """Draws from standard normal ``noise`` and, for discrete choices, ``u`` uniform in [0, 1)."""
        ...


@dataclass(frozen=True)
class SphericalRest:
    """c = mean + y axes + scale e: y along q orthonormal axes, e ~ N(0, 1) on their orthogonal complement.

    The exact shortcut for rejection needs a prior in this form. The axes are ``weights @ rows`` (or ``rows``
    themselves), so that axes spanned by many rows need not be formed.

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
    """A prior with its parameters. Every field is a tensor, so that ``tensors`` and ``Prior.restore`` store it."""

    @abstractmethod
    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        """Candidates of these indices, float32; each depends on (seed, index) alone."""

    def spherical(self) -> SphericalRest | None:
        """The prior as a few coordinates and a spherical rest; None where its rest is not spherical."""
        return None

    def combination(self, indices: Sequence[int], seed: int) -> Combination | None:
        """The references and weights that the candidates of these indices consist of; None where they are no such sums.

        ``sample`` is this combination of the references' latents, up to rounding.
        """
        return None

    def contains_references(self, count: int) -> bool:
        """Whether the latents of the ``count`` fitted references can be computed from its parameters."""
        return False

    def tensors(self) -> dict[str, Tensor]:
        """The fitted parameters, for storage."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@settings("prior")
class Prior(ABC):
    """A prior before it is fitted, as a config of the ``prior`` group describes it."""

    name: str
    """label in tables and messages"""

    fitted: ClassVar[type[FittedPrior]]
    """the class that ``fit`` returns; ``restore`` rebuilds it from stored tensors"""
    spherical: ClassVar[bool] = False
    """whether the fitted prior has a spherical rest, which rejection.route=exact_statistics needs"""
    random: ClassVar[bool] = True
    """whether candidates are random draws; False where they are the references"""

    @property
    def minimum_references(self) -> int:
        """Fewest references that determine the prior."""
        return 2

    @property
    def id_latents(self) -> int:
        """Latents of the base model's own domain that ``fit`` needs; mostly 0."""
        return 0

    @abstractmethod
    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        """Fits to reference latents (N, C, H, W)."""

    def fit_batches(self, batches: Batches) -> FittedPrior:
        """Fits to all latents in ``batches``, never holding more than one batch; most priors cannot.

        Raises:
            InputError: this prior cannot.
        """
        raise InputError(
            f"prior={self.name}: cannot be fitted from a stream; "
            "choose isotropic, diagonal, sample_covariance, or low_rank or shrinkage with a number"
        )

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedPrior:
        """Rebuilds the fitted prior from its stored ``tensors``."""
        return self.fitted(**tensors)

    def at_step(self, schedule: Schedule, t: float) -> "Prior":
        """The prior for mixing step ``t``; unchanged for priors that are fitted to latents of that step."""
        return self

    def check_latents(self, latents: Latents) -> None:
        """Checks the references that the prior is fitted to.

        Raises:
            InputError: fewer than the prior needs, or latents that are not finite.
        """
        require(self.name, len(latents), self.minimum_references)
        require_finite(f"prior={self.name}: latents", latents, REMEDY)

    def residuals(self, latents: Latents) -> tuple[Tensor, Tensor]:
        """Mean (C, H, W) and residuals (N, C, H, W) of the references in float64.

        Raises:
            InputError: fewer references than the prior needs, or latents that are not finite.
        """
        self.check_latents(latents)
        mean = latents.double().mean(0)
        return mean, latents.double() - mean


def require_fitted(name: str, fitted: FittedPrior) -> None:
    """Checks the parameters of a fitted prior.

    Raises:
        InputError: one of them is not finite.
    """
    for parameter, tensor in fitted.tensors().items():
        if not is_finite(tensor):
            raise InputError(f"prior={name}: the fit gave a {parameter} that is not finite; choose another prior")


def require(name: str, count: int, minimum: int) -> None:
    """Raises InputError where a prior gets fewer references than it needs."""
    if count < minimum:
        raise InputError(f"prior={name}: {count} references, but it needs {minimum} or more; raise domain.references")


__getattr__ = new_names(__name__)
