"""Scores in the report: their columns, their intervals, and which values are as good as the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from unseen_diffusion.reports.rows import as_text, is_missing, p_text
from unseen_diffusion.scores.metrics import METRICS, NEAR, P_VALUE, Metric


def _with_p_value() -> dict[str, Metric]:
    """``METRICS`` in its order, with each p-value after its score."""
    columns: dict[str, Metric] = {}
    for name, metric in METRICS.items():
        columns[name] = metric
        if name == P_VALUE.removesuffix("_p"):
            columns[P_VALUE] = Metric("p (as H)", "p (as H)", "", "p", NEAR)
    return columns


SCORES = _with_p_value()


def show(name: str, value: object) -> str:
    """A score or p-value as text in its unit; empty where it is missing."""
    return p_text(value) if name == P_VALUE else as_text(name, value, roomy=True)


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; the bounds are NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def has_interval(self) -> bool:
        """Whether both bounds are known."""
        return not is_missing(self.low) and not is_missing(self.high)


def difference(a: Estimate, b: Estimate) -> tuple[float, float]:
    """Interval of a - b from the intervals of independent a and b (MOVER; Zou & Donner 2008, eq. 4).

    For symmetric intervals this adds standard errors in quadrature; it holds for Wilson intervals too. Scores
    against the same held-out images are positively correlated, which makes it too wide rather than too narrow.
    """
    gap = a.value - b.value
    down = sqrt((a.value - a.low) ** 2 + (b.high - b.value) ** 2)
    up = sqrt((a.high - a.value) ** 2 + (b.value - b.low) ** 2)
    return gap - down, gap + up


def marks(estimates: Sequence[Estimate | None], better: str) -> list[str]:
    """ "best", "near" or "" for each estimate: near is not the best, but its difference from it may be 0.

    Nothing is marked where fewer than two can be compared, all are equal, or no direction is better. Without
    intervals only the best, or several that tie, are marked.
    """
    known = [(i, e) for i, e in enumerate(estimates) if e is not None and not is_missing(e.value)]
    marked = [""] * len(estimates)
    if not better or len({e.value for _, e in known}) < 2:
        return marked
    sign = 1 if better == "lower" else -1
    _, best = min(known, key=lambda pair: sign * pair[1].value)
    for index, estimate in known:
        if estimate.value == best.value:
            marked[index] = "best"
        elif estimate.has_interval and best.has_interval:
            low, high = difference(estimate, best)
            marked[index] = "near" if low <= 0 <= high else ""
    return marked


def estimate(line: Mapping[str, Any], name: str) -> Estimate | None:
    """A score of a row with its interval; None where it is missing."""
    value, low, high = (line.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if is_missing(value) or not isinstance(value, (int, float)):
        return None
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return Estimate(float(value), float(low), float(high))
    return Estimate(float(value))
