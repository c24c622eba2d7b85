"""The method as a diffusers pipeline: fit to a folder of images, call, save, share."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen_diffusion.pipeline.diffusers_pipeline import UnseenDomainOutput, UnseenDomainPipeline
    from unseen_diffusion.pipeline.unseen_domain import UnseenDomain

__all__ = ["UnseenDomain", "UnseenDomainOutput", "UnseenDomainPipeline"]


def __getattr__(name: str) -> Any:
    """Imports the pipeline on first use: runs need the steps of this package, but not diffusers' pipelines."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "unseen_domain" if name == "UnseenDomain" else "diffusers_pipeline"
    return getattr(import_module(f"{__name__}.{home}"), name)
