"""Rows of results: the settings that distinguish runs, names of runs and rows, and scores as text."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import floor, isfinite, log10
from typing import Any

from unseen_diffusion.reports.result import AnyResult, RunResult
from unseen_diffusion.scores.metrics import CLASSIFIER, METRICS

# The settings that distinguish two runs, in the order of names and columns.
SETTINGS = (
    "domain",
    "method",
    "prior",
    "tolerances",
    "selection",
    "t",
    "eta",
    "model",
    "solver",
    "features",
    "target",
    "draw",
    "seed",
)
METHOD = ("method", "prior", "tolerances", "selection")
REPLICATES = ("draw", "seed")  # repetitions of one setting
REPLICATE_KEYS = ("domain.draw", "seed")  # the same repetitions, as keys of the configuration
GENERATED = "generated"  # the row of the images that a run generated; the others are comparison rows


@dataclass(frozen=True)
class ComparisonRow:
    """A row of images that the generated ones are compared with.

    Attributes:
        short: its name in a terminal.
        label: its name where there is room.
        independent_of: settings that do not change its images or scores; its table line leaves them empty.
    """

    short: str
    label: str
    independent_of: tuple[str, ...] = METHOD


COMPARISON_ROWS = {
    "held_out": ComparisonRow("[real images]", "real images", (*METHOD, "t", "eta", "model", "solver", "seed")),
    "replay": ComparisonRow("[replay]", "replayed references"),
    "standard": ComparisonRow("[N(0, I)]", "N(0, I) at the mixing step"),
    "base_samples": ComparisonRow("[base samples]", "the base model's own samples"),
}
SCALES = {"kid": 1000, "share": 100}  # factors from a score's value to the unit in which it is shown
UNNAMED = (
    "method",
    "prior",
    "tolerances",
    "selection",
    "model",
    "solver",
)  # settings whose values need no key before them


def independent_of(row: str) -> tuple[str, ...]:
    """Settings that do not change a row's images or scores; none for the generated images."""
    return COMPARISON_ROWS[row].independent_of if row in COMPARISON_ROWS else ()


def distinct_rows(results: Iterable[AnyResult]) -> list[tuple[AnyResult, dict[str, Any]]]:
    """Every row of every run; rows of the same images, scored against the same images, appear once.

    These are comparison rows that several runs share, and runs repeated with the same configuration: the first one
    stays. A repetition that generated other images (weights or files behind the same paths may change) is another row.
    """
    rows: dict[str, tuple[AnyResult, dict[str, Any]]] = {}
    for result in results:
        for row in result.rows:
            key = _identity(result, row)
            first, scores = rows.get(key, (result, row))
            rows[key] = first, merge_same_images(scores, row)
    return list(rows.values())


def _identity(result: RunResult, row: Mapping[str, Any]) -> str:
    """A key that is equal for two rows exactly if both have the same images, compared with the same images."""
    config = result.flat
    if row["row"] != GENERATED:  # depends on the images compared with and on how they are scored
        groups = ("domain.", "features.", "scores.")
        config = {key: value for key, value in config.items() if key.startswith(groups) and key != "scores.rows"}
    against = [result.settings.get("features"), result.settings.get("target")]
    return json.dumps([row["row"], row.get("images"), config, *against], sort_keys=True)


def merge_same_images(row: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """One row for the same images scored in two runs; drops the classifier's share where the runs disagree.

    That share depends on the base model's own samples. All other scores depend only on the images.
    """
    if row.get(CLASSIFIER) == other.get(CLASSIFIER):
        return dict(row)
    return {name: value for name, value in row.items() if not name.startswith(CLASSIFIER)}


def is_setting(column: object) -> bool:
    """Whether a column of a table of rows is a setting of the run (the others hold its scores)."""
    return column in SETTINGS or column == "samples" or "." in str(column)


def is_missing(value: object) -> bool:
    """Whether a value is None or NaN: not measured, or not applicable."""
    return value is None or value != value


def setting_text(value: object) -> str:
    """A setting's value as text; empty where it is missing."""
    if is_missing(value):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def run_name(settings: Mapping[str, Any], keys: Sequence[str] = ()) -> str:
    """A run in words, such as ``full, low_rank, calibrated, t 500, eta 0.2``.

    Args:
        settings: those of ``SETTINGS``, or any others that ``keys`` names.
        keys: the settings to name. By default the method, prior, tolerances, selection, t and eta, without a prior
            that has the method's name and without tolerances that accept everything.
    """
    if not keys:
        keys = ("method", *_telling_draw(settings), "t", "eta")
    words = [(key, setting_text(settings.get(key))) for key in keys]
    return ", ".join(word if key in UNNAMED else f"{key} {word}" for key, word in words if word)


def _telling_draw(settings: Mapping[str, Any]) -> list[str]:
    """The prior and the tolerances, each only if the method's name does not imply it, and the selection."""
    own_prior = settings.get("prior") != settings.get("method")
    return ["prior"] * own_prior + ["tolerances"] * (settings.get("tolerances") != "none") + ["selection"]


def tracking_name(settings: Mapping[str, Any]) -> str:
    """A run's name in wandb, such as ``hubble isotropic none t500 eta0.2 draw0 seed0``."""
    s = settings
    what = f"{s['prior']} {s['tolerances'] or s['method']}" if s["prior"] else s["method"]
    what += f" {s['selection']}" if s.get("selection") else ""
    return f"{s['domain']} {what} t{s['t']:g} eta{s['eta']:g} draw{s['draw']} seed{s['seed']}"


def method_name(settings: Mapping[Any, Any], with_prior: bool) -> str:
    """A method, with its prior in brackets where several runs of this method differ in their prior."""
    return f"{settings['method']} ({settings['prior']})" if with_prior else str(settings["method"])


def scaled(name: str, value: float) -> float:
    """A score in the unit in which it is shown: KID in thousandths, shares in per cent."""
    return value * SCALES.get(METRICS[name].kind, 1)


def as_text(name: str, value: object, roomy: bool = False) -> str:
    """A score of ``METRICS`` in its unit, such as ``0.7`` (KID in thousandths) or ``22.5%``; empty where missing.

    Args:
        name: of the score.
        value: as results.json holds it.
        roomy: three significant digits and thousands separators, for a page instead of a terminal.
    """
    if is_missing(value) or not isinstance(value, (int, float)):
        return ""
    kind = METRICS[name].kind
    if kind == "kid":
        digits = 0 if abs(value) >= 0.1 else 1
        return f"{1000 * value:,.{digits}f}" if roomy else f"{1000 * value:.{digits}f}"
    if kind == "share":
        return f"{100 * value:.1f}%"
    if roomy:
        return three_digits(float(value))
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def three_digits(value: float) -> str:
    """A number with three significant digits, and with an exponent only below a thousandth."""
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    magnitude = floor(log10(abs(value)))
    return f"{value:.1e}" if magnitude < -3 else f"{value:,.{max(0, 2 - magnitude)}f}"


def p_text(value: object) -> str:
    """A p-value with three digits; empty where it is missing."""
    if is_missing(value) or not isinstance(value, (int, float)):
        return ""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def plus_minus(name: str, value: float, half: float) -> str:
    """A score ± half the width of its interval, at the same number of digits."""
    text = as_text(name, value)
    if is_missing(half):
        return text
    digits = len(text.rstrip("%").partition(".")[2])
    return f"{text.rstrip('%')}±{scaled(name, half):.{digits}f}{'%' * text.endswith('%')}"


def share_text(value: float, low: float, high: float) -> str:
    """A share in per cent with its interval, which need not be symmetric: ``30.9% (10 to 64)``."""
    text = f"{100 * value:.1f}%"
    return text if is_missing(low) or is_missing(high) else f"{text} ({100 * low:.0f} to {100 * high:.0f})"


UNEQUAL = "*"  # marks a FID of another number of images


def marked(name: str, text: str, count: int, usual: int) -> str:
    """A score as text; a FID of another number of images than usual is marked, because its floor depends on it."""
    return text + UNEQUAL if name in ("fid_h", "fid_r") and text and count != usual else text
