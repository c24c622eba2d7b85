"""M2: are unseen latents separable from the model's own, and Gaussian? Against solver, budget and mixing step.

`python -m experiments.studies separability --analyse`
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from experiments.common import Answer, artefact, artefacts, pm, runs, write_study
from experiments.sweeps import sweep
from experiments.table1_geometry.analyse import SWEEPS as TABLE1
from unseen_diffusion.scores.intervals import holm
from unseen_diffusion.scores.latents.separability import RULES, distance_separation
from unseen_diffusion.store.artefacts import RECORD, load_tensor
from unseen_diffusion.utils.digests import tensor_digest
from unseen_diffusion.utils.files import read_json

SWEEPS = (
    sweep("separability", "separability", tiny=["domain=hubble", "solver.steps=2,4,6", "scores.latents=8"]),
    *TABLE1,
)

ORDER = {"ddim": 1, "dpmpp_2m": 2}  # nominal order of each solver
CERTAIN = 0.10  # upper end of an error's interval that counts as separated
LEVEL = 0.05
REFUSED = 3  # sets of 18 that may fail a test of level 5% before "Gaussian" is refused
CELL = ["domain", "t"]


@dataclass(frozen=True)
class Sets:
    """Unseen latents and the model's own, inverted in the same way, of one run at one step."""

    unseen: Tensor
    own: Tensor

    def without(self, index: int) -> "Sets":
        """A copy without one latent, numbered through both sets."""
        n = len(self.unseen)
        if index < n:
            return Sets(_leave(self.unseen, index), self.own)
        return Sets(self.unseen, _leave(self.own, index - n))

    @property
    def measures(self) -> tuple[float, float]:
        """(kappa, excess) of the protocol."""
        found = distance_separation(self.unseen, self.own, 0, permutations=1)
        d = self.own[0].numel()
        traces = [d * spread**2 for spread in found.spreads]
        radii = (self.own - self.own.mean(0)).double().flatten(1).square().sum(1)
        threshold = found.effective_threshold
        kappa = found.distance / threshold if threshold else float("nan")
        return kappa, (found.centres.value + traces[0] - traces[1]) / float(radii.std())


def _leave(latents: Tensor, index: int) -> Tensor:
    return torch.cat([latents[:index], latents[index + 1 :]])


def sets_of(results: dict[str, Any], t: float) -> Sets:
    """The latents that a run tested at ``t``."""
    references = tensor_digest(artefact(results, "split")["references"])
    found = {}
    for folder in artefacts(results, "invert"):
        kind = "unseen" if read_json(folder / RECORD)["inputs"]["images"] == references else "own"
        found[kind] = load_tensor(folder, f"t{t:g}")
    count = results["config"]["scores"]["latents"]
    return Sets(found["unseen"][:count], found["own"][:count])


def lines(results: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One line per step of a run."""
    settings = results["settings"]
    solver, _, steps = settings["solver"].split("/")[:3]
    for one in results["latents"]:
        found = one["separability"]
        kappa, excess = sets_of(results, one["t"]).measures
        line = {"model": settings["model"], "domain": settings["domain"], "t": one["t"], "solver": solver}
        line |= {"steps": int(steps), "kappa": kappa, "excess": excess, "energy_p": found["energy"]["p_value"]}
        line["kappa_spheres"] = found["distances"]["distance"] / found["distances"]["threshold"]
        errors = {name: found["distances"]["errors"][name] for name in RULES} | {"linear": found["linear"]["error"]}
        for name, error in errors.items():
            line |= {f"{name}_error": error["value"], f"{name}_low": error["low"], f"{name}_high": error["high"]}
        for name in ("gaussianity", "own_gaussianity"):
            for null in ("gaussian", "isotropic"):
                tests = [test["adjusted"] for test in one[name].values() if test["null"] == null]
                line[f"{name}_{null}_p"] = min(tests)
        yield line


def limits(found: dict[tuple[str, str, int, float], dict[str, Any]], full: pd.DataFrame) -> pd.DataFrame:
    """Richardson's limits per cell and solver, with their intervals; empty without three budgets."""
    budgets = sorted(full["steps"].unique())[-3:]
    rows = []
    if len(budgets) < 3:
        return pd.DataFrame(rows)
    for (domain, t, solver), _ in full.groupby([*CELL, "solver"], sort=False):
        coarse, middle, fine = (sets_of(found[domain, solver, steps, t], t) for steps in budgets)
        weight = 1 / (2 ** ORDER[solver] - 1)
        pairs = [(middle.without(i), fine.without(i)) for i in range(len(fine.unseen) + len(fine.own))]
        row = {"domain": domain, "t": t, "solver": solver}
        values = {name: [s.measures[column] for s in (coarse, middle, fine)] for column, name in enumerate(MEASURES)}
        left = [(a.measures, b.measures) for a, b in pairs]
        for column, name in enumerate(MEASURES):
            s10, s20, s40 = values[name]
            limit = s40 + weight * (s40 - s20)
            earlier = s20 + weight * (s20 - s10)
            replicates = torch.tensor([b[column] + weight * (b[column] - a[column]) for a, b in left])
            n = len(fine.unseen)
            variance = sum(
                float((part - part.mean()).square().sum()) * (len(part) - 1) / len(part)
                for part in (replicates[:n], replicates[n:])
            )
            half = sqrt((1.96**2) * variance + (limit - earlier) ** 2)
            row |= {f"{name}_limit": limit, f"{name}_half": half}
        rows.append(row)
    return pd.DataFrame(rows)


MEASURES = ("kappa", "excess")


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results: the sweep over solvers, and ``table1_geometry``'s runs of other models."""
    mixed = runs(folders[:1])
    full = pd.DataFrame([line for results in mixed for line in lines(results)])
    found = {}
    for results in mixed:
        solver, _, steps = results["settings"]["solver"].split("/")[:3]
        for one in results["latents"]:
            found[results["settings"]["domain"], solver, int(steps), one["t"]] = results
    limit = limits(found, full)
    other = [r for r in runs(folders[1:]) if r["settings"]["model"] != mixed[0]["settings"]["model"]]
    beside = pd.DataFrame([line for results in other for line in lines(results)])
    everything = pd.concat([full.merge(limit, on=[*CELL, "solver"], how="left") if len(limit) else full, beside])
    fine = full[full["steps"] == full["steps"].max()]
    answers = [separable(fine), open2(fine), gaussian(fine)]
    if len(limit):
        answers.append(inversion_error(full, limit))
    write_study(out, folders, everything, shown(full, limit, beside), draw(full, limit), answers)


def cells(fine: pd.DataFrame, solver: str) -> pd.DataFrame:
    """One row per cell of a solver, with the best rule and the upper end of its error."""
    part = fine[fine["solver"] == solver].copy()
    highs = part[[f"{name}_high" for name in (*RULES, "linear")]]
    part["best"] = highs.idxmin(axis=1).str.removesuffix("_high")
    part["best_high"] = highs.min(axis=1)
    return part


def separable(fine: pd.DataFrame) -> Answer:
    """The answer to M2 (separability), by the protocol's rule."""
    each = [cells(fine, solver).set_index(CELL)["best_high"] for solver in fine["solver"].unique()]
    done = pd.concat(each, axis=1).max(axis=1) < CERTAIN
    share = float(done.mean())
    word = "holds" if share == 1 else "fails" if share < 0.5 else "holds in part"
    differ = [
        sum(p <= LEVEL for p in holm(part["energy_p"].tolist())) for _, part in fine.groupby("solver", sort=False)
    ]
    missed = sorted({domain for (domain, _), yes in done.items() if not yes})
    refused = gaussian_counts(fine)
    rows = cells(fine, "dpmpp_2m")
    best = 100 * pd.Series([row[f"{row['best']}_error"] for _, row in rows.iterrows()])
    return Answer(
        "M2",
        f"Separability {word}: {int(done.sum())} of {len(done)} cells (domain, t) are separated by some rule with both "
        f"solvers" + (f" (not all of {', '.join(missed)})" if missed else "") + ", and the Gaussian form is "
        f"{'refused' if refused[0] > REFUSED else 'not refused'}.",
        f"error of the best rule {best.min():.0f} to {best.max():.0f}% (chance 50%); the sets differ in {min(differ)} "
        f"of {len(done)} cells (energy distance, Holm); rejected as Gaussian: "
        f"{refused[0]} of {refused[1]} unseen sets and {refused[2]} of {refused[3]} own",
    )


def open2(fine: pd.DataFrame) -> Answer:
    """The answer to open question 2: whether kappa above 1 is sufficient and necessary for separability."""
    both = pd.concat([cells(fine, solver) for solver in fine["solver"].unique()])
    above, below = both[both["kappa"] > 1], both[both["kappa"] <= 1]
    against = above[above["centres_low"] > CERTAIN]
    without = below[below["best_high"] < CERTAIN]
    return Answer(
        "open 2",
        f"A distance of the centres of (tr S²)^(1/4) is {'not ' if len(against) else ''}sufficient here and "
        f"{'not ' if len(without) else ''}necessary"
        f"{': radii and directions separate where centres do not have to' if len(without) else ''}.",
        f"kappa above 1 in {len(above)} of {len(both)} cells, {len(against)} of them with an error of the centres' "
        f"rule above 10%; of {len(below)} cells below 1, {len(without)} are separated; kappa "
        f"{both['kappa'].min():.2f} to {both['kappa'].max():.2f}",
    )


def inversion_error(full: pd.DataFrame, limit: pd.DataFrame) -> Answer:
    """The answer to reviewer 6: does the separation survive the limit of exact inversion?"""
    wide = limit.pivot(index=CELL, columns="solver")
    best = wide["kappa_limit"]["dpmpp_2m"]
    survives = best - wide["kappa_half"]["dpmpp_2m"] > 0
    gap = (wide["kappa_limit"]["ddim"] - best).abs()
    agree = gap <= wide["kappa_half"]["ddim"] + wide["kappa_half"]["dpmpp_2m"]
    coarse = full[(full["solver"] == "ddim") & (full["steps"] == full["steps"].min())].set_index(CELL)["kappa"]
    excess = (coarse - best) / best
    excess = excess[best > 0]
    return Answer(
        "reviewer 6",
        f"{'No' if survives.all() else 'Not everywhere'}: the distance of the centres (kappa) stays above 0 in the "
        f"limit of exact inversion in {int(survives.sum())} of {len(survives)} cells; few steps of DDIM "
        f"change it by {100 * excess.median():+.0f}% (median).",
        f"kappa's limit {best.min():.2f} to {best.max():.2f} with dpmpp_2m; ddim with the fewest evaluations off by "
        f"{100 * excess.min():+.0f} to {100 * excess.max():+.0f}%; both solvers' limits agree in {int(agree.sum())} of "
        f"{len(agree)} cells",
    )


def gaussian_counts(fine: pd.DataFrame, null: str = "gaussian") -> tuple[int, int, int, int]:
    """Rejected and all: unseen sets, then own ones, at the finest budget of the second-order solver."""
    part = fine[fine["solver"] == "dpmpp_2m"]
    own = part.drop_duplicates("t")
    unseen = part[f"gaussianity_{null}_p"] <= LEVEL
    return int(unseen.sum()), len(unseen), int((own[f"own_gaussianity_{null}_p"] <= LEVEL).sum()), len(own)


def gaussian(fine: pd.DataFrame) -> Answer:
    """The answer to reviewer 7: whether the latents follow a Gaussian."""
    counts, spheres = gaussian_counts(fine), gaussian_counts(fine, "isotropic")
    refused = counts[0] > REFUSED
    alike = ", and the model's own latents fail alike" if refused and counts[2] == counts[3] else ""
    return Answer(
        "reviewer 7",
        f"{'No' if refused else 'Not refuted'}: N(m, S) is rejected for {counts[0]} of {counts[1]} sets of unseen "
        f"latents{alike}; the paper's N(m, s² I) for {spheres[0]} of {spheres[1]}.",
        f"own latents: N(m, S) rejected for {counts[2]} of {counts[3]}, N(m, s² I) for {spheres[2]} of {spheres[3]}; "
        "level 5%, Holm within a set",
    )


def shown(full: pd.DataFrame, limit: pd.DataFrame, beside: pd.DataFrame) -> pd.DataFrame:
    """The formatted table: a row per cell."""
    fine = full["steps"].max()
    rows = []
    for (domain, t), part in full.groupby(CELL, sort=False):
        at = part.set_index(["solver", "steps"])
        ours = cells(part[part["steps"] == fine], "dpmpp_2m").iloc[0]
        row = {"model": part["model"].iloc[0], "domain": domain, "t": f"{t:g}"}
        for steps in (full["steps"].min(), fine):
            row[f"κ, ddim {steps}"] = f"{at['kappa']['ddim', steps]:.2f}"
        row[f"κ, dpmpp_2m {fine}"] = f"{ours['kappa']:.2f}"
        chosen = limit[(limit["domain"] == domain) & (limit["t"] == t)].set_index("solver") if len(limit) else limit
        for name in MEASURES:
            value = chosen.loc["dpmpp_2m"] if len(limit) else None
            row[f"{name} limit".replace("kappa", "κ")] = (
                pm(value[f"{name}_limit"], value[f"{name}_half"], 2 if name == "kappa" else 1) if len(limit) else ""
            )
        rows.append(row | _common(ours))
    for _, line in beside.iterrows():
        row = {"model": line["model"], "domain": line["domain"], "t": f"{line['t']:g}"}
        row[f"κ, dpmpp_2m {fine}"] = f"{line['kappa']:.2f} ({line['steps']})"
        best = cells(beside[beside["domain"] == line["domain"]], line["solver"]).iloc[0]
        rows.append(row | _common(best))
    return pd.DataFrame(rows).fillna("")


def _common(line: pd.Series) -> dict[str, str]:
    best = line["best"]
    return {
        "best rule, error %": f"{best} {100 * line[f'{best}_error']:.0f} (to {100 * line['best_high']:.0f})",
        "Gaussian p: unseen, own": f"{line['gaussianity_gaussian_p']:.2f}, {line['own_gaussianity_gaussian_p']:.2f}",
    }


def draw(full: pd.DataFrame, limit: pd.DataFrame) -> Figure:
    """Draws kappa against NFE, one panel per domain, colours for t; limits at the right edge."""
    domains = list(full["domain"].unique())
    figure = Figure(figsize=(2.5 * len(domains) + 1, 3.6), layout="constrained")
    axes = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    steps = sorted(full["steps"].unique())
    edge = 2 * steps[-1]
    for axis, domain in zip(axes, domains, strict=True):
        part = full[full["domain"] == domain]
        for number, t in enumerate(sorted(part["t"].unique())):
            for solver, style in (("ddim", "s--"), ("dpmpp_2m", "o-")):
                rows = part[(part["t"] == t) & (part["solver"] == solver)].sort_values("steps")
                axis.plot(
                    rows["steps"], rows["kappa"], style, color=f"C{number}", ms=4, lw=1.2, label=f"t {t:g}, {solver}"
                )
                if len(limit):
                    ends = limit[(limit["domain"] == domain) & (limit["t"] == t) & (limit["solver"] == solver)].iloc[0]
                    at = edge * (0.9 if solver == "ddim" else 1.1) * (1 + 0.06 * (number - 1))
                    axis.errorbar(at, ends["kappa_limit"], ends["kappa_half"], fmt=style[0], color=f"C{number}", ms=4)
        axis.axhline(1, color="0.7", lw=0.8, zorder=0)
        axis.set_xscale("log")
        axis.set_xticks([*steps, edge], [*(str(n) for n in steps), "limit"])
        axis.minorticks_off()
        axis.set_title(domain, fontsize=10)
        axis.set_xlabel("evaluations a direction")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("κ: centres' distance / (tr S²)^(1/4)")
    axes[-1].legend(frameon=False, fontsize=7, loc="upper right")
    return figure
