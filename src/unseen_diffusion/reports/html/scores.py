"""The scores that the report knows: their titles, units and directions, and which values are as good as the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10, sqrt
from typing import Any

from unseen_diffusion.reports.html.naming import is_missing
from unseen_diffusion.scores.metrics import METRICS

# Heads that need no legend; scores that are not named here keep the short title of ``METRICS``.
OF_NO_FEATURES = ("copy_rate", "acceptance", "evaluations_per_image", "seconds_per_image", "psnr")
P_VALUE = "kid_h_p"  # of the hypothesis that samples and H have one distribution


@dataclass(frozen=True)
class Score:
    """One score of the results.

    Attributes:
        title: column head.
        kind: "kid" (shown x1000), "share" (shown in per cent), "p" or "number".
        better: "lower", "higher", or "" where neither is.
        of_features: True if it means nothing without the extractor's name.
    """

    title: str
    kind: str
    better: str
    of_features: bool = True


def _scores() -> dict[str, Score]:
    """``METRICS`` in its order, the p value behind the score that it belongs to."""
    found: dict[str, Score] = {}
    for name, metric in METRICS.items():
        found[name] = Score(metric.label, metric.kind, metric.better, name not in OF_NO_FEATURES)
        if name == P_VALUE.removesuffix("_p"):
            found[P_VALUE] = Score("p (as H)", "p", "")
    return found


SCORES = _scores()


def scaled(name: str, value: float) -> float:
    """A score in the unit that people read: KID in thousandths, shares in per cent."""
    return value * {"kid": 1000, "share": 100}.get(SCORES[name].kind, 1)


def number(value: float) -> str:
    """Three significant digits; an exponent only below a thousandth."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    magnitude = floor(log10(abs(value)))
    return f"{value:.1e}" if magnitude < -3 else f"{value:,.{max(0, 2 - magnitude)}f}"


def show(name: str, value: object) -> str:
    """A score as text in its unit; nothing for one that is missing."""
    if is_missing(value) or not isinstance(value, (int, float)):
        return ""
    kind = SCORES[name].kind
    if kind == "kid":
        return f"{1000 * value:,.{0 if abs(value) >= 0.1 else 1}f}"
    if kind == "share":
        return f"{100 * value:.1f}%"
    if kind == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    return number(float(value))


@dataclass(frozen=True)
class Estimate:
    """A value with its interval; the bounds are NaN where there is none."""

    value: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def has_interval(self) -> bool:
        """True if both bounds are known."""
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
    found = [""] * len(estimates)
    if not better or len({e.value for _, e in known}) < 2:
        return found
    sign = 1 if better == "lower" else -1
    _, best = min(known, key=lambda pair: sign * pair[1].value)
    for index, estimate in known:
        if estimate.value == best.value:
            found[index] = "best"
        elif estimate.has_interval and best.has_interval:
            low, high = difference(estimate, best)
            found[index] = "near" if low <= 0 <= high else ""
    return found


def estimate(line: Mapping[str, Any], name: str) -> Estimate | None:
    """A score and its interval from a row of results; None where it is missing."""
    value, low, high = (line.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if is_missing(value) or not isinstance(value, (int, float)):
        return None
    if isinstance(low, (int, float)) and isinstance(high, (int, float)):
        return Estimate(float(value), float(low), float(high))
    return Estimate(float(value))
