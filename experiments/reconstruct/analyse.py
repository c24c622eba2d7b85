"""M1: round trips of unseen images through trained and untrained networks.

`python -m experiments.studies reconstruct --analyse`
"""

from collections.abc import Sequence
from math import log10
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import MODEL_COLOURS, Answer, artefact, artefacts, pm, runs, write_study
from experiments.sweeps import TWO, sweep
from unseen_diffusion.scores.intervals import MeanInterval, t_interval
from unseen_diffusion.scores.reconstruction import PSNR_CAP
from unseen_diffusion.store.artefacts import load_tensor

LARGER = ("model=photos32", "solver.steps=50")  # round trips of more images


def larger(domains: str, images: int) -> tuple[str, ...]:
    """Overrides that run `reconstruct` on that many references."""
    counts = (f"domain.references={images}", f"samples={images}", f"scores.reconstructions={images}")
    return (*LARGER, f"domain={domains}", *counts)


SWEEPS = (
    sweep("reconstruct", "reconstruct", tiny=["model=photos32,untrained", TWO, "solver.steps=2,4"]),
    sweep(
        "reconstruct_100",
        "reconstruct",
        *larger("hubble,textures,digits8,turbulence", 100),
        tiny=["domain=hubble", "solver.steps=4", "scores.reconstructions=8"],
    ),
    sweep(
        "reconstruct_faces",
        "reconstruct",
        *larger("faces", 50),
        tiny=["domain=noise", "solver.steps=4", "scores.reconstructions=8"],
    ),
)

SCHEDULE = ["solver", "steps"]
PSNR, SNR = 30.0, 20.0  # dB that the lower ends of the intervals must reach
CONTROL = "untrained"


def line(results: dict[str, Any]) -> dict[str, Any]:
    """The row of one run: means over its images with Student's intervals."""
    settings, originals = results["settings"], artefact(results, "split")["references"]
    fidelity = artefacts(results, "fidelity")[0]
    psnr = load_tensor(fidelity, "psnr").double()
    contrast = 10 * log10(255**2 / float(originals.double().var(0).mean()))
    found = {"psnr": t_interval(psnr.tolist()), "snr": t_interval((psnr - contrast).tolist())}
    solver, _, steps = settings["solver"].split("/")[:3]
    row = {"model": settings["model"], "domain": settings["domain"], "solver": solver, "steps": int(steps)}
    row |= {
        "images": len(psnr),
        "identical": float((psnr >= PSNR_CAP).double().mean()),
        "ssim": float(load_tensor(fidelity, "ssim").mean()),
    }
    for name, value in found.items():
        row |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
    return row


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results; ``folders`` are the sweep's, and those of the round trips of more images."""
    full = pd.DataFrame([line(results) for results in runs(folders[:1])])
    full["reconstructed"] = (full["psnr_low"] >= PSNR) & (full["snr_low"] >= SNR)
    full = full.sort_values(["solver", "steps"], kind="stable")
    text = full[["model", "domain"]].drop_duplicates().reset_index(drop=True)
    keys = list(text.itertuples(index=False, name=None))
    for (solver, steps), part in full.groupby(SCHEDULE, sort=False):
        cells = part.set_index(["model", "domain"])
        for name in ("psnr", "snr"):
            text[f"{solver} {steps}: {name.upper()}"] = [shown(cells.loc[key], name) for key in keys]
    answers = [claim(full), training(full), schedule(full)]
    larger = pd.DataFrame([readable(results) for results in runs(folders[1:])])
    more = ["**More images.**", "", larger.to_markdown(index=False, disable_numparse=True), ""]
    write_study(out, folders, full, text, draw(full), [answer for answer in answers if answer], more=more)


def shown(row: pd.Series, name: str) -> str:
    """A mean with half its interval; a bound where images were reconstructed exactly."""
    return f"≥ {row[name]:.1f}" if row["identical"] else pm(row[name], row[f"{name}_high"] - row[name])


def readable(results: dict[str, Any]) -> dict[str, str]:
    """A run's round trips, and the geometry of its latents (means; angles in degrees)."""
    row, geometry = line(results), results["geometry"]
    digits = {"radius": 1, "pair_distance": 1, "pair_angle": 2, "origin_angle": 1, "residual_sd": 3}
    return {
        "domain": row["domain"],
        "solver": results["settings"]["solver"],
        "images": str(row["images"]),
        "PSNR dB": shown(pd.Series(row), "psnr"),
        "SSIM": f"{row['ssim']:.3f}",
        **{name.replace("_", " "): f"{geometry[name]['mean']:.{places}f}" for name, places in digits.items()},
    }


def best(full: pd.DataFrame, solver: str = "dpmpp_2m") -> pd.DataFrame:
    """The rows of the verdict: one solver at its largest number of steps."""
    rows = full[full["solver"] == solver]
    return rows[rows["steps"] == rows["steps"].max()]


def claim(full: pd.DataFrame) -> Answer:
    """The answer to M1, by the protocol's rule."""
    trained = full[full["model"] != CONTROL]
    rows, paper = best(trained), best(trained, "ddim")
    done, share = int(rows["reconstructed"].sum()), rows["reconstructed"].mean()
    word = "holds" if share == 1 else "fails" if share < 0.5 else "holds in part"
    missed = [f"{row.model} on {row.domain}" for row in rows[~rows["reconstructed"]].itertuples()]
    return Answer(
        "M1",
        f"M1 {word}: {done} of {len(rows)} pairs of trained model and unseen domain come back"
        + (f" (not {', '.join(missed)})" if missed else "")
        + f"; with the paper's DDIM {int(paper['reconstructed'].sum())} of {len(paper)}.",
        f"SNR {span(rows)} dB with dpmpp_2m, {span(paper)} dB with DDIM, {rows['steps'].max()} evaluations a direction",
    )


def span(rows: pd.DataFrame) -> str:
    """Least and greatest SNR."""
    most = rows.loc[rows["snr"].idxmax()]
    return f"{rows['snr'].min():.1f} to {'at least ' * bool(most['identical'])}{most['snr']:.1f}"


def difference(full: pd.DataFrame, one: dict[str, Any], other: dict[str, Any]) -> MeanInterval | None:
    """SNR of one setting less that of another, the domain being the unit; None for fewer than 2 of them.

    A setting that names the model is matched by domain alone; otherwise the models of a domain are averaged. Images
    that were reconstructed exactly have no SNR, only a bound, and are left out.
    """
    key = ["domain"] if "model" in one else ["model", "domain"]

    def at(setting: dict[str, Any]) -> pd.Series:
        chosen = full[full["identical"] == 0]
        for name, value in setting.items():
            chosen = chosen[chosen[name] == value]
        return chosen.set_index(key)["snr"]

    gap = (at(one) - at(other)).dropna().groupby("domain").mean()
    return t_interval(gap.tolist()) if len(gap) > 1 else None


def training(full: pd.DataFrame) -> Answer | None:
    """The answer to reviewer 8: is a trained network needed?"""
    rows = best(full)
    control = rows[rows["model"] == CONTROL]
    setting = {"solver": "dpmpp_2m", "steps": int(rows["steps"].max())}
    gap = difference(full, {"model": "photos32", **setting}, {"model": CONTROL, **setting})
    if control.empty or gap is None:
        return None
    needed = not control["reconstructed"].all()
    return Answer(
        "reviewer 8",
        f"Reconstruction {'needs' if needed else 'does not need'} a trained network: the untrained one brings "
        f"{int(control['reconstructed'].sum())} of {len(control)} domains back.",
        f"trained less untrained {pm(gap.mean, gap.high - gap.mean)} dB of SNR",
    )


def schedule(full: pd.DataFrame) -> Answer | None:
    """The answer to reviewer 14: does the asymmetry come from the schedule or from the model?"""
    trained = full[full["model"] != CONTROL]
    steps = sorted(full["steps"].unique())
    finer = {
        solver: difference(trained, {"solver": solver, "steps": steps[-1]}, {"solver": solver, "steps": steps[0]})
        for solver in full["solver"].unique()
    }
    models = {
        key: difference(
            full,
            {"model": "photos32", "solver": key[0], "steps": key[1]},
            {"model": CONTROL, "solver": key[0], "steps": key[1]},
        )
        for key in full[SCHEDULE].drop_duplicates().itertuples(index=False, name=None)
    }
    if any(one is None for one in (*finer.values(), *models.values())):
        return None
    by_schedule = all(one.low > 0 for one in finer.values())
    by_model = all(one.low > 0 for one in models.values()) or all(one.high < 0 for one in models.values())
    what = {
        (True, True): "Both the schedule and the model matter",
        (True, False): "The schedule matters; an effect of the model is not consistent",
        (False, True): "The model matters; an effect of the schedule is not consistent",
        (False, False): "Neither effect is resolved",
    }[by_schedule, by_model]
    gains = ", ".join(f"{solver} {pm(one.mean, one.high - one.mean)}" for solver, one in finer.items())
    gaps = ", ".join(f"{s} {n}: {pm(one.mean, one.high - one.mean)}" for (s, n), one in models.items())
    return Answer(
        "reviewer 14",
        f"{what} in what the two directions do not undo.",
        f"{steps[-1]} instead of {steps[0]} steps, dB of SNR: {gains}; trained less untrained: {gaps}",
    )


def draw(full: pd.DataFrame) -> Figure:
    """Draws SNR against steps, one panel per domain; solid dpmpp_2m, dashed ddim; open triangles are lower bounds."""
    domains = list(full["domain"].unique())
    figure = Figure(figsize=(2.4 * len(domains) + 1, 3.4), layout="constrained")
    axes = figure.subplots(1, len(domains), sharey=True, squeeze=False)[0]
    for axis, domain in zip(axes, domains, strict=True):
        for (model, solver), rows in full[full["domain"] == domain].groupby(["model", "solver"], sort=False):
            rows = rows.sort_values("steps")
            axis.errorbar(
                rows["steps"],
                rows["snr"],
                rows["snr_high"] - rows["snr"],
                fmt="o-" if solver == "dpmpp_2m" else "s--",
                color=MODEL_COLOURS.get(model, "C2"),
                ms=4,
                lw=1.2,
                capsize=2,
                label=f"{model}, {solver}",
            )
        bounds = full[(full["domain"] == domain) & (full["identical"] > 0)]
        axis.plot(bounds["steps"], bounds["snr"], "^", ms=9, mfc="none", color="0.2", zorder=3)
        axis.axhline(SNR, color="0.8", lw=0.8, zorder=0)
        axis.set_xscale("log")
        axis.set_xticks(sorted(full["steps"].unique()), [str(n) for n in sorted(full["steps"].unique())])
        axis.minorticks_off()
        axis.set_title(domain, fontsize=10)
        axis.set_xlabel("evaluations a direction")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("SNR of the round trip (dB)")
    axes[0].legend(frameon=False, fontsize=7, loc="upper left")
    return figure
