"""M4: does a larger domain gap give a larger bandwidth, and easier generalisation?

`python -m experiments.studies bandwidth_vs_gap --analyse`
"""

from collections.abc import Callable, Sequence
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
    interval,
    rank_correlation,
    runs,
    write_study,
)
from experiments.separability.analyse import sets_of
from experiments.table1_geometry.analyse import SWEEPS as TABLE1
from experiments.table2_scores.analyse import SWEEPS as TABLE2
from unseen_diffusion.scores.features.base import extract
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
DRAWS = 2000  # of the bootstrap over domains


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
    table = correlations(full)
    answers = [bandwidth_claim(full, table), pairs(full)]
    write_study(out, folders, full, shown(table), draw(full), answers)


def partial(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> float:
    """Rank correlation of x and y given z."""
    a, b, c = rank_correlation(x, y), rank_correlation(x, z), rank_correlation(y, z)
    scale = (1 - b**2) * (1 - c**2)
    return (a - b * c) / scale**0.5 if scale > 1e-12 else float("nan")


def over_domains(full: pd.DataFrame, statistic: Callable[[pd.DataFrame], float]) -> tuple[float, float, float]:
    """The statistic with a 95% percentile interval over domains, all models of a domain drawn together."""
    groups = [part for _, part in full.groupby("domain", sort=False)]
    rng = np.random.default_rng(0)
    drawn = [pd.concat([groups[i] for i in rng.integers(0, len(groups), len(groups))]) for _ in range(DRAWS)]
    values = [value for value in map(statistic, drawn) if np.isfinite(value)]
    low, high = np.quantile(values, [0.025, 0.975]) if values else (float("nan"), float("nan"))
    return statistic(full), float(low), float(high)


def correlations(full: pd.DataFrame) -> pd.DataFrame:
    """A row per outcome and gap measure."""
    rows = []
    for outcome in (*CRITERIA, "kid_h"):
        for gap in (*MEASURES, "contrast"):
            part = full.dropna(subset=[gap, outcome])

            def rank(frame: pd.DataFrame, gap: str = gap, outcome: str = outcome) -> float:
                return rank_correlation(frame[gap].to_numpy(), frame[outcome].to_numpy())

            value, low, high = over_domains(part, rank)
            row = {"outcome": outcome, "gap": gap, "rho": value, "low": low, "high": high}
            if gap != "contrast":
                columns = [part[name].to_numpy() for name in (gap, outcome, "contrast")]
                row["given_contrast"] = partial(*columns)
            row |= {model: rank(rows) for model, rows in part.groupby("model")}
            rows.append(row)
    for gap in SPACES:
        part = full.dropna(subset=[gap, *CRITERIA])

        def change(frame: pd.DataFrame, gap: str = gap) -> float:
            return rank_correlation(frame[gap].to_numpy(), frame["psnr"].to_numpy()) - rank_correlation(
                frame[gap].to_numpy(), frame["snr"].to_numpy()
            )

        value, low, high = over_domains(part, change)
        rows.append({"outcome": "psnr less snr", "gap": gap, "rho": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def word(rows: pd.DataFrame) -> list[int]:
    """The sign of an interval: +1 above 0, -1 below, 0 where it includes 0."""
    return [1 if row.low > 0 else -1 if row.high < 0 else 0 for row in rows.itertuples()]


def bandwidth_claim(full: pd.DataFrame, table: pd.DataFrame) -> Answer:
    """The answer to M4, by the protocol's rules."""
    spaces = table[table["gap"].isin(SPACES)]
    found = {name: word(spaces[spaces["outcome"] == name]) for name in (*CRITERIA, "kid_h", "psnr less snr")}
    both = [*found["psnr"], *found["snr"]]
    rho = spaces.set_index(["outcome", "gap"])["rho"]
    depends = any(
        sign and rho["psnr", gap] * rho["snr", gap] < 0
        for sign, gap in zip(found["psnr less snr"], SPACES, strict=True)
    )
    verdict = "true" if min(both) > 0 else "false" if max(both) < 0 else "dependent on the criterion" if depends else ""
    first = (
        f"That a larger gap gives a larger bandwidth is {verdict}" if verdict else "The gap's effect is not resolved"
    )
    easier = {1: "a larger KID-H, the reverse of the claim", -1: "a smaller KID-H"}
    signs = set(found["kid_h"])
    second = (
        f"a larger gap gives {easier[signs.pop()]}"
        if len(signs) == 1 and 0 not in signs
        else "easier generalisation with a larger gap is not resolved"
    )
    numbers = table.set_index(["outcome", "gap"])
    shown = "; ".join(
        f"{name} {', '.join(f'{numbers.loc[(name, gap)].rho:+.2f}' for gap in SPACES)}" for name in (*CRITERIA, "kid_h")
    )
    contrast = "; ".join(
        f"{name} {interval(*numbers.loc[(name, 'contrast'), ['rho', 'low', 'high']])}" for name in CRITERIA
    )
    agree = f"{both.count(1)} of {len(both)} intervals above 0, {both.count(-1)} below"
    return Answer(
        "M4",
        f"{first} ({agree}), and {second}.",
        f"Spearman's rho with the gap in pixels, features, latents: {shown}; of the domain's contrast with the "
        f"bandwidth: {contrast}",
    )


def pairs(full: pd.DataFrame) -> Answer:
    """The answer to reviewer 15: more pairs of training and unseen domain."""
    ranges = ", ".join(f"{name} {full[name].min():.2f} to {full[name].max():.2f}" for name in SPACES)
    return Answer(
        "reviewer 15",
        f"{len(full)} pairs of {full['model'].nunique()} models and {full['domain'].nunique()} domains.",
        f"energy distance between domain and own samples: {ranges}",
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    names = {"psnr": f"bandwidth, {CRITERIA['psnr']}", "snr": f"bandwidth, {CRITERIA['snr']}", "kid_h": "KID-H"}
    text = pd.DataFrame({"outcome": table["outcome"].replace(names), "gap or contrast": table["gap"]})
    text["rank correlation (95%)"] = [interval(row.rho, row.low, row.high) for row in table.itertuples()]
    beside = {"given the contrast": "given_contrast"} | {f"{one} alone": one for one in MODEL_COLOURS if one in table}
    for title, name in beside.items():
        text[title] = [f"{value:.2f}" if value == value else "" for value in table[name]]
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
