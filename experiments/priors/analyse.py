"""Which density over latents generates best, and why (reviewer 10).

`python -m experiments.studies priors --analyse`
"""

from collections.abc import Sequence
from itertools import combinations
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import (
    Answer,
    artefacts,
    bootstrap,
    copying,
    interval,
    mean_interval,
    rank_correlation,
    runs,
    signed,
    tested,
    write_study,
)
from experiments.priors.measures import MEASURES, residuals
from experiments.sweeps import QUICK, sweep
from unseen_diffusion.scores.intervals import combined_p, wilson
from unseen_diffusion.store.artefacts import load_tensor

PRIORS = (QUICK, "domain.draw=0,1", "prior=sample_covariance,slerp")
SWEEPS = (
    sweep("priors_references", "priors", tiny=[*PRIORS, "domain.references=12,16"]),
    sweep(
        "priors_steps",
        "priors",
        "mixing.t=250,750",
        "domain.references=100",
        "mixing.record=[250,750]",
        tiny=[*PRIORS, "domain.references=12"],
    ),
)

DEFAULT, PAPER = "sample_covariance", "isotropic"
SETTING = ["references", "t"]
BASE_STEP = 500.0
AXES = {
    "aligned": "variance along the references' own (1: theirs)",
    "outside": "share of variance outside the references' span",
    "spectrum": "RMS of log10 power, candidates over references",
}


def point(results: dict[str, Any]) -> dict[str, Any]:
    """A run's scores, and the measures of its candidates against its references."""
    settings, row = results["settings"], results["rows"][0]
    latents = load_tensor(artefacts(results, "invert")[-1], f"t{settings['t']:g}")
    candidates = load_tensor(artefacts(results, "select")[-1], "latents")
    own, moves = residuals(latents), candidates.double().numpy() - latents.double().mean(0).numpy()
    line = {"references": len(latents), "t": settings["t"], "draw": settings["draw"], "prior": settings["prior"]}
    line |= {
        name: row[name]
        for name in ("n", "kid_h", "fid_h", "copy_rate", "copy_rate_p", "coverage", "vendi", "target_conformal")
    }
    return line | {name: measure(moves, own) for name, measure in MEASURES.items()}


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """One line per setting and prior: KID-H over draws, copies pooled, the other scores and measures averaged."""
    lines = []
    for key, part in points.groupby([*SETTING, "prior"], sort=False):
        low, high = mean_interval(list(part["kid_h"]))
        copies = wilson(round(float((part["copy_rate"] * part["n"]).sum())), int(part["n"].sum()))
        line = dict(zip([*SETTING, "prior"], key, strict=True)) | {"draws": len(part)}
        line |= {"kid_h": part["kid_h"].mean(), "kid_h_low": low, "kid_h_high": high}
        line |= {"copy_rate": copies.share, "copy_rate_low": copies.low, "copy_rate_high": copies.high}
        line |= {"copies_p": combined_p(part["copy_rate_p"].tolist())}
        line |= {name: part[name].mean() for name in ("fid_h", "coverage", "vendi", "target_conformal", *MEASURES)}
        lines.append(line)
    full = pd.DataFrame(lines).sort_values([*SETTING, "kid_h"]).reset_index(drop=True)
    full["copies"] = copying(full["copies_p"].tolist())
    full["rank"] = full.groupby(SETTING)["kid_h"].rank()
    return full


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    points = pd.DataFrame([point(results) for results in runs(folders)])
    full = summary(points)
    explained = explanations(full)
    answers = [best(points, full), covariance(points), why(explained)]
    write_study(out, folders, full, table(full), draw(full, explained), answers)


def table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table: a line per prior, a column per setting."""
    ranks = full.groupby("prior")["rank"].mean().sort_values()
    text = pd.DataFrame({"prior": ranks.index})
    for (references, t), part in full.groupby(SETTING):
        cells = {line["prior"]: cell(line) for line in part.to_dict("records")}
        text[f"{references}, t {t:g}"] = [cells.get(name, "") for name in ranks.index]
    means = full.groupby("prior")[list(MEASURES)].mean()
    text["mean rank"] = [f"{value:.1f}" for value in ranks]
    for name in MEASURES:
        text[name] = [f"{means.loc[prior, name]:.2f}" for prior in ranks.index]
    return text


def cell(line: dict[Any, Any]) -> str:
    """KID-H with half its interval; c where the prior copies."""
    half = 500 * (line["kid_h_high"] - line["kid_h_low"])
    return f"{1000 * line['kid_h']:.0f} ± {half:.0f}{' c' if line['copies'] else ''}"


def by_draw(points: pd.DataFrame, prior: str, **fixed: float) -> pd.Series:
    """KID-H of a prior by draw, at a setting or averaged over all."""
    rows = points[points["prior"] == prior]
    for name, value in fixed.items():
        rows = rows[rows[name] == value]
    return rows.groupby("draw")["kid_h"].mean()


def contrast(one: pd.Series, other: pd.Series) -> tuple[float, float, float]:
    """Mean paired difference over draws, and its interval."""
    gap = (one - other).dropna()
    return (float(gap.mean()), *mean_interval(list(gap)))


def best(points: pd.DataFrame, full: pd.DataFrame) -> Answer:
    """The best prior among those that do not copy, and the priors that differ from the default."""
    copied = sorted(set(full[full["copies"]]["prior"]))
    clean = full[~full["prior"].isin(copied)]
    ranks = clean.groupby("prior")["rank"].mean().sort_values()
    first, others = ranks.index[0], [name for name in ranks.index if name != DEFAULT]
    default = by_draw(points, DEFAULT)
    gaps = {name: list((by_draw(points, name) - default).dropna()) for name in others}
    p_values = tested(gaps)
    told = {sign: [n for n in others if p_values[n] < 0.05 and sign * np.mean(gaps[n]) > 0] for sign in (-1, 1)}
    alike = [name for name in others if name not in (*told[-1], *told[1])]
    firsts = clean.loc[clean.groupby(SETTING)["kid_h"].idxmin(), "prior"]
    effects = ", ".join(f"{name} {signed(*contrast(by_draw(points, name), default), 1000)}" for name in others)
    return Answer(
        "reviewer 10",
        f"Of the densities that are not shown to copy, {first} has the lowest mean rank, first in "
        f"{int((firsts == first).sum())} of {len(firsts)} settings. Against the default, {DEFAULT}: better "
        f"{', '.join(told[-1]) or 'none'}; worse {', '.join(told[1]) or 'none'}; not told apart "
        f"{', '.join(alike) or 'none'}. Copying at some setting: {', '.join(copied) or 'none'}.",
        f"KID-H x1000 more than {DEFAULT}'s, settings averaged: {effects}",
    )


def covariance(points: pd.DataFrame) -> Answer:
    """Does the covariance matter more than the number of references and the mixing step?"""
    references = sorted(points["references"].unique())
    steps = sorted(points["t"].unique())
    middle = points[points["t"] != BASE_STEP]["references"].iloc[0]
    base = {"references": middle, "t": BASE_STEP}
    whole = contrast(by_draw(points, PAPER, **base), by_draw(points, DEFAULT, **base))
    others = {
        f"{references[-1]} less {references[0]} references": contrast(
            by_draw(points, DEFAULT, references=references[-1], t=BASE_STEP),
            by_draw(points, DEFAULT, references=references[0], t=BASE_STEP),
        )
    }
    for low, high in combinations(steps, 2):
        one, other = ({"references": middle, "t": step} for step in (high, low))
        pair = contrast(by_draw(points, DEFAULT, **one), by_draw(points, DEFAULT, **other))
        others[f"t {high:g} less {low:g}"] = pair
    largest = max(abs(value) for value, *_ in others.values())
    upper = max(max(abs(low), abs(high)) for _, low, high in others.values())
    holds = "holds" if whole[1] > upper else "does not hold" if whole[0] < largest else "is not resolved"
    shares = [variance_share(part) for part in designs(points)]
    effects = "; ".join(f"{name} {signed(*value, 1000)}" for name, value in others.items())
    return Answer(
        "reviewer 10",
        f"That the covariance matters more than number of references and mixing step {holds}; the prior explains "
        f"{shares[0]} of KID-H's variance over prior, references and draw, {shares[1]} over prior, step and draw.",
        f"KID-H x1000, isotropic less sample_covariance {signed(*whole, 1000)}; of sample_covariance: {effects}",
    )


def designs(points: pd.DataFrame) -> tuple[tuple[pd.DataFrame, str], tuple[pd.DataFrame, str]]:
    """The two crossed designs, with their factor beside prior and draw."""
    middle = points[points["t"] != BASE_STEP]["references"].iloc[0]
    return (
        (points[points["t"] == BASE_STEP], "references"),
        (points[points["references"] == middle], "t"),
    )


def variance_share(design: tuple[pd.DataFrame, str]) -> str:
    """Share of KID-H's sum of squares that the prior explains, with its range when one draw is left out."""
    part, factor = design

    def share(rows: pd.DataFrame) -> float:
        cells = rows.groupby(["prior", factor, "draw"])["kid_h"].mean().reset_index()
        mean = cells["kid_h"].mean()
        of_prior = cells.groupby("prior")["kid_h"].transform("mean") - mean
        total = ((cells["kid_h"] - mean) ** 2).sum()
        return float((of_prior**2).sum() / total) if total else nan

    without = [share(part[part["draw"] != draw]) for draw in part["draw"].unique()]
    return f"{share(part):.0%} ({min(without):.0%} to {max(without):.0%})"


def explanations(full: pd.DataFrame) -> dict[str, tuple[float, float, float]]:
    """Mean over settings of Spearman's rho between each measure and KID-H over priors, with its interval."""
    wide = full.pivot_table(index="prior", columns=SETTING, values=["kid_h", *MEASURES])
    scores = wide["kid_h"].to_numpy()

    def rho(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.mean([rank_correlation(x[:, k], y[:, k]) for k in range(x.shape[1])]))

    found = {}
    for name in MEASURES:
        values = wide[name].to_numpy()
        found[name] = (rho(values, scores), *bootstrap([values, scores], rho))
    return found


def why(explained: dict[str, tuple[float, float, float]]) -> Answer:
    """Which measure of the candidates explains the order of the priors."""
    told = [name for name, (_, low, high) in explained.items() if low > 0 or high < 0]
    strongest = max(explained, key=lambda name: abs(explained[name][0]))
    words = {
        "aligned": "how much candidates move in the references' own directions",
        "outside": "the share of their variance outside the span of the references",
        "spectrum": "how far their power spectrum is from the references'",
    }
    which = "all" if len(told) == len(explained) else ", ".join(told) if told else "none"
    verdict = f"Why: of three measures of the latents ({', '.join(explained)}), {which} go with the order of the priors"
    verdict += f", most of all {strongest}, {words[strongest]}." if told else "."
    effects = ", ".join(f"{name} {interval(*value)}" for name, value in explained.items())
    return Answer("reviewer 10", verdict, f"Spearman with KID-H over priors: {effects}")


def draw(full: pd.DataFrame, explained: dict[str, tuple[float, float, float]]) -> Figure:
    """KID-H per prior and setting; KID-H against the strongest measure."""
    figure = Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    draw_priors(left, full)
    strongest = max(explained, key=lambda name: abs(explained[name][0]))
    draw_measure(right, full, strongest)
    right.set_xlabel(f"{strongest}: {AXES[strongest]}\n(Spearman's rho {interval(*explained[strongest])})")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def settings_of(full: pd.DataFrame) -> list[tuple[Any, str, str, pd.DataFrame]]:
    """Settings with their colour, marker and lines."""
    groups = full.groupby(SETTING)
    return [(key, f"C{k}", "v<o>^sDP*X"[k % 10], part) for k, (key, part) in enumerate(groups)]


def draw_priors(axis: Axes, full: pd.DataFrame) -> None:
    """KID-H by prior, best mean rank first; hollow where the prior copies."""
    priors = list(full.groupby("prior")["rank"].mean().sort_values().index)
    groups = settings_of(full)
    for place, (key, colour, marker, part) in enumerate(groups):
        rows = part.set_index("prior").loc[[name for name in priors if name in set(part["prior"])]]
        at = np.array([priors.index(name) + 0.14 * (place - (len(groups) - 1) / 2) for name in rows.index])
        bars = np.array([rows["kid_h"] - rows["kid_h_low"], rows["kid_h_high"] - rows["kid_h"]])
        label = f"{key[0]} references, t {key[1]:g}"
        axis.errorbar(at, 1000 * rows["kid_h"], 1000 * bars, fmt=marker, color=colour, ms=5, lw=1, label=label)
        copies = rows["copies"].to_numpy()
        axis.plot(at[copies], 1000 * rows["kid_h"].to_numpy()[copies], marker, color="white", ms=2.5, zorder=5)
    axis.set_xticks(range(len(priors)), priors, rotation=35, ha="right")
    axis.set_ylabel("KID-H x1000 (95% over draws)")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False, fontsize=8, title="hollow: copies", title_fontsize=8)


def draw_measure(axis: Axes, full: pd.DataFrame, measure: str) -> None:
    """KID-H against a measure of the latents; the priors are named at the middle setting."""
    groups = settings_of(full)
    for _, colour, marker, part in groups:
        axis.plot(part[measure], 1000 * part["kid_h"], marker, color=colour, ms=5)
    middle = groups[len(groups) // 2][-1]
    spots = zip(middle[measure].round(2), middle["kid_h"].round(2), strict=True)
    for (x, y), names in middle.groupby(pd.Series(list(spots), index=middle.index))["prior"]:
        style = {"fontsize": 7, "xytext": (4, 3), "textcoords": "offset points", "color": "0.3"}
        axis.annotate(", ".join(names), (x, 1000 * y), **style)
    axis.set_ylabel("KID-H x1000")
