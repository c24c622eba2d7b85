"""Compares methods over reference draws and seeds.

Draws and seeds are crossed: the seeds of a draw share its references, and the draws of a seed share its noise.
Intervals and tests take both as random (``scores.intervals.crossed_interval``), and count that draws of one pool share
images (``reports.populations``). Each comparison says what its intervals are for: the domain, where every draw has
held-out images of its own (``domain.redraw_heldout=true``); otherwise the domain's references against these held-out
images. For a method that uses no references, only the seeds vary then.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from unseen_diffusion.reports.populations import Overlap, overlap_of, shared_text
from unseen_diffusion.reports.rows import (
    GENERATED,
    METHOD,
    REPLICATES,
    UNEQUAL,
    is_missing,
    is_setting,
    marked,
    plus_minus,
    setting_text,
    share_text,
)
from unseen_diffusion.reports.tables import SPLIT, YARDSTICK, extractors, print_frame, width, write_frame
from unseen_diffusion.scores.intervals import MeanInterval, combined_p, crossed_interval, holm, share_interval
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.errors import InputError

# Scores of the printed table; a narrow terminal leaves out the last ones.
SHOWN = (
    "kid_h",
    "copy_rate",
    "coverage",
    "precision",
    "vendi",
    "target_conformal",
    "target_classifier",
    "fid_floor",
    "fid_h",
    "acceptance",
)


def is_comparison(table: pd.DataFrame) -> bool:
    """Whether the table holds several reference draws or several seeds."""
    generated = table[table["row"] == GENERATED]
    return any(generated[name].nunique() > 1 for name in REPLICATES)


def compare(table: pd.DataFrame, reference: str = "fitted") -> pd.DataFrame:
    """One line per setting and method: scores over draws and seeds, and paired differences to ``reference``.

    Args:
        table: from ``load_results``; only the rows of generated images are used.
        reference: the method that the others are paired with, point by point.

    Returns:
        Settings, method, prior, tolerances, draws, seeds, n; overlap and overlap_target (mean share of references and
        of target images that two draws have in common), population (what the intervals are for); for each score s of
        ``METRICS`` in the table: s, s_low, s_high (mean, 95% interval) and s_difference, s_difference_low,
        s_difference_high, s_p (of paired points, Holm-corrected over the methods of the setting). NaN where there are
        fewer than two points. copies_p: p-value of
        as many copies among new images of the domain, combined over the points (``scores.intervals.combined_p``).

    Raises:
        InputError: no generated rows.
    """
    generated = table[table["row"] == GENERATED]
    if generated.empty:
        raise InputError("no generated images in these results; give folders of runs")
    known = {name: generated.get(name, pd.Series(None, generated.index, object)) for name in METHOD}  # of older tables
    empty_if_missing = {name: values.astype(object).where(values.notna(), "") for name, values in known.items()}
    generated = generated.assign(**empty_if_missing)
    scores = [name for name in METRICS if name in generated and generated[name].notna().any()]
    fixed = [name for name in generated if is_setting(name) and name not in (*REPLICATES, *METHOD)]
    # A search may choose another value for every draw: such runs belong together, and their mean is shown.
    searched = [name for name in ("t", "eta") if generated.get(f"searched_{name}", pd.Series(False)).any()]
    keys = [name for name in fixed if name not in searched] + [f"searched_{name}" for name in searched]
    lines: list[dict[str, Any]] = []
    for _, runs in generated.groupby(keys, dropna=False, sort=False):
        setting = {name: runs[name].mean() if name in searched else runs[name].iloc[0] for name in fixed}
        lines += _lines_of_setting(setting, runs, scores, reference)
    return pd.DataFrame(lines)


def _lines_of_setting(
    setting: dict[str, Any], runs: pd.DataFrame, scores: Sequence[str], reference: str
) -> list[dict[str, Any]]:
    """One line per method of one setting, ordered by the first score."""
    methods = dict(list(runs.groupby(list(METHOD), sort=False)))
    lines = []
    for kind, part in methods.items():
        line = setting | dict(zip(METHOD, kind, strict=True))
        points = replicates(part, scores[0])
        line |= {"draws": points.shape[0], "seeds": points.shape[1], "n": int(part["n"].median())}
        overlap = _overlap(part)
        line |= {"overlap": overlap.references, "overlap_target": overlap.target, "population": overlap.population}
        if "copy_rate_p" in part and part["copy_rate_p"].notna().all():
            line["copies_p"] = combined_p(part["copy_rate_p"].tolist())
        base = _runs_to_pair_with(kind, methods, reference)
        for score in scores:
            line |= _mean_of(score, part, overlap.correlation)
            if base is not None:
                line |= _difference(score, part, base, overlap.correlation)
        lines.append(line)
    for score in scores:
        tested = [line for line in lines if f"{score}_p" in line]
        if not tested:
            continue
        for line, p in zip(tested, holm([line[f"{score}_p"] for line in tested]), strict=True):
            line[f"{score}_p"] = p
    return sorted(lines, key=lambda line: line[scores[0]])


def replicates(runs: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score by draw (rows) and seed (columns); leaves out draws in which a point is missing.

    Raises:
        InputError: two runs of one draw and seed that no setting distinguishes.
    """
    if runs.duplicated(list(REPLICATES)).any():
        raise InputError(
            f"method={runs['method'].iloc[0]}: several runs of one draw and seed that no setting distinguishes; "
            "give the folders of one experiment"
        )
    return runs.pivot_table(index="draw", columns="seed", values=score, dropna=False).dropna(axis=0)


def _runs_to_pair_with(kind: Any, methods: dict[Any, pd.DataFrame], reference: str) -> pd.DataFrame | None:
    """The reference method's runs to pair a method with, of the same prior where there are several; else None."""
    candidates = [other for other in methods if other[0] == reference and other != kind]
    if not candidates or kind[0] == reference:
        return None
    same = [other for other in candidates if other[1] == kind[1]]
    return methods[(same or candidates)[0]]


def _overlap(runs: pd.DataFrame) -> Overlap:
    """The overlap of the draws of one method's runs."""
    by_draw = runs.drop_duplicates("draw")
    target = str(runs["target"].iloc[0]) if "target" in runs else "heldout"
    splits = list(by_draw[SPLIT]) if SPLIT in by_draw else [None] * len(by_draw)
    return overlap_of(splits, target)


def _difference(score: str, runs: pd.DataFrame, base: pd.DataFrame, correlation: float) -> dict[str, float]:
    """The mean difference over the points that both have; empty for fewer than two points."""
    pairs = replicates(runs, score) - replicates(base, score)
    pairs = pairs.dropna(axis=1, how="all").dropna(axis=0)
    if pairs.size < 2:
        return {}
    difference = crossed_interval(pairs.to_numpy().tolist(), correlation=correlation)
    parts = _prefixed(f"{score}_difference", difference)
    if METRICS[score].kind == "share":
        most = METRICS[score].most
        parts = {name: min(most, max(-most, value)) for name, value in parts.items()}
    return parts | {f"{score}_p": difference.p_value}


def _mean_of(name: str, runs: pd.DataFrame, correlation: float) -> dict[str, float]:
    """Mean and 95% interval over draws and seeds; NaN bounds for a single point."""
    values = replicates(runs, name)
    if values.size < 2:
        return {name: runs[name].mean(), f"{name}_low": nan, f"{name}_high": nan}
    found, metric = crossed_interval(values.to_numpy().tolist(), correlation=correlation), METRICS[name]
    mean = _prefixed(name, share_interval(found, metric.most) if metric.kind == "share" else found)
    bounds = (f"{name}_low", f"{name}_high")
    if mean[bounds[0]] == mean[bounds[1]]:  # all points are equal, such as 0 copies: takes the bounds of the runs
        mean |= {bound: runs[bound].mean() if bound in runs else nan for bound in bounds}
    return mean


def _prefixed(name: str, interval: MeanInterval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def compact(frame: pd.DataFrame, reference: str = "fitted", scores: Sequence[str] = SHOWN) -> pd.DataFrame:
    """The comparison as text: means with 95% intervals, the difference in KID-H and its p-value."""
    text = pd.DataFrame({"method": frame["method"]})
    for name in varying_settings(frame):
        text.insert(0 if name == "domain" else len(text.columns), name, frame[name])
    for name in [score for score in scores if score in frame]:
        lines, usual = frame.to_dict("records"), int(frame["n"].mode().iloc[0])
        text[METRICS[name].title] = [marked(name, _mean(name, line), line["n"], usual) for line in lines]
        if name == "kid_h" and "kid_h_difference" in frame:
            text[f"against {reference}"] = [_against(line) for line in frame.to_dict("records")]
    return text


def varying_settings(frame: pd.DataFrame) -> list[str]:
    """The settings of a comparison that vary; prior and tolerances only if they vary within one method.

    Args:
        frame: from ``compare``.
    """
    names = [str(name) for name in frame if is_setting(name) and name not in METHOD]
    varying = [name for name in names if frame[name].map(setting_text).nunique() > 1]
    by_method = [name for name in METHOD[1:] if name in frame and frame.groupby("method")[name].nunique().gt(1).any()]
    return [*varying, *by_method]


def _mean(name: str, line: Mapping[Hashable, Any]) -> str:
    value = line[name]
    low, high = line[f"{name}_low"], line[f"{name}_high"]
    if is_missing(value):
        return ""
    if METRICS[name].kind == "share":
        return share_text(value, low, high)
    return plus_minus(name, value, (high - low) / 2)


def _against(line: Mapping[Hashable, Any]) -> str:
    """The difference in KID-H, with its interval and p-value."""
    value = line["kid_h_difference"]
    if is_missing(value):
        return ""
    half = (line["kid_h_difference_high"] - line["kid_h_difference_low"]) / 2
    p = "<.001" if line["kid_h_p"] < 0.001 else f"{line['kid_h_p']:.3f}".removeprefix("0")
    return f"{'+' if value > 0 else ''}{plus_minus('kid_h', value, half)} (p {p})"


def print_comparison(
    frame: pd.DataFrame, title: str, reference: str = "fitted", console: Console | None = None
) -> None:
    """Prints the compact comparison, with as many scores as fit into the terminal."""
    console = console or Console()
    scores = [name for name in SHOWN if name in frame]
    text = compact(frame, reference, scores)
    while len(scores) > 1 and width(text) > console.width:
        scores.pop()
        text = compact(frame, reference, scores)
    print_frame(text, title, caption(frame, reference), console)


def caption(frame: pd.DataFrame, reference: str) -> str:
    """The meaning of the columns of a comparison, as one paragraph."""
    first = frame.iloc[0]
    return (
        f"Means over {frame['draws'].max()} reference draws x {frame['seeds'].max()} seeds, with 95% intervals "
        f"(± half, or low to high) for {first['population']}. {_shared(first)}{extractors(frame)} features, "
        f"{', '.join(str(n) for n in frame['n'].unique())} images a point. FID floor: FID-H of as many real images; "
        f"{UNEQUAL}: of another number of images, so not comparable. "
        f"against {reference}: paired point by point, Holm-corrected p."
    )


def _shared(line: "pd.Series[Any]") -> str:
    """One sentence on the images that two draws have in common; empty for a single draw."""
    if line["draws"] < 2:
        return ""
    references, target = shared_text(line["overlap"]), shared_text(line["overlap_target"])
    return f"Two draws share on average {references} of their references and {target} of the images scored against. "


def write_comparison(frame: pd.DataFrame, path: Path, reference: str = "fitted") -> None:
    """Writes the comparison as .csv (every column), .md or .tex (the compact one)."""
    write_frame(frame, compact(frame, reference), path, caption(frame, reference), frame.attrs.get(YARDSTICK, ()))


def show_comparison(table: pd.DataFrame, title: str, paths: Sequence[Path], reference: str = "fitted") -> pd.DataFrame:
    """Compares the runs of ``table``, prints the comparison of each domain and writes all of it to ``paths``."""
    frame = compare(table, reference)
    frame.attrs[YARDSTICK] = table.attrs.get(YARDSTICK, [])
    for domain, part in frame.groupby("domain", sort=False):
        print_comparison(part, f"{domain}: {title}", reference)
    for note in frame.attrs[YARDSTICK]:
        print(note)
    for path in paths:
        write_comparison(frame, path, reference)
    return frame
