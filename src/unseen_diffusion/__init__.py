"""What can a frozen diffusion model generate that it has never seen?

The pieces, in the order in which data flows: images -> latents -> prior -> selection -> images -> scores.
They are imported on first use, so that ``unseen --help`` does not wait for torch.
"""

from importlib import import_module
from typing import Any

from unseen_diffusion.utils import renamed

renamed.install()

_HOMES = {
    "InputError": "utils.errors",
    "dequantise": "utils.images",
    "grid": "utils.images",
    "quantise": "utils.images",
    "load_split": "domains",
    "make_grid": "solvers.grids",
    "DiffusersModel": "models",
    "DiffusionModel": "models",
    "GaussianModel": "models",
    "UnseenDomainPipeline": "pipeline",
    "invert": "solvers",
    "denoise": "solvers",
    "Isotropic": "priors",
    "Diagonal": "priors",
    "LowRank": "priors",
    "SampleCovariance": "priors",
    "Stationary": "priors",
    "Slerp": "priors",
    "Shrinkage": "priors",
    "StationaryLowRank": "priors",
    "Mixture": "priors",
    "KernelDensity": "priors",
    "SubspaceKernelDensity": "priors",
    "Projection": "rejection",
    "Replay": "priors",
    "Standard": "priors",
    "summarise": "rejection.geometry",
    "AbsoluteTolerances": "rejection",
    "CalibratedTolerances": "rejection",
    "NoTolerances": "rejection",
    "RandomControl": "rejection",
    "select": "rejection",
    "separability": "scores.latents.separability",
    "gaussianity": "scores.latents.gaussianity",
    "EmbeddedFeatures": "scores.features.embedded",
    "extract": "scores.features.base",
    "DinoV2": "scores.features.dinov2",
    "Lite0": "scores.features.lite0",
    "copy_rate": "scores.memorisation",
    "prdc": "scores.manifold",
    "vendi_ratio": "scores.diversity",
    "classifier_share": "scores.membership",
    "conformal_share": "scores.membership",
    "kid_difference": "scores.kernel",
    "holm": "scores.intervals",
    "t_interval": "scores.intervals",
    "crossed_interval": "scores.intervals",
    "paired_difference": "scores.intervals",
    "frechet_distance": "scores.frechet",
    "kid": "scores.kernel",
    "psnr": "scores.reconstruction",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
