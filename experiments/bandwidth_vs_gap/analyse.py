"""M4: does a larger domain gap give a larger bandwidth, and easier generalisation?

`python -m experiments.studies bandwidth_vs_gap --analyse`
"""

from collections.abc import Sequence
from itertools import permutations
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import rankdata

from experiments.bandwidth_vs_step.analyse import BANDWIDTHS
from experiments.common import (
    MODEL_COLOURS,
    Answer,
    artefact,
    artefacts,
    generated,
    rank_correlation,
    runs,
    write_study,
)
from experiments.separability.analyse import sets_of
from experiments.table1_geometry.analyse import SWEEPS as TABLE1
from experiments.table2_scores.analyse import SWEEPS as TABLE2
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.intervals import holm
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.scores.latents.separability import energy_distance
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.configs import build

SWEEPS = (*BANDWIDTHS, *TABLE1, *TABLE2)

SPACES = ("pixels", "features", "latents")
MEASURES = (*SPACES, "kid", "kappa")
CRITERIA = {"psnr": "20 dB of PSNR", "snr": "10 dB of SNR"}
PAIR = ["model", "domain"]
MARKERS = "osD^vPX*"
STEP = 500  # the mixing step of the gaps
LEVEL = 0.05


def gaps(results: dict[str, Any]) -> dict[str, Any]:
    """One pair: energy distances between references and the model's own samples, KID, kappa, and the contrast."""
    settings = results["settings"]
    extractor = build(results["config"]["features"])
    own = load_tensor(artefacts(results, "denoise")[-1], "images")
    references = artefact(results, "split")["references"][: len(own)]
    features = [extract(extractor, images) for images in (references, own)]
    latents = sets_of(results, settings["t"])
    spaces = {
        "pixels": (references.double().flatten(1) / 127.5, own.double().flatten(1) / 127.5),
        "features": features,
        "latents": (latents.unseen, latents.own),
    }
    line = {name: settings[name] for name in PAIR}
    line |= {name: energy_distance(x, y, 0, permutations=1).value for name, (x, y) in spaces.items()}
    line |= {"kid": kid(*features).value, "kappa": latents.measures[0]}
    return line | {"contrast": float(references.double().var(0).mean().sqrt()) / 255}


def bandwidths(folder: Path, name: str) -> pd.DataFrame:
    """Bandwidth at the run's own step by one criterion; censored searches count as 0 or 1."""
    rows = []
    for results in runs([folder]):
        if results["settings"]["t"] != STEP:
            continue
        own = results["bandwidth"]
        value = {"above": 1.0, "below": 0.0}.get(own["censored"], own["crossing"])
        row = {name: value, f"{name}_low": own["low"], f"{name}_high": own["high"], f"{name}_censored": own["censored"]}
        rows.append({key: results["settings"][key] for key in PAIR} | row)
    return pd.DataFrame(rows)


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results: sweeps bandwidth_psnr, bandwidth_snr, table1_geometry and table2_scores."""
    full = pd.DataFrame([gaps(results) for results in runs([folders[2]])])
    for folder, name in zip(folders, CRITERIA, strict=False):
        full = full.merge(bandwidths(folder, name), on=PAIR, how="left")
    scores = generated([folders[3]])
    scores = scores[scores["prior"] == "sample_covariance"][[*PAIR, "kid_h", "kid_h_low", "kid_h_high"]]
    full = full.merge(scores, on=PAIR, how="left")
    write_study(out, folders, full, table_of(full), draw(full), conclusions(full))


def conclusions(full: pd.DataFrame) -> list[Answer]:
    """The answers: M4 for each model, and the pairs."""
    return [*claims(correlations(full)), pairs(full)]


def table_of(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    return shown(correlations(full))


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Rank correlation of x and y given z."""
    a, b, c = rank_correlation(x, y), rank_correlation(x, z), rank_correlation(y, z)
    scale = (1 - b**2) * (1 - c**2)
    return (a - b * c) / scale**0.5 if scale > 1e-12 else float("nan")


def exact_rank_test(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Spearman's rho and its exact two-sided p over all orders of y; NaN and 1 where one side does not vary."""
    rho = rank_correlation(x, y)
    if not np.isfinite(rho):
        return rho, 1.0
    a, b = (rankdata(values) - rankdata(values).mean() for values in (x, y))
    sums = np.array([a @ b[list(order)] for order in permutations(range(len(b)))])
    return rho, float((np.abs(sums) >= abs(a @ b) - 1e-9).mean())


def correlations(full: pd.DataFrame) -> pd.DataFrame:
    """A row per model, outcome and gap measure: rho over the model's domains, and its p by Holm.

    Ranks are those within a model, so that a difference between the models is no correlation. Holm counts the outcomes
    and the three gaps of a model's claim; the other measures and the contrast are described, not tested.
    """
    rows = []
    for model, own in full.groupby("model", sort=False):
        tests = []
        for outcome in (*CRITERIA, "kid_h"):
            for gap in (*MEASURES, "contrast"):
                part = own.dropna(subset=[gap, outcome])
                columns = [part[name].to_numpy() for name in (gap, outcome, "contrast")]
                rho, p = exact_rank_test(columns[0], columns[1])
                row = {"model": model, "outcome": outcome, "gap": gap, "rho": rho, "domains": len(part), "p": nan}
                row["given_contrast"] = partial(*columns) if gap != "contrast" else nan
                rows.append(row)
                if gap in SPACES:
                    tests.append((row, p))
        for (row, _), p in zip(tests, holm([p for _, p in tests]), strict=True):
            row["p"] = p
    return pd.DataFrame(rows)


def claims(table: pd.DataFrame) -> list[Answer]:
    """The answer to M4 for each model."""
    answers = []
    for model, part in table[table["gap"].isin(SPACES)].groupby("model", sort=False):
        width, easier = part[part["outcome"].isin(CRITERIA)], part[part["outcome"] == "kid_h"]
        said = [told(width, "bandwidth"), told(easier, "KID-H")]
        shown = "; ".join(
            f"{outcome} {', '.join(f'{row.rho:+.2f} (p {row.p:.2g})' for row in rows.itertuples())}"
            for outcome, rows in part.groupby("outcome", sort=False)
        )
        answers.append(
            Answer(
                "M4",
                f"Through {model}, {said[0]}, and {said[1]}.",
                f"Spearman's rho with the gap in pixels, features, latents over {int(part['domains'].min())} domains, "
                f"exact p by Holm over {len(part)} tests: {shown}",
                f"Through {model}, {said[0]}.",
                strongest(width),
            )
        )
    return answers


def strongest(rows: pd.DataFrame) -> str:
    """The largest of several rank correlations in absolute value, with its p-value and number of domains."""
    if rows["rho"].isna().all():
        return f"no outcome or gap varies over {int(rows['domains'].min())} domains"
    row = rows.loc[rows["rho"].abs().idxmax()]
    return f"strongest rho {row['rho']:+.2f} (p {row['p']:.2g}), {row['domains']} domains"


def told(rows: pd.DataFrame, name: str) -> str:
    """Whether an outcome is shown to go with the gap."""
    signs = {int(np.sign(row.rho)) for row in rows.itertuples() if row.p < LEVEL}
    if not signs:
        return f"{name} is not shown to go with the domain gap"
    if len(signs) > 1:
        return f"{name} rises or falls with the gap, depending on how both are measured"
    return f"{name} {'rises' if signs == {1} else 'falls'} with the domain gap"


def pairs(full: pd.DataFrame) -> Answer:
    """The answer to reviewer 15: more pairs of training and unseen domain."""
    ranges = ", ".join(f"{name} {full[name].min():.2f} to {full[name].max():.2f}" for name in SPACES)
    return Answer(
        "reviewer 15",
        f"{len(full)} pairs of {full['model'].nunique()} models and {full['domain'].nunique()} domains.",
        f"energy distance between domain and own samples: {ranges}",
        f"{len(full)} pairs of {full['model'].nunique()} models and {full['domain'].nunique()} domains were measured.",
        f"gap in features {full['features'].min():.1f} to {full['features'].max():.1f}",
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    names = {"psnr": f"bandwidth, {CRITERIA['psnr']}", "snr": f"bandwidth, {CRITERIA['snr']}", "kid_h": "KID-H"}
    text = pd.DataFrame({"model": table["model"], "outcome": table["outcome"].replace(names)})
    text["gap or contrast"] = table["gap"]
    text["rank correlation"] = [f"{value:+.2f}" if value == value else "" for value in table["rho"]]
    text["exact p (Holm)"] = [f"{value:.2g}" if value == value else "" for value in table["p"]]
    text["given the contrast"] = [f"{value:+.2f}" if value == value else "" for value in table["given_contrast"]]
    return text


def draw(full: pd.DataFrame) -> Figure:
    """Draws bandwidth by both criteria, and KID-H, against the gap's rank in every space; one marker per domain."""
    outcomes = {**{name: f"bandwidth, {text}" for name, text in CRITERIA.items()}, "kid_h": "KID-H"}
    figure = Figure(figsize=(11, 8), layout="constrained")
    axes = figure.subplots(len(outcomes), len(SPACES), sharey="row", sharex=True)
    for row, (outcome, title) in zip(axes, outcomes.items(), strict=True):
        for axis, gap in zip(row, SPACES, strict=True):
            ranks = rankdata(full[gap])
            for x, line, marker in zip(ranks, full.to_dict("records"), markers(full), strict=True):
                y = line[outcome]
                error = [[max(0.0, y - line[f"{outcome}_low"])], [max(0.0, line[f"{outcome}_high"] - y)]]
                style = {"ms": 6, "lw": 1, "capsize": 2, "color": MODEL_COLOURS.get(line["model"], "C2")}
                axis.errorbar([x], [y], error, fmt=marker, **style)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel(title)
    for axis, gap in zip(axes[-1], SPACES, strict=True):
        axis.set_xlabel(f"rank of the gap in {gap}")
    legend(figure, full)
    return figure


def markers(full: pd.DataFrame) -> list[str]:
    """Draws a marker per row, whose shape is the domain."""
    place = {domain: number for number, domain in enumerate(full["domain"].unique())}
    return [MARKERS[place[domain] % len(MARKERS)] for domain in full["domain"]]


def legend(figure: Figure, full: pd.DataFrame) -> None:
    """Colours are models, markers domains."""
    shapes = dict(zip(full["domain"], markers(full), strict=True))
    models = [
        Line2D([], [], marker="o", ls="", color=MODEL_COLOURS.get(name, "C2"), label=name)
        for name in full["model"].unique()
    ]
    domains = [Line2D([], [], marker=marker, ls="", color="0.4", label=name) for name, marker in shapes.items()]
    figure.legend(
        handles=[*models, *domains], loc="outside upper center", ncols=len(models) + len(domains), frameon=False
    )
