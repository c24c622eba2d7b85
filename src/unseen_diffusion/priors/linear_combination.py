"""Linear combinations of a few references, with the references' own mean and covariance (arXiv 2408.08558).

Bodin et al. show that a combination of Gaussian latents is a valid latent only if its mean and covariance are those of
the latents. With n references z_i of mean m and weights w that are exchangeable, sum to 0 over all n references and
satisfy E sum w_i^2 = (n - 1) / n,

    z = m + sum_i w_i (z_i - m)

has the mean m and the covariance sum (z_i - m)(z_i - m)^T / n, for any number k of weights drawn before they are
centred.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Generator, Tensor

from unseen_diffusion.priors.base import FittedPrior, IdLatents, Latents, Prior
from unseen_diffusion.priors.combination import Combination
from unseen_diffusion.utils.checked import Count, Positive, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generators

NonNegative = Annotated[float, Field(ge=0)]


def log_dirichlet(k: int, concentration: float, rng: Generator) -> Float[Tensor, " k"]:
    """Logarithms, up to a constant, of weights from a symmetric Dirichlet distribution.

    They are those of k gamma variables. log G(a) = log G(a + 1) + log(U) / a (Marsaglia and Tsang 2000) stays finite
    where a small concentration would let all of them underflow.
    """
    shape = torch.full((k,), concentration + 1, dtype=torch.float64)
    larger = torch._standard_gamma(shape, generator=rng)
    uniform = 1 - torch.rand(k, generator=rng, dtype=torch.float64)  # in (0, 1]
    return larger.log() + uniform.log() / concentration


def normalised(weights: Tensor, count: int) -> Tensor:
    """Scales weights (k, ...) so that, centred over all ``count`` references, their squares sum to (n - 1) / n.

    The weights of the other references are 0 before the centring. The result is not centred: around the mean of the
    references the offset of all weights changes nothing.
    """
    squares = weights.square().sum(0) - weights.sum(0).square() / count
    return weights * ((1 - 1 / count) / squares.clamp(min=torch.finfo(weights.dtype).tiny)).sqrt()


def smooth_fields(k: int, size: tuple[int, int], length: float, rng: Generator) -> Float[Tensor, "k h w"]:
    """White noise under a periodic Gaussian filter of ``length`` pixels, with mean 0 and deviation 1 over the image."""
    noise = torch.randn(k, *size, generator=rng, dtype=torch.float64)
    rows, columns = (torch.fft.fftfreq(n, dtype=torch.float64) for n in size)
    response = torch.exp(-2 * (torch.pi * length) ** 2 * (rows[:, None].square() + columns.square()))
    smooth = torch.fft.ifft2(torch.fft.fft2(noise) * response).real
    smooth = smooth - smooth.mean((1, 2), keepdim=True)
    spread = smooth.std((1, 2), keepdim=True, unbiased=False)
    return smooth / spread.clamp(min=torch.finfo(torch.float64).tiny)


@dataclass(frozen=True)
class Combinations(FittedPrior):
    """Base class: k of the references, drawn without replacement, with weights around their mean.

    Attributes:
        latents: (n, C, H, W) of the references.
        k: () int64.
    """

    latents: Tensor
    k: Tensor

    def _draw(self, indices: Sequence[int], seed: int, weights: Callable[[Generator], Tensor]) -> Combination:
        """Draws references, and then weights, from the stream of each candidate."""
        count, k = len(self.latents), int(self.k)

        def drawn() -> Iterator[tuple[Tensor, Tensor]]:
            for rng in generators(seed, "candidate", indices):
                yield torch.randperm(count, generator=rng)[:k], weights(rng)

        rows, values = zip(*drawn(), strict=True)
        return Combination(torch.stack(rows), torch.stack(values), centred=True)

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        combined = self.combination(indices, seed) if len(indices) else None
        return combined.of(self.latents) if combined else self.latents[:0]

    def contains_references(self, count: int) -> bool:
        return True


@dataclass(frozen=True)
class DirichletCombinations(Combinations):
    """Weights from a Dirichlet distribution, scaled in every draw; ``concentration`` () float64."""

    concentration: Tensor

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        count, k, concentration = len(self.latents), int(self.k), float(self.concentration)
        return self._draw(indices, seed, lambda rng: normalised(log_dirichlet(k, concentration, rng).softmax(0), count))


@dataclass(frozen=True)
class GaussianCombinations(Combinations):
    """Standard normal weights over sqrt(k (n - 1) / n): the covariance is the unbiased one of ``SampleCovariance``."""

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        count, k = len(self.latents), int(self.k)
        scale = math.sqrt(k * (count - 1) / count)
        return self._draw(indices, seed, lambda rng: torch.randn(k, generator=rng, dtype=torch.float64) / scale)


@dataclass(frozen=True)
class SpatialCombinations(DirichletCombinations):
    """Weights that vary over the image: proportional to w_i exp(contrast g_i), with smooth random fields g_i.

    Attributes:
        smoothness: () float64, width of the filter behind the fields in coordinates of a latent.
        contrast: () float64.
    """

    smoothness: Tensor
    contrast: Tensor

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        count, k, size = len(self.latents), int(self.k), (self.latents.shape[2], self.latents.shape[3])
        concentration, smoothness, contrast = map(float, (self.concentration, self.smoothness, self.contrast))

        def weights(rng: Generator) -> Tensor:
            overall = log_dirichlet(k, concentration, rng)
            fields = smooth_fields(k, size, smoothness, rng)
            return normalised((overall[:, None, None] + contrast * fields).softmax(0), count)

        return self._draw(indices, seed, weights)


@settings("prior")
class LinearCombination(Prior):
    """Weighted sums of k references around their mean, whose mean and covariance are the references' own.

    Dirichlet weights are positive before they are centred, and so keep the skewness of the latents. k = 1 replays the
    references; k = 2 moves along arcs around their mean. Gaussian weights of all n references have the distribution of
    ``sample_covariance``. With Dirichlet weights the covariance is that with 1 / n, the one of a replay; with Gaussian
    weights that with 1 / (n - 1). Spatial weights keep the mean and the variance of each coordinate, but not the
    covariance of different places. Bodin et al., arXiv 2408.08558.
    """

    k: Count
    """number of references in each candidate"""
    weights: Literal["dirichlet", "gaussian"]
    """distribution of the weights"""
    concentration: Positive
    """of the Dirichlet distribution: 1: all shares alike; 100: nearly equal shares; 0.1: one reference dominates"""
    spatial: Positive | None
    """null: one weight for the whole latent; a number: weights vary over it, by fields smoothed over so many pixels"""
    contrast: NonNegative
    """how sharply spatial weights change between references; 0: not at all"""
    name: str = "linear_combination"

    fitted: ClassVar = Combinations

    def __post_init__(self) -> None:
        if self.spatial is not None and self.weights != "dirichlet":
            raise InputError(f"prior.spatial={self.spatial:g}: needs prior.weights=dirichlet")

    @property
    def minimum_references(self) -> int:
        return max(2, self.k)

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        self.check_latents(latents)
        values = {"concentration": self.concentration, "smoothness": self.spatial, "contrast": self.contrast}
        numbers = {name: torch.tensor(v, dtype=torch.float64) for name, v in values.items() if v is not None}
        return self.restore({"latents": latents, "k": torch.tensor(self.k), **numbers})

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedPrior:
        kind: type[FittedPrior] = DirichletCombinations if self.spatial is None else SpatialCombinations
        kind = kind if self.weights == "dirichlet" else GaussianCombinations
        return kind(**{name: tensors[name] for name in kind.__dataclass_fields__})
