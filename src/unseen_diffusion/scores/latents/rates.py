"""Balanced error rates of two classes, with an interval."""

from dataclasses import dataclass
from math import sqrt

from unseen_diffusion.scores.intervals import Proportion, wilson


@dataclass(frozen=True)
class ErrorRate:
    """Mean of two classes' error rates in [0, 1]; 0.5 is chance.

    The 95% interval combines both Wilson intervals (the MOVER of Zou and Donner 2008), so that it keeps its
    coverage at 0; it takes the decisions as independent, though they share the latents that the rule learnt from.
    """

    value: float
    low: float
    high: float
    first: Proportion
    second: Proportion


def error_rate(wrong_first: int, first: int, wrong_second: int, second: int) -> ErrorRate:
    """From ``wrong_first`` errors among ``first`` latents of one class, and likewise of the other."""
    a, b = wilson(wrong_first, first), wilson(wrong_second, second)
    value = (a.share + b.share) / 2
    low = value - sqrt((a.share - a.low) ** 2 + (b.share - b.low) ** 2) / 2
    high = value + sqrt((a.high - a.share) ** 2 + (b.high - b.share) ** 2) / 2
    return ErrorRate(value, low, high, a, b)
