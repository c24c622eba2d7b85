"""Rejection: geometric tolerances, and the bounded loop that keeps the candidates within them."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unseen_diffusion.rejection.projection import Projection
    from unseen_diffusion.rejection.selection import Selection, advice, check_route, select, select_latents
    from unseen_diffusion.rejection.settings import ROUTES, Rejection
    from unseen_diffusion.rejection.tolerances import (
        AbsoluteTolerances,
        Band,
        CalibratedTolerances,
        FixedBands,
        NoTolerances,
        RandomControl,
        Tolerances,
        within,
    )

__all__ = [
    "ROUTES",
    "AbsoluteTolerances",
    "Band",
    "CalibratedTolerances",
    "FixedBands",
    "NoTolerances",
    "Projection",
    "RandomControl",
    "Rejection",
    "Selection",
    "Tolerances",
    "advice",
    "check_route",
    "select",
    "select_latents",
    "within",
]


def __getattr__(name: str) -> Any:
    """Imports a name on first use: help and checks of configs need ``settings`` only, and no torch."""
    if name in __all__:
        for home in ("settings", "tolerances", "selection", "projection"):
            module = import_module(f"{__name__}.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
