"""Methods compared over reference draws and seeds.

The two are crossed: the seeds of a draw share its references, the draws of a seed its noise. Intervals and tests take
both as random (``scores.intervals.crossed_interval``); where the references play no part, only the seeds vary.
The held-out images are the same throughout: no interval covers their choice.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from unseen_diffusion.reports.tables import SETTINGS, plus_minus, print_frame, width, write_frame
from unseen_diffusion.scores.intervals import MeanInterval, combined_p, crossed_interval, holm
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.errors import InputError

REPLICATES = ("draw", "seed")
METHOD = ("method", "prior", "tolerances")
# Of the printed table, the first that a narrow terminal does without at the end.
SHOWN = (
    "kid_h",
    "copy_rate",
    "coverage",
    "precision",
    "vendi",
    "target_conformal",
    "target_classifier",
    "fid_h",
    "acceptance",
)


def is_comparison(table: pd.DataFrame) -> bool:
    """True where several reference draws or seeds of one setting stand beside each other."""
    own = table[table["row"] == "generated"]
    return any(own[name].nunique() > 1 for name in REPLICATES)


def compare(table: pd.DataFrame, reference: str = "fitted") -> pd.DataFrame:
    """One line per setting and method: scores over draws and seeds, and paired differences to ``reference``.

    Args:
        table: of ``load_results``; the rows of generated images are used.
        reference: the method that the others are paired with, point by point.

    Returns:
        Settings, method, prior, tolerances, draws, seeds, n; for each score s of ``METRICS`` at hand: s, s_low, s_high
        (mean, 95% interval) and s_difference, s_difference_low, s_difference_high, s_p (of paired points,
        Holm-corrected over the methods of the setting). NaN where there are fewer than two points. copies_p: of so many
        copies among new images of the domain, combined over the points (``scores.intervals.combined_p``).

    Raises:
        InputError: no generated rows.
    """
    own = table[table["row"] == "generated"]
    if own.empty:
        raise InputError("no generated images in these results; give folders of runs")
    own = own.assign(**{name: own[name].astype(object).where(own[name].notna(), "") for name in METHOD})
    scores = [name for name in METRICS if name in own and own[name].notna().any()]
    fixed = [name for name in own if is_setting(name) and name not in (*REPLICATES, *METHOD)]
    # A search may find another value for every draw: such runs belong together, and their mean is shown.
    searched = [name for name in ("t", "eta") if own.get(f"searched_{name}", pd.Series(False)).any()]
    keys = [name for name in fixed if name not in searched] + [f"searched_{name}" for name in searched]
    lines: list[dict[str, Any]] = []
    for _, runs in own.groupby(keys, dropna=False, sort=False):
        setting = {name: runs[name].mean() if name in searched else runs[name].iloc[0] for name in fixed}
        lines += _setting(setting, runs, scores, reference)
    return pd.DataFrame(lines)


def is_setting(column: object) -> bool:
    """True for columns that say how a run was configured (see ``tables.load_results``), not what came out."""
    return column in SETTINGS or column == "samples" or "." in str(column)


def _setting(
    setting: dict[str, Any], runs: pd.DataFrame, scores: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """The lines of one setting, in the order of the primary score."""
    methods = dict(list(runs.groupby(list(METHOD), sort=False)))
    lines = []
    for kind, part in methods.items():
        line = setting | dict(zip(METHOD, kind, strict=True))
        whole = replicates(part, scores[0])
        line |= {"draws": whole.shape[0], "seeds": whole.shape[1], "n": int(part["n"].median())}
        if "copy_rate_p" in part and part["copy_rate_p"].notna().all():
            line["copies_p"] = combined_p(part["copy_rate_p"].tolist())
        base = _partner(kind, methods, reference)
        for score in scores:
            line |= _mean_of(score, part)
            if base is not None:
                line |= _difference(score, part, base)
        lines.append(line)
    for score in scores:
        tested = [line for line in lines if f"{score}_p" in line]
        if not tested:
            continue
        for line, p in zip(tested, holm([line[f"{score}_p"] for line in tested]), strict=True):
            line[f"{score}_p"] = p
    return sorted(lines, key=lambda line: line[scores[0]])


def replicates(runs: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score by draw (rows) and seed (columns), without the draws in which a point is missing.

    Raises:
        InputError: two runs of one draw and seed that nothing tells apart.
    """
    if runs.duplicated(list(REPLICATES)).any():
        raise InputError(
            f"method={runs['method'].iloc[0]}: several runs of one draw and seed that no setting tells apart; "
            "give the folders of one experiment"
        )
    return runs.pivot_table(index="draw", columns="seed", values=score, dropna=False).dropna(axis=0)


def _partner(kind: Any, methods: dict[Any, pd.DataFrame], reference: str) -> pd.DataFrame | None:
    """The reference's runs to pair ``kind`` with: of the same prior where there are several."""
    candidates = [other for other in methods if other[0] == reference and other != kind]
    if not candidates or kind[0] == reference:
        return None
    same = [other for other in candidates if other[1] == kind[1]]
    return methods[(same or candidates)[0]]


def _difference(score: str, runs: pd.DataFrame, base: pd.DataFrame) -> dict[str, float]:
    """The difference of the points that both have; empty for fewer than two."""
    pairs = replicates(runs, score) - replicates(base, score)
    pairs = pairs.dropna(axis=1, how="all").dropna(axis=0)
    if pairs.size < 2:
        return {}
    found = crossed_interval(pairs.to_numpy().tolist())
    return _prefixed(f"{score}_difference", found) | {f"{score}_p": found.p_value}


def _mean_of(name: str, runs: pd.DataFrame) -> dict[str, float]:
    """Mean and interval; one point alone has no interval, and none at all no mean."""
    values = replicates(runs, name)
    if values.size < 2:
        return {name: runs[name].mean(), f"{name}_low": nan, f"{name}_high": nan}
    found = _prefixed(name, crossed_interval(values.to_numpy().tolist()))
    if found[f"{name}_low"] == found[f"{name}_high"]:  # equal points, such as 0 copies in all: the runs' own bounds
        found |= {end: runs[end].mean() if end in runs else nan for end in (f"{name}_low", f"{name}_high")}
    return found


def _prefixed(name: str, interval: MeanInterval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def compact(frame: pd.DataFrame, reference: str = "fitted", scores: Sequence[str] = SHOWN) -> pd.DataFrame:
    """The comparison as text: means ± half a 95% interval, the primary score's difference and its p-value."""
    text = pd.DataFrame({"method": frame["method"]})
    varying = [name for name in frame if is_setting(name) and name not in METHOD]
    for name in [*varying, "prior", "tolerances"]:
        told = frame.groupby("method")[name].nunique().gt(1).any() if name in METHOD else frame[name].nunique() > 1
        if told:
            text.insert(0 if name == "domain" else len(text.columns), name, frame[name])
    for name in [score for score in scores if score in frame]:
        text[METRICS[name].title] = [_mean(name, line) for line in frame.to_dict("records")]
        if name == "kid_h" and "kid_h_difference" in frame:
            text[f"against {reference}"] = [_against(line) for line in frame.to_dict("records")]
    return text


def _mean(name: str, line: Mapping[Hashable, Any]) -> str:
    value = line[name]
    return "" if value != value else plus_minus(name, value, (line[f"{name}_high"] - line[f"{name}_low"]) / 2)


def _against(line: Mapping[Hashable, Any]) -> str:
    """The difference of the primary score, with its interval and p-value."""
    value = line["kid_h_difference"]
    if value != value:
        return ""
    half = (line["kid_h_difference_high"] - line["kid_h_difference_low"]) / 2
    p = "<.001" if line["kid_h_p"] < 0.001 else f"{line['kid_h_p']:.3f}".removeprefix("0")
    return f"{'+' if value > 0 else ''}{plus_minus('kid_h', value, half)} (p {p})"


def print_comparison(
    frame: pd.DataFrame, title: str, reference: str = "fitted", console: Console | None = None
) -> None:
    """Prints the compact comparison, as many scores as the terminal is wide."""
    console = console or Console()
    scores = [name for name in SHOWN if name in frame]
    text = compact(frame, reference, scores)
    while len(scores) > 1 and width(text) > console.width:
        scores.pop()
        text = compact(frame, reference, scores)
    first = frame.iloc[0]
    caption = (
        f"Means over {frame['draws'].max()} reference draws x {frame['seeds'].max()} seeds, ± half a 95% interval "
        f"over both. {first['features']} features, {first['n']} images "
        f"a point. against {reference}: paired point by point, Holm-corrected p."
    )
    print_frame(text, title, caption, console)


def write_comparison(frame: pd.DataFrame, path: Path, reference: str = "fitted") -> None:
    """Writes the comparison; the suffix decides: .csv (everything), .md or .tex (the compact one)."""
    write_frame(frame, compact(frame, reference), path)


def show_comparison(table: pd.DataFrame, title: str, paths: Sequence[Path], reference: str = "fitted") -> pd.DataFrame:
    """Compares the runs of ``table``, prints the comparison of each domain and writes all of it to ``paths``."""
    frame = compare(table, reference)
    for domain, part in frame.groupby("domain", sort=False):
        print_comparison(part, f"{domain}: {title}", reference)
    for path in paths:
        write_comparison(frame, path, reference)
    return frame
