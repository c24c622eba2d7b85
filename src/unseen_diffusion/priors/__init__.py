"""Priors over latents at the mixing step: fit to the references' latents, then draw candidates."""

from dataclasses import replace

from torch import Tensor

from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.priors.base import (
    FittedPrior,
    GaussianBase,
    IdLatents,
    Latents,
    Prior,
    SphericalRest,
    require,
)
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
from unseen_diffusion.priors.mixture import (
    KernelDensity,
    KernelNormal,
    Mixture,
    MixtureNormal,
    SubspaceKernelDensity,
)
from unseen_diffusion.priors.rank import held_out_likelihood
from unseen_diffusion.priors.references import Replay, ReplayedLatents, Slerp, SlerpReferences, SlerpToId, slerp
from unseen_diffusion.priors.stationary import (
    Stationary,
    StationaryLowRank,
    StationaryLowRankNormal,
    StationaryNormal,
)
from unseen_diffusion.priors.streaming import fit_streamed

__all__ = [
    "FITTED",
    "SPHERICAL",
    "Diagonal",
    "DiagonalNormal",
    "EmpiricalNormal",
    "FittedPrior",
    "GaussianBase",
    "IdLatents",
    "Isotropic",
    "KernelDensity",
    "KernelNormal",
    "Latents",
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
    "fit_streamed",
    "held_out_likelihood",
    "ledoit_wolf",
    "prior_at",
    "require",
    "restore",
    "slerp",
]

FITTED: dict[str, type[FittedPrior]] = {
    kind.__name__: kind
    for kind in (
        DiagonalNormal,
        LowRankNormal,
        EmpiricalNormal,
        StationaryNormal,
        StationaryLowRankNormal,
        StandardNormal,
        MixtureNormal,
        KernelNormal,
        SlerpReferences,
        SlerpToId,
        ReplayedLatents,
    )
}

# Whose fitted form has a spherical rest, known before anything is fitted.
SPHERICAL = (Isotropic, Standard, LowRank, SampleCovariance, Shrinkage, Mixture, KernelDensity, SubspaceKernelDensity)


def restore(kind: str, tensors: dict[str, Tensor]) -> FittedPrior:
    """A fitted prior from its class name and what ``tensors`` returned."""
    return FITTED[kind](**tensors)


def prior_at(prior: Prior, schedule: Schedule, t: float) -> Prior:
    """The prior as the mixing step needs it: N(0, I) is as wide as the schedule's states there."""
    return replace(prior, std=schedule.state_std(t)) if isinstance(prior, Standard) else prior
