"""Which extractor tells real from damaged images, and which should be the default: from results.csv of measure.py.

`python -m experiments.studies yardstick --analyse`
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.common import Answer, write_answers
from experiments.sweeps import Sweep
from experiments.yardstick.damage import DAMAGES, SELECTIONS, STRENGTHS, damaged
from experiments.yardstick.measure import COSTLY, LEVEL, domains
from unseen_diffusion.reports.sheets import rows_sheet
from unseen_diffusion.utils.files import atomic_path

SWEEPS: tuple[Sweep, ...] = ()  # no sweeps: its README says how results.csv is made; the analysis reads that

HERE = Path(__file__).parent
EVERYWHERE = 0.02  # of mean power: what a dearer extractor must gain
WORSE = 0.05  # of mean power on one domain: what the default may lack against the embedded features
OLD = "embedded"
SHOWN, COLUMNS, AT = ("photographs", "hubble"), 8, 100
KINDS = (*DAMAGES, *SELECTIONS)


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes tables, figure, sheets and the rule's verdict; ``folders`` is empty."""
    table = pd.read_csv(HERE / "results.csv")
    summary = summarise(table)
    out.mkdir(parents=True, exist_ok=True)
    markdown = partial(pd.DataFrame.to_markdown, index=False, disable_numparse=True)
    by_damage = powers_by_damage(table, [*summary.index])
    with atomic_path(out / "table.md") as path:
        path.write_text(markdown(by_damage) + "\n", encoding="utf-8")
    with atomic_path(out / "figure.png") as path:
        draw(table, summary).savefig(path, format="png", dpi=110)
    sheets(table, out)
    answer = verdict(table, summary)
    lines = [
        "Mean power (%) by domain, over kinds, strengths and n; level: the share of undamaged sets that are rejected; "
        f"precision's fall and order are those of damaged images at n = {AT}:",
        "",
        markdown(as_text(summary)),
        "",
        f"[table.md](table.md) has the power (%) by damage at n = {AT}, [results.csv](results.csv) every cell.",
        "",
        "![figure](figure.png)",
        "",
        "What the numbers are about: [photographs](sheet_photographs.png), [hubble](sheet_hubble.png).",
        "",
        "**Verdict.**",
        "",
    ]
    where = "results.csv of this folder; one thread of a machine with 2 busy cores"
    write_answers(out, [answer], where, lines)


def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """One row an extractor: price, mean power by domain and over all, level, precision's fall, order."""
    damage = table[table["kind"] != "real"]
    real = table[table["kind"] == "real"]
    rows = {}
    for name, part in damage.groupby("extractor", sort=False):
        own = real[real["extractor"] == name]
        splits = own["splits"].sum()
        undamaged = own.set_index("domain").dropna(subset="precision")["precision"]
        known = part.dropna(subset="precision")
        by_domain = part.groupby("domain", sort=False)["power"].mean()
        rows[name] = {
            "seconds": table.loc[table["extractor"] == name, "seconds"].min(),
            **by_domain,
            "mean": by_domain.mean(),
            "level": (own["power"] * own["splits"]).sum() / splits,
            "splits": splits,
            "precision_fall": (known["domain"].map(undamaged) - known["precision"]).mean(),
            "order": part["order"].mean(),
        }
    summary = pd.DataFrame.from_dict(rows, orient="index")
    every = [name for name in damage["domain"].unique() if name in summary]
    return summary[["seconds", *every, "mean", "level", "splits", "precision_fall", "order"]].sort_values("seconds")


def domains_of(summary: pd.DataFrame) -> list[str]:
    """The domains in the columns of a summary."""
    names = list(summary.columns)
    return names[1 : names.index("mean")]


def verdict(table: pd.DataFrame, summary: pd.DataFrame) -> Answer:
    """The protocol's rule."""
    error = (LEVEL * (1 - LEVEL) / summary["splits"]) ** 0.5
    fair = summary[summary["level"] <= LEVEL + 2 * error]
    complete = fair.dropna(subset=domains_of(summary))
    near = complete[complete["mean"] >= complete["mean"].max() - EVERYWHERE]
    default = str(near["seconds"].idxmin())
    costly = fair.loc[fair[domains_of(summary)].isna().any(axis=1), list(COSTLY)].dropna().mean(axis=1)
    here = summary.loc[default, list(COSTLY)].mean()
    better = costly[costly > here + EVERYWHERE]
    if len(better):
        default = str(better.idxmax())
    best = str(complete["mean"].idxmax())
    shown = default if default != OLD else best
    gain = (summary.loc[shown] - summary.loc[OLD])[domains_of(summary)].dropna().astype(float)
    worse = [name for name, value in gain.items() if value < -WORSE]
    may_go = (
        f"; {OLD} may go" if not worse else f"; {OLD} stays as an option, because it is better on {', '.join(worse)}"
    )
    unfair = [str(name) for name in summary.index if name not in fair.index]
    removed = f"; not within the level: {', '.join(unfair)}" if unfair else ""
    power = summary["mean"].map(percent)
    price = (1000 * summary["seconds"]).map("{:.1f} ms".format)
    against = ", ".join(f"{name} {100 * value:+.0f}" for name, value in gain.items())
    return Answer(
        "yardstick",
        f"By the rule the default is {default}" + (may_go if default != OLD else "") + ".",
        f"mean power {power[default]}% at {price[default]} an image, of {OLD} {power[OLD]}% at {price[OLD]}, the "
        f"highest {power[best]}% ({best}); {shown} against {OLD} by domain {against}{removed}; no interval: the "
        "splits of one pool overlap",
    )


def percent(value: float) -> str:
    """A share in per cent; empty where it is missing."""
    return "" if np.isnan(value) else f"{100 * value:.1f}"


def as_text(summary: pd.DataFrame) -> pd.DataFrame:
    """The summary as the README shows it."""
    text = pd.DataFrame({"features": summary.index})
    text["ms an image"] = [f"{1000 * value:.1f}" if value > 1e-4 else "0.0" for value in summary["seconds"]]
    for name in (*domains_of(summary), "mean", "level"):
        text[name] = [percent(value) for value in summary[name]]
    text["precision's fall"] = [f"{value:.2f}" for value in summary["precision_fall"]]
    text["order"] = [percent(value) for value in summary["order"]]
    return text


def powers_by_damage(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Power at n = ``AT`` by kind and strength, mean over the domains measured with all extractors, in per cent."""
    at = table[(table["n"] == AT) & (table["kind"] != "real")]
    wide = at.pivot_table(index=["kind", "strength"], columns="extractor", values="power", aggfunc="mean", sort=False)
    text = (100 * wide).map(lambda value: "" if np.isnan(value) else f"{value:.0f}")
    order = [(kind, strength) for kind in KINDS for strength in STRENGTHS]
    return text.reindex(index=order, columns=[name for name in names if name in text]).reset_index()


def draw(table: pd.DataFrame, summary: pd.DataFrame) -> Figure:
    """Power against strength, a panel for each kind, a line for each extractor measured on all domains."""
    at = table[(table["n"] == AT) & (table["kind"] != "real")]
    names = summary.dropna(subset=domains_of(summary)).index
    figure = Figure(figsize=(13, 5.6), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True).ravel()
    for panel, kind in zip(panels, KINDS, strict=True):
        for index, name in enumerate(names):
            part = at[(at["kind"] == kind) & (at["extractor"] == name)].groupby("strength")["power"].mean()
            style = "--" if "stage" in name else "-"
            colour = f"C{index}" if name != "pixels" else "0.6"
            panel.plot(
                range(3),
                [part.get(strength, np.nan) for strength in STRENGTHS],
                style,
                c=colour,
                marker=".",
                label=name,
            )
        panel.set_title(kind, fontsize=10)
        panel.set_xticks(range(3), STRENGTHS)
        panel.set_ylim(-0.03, 1.03)
        panel.axhline(LEVEL, c="0.8", lw=0.8, zorder=0)
    for panel in (panels[0], panels[5]):
        panel.set_ylabel(f"power, n = {AT}")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(names), fontsize=9)
    return figure


def sheets(table: pd.DataFrame, out: Path) -> None:
    """The first damaged images of two domains, with the power of the extractors beside each kind and strength."""
    at = table[table["n"] == AT].set_index(["domain", "kind", "strength", "extractor"])["power"].sort_index()
    for name, load in domains(None):
        if name not in SHOWN:
            continue
        domain = load()
        rows = [("undamaged", _tensor(domain.images))]
        for kind, (_, strengths) in DAMAGES.items():
            for level, strength in enumerate(STRENGTHS):
                power = at.loc[name, kind, strength]
                told = ", ".join(
                    f"{one} {100 * power[one]:.0f}%" for one in ("embedded", "lite0-64-stage5", "lite0-128")
                )
                rows.append((f"{kind} {strengths[level]:g}: told by {told}", _tensor(damaged(domain, kind, level))))
        rows_sheet(rows, f"{name}, n = {AT}: share of splits told from real images", out / f"sheet_{name}.png")


def _tensor(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images[:COLUMNS]).permute(0, 3, 1, 2).contiguous()
