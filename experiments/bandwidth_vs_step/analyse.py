"""Open question 1: the bandwidth against the mixing step; reviewer 4: which differences of domains are significant.

`python -m experiments.studies bandwidth_vs_step --analyse`
"""

from collections.abc import Sequence
from itertools import combinations
from math import nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtr, stdtrit

from experiments.common import MODEL_COLOURS, Answer, interval, runs, write_study
from experiments.sweeps import SEARCH, TWO, sweep
from unseen_diffusion.scores.intervals import holm, t_interval

BANDWIDTHS = (
    sweep("bandwidth_psnr", "bandwidth", tiny=["mixing.t=250,500", TWO, *SEARCH]),
    sweep(
        "bandwidth_snr",
        "bandwidth",
        "bandwidth.minimum_psnr=null",
        "bandwidth.minimum_snr=10",
        "mixing.t=500",
        tiny=[TWO, *SEARCH],
    ),
)
SWEEPS = BANDWIDTHS[:1]

LEVEL = 0.05
DIFFERENCE = 0.1  # that reviewer 4 asks about: 0.2 against 0.3


def lines(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per step: the bandwidth where the mean curve meets the criterion, censored ones at 0 or 1."""
    settings, own = results["settings"], results["bandwidth"]
    rows = []
    for one in [{"t": settings["t"], **own}, *own["recorded"]]:
        censored = one["censored"]
        value = {"above": 1.0, "below": 0.0}.get(censored, one["crossing"])
        row = {"model": settings["model"], "domain": settings["domain"], "t": one["t"], "bandwidth": value}
        row |= {"low": one["low"], "high": one["high"], "censored": censored or "", "references": one["references"]}
        row["standard_error"] = bound_error(row) if censored else crossing_error(one["curve"], one["crossing"])
        rows.append(row)
    return sorted(rows, key=lambda row: row["t"])


def crossing_error(curve: Sequence[dict[str, float]], crossing: float) -> float:
    """Standard error of a crossing: that of the mean PSNR there over the curve's slope."""
    right = next((i for i, point in enumerate(curve) if point["eta"] >= crossing), len(curve) - 1)
    a, b = curve[max(0, right - 1)], curve[max(1, right)]
    slope = (b["psnr_mean"] - a["psnr_mean"]) / (b["eta"] - a["eta"])
    return (a["psnr_se"] + b["psnr_se"]) / 2 / abs(slope) if slope else nan


def bound_error(row: dict[str, Any]) -> float:
    """Standard error of a censored bandwidth: what the search's interval leaves between 0 and 1, over its quantile."""
    return (row["high"] - row["low"]) / float(stdtrit(row["references"] - 1, 0.975))


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = runs(folders)
    full = pd.DataFrame([line for results in found for line in lines(results)])
    text = full[["model", "domain"]].drop_duplicates().reset_index(drop=True)
    keys = list(text.itertuples(index=False, name=None))
    for t, part in full.groupby("t"):
        cells = {(row.model, row.domain): row for row in part.itertuples()}
        text[f"t = {t:g}"] = [shown(cells[key]) for key in keys]
    write_study(out, folders, full, text, draw(full), conclusions(full))


def conclusions(full: pd.DataFrame) -> list[Answer]:
    """The answers, one for each model and question."""
    return [*by_step(full), *by_domain(full)]


def shown(row: Any) -> str:
    """A bandwidth with its interval, or its bound."""
    if row.censored:
        return "≥ 1" if row.censored == "above" else "≤ 0"
    return f"{row.bandwidth:.2f} ({row.low:.2f} to {row.high:.2f})"


def by_step(full: pd.DataFrame) -> list[Answer]:
    """The trend of each model, the domain being the unit; p by Holm over the models."""
    if full["domain"].nunique() < 2 or full["t"].nunique() < 2:
        return []
    found = {}
    for model, part in full.groupby("model", sort=False):
        wide = part.pivot(index="domain", columns="t", values="bandwidth")
        steps = wide.columns.to_numpy(float)
        slopes = [1000 * float(np.polyfit(steps, row, 1)[0]) for row in wide.to_numpy()]
        falls = int((wide.diff(axis=1).iloc[:, 1:] <= 0).all(axis=1).sum())
        censored = int((part["censored"].fillna("") != "").sum())
        found[str(model)] = t_interval(slopes), falls, len(wide), censored, len(part)
    p_values = holm([slope.p_value for slope, *_ in found.values()])
    answers = []
    for (model, (slope, falls, pairs, censored, searches)), p in zip(found.items(), p_values, strict=True):
        word = "has no resolved trend" if p >= LEVEL else "falls" if slope.mean < 0 else "grows"
        effect = f"slope {interval(slope.mean, slope.low, slope.high)} per 1000 steps"
        answers.append(
            Answer(
                "open 1",
                f"Through {model} the bandwidth {word} with the mixing step; it never rises from one step to the next "
                f"on {falls} of {pairs} domains.",
                f"{effect} (p {p:.2g}, Holm over {len(found)} models); {censored} of {searches} searches censored at 0 "
                "or 1",
                f"Through {model}, the bandwidth {word} with the mixing step.",
                effect,
            )
        )
    return answers


def by_domain(full: pd.DataFrame) -> list[Answer]:
    """Welch's tests between the domains of each model at t = 500, Holm within the model."""
    answers = []
    for model, part in full.assign(censored=full["censored"].fillna("")).query("t == 500").groupby("model", sort=False):
        pairs = list(combinations(part.to_dict("records"), 2))
        if not pairs:
            continue
        compared = [welch(a, b) for a, b in pairs]
        told = [p <= LEVEL for p in holm([p for p, _ in compared])]
        near = [abs(a["bandwidth"] - b["bandwidth"]) <= DIFFERENCE for a, b in pairs]
        small = sum(apart and close for apart, close in zip(told, near, strict=True))
        halves = [half for _, half in compared if half == half]
        half = float(np.median(halves)) if halves else nan
        answers.append(
            Answer(
                "reviewer 4",
                f"Through {model}, {sum(told)} of {len(pairs)} pairs of domains differ significantly with "
                f"{int(part['references'].min())} references, and {small} of the {sum(near)} pairs that are 0.1 or "
                "less apart.",
                f"half-width of a difference's 95% interval {half:.3f} (median of the {len(halves)} pairs that are not "
                "censored); Holm within the model",
                f"Through {model}, {small} of {sum(near)} differences of 0.1 or less are told apart.",
                f"median half-width {half:.3f}",
            )
        )
    return answers


def welch(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """(p-value, half-width of the 95% interval) of a difference of crossings.

    A censored crossing counts as its bound; two on the same side count as equal.
    """
    if a["censored"] and a["censored"] == b["censored"]:
        return 1.0, nan
    squares = [one["standard_error"] ** 2 for one in (a, b)]
    if not sum(squares):
        return 1.0, nan
    freedom = sum(squares) ** 2 / sum(s**2 / (one["references"] - 1) for s, one in zip(squares, (a, b), strict=True))
    error = sqrt(sum(squares))
    p = 2 * float(stdtr(freedom, -abs(a["bandwidth"] - b["bandwidth"]) / error))
    half = float(stdtrit(freedom, 0.975)) * error
    return p, nan if a["censored"] or b["censored"] else half


def draw(full: pd.DataFrame) -> Figure:
    """Draws bandwidth against the step, one panel per domain; open marks are censored."""
    domains = list(full["domain"].unique())
    figure = Figure(figsize=(2.3 * len(domains) + 1, 3.2), layout="constrained")
    axes = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    for axis, domain in zip(axes, domains, strict=True):
        for number, (model, rows) in enumerate(full[full["domain"] == domain].groupby("model", sort=False)):
            colour = MODEL_COLOURS.get(model, "C2")
            at = rows["t"] + 8 * number
            error = [(rows["bandwidth"] - rows["low"]).clip(lower=0), (rows["high"] - rows["bandwidth"]).clip(lower=0)]
            axis.errorbar(at, rows["bandwidth"], error, color=colour, lw=1.2, capsize=2, label=model)
            face = ["white" if censored else colour for censored in rows["censored"]]
            axis.scatter(at, rows["bandwidth"], s=22, color=face, edgecolor=colour, zorder=3)
        axis.set_title(domain, fontsize=10)
        axis.set_xlabel("mixing step t")
        axis.set_xticks(sorted(full["t"].unique()), [f"{t:g}" for t in sorted(full["t"].unique())], fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("bandwidth (largest eta with 20 dB)")
    axes[-1].legend(frameon=False, fontsize=8, title="open: censored", title_fontsize=7)
    return figure
