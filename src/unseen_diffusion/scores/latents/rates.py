"""Balanced error rates of two classes, with an interval."""

from dataclasses import dataclass
from math import sqrt

from unseen_diffusion.scores.intervals import Proportion, wilson


@dataclass(frozen=True)
class ErrorRate:
    """Mean of two classes' error rates in [0, 1]; 0.5 is chance.

    The 95% interval combines both Wilson intervals (MOVER, Zou and Donner 2008), so it keeps its coverage at 0. It
    takes the decisions as independent, though they share the latents that the rule was fitted on.
    """

    value: float
    low: float
    high: float
    first: Proportion
    second: Proportion


def error_rate(wrong_first: int, first: int, wrong_second: int, second: int) -> ErrorRate:
    """Balanced error of a rule that misclassified ``wrong_first`` of ``first`` and ``wrong_second`` of ``second``."""
    a, b = wilson(wrong_first, first), wilson(wrong_second, second)
    value = (a.share + b.share) / 2
    low = value - sqrt((a.share - a.low) ** 2 + (b.share - b.low) ** 2) / 2
    high = value + sqrt((a.high - a.share) ** 2 + (b.high - b.share) ** 2) / 2
    return ErrorRate(value, low, high, a, b)
