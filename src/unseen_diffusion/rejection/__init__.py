"""Rejection: geometric tolerances, and the bounded loop that keeps only candidates within them."""

from unseen_diffusion.rejection.projection import Projection
from unseen_diffusion.rejection.selection import Rejection, Selection, advice, check_route, select, select_latents
from unseen_diffusion.rejection.tolerances import (
    ROUTES,
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
