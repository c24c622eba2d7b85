"""Priors over latents at the mixing step: fit one to the references' latents, then draw candidates from it."""

from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from torch import Tensor

from unseen_diffusion.priors.base import (
    Batches,
    FittedPrior,
    IdLatents,
    Latents,
    Prior,
    SphericalRest,
    require,
    require_fitted,
)
from unseen_diffusion.priors.combination import Combination
from unseen_diffusion.priors.gaussian import (
    Diagonal,
    DiagonalNormal,
    EmpiricalNormal,
    Isotropic,
    LowRank,
    LowRankNormal,
    SampleCovariance,
    Shrinkage,
    Standard,
    StandardNormal,
    ledoit_wolf,
)
from unseen_diffusion.priors.linear_combination import LinearCombination
from unseen_diffusion.priors.mixture import (
    KernelDensity,
    KernelNormal,
    Mixture,
    MixtureNormal,
    SubspaceKernelDensity,
)
from unseen_diffusion.priors.pixels import Draws, combined_pixels
from unseen_diffusion.priors.rank import held_out_likelihood
from unseen_diffusion.priors.references import Replay, ReplayedLatents, Slerp, SlerpReferences, SlerpToId, slerp
from unseen_diffusion.priors.stationary import (
    Stationary,
    StationaryLowRank,
    StationaryLowRankNormal,
    StationaryNormal,
)
from unseen_diffusion.priors.streaming import fit_streamed
from unseen_diffusion.utils.renamed import new_names

__all__ = [
    "Batches",
    "Combination",
    "Diagonal",
    "DiagonalNormal",
    "Draws",
    "EmpiricalNormal",
    "FittedPrior",
    "IdLatents",
    "Isotropic",
    "KernelDensity",
    "KernelNormal",
    "Latents",
    "LinearCombination",
    "LowRank",
    "LowRankNormal",
    "Mixture",
    "MixtureNormal",
    "Prior",
    "Replay",
    "ReplayedLatents",
    "SampleCovariance",
    "Shrinkage",
    "Slerp",
    "SlerpReferences",
    "SlerpToId",
    "SphericalRest",
    "Standard",
    "StandardNormal",
    "Stationary",
    "StationaryLowRank",
    "StationaryLowRankNormal",
    "StationaryNormal",
    "SubspaceKernelDensity",
    "combined_pixels",
    "fit_streamed",
    "held_out_likelihood",
    "is_restorable",
    "ledoit_wolf",
    "require",
    "require_fitted",
    "restore",
    "slerp",
]


def restore(kind: str, tensors: Mapping[str, Tensor]) -> FittedPrior:
    """A fitted prior of this package by its class name: for saved domains, whose files are not trusted.

    A run restores its own prior with ``Prior.restore``, which serves classes from elsewhere too.

    Raises:
        KeyError: no fitted prior of this package has that name.
    """
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    return {one.__name__: one for one in _below(FittedPrior) if _is_ours(one)}[kind](**tensors)


def is_restorable(prior: FittedPrior) -> bool:
    """Whether ``restore`` can rebuild a fitted prior, that is, whether its class belongs to this package."""
    return _is_ours(type(prior))


def _is_ours(kind: type) -> bool:
    return kind.__module__.startswith(f"{__name__}.")


def _below(parent: Any) -> list[Any]:
    """All classes that inherit from ``parent``."""
    return [one for child in parent.__subclasses__() for one in (child, *_below(child))]


__getattr__ = new_names(__name__)
