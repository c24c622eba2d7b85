"""Reviewer 12 and M5: fine-tuning on the references against a frozen model.

`python -m experiments.studies tuning --analyse`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, copying, interval, pm, runs, write_study
from experiments.sweeps import QUICK, sweep
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.split import split_pool
from unseen_diffusion.reports.populations import SplitNames, overlap_of
from unseen_diffusion.scores.intervals import combined_p, holm, t_interval

TUNING = (
    QUICK,
    "domain.references=12",
    "domain.draw=0,1",
    "domain.validation=8",
    "method.tuning.max_steps=2",
    "method.tuning.check_every=1",
    "method.tuning.batch_size=4",
)
SWEEPS = (
    sweep("tuning_full", "tuning", "method=finetune_full", "method.tuning.max_steps=200", tiny=TUNING),
    sweep("tuning_lora", "tuning", "method=finetune_lora", "method.tuning.max_steps=200", tiny=TUNING),
    sweep("tuning_frozen", "tuning", "method=fitted,slerp", tiny=TUNING[:3]),
)

TUNED = ("finetune_full", "finetune_lora")
FROZEN = "fitted"
SCORES = {"kid_h": ("KID-H x1000", 1000, 0), "copy_rate": ("copies %", 100, 1), "coverage": ("coverage %", 100, 1)}
LEVEL = 0.05
KEY = ["references", "method"]


def line(results: dict[str, Any]) -> dict[str, Any]:
    """The row of one run."""
    own, tuning = results["rows"][0], results.get("tuning")
    row = {"method": results["settings"]["method"], "draw": results["settings"]["draw"]}
    row |= {"references": results["config"]["domain"]["references"], "evaluations": own["evaluations_per_image"]}
    row |= {name: own[name] for name in (*SCORES, "copy_rate_p")}
    if tuning:
        loss = tuning["forgetting"]["loss"]
        row |= {"steps": tuning["steps"], "best_step": tuning["best_step"], "stopped": tuning["stopped"]}
        row |= {"forgotten": loss["difference"]["mean"] / loss["base"]}
        gain = tuning["validation"]
        row |= {"validation_before": gain[0][1], "validation_best": min(value for _, value in gain)}
    return row


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    full = pd.DataFrame([line(results) for results in runs(folders)]).sort_values([*KEY, "draw"], kind="stable")
    rows = []
    for (references, method), part in full.groupby(KEY, sort=False):
        row = {"references": references, "method": method}
        for name, (title, scale, digits) in SCORES.items():
            row[title] = mean(scale * part[name], digits)
        row["evaluations / image"] = f"{part['evaluations'].mean():.0f}"
        tuned = method in TUNED
        row["steps (best)"] = f"{part['steps'].mean():.0f} ({part['best_step'].mean():.0f})" if tuned else ""
        row["ended by validation"] = f"{(part['stopped'] == 'validation').sum()} of {len(part)}" if tuned else ""
        row["own domain's loss, change %"] = mean(100 * part["forgotten"], 1) if tuned else "0"
        rows.append(row)
    write_study(out, folders, full, pd.DataFrame(rows), draw(full), conclusions(full))


def conclusions(full: pd.DataFrame) -> list[Answer]:
    """The answers."""
    return [answer for answer in (against_frozen(full), forgotten(full)) if answer]


def shared(references: int, draws: int) -> float:
    """Share of the references that two draws of the galaxies have in common."""
    pool = Hubble(sources=520).pool(32, 3)
    splits = [split_pool(pool, references, 70, 200, 0, draw) for draw in range(draws)]
    names = [SplitNames(*(frozenset(map(str, part)) for part in split)) for split in splits]
    return overlap_of(names, "heldout").correlation


def mean(values: pd.Series, digits: int) -> str:
    """Mean with half its interval over draws; one draw has none."""
    if len(values) < 2:
        return f"{values.iloc[0]:.{digits}f}"
    found = t_interval(values.tolist())
    return pm(found.mean, found.high - found.mean, digits)


def against_frozen(full: pd.DataFrame) -> Answer | None:
    """The answer to reviewer 12, by the protocol's rule."""
    wide = full.pivot(index=["references", "draw"], columns="method", values="kid_h")
    if FROZEN not in wide or full["draw"].nunique() < 2:
        return None
    gaps = {}
    for references, part in wide.groupby("references"):
        correlation = shared(int(references), len(part))
        for name in (one for one in TUNED if one in part):
            differences = (1000 * (part[name] - part[FROZEN])).tolist()
            gaps[references, name] = t_interval(differences, correlation=correlation)
    p_values = holm([gap.p_value for gap in gaps.values()])
    effects, apart = [], 0
    for ((references, name), gap), p in zip(gaps.items(), p_values, strict=True):
        word = "not told apart" if p >= LEVEL else "better" if gap.mean < 0 else "worse"
        apart += p < LEVEL
        effects.append(f"{references} {name} {interval(gap.mean, gap.low, gap.high, 0)}: {word}")
    copied = copies(full[full["method"].isin(TUNED)])
    tuned = full[full["method"].isin(TUNED)]
    still = int((tuned["stopped"] != "validation").sum())
    ratio = tuned["evaluations"].mean() / full[full["method"] == FROZEN]["evaluations"].mean()
    widest = max(gaps.values(), key=lambda gap: gap.high - gap.low)
    return Answer(
        "reviewer 12",
        f"Both tuned methods, for at most {tuned['steps'].max():.0f} steps ({still} of {len(tuned)} tunings not ended "
        f"by validation), are told apart from the frozen model in {apart} of {len(gaps)} cells of method and number of "
        f"references; {'copying: ' + ', '.join(copied) if copied else 'no tuned method is shown to copy'}.",
        f"KID-H x1000 less fitted, for the domain and these held-out images, Holm over {len(gaps)} cells: "
        f"{'; '.join(effects)}; {ratio:.1f} times the evaluations",
        f"Fine-tuning is told apart from the frozen model in {apart} of {len(gaps)} cells.",
        f"KID-H x1000, widest {interval(widest.mean, widest.low, widest.high, 0)}",
    )


def copies(tuned: pd.DataFrame) -> list[str]:
    """The methods that copy at some number of references."""
    p_values = tuned.groupby(["method", "references"])["copy_rate_p"].agg(lambda p: combined_p(p.tolist()))
    return sorted(set(p_values[copying(p_values.tolist())].index.get_level_values("method")))


def forgotten(full: pd.DataFrame) -> Answer | None:
    """The answer to M5, by the protocol's rule."""
    tuned = full[full["method"].isin(TUNED)]
    if tuned.empty or full["draw"].nunique() < 2:
        return None
    cells = {
        key: t_interval((100 * rows["forgotten"]).tolist()) for key, rows in tuned.groupby(["method", "references"])
    }
    parts = []
    for name in sorted(tuned["method"].unique()):
        own = [one for (method, _), one in cells.items() if method == name]
        loses = all(one.low > 0 for one in own)
        parts.append(f"{name} {'loses' if loses else 'is not shown to lose'} at {'every' if loses else 'some'} number")
    effects = [f"{m} {n}: {interval(one.mean, one.low, one.high, 1)}" for (m, n), one in cells.items()]
    least = min(cells.values(), key=lambda one: one.mean)
    return Answer(
        "M5",
        f"The frozen model loses nothing, by construction; of the tuned ones {', '.join(parts)} of references.",
        f"change of the loss on the base model's own samples, %: {'; '.join(effects)}",
        "The frozen model loses nothing by construction; fine-tuned ones lose on their own domain.",
        f"loss at least {interval(least.mean, least.low, least.high, 1)} % higher",
    )


def ticks(least: float, most: float) -> tuple[list[int], list[str]]:
    """1, 2 and 5 times powers of ten from around ``least`` to around ``most``."""
    every = [step * 10**power for power in range(7) for step in (1, 2, 5)]
    shown = [value for value in every if least / 2 <= value <= 2 * most]
    return shown, [str(value) for value in shown]


def draw(full: pd.DataFrame) -> Figure:
    """Scores and forgetting against the number of references, and KID-H against cost."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, 4)
    methods = list(full["method"].unique())
    panels = [
        ("kid_h", 1000, "KID-H x1000"),
        ("copy_rate", 100, "copies (%)"),
        ("forgotten", 100, "own loss, change (%)"),
    ]
    for axis, (name, scale, title) in zip(axes, panels, strict=False):
        for number, method in enumerate(methods):
            part = full[(full["method"] == method) & full.get(name, pd.Series(dtype=float)).notna()]
            if part.empty:
                continue
            groups = (scale * part[name]).groupby(part["references"])
            at = [value * (1 + 0.03 * (number - 1.5)) for value in groups.mean().index]
            spread = [t_interval(v.tolist()) if len(v) > 1 else None for _, v in groups]
            error = [one.high - one.mean if one else 0.0 for one in spread]
            axis.errorbar(at, groups.mean(), error, fmt="o-", ms=4, lw=1.1, capsize=2, color=f"C{number}", label=method)
        axis.set_xscale("log")
        axis.set_xticks(sorted(full["references"].unique()), [str(n) for n in sorted(full["references"].unique())])
        axis.minorticks_off()
        axis.set_xlabel("references")
        axis.set_ylabel(title)
    for number, method in enumerate(methods):
        part = full[full["method"] == method]
        axes[3].scatter(part["evaluations"], 1000 * part["kid_h"], s=18, color=f"C{number}", label=method)
    axes[3].set(xscale="log", xlabel="evaluations / image", ylabel="KID-H x1000")
    least, most = full["evaluations"].min(), full["evaluations"].max()
    axes[3].set_xticks(*ticks(least, most))
    axes[3].minorticks_off()
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[3].get_legend_handles_labels(), loc="outside upper center", ncols=len(methods), frameon=False)
    return figure
