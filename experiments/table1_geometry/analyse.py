"""Table 1: distances, angles and radius per domain, beside what high-dimensional geometry gives.

`python -m experiments.studies table1_geometry --analyse`
"""

from collections.abc import Sequence
from math import acos, degrees, sqrt
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, artefact, pm, runs, write_study
from experiments.sweeps import QUICK, TWO, sweep
from unseen_diffusion.rejection.geometry import CRITERIA

SWEEPS = (sweep("table1_geometry", "table1_geometry", tiny=[TWO, QUICK, "scores.geometry=8", "scores.latents=8"]),)

COLUMNS = (*CRITERIA, "radius")
SETS = ("references", "heldout", "own")
NAMES = {"references": "R", "heldout": "H", "own": "own"}
UNITS = {"pair_distance": "L2", "pair_angle": "degrees", "origin_angle": "degrees", "radius": "L2"}


def theory(geometry: dict[str, Any], d: int) -> dict[str, float]:
    """What N(m, s^2 I_d) with the references' own |m| and s gives (docs/theory.md, equation 18).

    |m| is the norm of the sample's mean vector less its noise, |m_n|^2 - s^2 d / n, where that is positive.
    """
    s, norm, n = geometry["residual_sd"]["mean"], geometry["mean_norm"]["mean"], geometry["n"]
    mean = max(0.0, norm**2 - s**2 * d / n)
    return {
        "pair_distance": s * sqrt(2 * d),
        "pair_angle": 60.0,
        "origin_angle": degrees(acos(mean / (mean + s**2 * d))),
        "radius": sqrt(mean + s**2 * d),
    }


def lines(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One line per set of latents of a run: mean and standard deviation of every statistic."""
    tensors = artefact(results, "geometry")
    settings = results["settings"]
    rows = []
    for name in SETS:
        values = tensors[name]
        line = {"model": settings["model"], "domain": settings["domain"], "set": name, "n": len(values)}
        for column, statistic in enumerate(COLUMNS):
            line[statistic], line[f"{statistic}_sd"] = float(values[:, column].mean()), float(values[:, column].std())
        rows.append(line)
    d = results["latents"][0]["separability"]["dimension"]
    expected = theory({**results["geometry"], "n": len(tensors["references"])}, d)
    rows.append({"model": settings["model"], "domain": settings["domain"], "set": "theory", **expected})
    return rows


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = [line for results in runs(folders) for line in lines(results)]
    full = pd.DataFrame(found)
    text = pd.DataFrame({"model": full["model"], "domain": full["domain"], "latents": full["set"].replace(NAMES)})
    for name in COLUMNS:
        digits = 2 if name.endswith("angle") else 1
        text[f"{name.replace('_', ' ')} ({UNITS[name]})"] = [
            f"{mean:.{digits}f}" if sd != sd else pm(mean, sd, digits)
            for mean, sd in zip(full[name], full[f"{name}_sd"], strict=True)
        ]
    write_study(out, folders, full, text, draw(full), answers(full), most=48)


def answers(full: pd.DataFrame) -> list[Answer]:
    """The distance of the paper's constants from the domains' values."""
    own = full[full["set"] == "references"]
    angles, origins = own["pair_angle"], own["origin_angle"]
    theory_origin = full[full["set"] == "theory"].set_index(["model", "domain"])["origin_angle"]
    gap = (own.set_index(["model", "domain"])["origin_angle"] - theory_origin).abs()
    held = full[full["set"] == "heldout"].set_index(["model", "domain"])
    same = own.set_index(["model", "domain"])
    drift = ((held["pair_distance"] - same["pair_distance"]).abs() / same["pair_distance_sd"]).median()
    off = float((angles - 60).abs().max())
    constant = "near 60 degrees" if off < 1 else f"up to {off:.1f} degrees from 60"
    dimension = "hardly more than" if gap.max() < 2 else "more than"
    return [
        Answer(
            "table 1",
            f"The pair angle is {constant} for every domain and model, and the angle to the origin follows from the "
            f"mean vector's length: the means in Table 1 say {dimension} what N(m, s² I) of the same m and s gives.",
            f"pair angle {angles.min():.1f} to {angles.max():.1f}, origin angle {origins.min():.1f} to "
            f"{origins.max():.1f} degrees, at most {gap.max():.1f} from N(m, s² I)'s; held-out latents' pair distance "
            f"differs by {drift:.2f} standard deviations (median)",
        )
    ]


def draw(full: pd.DataFrame) -> Figure:
    """Draws means with standard deviations, one panel per statistic, one row per model."""
    models = list(full["model"].unique())
    figure = Figure(figsize=(13, 3.2 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), len(COLUMNS), squeeze=False)
    colours = {"references": "C0", "heldout": "C1", "own": "C4"}
    for row, model in zip(axes, models, strict=True):
        part = full[full["model"] == model]
        domains = list(part["domain"].unique())
        for axis, name in zip(row, COLUMNS, strict=True):
            for shift, (kind, colour) in enumerate(colours.items()):
                rows = part[part["set"] == kind].set_index("domain").loc[domains]
                at = [index + 0.2 * (shift - 1) for index in range(len(domains))]
                axis.errorbar(at, rows[name], rows[f"{name}_sd"], fmt="o", color=colour, ms=4, label=kind)
            expected = part[part["set"] == "theory"].set_index("domain").loc[domains]
            axis.plot(range(len(domains)), expected[name], "_", color="k", ms=16, label="N(m, s² I)")
            axis.set_xticks(range(len(domains)), domains, rotation=40, ha="right")
            axis.set_title(f"{model}: {name.replace('_', ' ')} ({UNITS[name]})", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][-1].legend(frameon=False, fontsize=7)
    return figure
