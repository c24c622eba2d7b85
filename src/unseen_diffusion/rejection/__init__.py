"""Geometric tolerances and the bounded loop that keeps the candidates within them."""

from unseen_diffusion.rejection.selection import ROUTES, Selection, advice, check_route, select
from unseen_diffusion.rejection.tolerances import (
    AbsoluteTolerances,
    Band,
    CalibratedTolerances,
    NoTolerances,
    Projection,
    RandomControl,
    Tolerances,
    within,
)

__all__ = [
    "ROUTES",
    "AbsoluteTolerances",
    "Band",
    "CalibratedTolerances",
    "NoTolerances",
    "Projection",
    "RandomControl",
    "Selection",
    "Tolerances",
    "advice",
    "check_route",
    "select",
    "within",
]
