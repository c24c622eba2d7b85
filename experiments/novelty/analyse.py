"""Are the samples new, diverse, and in the domain: against eta, mixing step and prior (reviewers 1, 2, 3).

`python -m experiments.studies novelty --analyse`
"""

from collections.abc import Sequence
from math import hypot, nan
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.common import Answer, artefact, copying, interval, runs, signed, write_study
from experiments.sweeps import QUICK, sweep
from unseen_diffusion.reports.sheets import SampleSheet, samples_sheet
from unseen_diffusion.scores.intervals import Proportion, wilson
from unseen_diffusion.scores.membership import real_pass_rate

NOVELTY = (QUICK, "mixing.t=250,750", "bandwidth.eta=0,0.5", "prior=replay,sample_covariance")
SWEEPS = (
    sweep("novelty_hubble", "novelty", "domain=hubble", tiny=NOVELTY),
    sweep("novelty_textures", "novelty", "domain=textures", tiny=NOVELTY),
)

POWER = 0.9  # share of replays that must be caught before "no copies" can be trusted
REAL, REPLAY, DEFAULT = "[real images]", "replay", "sample_covariance"
COLOURS = {REPLAY: "0.4", "slerp": "C1", DEFAULT: "C0", "isotropic": "C2"}
MARKERS = {REPLAY: "x", "slerp": "^", DEFAULT: "o", "isotropic": "s"}
CELL = ["domain", "t", "eta"]
INTERVALS = ("copy_rate", "target_conformal", "target_classifier", "kid_h")


def lines(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The run's own row, with the share of its samples nearer to a reference, and the row of real images."""
    settings = results["settings"]
    found, split = artefact(results, "nearest"), artefact(results, "split")
    near = wilson(int((found["reference_distance"] < found["heldout_distance"]).sum()), len(found["heldout_distance"]))
    references, held_out = len(split["references"]), len(split["heldout"])
    kept = ["n", "vendi", "copy_rate_p", *(f"{name}{end}" for name in INTERVALS for end in ("", "_low", "_high"))]
    made = []
    for row in results["rows"]:
        own = row["row"] == "generated"
        line = {"domain": settings["domain"], "prior": settings["prior"] if own else REAL}
        line |= {"t": settings["t"], "eta": settings["eta"]} if own else {"t": nan, "eta": nan}
        line |= {name: nan if row.get(name) is None else row[name] for name in kept}
        line |= {"nearer": near.share, "nearer_low": near.low, "nearer_high": near.high} if own else {}
        line |= {"real_pass": real_pass_rate(held_out)}  # the conformal score is divided by this share
        made.append(line | {"chance": references / (references + held_out)})
    return made


def judged(full: pd.DataFrame) -> pd.DataFrame:
    """Adds the cells where replays are recognised as copies, and the points that copy or stay close to references."""
    replays = full[full["prior"] == REPLAY].set_index(CELL)
    cells = [tuple(cell) for cell in full[CELL].itertuples(index=False)]
    caught = [replays["copy_rate"].get(cell, nan) for cell in cells]
    found = [replays["nearer"].get(cell, nan) for cell in cells]
    own = full["prior"] != REAL
    judged = own & (full["prior"] != REPLAY)
    copies = full["prior"] == REPLAY
    copies[judged] = copying(full.loc[judged, "copy_rate_p"].tolist())
    return full.assign(
        caught=caught,
        tells=own & (pd.Series(caught) >= POWER),
        copies=copies,
        lean_tells=own & (pd.Series(found) >= POWER),
        leans=own & (full["nearer_low"] > full["chance"]),
    )


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = runs(folders)
    rows = pd.DataFrame([line for results in found for line in lines(results)])
    full = judged(rows.drop_duplicates(["prior", *CELL]).reset_index(drop=True))
    write_study(out, folders, full, table(full), draw(full), [new(full), diverse(full), inside(full)])
    draw_samples(found, out)


def table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table: a line per domain, prior and eta, with the mixing steps side by side."""
    text = []
    for (domain, prior, eta), part in full.groupby(["domain", "prior", "eta"], sort=False, dropna=False):
        part = part.sort_values("t")
        copies = [f"{100 * one.copy_rate:.0f}" if one.tells else f"({100 * one.copy_rate:.0f})" for one in rows(part)]
        if prior == REAL:
            copies, near = [f"{100 * part['copy_rate'].iloc[0]:.0f}"], [f"chance {100 * part['chance'].iloc[0]:.0f}"]
        else:
            near = [f"{100 * one.nearer:.0f}" for one in rows(part)]
        text.append(
            {
                "domain": domain,
                "prior": prior,
                "eta": "" if eta != eta else f"{eta:g}",
                "copies, %": " / ".join(copies),
                "nearer R, %": " / ".join(near),
                "Vendi": " / ".join(f"{one.vendi:.2f}" for one in rows(part)),
                "conf, %": " / ".join(f"{100 * one.target_conformal:.0f}" for one in rows(part)),
                "cls, %": " / ".join(f"{100 * one.target_classifier:.0f}" for one in rows(part)),
                "KID-H x1000": " / ".join(f"{1000 * one.kid_h:.0f}" for one in rows(part)),
            }
        )
    order = [REAL, *COLOURS]
    text.sort(key=lambda line: (line["domain"], order.index(line["prior"]) if line["prior"] in order else len(order)))
    return pd.DataFrame(text)


def rows(part: pd.DataFrame) -> list[Any]:
    """Lines as named tuples."""
    return list(part.itertuples())


def candidates(full: pd.DataFrame) -> list[str]:
    """The priors that are judged: not the control."""
    return [name for name in full["prior"].unique() if name not in (REAL, REPLAY)]


def new(full: pd.DataFrame) -> Answer:
    """The answer to reviewer 1: copies, where copying can be recognised."""
    cells = full[full["prior"] == REPLAY]
    said, effects, leaning = [], [], []
    for name in candidates(full):
        mine = full[full["prior"] == name]
        telling, near = mine[mine["tells"]], mine[mine["lean_tells"]]
        fresh = len(telling) - int(telling["copies"].sum())
        words = f"copies in {len(telling) - fresh} of {len(telling)}" + (f", not shown to in {fresh}" if fresh else "")
        said.append(f"{name} {words if len(telling) else 'cannot tell'}")
        if len(telling):
            pooled = total(telling, "copy_rate")
            share = f"{100 * pooled.share:.0f}% ({100 * pooled.low:.0f} to {100 * pooled.high:.0f})"
            effects.append(f"{name} {share}")
        leaning.append(f"{name} in {int(near['leans'].sum())}")
    return Answer(
        "reviewer 1",
        f"Copying can be told in {int(cells['tells'].sum())} of {len(cells)} cells of domain, mixing step and eta: "
        f"{'; '.join(said)}. Nearer to references than chance, of the {int(cells['lean_tells'].sum())} cells where "
        f"that tells: {', '.join(leaning)}.",
        f"copies among all samples of the cells that tell: {', '.join(effects) or 'none'}",
    )


def total(part: pd.DataFrame, name: str, scale: float = 1) -> Proportion:
    """A share over all samples of several rows, each being ``scale`` times its count over n at most 1."""
    counts = (part[name] * part["n"] * scale).round()
    return wilson(int(counts.sum()), int(part["n"].sum()))


def diverse(full: pd.DataFrame) -> Answer:
    """The answer to reviewer 2: Vendi over that of held-out images, by domain and prior."""
    said, effects = [], []
    for domain, part in full.groupby("domain", sort=False):
        real = float(part.loc[part["prior"] == REAL, "vendi"].iloc[0])
        vendi = {name: part.loc[part["prior"] == name, "vendi"].dropna() for name in (*candidates(full), REPLAY)}
        less = [name for name, values in vendi.items() if len(values) and values.max() < real]
        said.append(f"on {domain} {', '.join(less) or 'none'}")
        spans = [f"{name} {interval(x.median(), x.min(), x.max())}" for name, x in vendi.items() if len(x)]
        effects.append(f"{domain}, real images {real:.2f}: {', '.join(spans)}")
    return Answer(
        "reviewer 2",
        f"Less diverse than the domain in every cell: {'; '.join(said)}.",
        f"Vendi over that of the held-out images, median (range) over cells; {'; '.join(effects)}",
    )


def inside(full: pd.DataFrame) -> Answer:
    """The answer to reviewer 3: the highest share in the domain among new samples, and the effect of eta."""
    said, effects = [], []
    for domain, part in full.groupby("domain", sort=False):
        real = part[part["prior"] == REAL].iloc[0]
        clean = part[part["tells"] & ~part["copies"] & part["prior"].isin(candidates(full))]
        if clean["target_conformal"].notna().any():
            best = clean.loc[clean["target_conformal"].idxmax()]
            same = part[(part["prior"] == REPLAY) & (part["t"] == best["t"]) & (part["eta"] == best["eta"])].iloc[0]
            said.append(
                f"on {domain} at most {conformal(best)} of samples not shown to copy pass for held-out images "
                f"({best['prior']}, t {best['t']:g}, eta {best['eta']:g}, {100 * best['copy_rate']:.0f}% copies), of "
                f"real images {conformal(real)}, of replays {conformal(same)}"
            )
        else:
            said.append(f"on {domain} no cell tells that samples are new")
        gaps = {name: eta_gap(part[part["prior"] == name]) for name in candidates(full)}
        effects += [f"{domain} {name} {signed(*gap, 100)}" for name, gap in gaps.items()]
    low, high = full["eta"].min(), full["eta"].max()
    return Answer(
        "reviewer 3",
        f"By the conformal share, over that of real images: {'; '.join(said)}.",
        f"change of the share in points, eta {high:g} less {low:g}: {'; '.join(effects)}",
    )


def conformal(line: pd.Series) -> str:
    """The conformal share with its interval."""
    value, low, high = (100 * line[f"target_conformal{end}"] for end in ("", "_low", "_high"))
    return f"{value:.0f}% ({low:.0f} to {high:.0f})"


def eta_gap(part: pd.DataFrame) -> tuple[float, float, float]:
    """Conformal share at the largest eta less at the smallest, mixing steps pooled; Newcombe's interval (1998)."""
    part = part.dropna(subset="target_conformal")
    if part["eta"].nunique() < 2:
        return nan, nan, nan
    ends = (part["eta"].max(), part["eta"].min())
    real = float(part["real_pass"].iloc[0])
    one, other = (total(part[part["eta"] == eta], "target_conformal", real) for eta in ends)
    gap = one.share - other.share
    low = gap - hypot(one.share - one.low, other.high - other.share)
    high = gap + hypot(one.high - one.share, other.share - other.low)
    return gap / real, low / real, high / real


def draw(full: pd.DataFrame) -> Figure:
    """Copies above, conformal share below, against eta: a panel per domain and mixing step."""
    points = full[full["prior"] != REAL]
    domains, steps = list(points["domain"].unique()), sorted(points["t"].unique())
    panels = [(domain, t) for domain in domains for t in steps]
    figure = Figure(figsize=(max(2.1 * len(panels), 5), 5), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (domain, t) in zip(axes.T, panels, strict=True):
        part = points[(points["domain"] == domain) & (points["t"] == t)]
        curves(upper, part, "copy_rate")
        curves(lower, part, "target_conformal")
        real = full[(full["domain"] == domain) & (full["prior"] == REAL)]["target_conformal"].iloc[0]
        lower.axhline(100 * real, color="0.7", lw=0.8, ls="--", zorder=0)
        upper.set_title(f"{domain}, t {t:g}", fontsize=10)
        lower.set_xlabel("eta")
        lower.set_xticks(sorted(part["eta"].unique()))
        for axis in (upper, lower):
            axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("copies, % (95%)\ngrey: cannot be told")
    axes[1][0].set_ylabel("conformal share, % (95%)\ndashed: real images")
    handles = axes[0][0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False)
    return figure


def curves(axis: Axes, part: pd.DataFrame, name: str) -> None:
    """A score against eta, a curve per prior; the ground is grey where copying cannot be recognised."""
    etas = sorted(part["eta"].unique())
    width = (etas[1] - etas[0]) / 2 if len(etas) > 1 else 0.15
    for eta in etas:
        if not part[part["eta"] == eta]["tells"].any():
            axis.axvspan(eta - width, eta + width, color="0.92", lw=0, zorder=0)
    present = [prior for prior in COLOURS if prior in set(part["prior"])]
    for place, prior in enumerate(present):
        rows = part[part["prior"] == prior].sort_values("eta")
        at = rows["eta"] + 0.2 * width * (place - (len(present) - 1) / 2)
        value, low, high = (100 * rows[f"{name}{end}"] for end in ("", "_low", "_high"))
        bars = [(value - low).clip(lower=0), (high - value).clip(lower=0)]
        label = "replay (control)" if prior == REPLAY else prior
        axis.errorbar(at, value, bars, fmt=f"{MARKERS[prior]}-", color=COLOURS[prior], ms=4, lw=1, label=label)
    axis.set_xlim(etas[0] - width, etas[-1] + width)


def draw_samples(found: Sequence[dict[str, Any]], out: Path) -> None:
    """Uncurated samples of the default's first run at t = 500 and eta 0 above their nearest references."""
    for results in found:
        settings = results["settings"]
        if (settings["prior"], settings["t"], settings["eta"]) == (DEFAULT, 500, 0):
            nearest, split = artefact(results, "nearest"), artefact(results, "split")
            references = split["references"][nearest["reference_index"]]
            sheet = SampleSheet(artefact(results, "generated")["images"], references, nearest["reference_distance"])
            title = f"{settings['domain']} from {settings['model']}: {DEFAULT}, t 500, eta 0"
            samples_sheet(sheet, title, out / "samples.png", rows=1)
            return
