"""Every prior refuses latents that are not finite, in memory and from a stream."""

import math

import pytest
import torch
from torch import Tensor

from unseen_diffusion.priors import (
    Diagonal,
    Isotropic,
    KernelDensity,
    LowRank,
    Mixture,
    Prior,
    Replay,
    SampleCovariance,
    Shrinkage,
    Slerp,
    Standard,
    Stationary,
    StationaryLowRank,
    SubspaceKernelDensity,
    fit_streamed,
)
from unseen_diffusion.priors.base import require_fitted
from unseen_diffusion.priors.gaussian import DiagonalNormal
from unseen_diffusion.utils.errors import InputError

PRIORS: list[Prior] = [
    Diagonal(),
    Isotropic(),
    KernelDensity(),
    KernelDensity(bandwidth=0.5),
    LowRank(rank=3),
    LowRank(rank="auto"),
    Mixture(rank=3),
    Replay(),
    SampleCovariance(),
    Shrinkage(),
    Shrinkage(amount=0.5),
    Slerp(),
    Slerp(towards="id"),
    Standard(),
    Stationary(),
    StationaryLowRank(rank=3),
    SubspaceKernelDensity(rank=3),
]


def latents(value: float) -> Tensor:
    x = torch.randn(40, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    x[7, 1, 2, 3] = value
    return x


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("prior", PRIORS, ids=repr)
def test_fit_refuses(prior: Prior, value: float) -> None:
    with pytest.raises(InputError, match=rf"^prior={prior.name}: latents: 1 of 40 \(row 7\) is not finite; invert"):
        prior.fit(latents(value), latents(0.0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_latents_of_the_models_own_domain_are_checked_too(value: float) -> None:
    with pytest.raises(InputError, match=r"1 of 40 \(row 7\) is not finite"):
        Slerp(towards="id").fit(latents(0.0), latents(value))


@pytest.mark.parametrize("prior", [Isotropic(), Diagonal(), SampleCovariance(), LowRank(rank=3), Shrinkage(amount=0.1)])
def test_a_stream_refuses_and_counts_over_its_batches(prior: Prior) -> None:
    with pytest.raises(InputError, match=r"latents: 1 of 40 \(row 47\) is not finite"):
        fit_streamed(prior, lambda: [latents(0.0), latents(math.nan)])


def test_a_fit_that_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="prior=mine: the fit gave a scale that is not finite"):
        require_fitted("mine", DiagonalNormal(torch.zeros(1, 2, 2), torch.tensor(math.nan)))
