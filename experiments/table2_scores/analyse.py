"""Table 2: bandwidth and the score suite per pair of model and domain, for the paper's prior and the default.

`python -m experiments.studies table2_scores --analyse`
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, feature_tensor, interval, mean_interval, runs, score, write_study
from experiments.sweeps import SEARCH, TWO, sweep
from unseen_diffusion.scores.kernel import kid_difference

SWEEPS = (sweep("table2_scores", "table2_scores", tiny=["model=photos32", TWO, *SEARCH]),)

PAPER, DEFAULT = "isotropic", "sample_covariance"
POWER = 0.9  # share of replays that must be caught before a low copy rate can be trusted
NAMES = {"held_out": "[real images]", "replay": "[replay]"}
STYLE = {"held_out": ("0.4", "_"), "replay": ("C4", "x"), PAPER: ("C1", "s"), DEFAULT: ("C0", "o")}
LABELS = {
    "held_out": "real images",
    "replay": "replayed references",
    PAPER: "isotropic (the paper's)",
    DEFAULT: "sample covariance (default)",
}


def lines(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per row of a run, with the pair's bandwidth."""
    settings, found = results["settings"], results["bandwidth"]
    eta = {"eta": found["eta"], "eta_low": found["low"], "eta_high": found["high"], "censored": found["censored"]}
    return [
        {"model": settings["model"], "domain": settings["domain"], **eta}
        | {"set": settings["prior"] if row["row"] == "generated" else row["row"]}
        | {name: value for name, value in row.items() if name not in ("row", "images")}
        for row in results["rows"]
    ]


def differences(found: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """KID-H of the paper's prior less the default's, per pair, with its paired jackknife interval."""
    rows = []
    for one, other in combinations(found, 2):
        pair = {one["settings"]["prior"]: one, other["settings"]["prior"]: other}
        same = all(one["settings"][name] == other["settings"][name] for name in ("model", "domain"))
        if not same or set(pair) != {PAPER, DEFAULT}:
            continue
        target = f"{one['rows'][1]['images'].rpartition('/')[0]}/heldout"
        made = [feature_tensor(pair[name], pair[name]["rows"][0]["images"]) for name in (PAPER, DEFAULT)]
        gap = kid_difference(*made, feature_tensor(one, target))
        names = {name: one["settings"][name] for name in ("model", "domain")}
        rows.append(names | {"difference": gap.value, "low": gap.low, "high": gap.high})
    return pd.DataFrame(rows)


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = runs(folders)
    full = pd.DataFrame([line for results in found for line in lines(results)])
    full = full.drop_duplicates(["model", "domain", "set"])  # both priors' runs bring the pair's comparison rows
    order = {name: place for place, name in enumerate(STYLE)}
    pairs = {pair: place for place, pair in enumerate(zip(full["model"], full["domain"], strict=True))}
    full["pair"] = [pairs[pair] for pair in zip(full["model"], full["domain"], strict=True)]
    full = full.sort_values(["pair", "set"], key=lambda column: column.map(order) if column.name == "set" else column)
    full = full.drop(columns="pair").reset_index(drop=True)
    gaps = differences(found)
    write_study(out, folders, full, table(full), draw(full), answers(full, gaps), most=48)


def table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    records = full.to_dict("records")
    return pd.DataFrame(
        {
            "pair": full["model"] + " → " + full["domain"],
            "images": full["set"].replace(NAMES),
            "eta": [bandwidth(line) for line in records],
            "KID-H x1000": [score(line, "kid_h") for line in records],
            "FID-H": [score(line, "fid_h") for line in records],
            "copies": [score(line, "copy_rate") for line in records],
            "cov": [score(line, "coverage") for line in records],
            "Vendi": [score(line, "vendi") for line in records],
            "conf": [score(line, "target_conformal") for line in records],
        }
    )


def bandwidth(line: dict[Any, Any]) -> str:
    """The bandwidth and its interval."""
    if line["set"] not in (PAPER, DEFAULT):
        return ""
    if line["censored"] == "below":
        return "none (0)"
    return interval(line["eta"], line["eta_low"], line["eta_high"])


def answers(full: pd.DataFrame, gaps: pd.DataFrame) -> list[Answer]:
    """Table 2 in two sentences, by the rules of the README."""
    by = full.set_index(["model", "domain", "set"])
    own = full[full["set"].isin((PAPER, DEFAULT))]
    pairs = len(gaps)
    real = [
        line
        for line in own.to_dict("records")
        if line["kid_h_low"] <= by.loc[(line["model"], line["domain"], "held_out"), "kid_h_high"]
    ]
    seen = int((full[full["set"] == "replay"]["copy_rate"] >= POWER).sum())
    reach = ", ".join(f"{line['model']} on {line['domain']} ({line['set']})" for line in real) or "none"
    without = int((full[full["set"] == "replay"]["censored"] == "below").sum())
    missed = f"; in {without} of {pairs} references miss the criterion even at eta 0" if without else ""
    table2 = Answer(
        "table 2",
        f"Samples that are not told from real images, of {len(own)} sets: {reach}. At the bandwidth copying "
        f"would be seen in {seen} of {pairs} pairs{missed}.",
        f"bandwidth eta {own['eta'].min():.2f} to {own['eta'].max():.2f}; KID-H x1000 of the default "
        f"{span(full, DEFAULT)}, of the paper's prior {span(full, PAPER)}, of replayed references "
        f"{span(full, 'replay')}, of real images {span(full, 'held_out')}",
    )
    return [table2, generality(gaps, pairs)]


def generality(gaps: pd.DataFrame, pairs: int) -> Answer:
    """For how many pairs one prior is better than the other."""
    better, worse = int((gaps["low"] > 0).sum()), int((gaps["high"] < 0).sum())
    domains = gaps.groupby("domain")["difference"].mean()
    low, high = mean_interval(list(domains))
    winner = "sample covariance" if low > 0 else "isotropic prior" if high < 0 else None
    over = f"over the domains the {winner} is better" if winner else "over the domains the difference is not resolved"
    return Answer(
        "reviewer 15",
        f"{pairs} pairs: the sample covariance is better than the paper's isotropic prior in {better}, worse in "
        f"{worse}, not told apart in {pairs - better - worse}; {over}.",
        f"KID-H x1000, isotropic - sample covariance: {1000 * domains.mean():+.0f} "
        f"({1000 * low:+.0f} to {1000 * high:+.0f}) over {len(domains)} domains",
    )


def span(full: pd.DataFrame, kind: str) -> str:
    """Least and greatest KID-H of a kind of images."""
    values = 1000 * full[full["set"] == kind]["kid_h"]
    return f"{values.min():.0f} to {values.max():.0f}"


def draw(full: pd.DataFrame) -> Figure:
    """Draws KID-H per domain, and the bandwidth below it; one column per model."""
    models = list(full["model"].unique())
    figure = Figure(figsize=(5.5 * len(models), 6), layout="constrained")
    axes = figure.subplots(2, len(models), squeeze=False, sharey="row", sharex="col", height_ratios=[2, 1])
    for (upper, lower), model in zip(axes.T, models, strict=True):
        part = full[full["model"] == model]
        domains = list(part["domain"].unique())
        for place, (kind, (colour, marker)) in enumerate(STYLE.items()):
            rows = part[part["set"] == kind].set_index("domain").loc[domains]
            at = [index + 0.15 * (place - 1.5) for index in range(len(domains))]
            half = 500 * (rows["kid_h_high"] - rows["kid_h_low"])
            upper.errorbar(at, 1000 * rows["kid_h"], half, fmt=marker, color=colour, ms=5, label=LABELS[kind])
        rows = part[part["set"] == DEFAULT].set_index("domain").loc[domains]
        low, high = rows["eta_low"].fillna(rows["eta"]), rows["eta_high"].fillna(rows["eta"])
        below, above = (rows["eta"] - low).clip(lower=0), (high - rows["eta"]).clip(lower=0)
        lower.errorbar(range(len(domains)), rows["eta"], [below, above], fmt="o", color="k", ms=4, capsize=3)
        lower.set_xticks(range(len(domains)), domains, rotation=30, ha="right")
        lower.set_ylim(-0.05, 1.05)
        upper.set_yscale("symlog", linthresh=100)
        upper.axhline(0, color="0.8", lw=0.8, zorder=0)
        upper.set_title(model, loc="left")
        for axis in (upper, lower):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("KID-H x1000 (95% jackknife; linear below 100)")
    axes[1][0].set_ylabel("bandwidth eta (95%)")
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure
