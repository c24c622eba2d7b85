"""Reviewer 11: images between two references.

`python -m experiments.studies paths --analyse`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common import MODEL_COLOURS, Answer, artefact, interval, pm, runs, write_study
from experiments.sweeps import QUICK, TWO, sweep
from unseen_diffusion.reports.sheets import rows_sheet
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.intervals import MeanInterval, t_interval
from unseen_diffusion.utils.configs import build

SWEEPS = (sweep("paths", "paths", tiny=["model=photos32", TWO, QUICK, "scores.paths=2"]),)

WAYS = ("slerp", "linear", "data")
MEASURES = ("feature_distance", "pixel_distance", "sharpness", "largest_step")
NAMES = {
    "feature_distance": "feature distance to H",
    "pixel_distance": "pixel distance to the pair",
    "sharpness": "sharpness",
    "largest_step": "largest step",
}


def sharpness(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, of images (..., C, H, W)."""
    x = images.double()
    return x.diff(dim=-1).square().mean((-3, -2, -1)) + x.diff(dim=-2).square().mean((-3, -2, -1))


def nearest(features: Tensor, others: Tensor, itself: bool = False) -> Tensor:
    """Distance to the nearest of ``others``; with ``itself`` the same image does not count."""
    distances = torch.cdist(features.double(), others.double())
    return (distances.fill_diagonal_(torch.inf) if itself else distances).min(1).values


def measured(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per path, pair and position of one run."""
    settings, tensors, split = results["settings"], artefact(results, "paths"), artefact(results, "split")
    extractor = build(results["config"]["features"])
    held_out = extract(extractor, split["heldout"])
    scale = float(nearest(held_out, held_out, itself=True).median())
    rows = []
    for way in WAYS:
        images = tensors[way]
        pairs, steps = images.shape[:2]
        features = extract(extractor, images.flatten(0, 1))
        to_domain = (nearest(features, held_out) / scale).reshape(pairs, steps)
        flat = images.double().flatten(2)
        ends = flat[:, [0, -1]]
        apart = (ends[:, 0] - ends[:, 1]).norm(dim=1)
        to_pair = torch.cdist(flat, ends).min(2).values / apart[:, None]
        sharp = sharpness(images)
        sharp = sharp / sharp[:, [0, -1]].mean(1, keepdim=True)
        jumps = flat.diff(dim=1).norm(dim=2)
        largest = jumps.max(1).values / jumps.mean(1)
        for pair in range(pairs):
            for position in range(steps):
                row = {"model": settings["model"], "domain": settings["domain"], "way": way, "pair": pair}
                row |= {"position": position / (steps - 1), "feature_distance": float(to_domain[pair, position])}
                row |= {"pixel_distance": float(to_pair[pair, position]), "sharpness": float(sharp[pair, position])}
                rows.append(row | {"largest_step": float(largest[pair])})
    return rows


def middles(every: pd.DataFrame) -> pd.DataFrame:
    """Per run, path and pair: the measures of the two inner positions, and the feature distance of the ends."""
    inner = every[(every["position"] - 0.5).abs() < 0.1]
    keys = ["model", "domain", "way", "pair"]
    found = inner.groupby(keys, sort=False)[list(MEASURES)].mean()
    ends = every[every["position"].isin((0.0, 1.0))].groupby(keys, sort=False)["feature_distance"].mean()
    return found.assign(ratio=found["feature_distance"] / ends).reset_index()


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = runs(folders)
    every = pd.DataFrame([row for results in found for row in measured(results)])
    middle = middles(every)
    keys = ["model", "domain", "way"]
    lines, texts = [], []
    for key, part in middle.groupby(keys, sort=False):
        line = dict(zip(keys, key, strict=True)) | {"pairs": len(part)}
        text = dict(line)
        for name in (*MEASURES, "ratio"):
            value = t_interval(part[name].tolist())
            line |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
            text[NAMES.get(name, "ratio to the ends")] = pm(value.mean, value.high - value.mean, 2)
        lines.append(line)
        texts.append(text)
    write_study(out, folders, pd.DataFrame(lines), pd.DataFrame(texts), draw(every), answers(middle))
    sheet(found, out / "pairs.png")


def over_domains(values: pd.Series) -> MeanInterval | None:
    """Mean of both models per domain, Student's interval over domains; None for one domain."""
    means = values.groupby("domain").mean()
    return t_interval(means.tolist()) if len(means) > 1 else None


def answers(middle: pd.DataFrame) -> list[Answer]:
    """The answer to reviewer 11, by the protocol's rules."""
    wide = middle.pivot_table(index=["domain", "model", "pair"], columns="way", values=["ratio", "sharpness"])
    ratio, blend = over_domains(wide["ratio"]["slerp"]), over_domains(wide["ratio"]["slerp"] - wide["ratio"]["data"])
    sharper = over_domains(wide["sharpness"]["slerp"] - wide["sharpness"]["linear"])
    against = over_domains(wide["sharpness"]["slerp"] - wide["sharpness"]["data"])
    if ratio is None or blend is None or sharper is None or against is None:
        return []
    like = (
        "is not told from the domain"
        if ratio.low <= 1
        else "leaves the domain, but less than a blend of the two images"
        if blend.high < 0
        else "leaves the domain, farther than a blend of the two images"
        if blend.low > 0
        else "leaves the domain, and is not told from a blend of the two images in how far"
    )
    word = "sharper than" if sharper.low > 0 else "less sharp than" if sharper.high < 0 else "not told from"
    return [
        Answer(
            "reviewer 11",
            f"The middle of a slerp {like}, and is {word} that of the straight line.",
            f"feature distance to the domain over that of the ends {interval(ratio.mean, ratio.low, ratio.high)}, less "
            f"the data blend's {interval(blend.mean, blend.low, blend.high)}; sharpness, slerp less straight line "
            f"{interval(sharper.mean, sharper.low, sharper.high)}, less data blend "
            f"{interval(against.mean, against.low, against.high)}; slerp less straight line by model: "
            f"{', '.join(by_model(wide))}",
        )
    ]


def by_model(wide: pd.DataFrame) -> list[str]:
    """Sharpness of slerp minus that of the straight line, per model, over domains."""
    gap = wide["sharpness"]["slerp"] - wide["sharpness"]["linear"]
    found = {model: over_domains(part) for model, part in gap.groupby("model")}
    return [f"{model} {interval(one.mean, one.low, one.high)}" for model, one in found.items() if one]


def draw(every: pd.DataFrame) -> Figure:
    """Feature distance and sharpness along the path, a column per domain; bars are 95% intervals over pairs."""
    domains = list(every["domain"].unique())
    shown = ("feature_distance", "sharpness")
    figure = Figure(figsize=(2.4 * len(domains) + 1, 5.2), layout="constrained")
    axes = figure.subplots(len(shown), len(domains), sharey="row", squeeze=False)
    styles = {"slerp": "o-", "linear": "s--", "data": ":"}
    for row, name in zip(axes, shown, strict=True):
        for axis, domain in zip(row, domains, strict=True):
            part = every[every["domain"] == domain]
            for (model, way), rows in part.groupby(["model", "way"], sort=False):
                groups = rows.groupby("position")[name]
                found = groups.agg(lambda values: t_interval(values.tolist()).high)
                colour = MODEL_COLOURS.get(model, "C2")
                label = f"{model}, {way}"
                mean = groups.mean()
                axis.errorbar(mean.index, mean, found - mean, fmt=styles[way], color=colour, ms=3, lw=1.1, label=label)
            axis.set_yscale("log")
            axis.spines[["top", "right"]].set_visible(False)
            if name == shown[0]:
                axis.set_title(domain, fontsize=10)
        row[0].set_ylabel(f"{NAMES[name]}\n(log scale)")
    for axis in axes[-1]:
        axis.set_xlabel("position on the way")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def sheet(found: Sequence[dict[str, Any]], path: Path) -> None:
    """The first pair of every domain through the first model, with the three paths below each other."""
    model = found[0]["settings"]["model"]
    rows = []
    for results in found:
        if results["settings"]["model"] == model:
            tensors = artefact(results, "paths")
            rows += [(f"{results['settings']['domain']}: {way}", tensors[way][0]) for way in WAYS]
    rows_sheet(rows, f"Between two references, {model}", path)
