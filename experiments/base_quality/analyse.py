"""The base model's own quality against its quality on unseen domains, along one training.

`python -m experiments.studies base_quality --analyse`
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, artefact, artefacts, pm, runs, score, write_study
from experiments.sweeps import QUICK, SEARCH, sweep
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.intervals import holm, normal_quantile
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.configs import build

STEPS = (125, 250, 500, 1000, 2000, 3000, 4000, 6000)
KEPT = tuple(f"outputs/training/photos32/weights-{step:06d}" for step in STEPS)  # by training.loop.keep
ALL_KEPT = f"model.path={','.join(KEPT)}"
TWO_KEPT = f"model.path={KEPT[0]},{KEPT[-1]}"
SEARCHED = ("bandwidth=search", "bandwidth.references=16", "bandwidth.resolution=0.02")
OWN_DOMAIN = (  # classes of photos32's training, and as many own samples
    "domain=cifar10",
    "domain.labels=[1,5,7,8]",
    "domain.references=200",
    "domain.heldout=200",
    "scores.latents=200",
    "samples=8",
    "bandwidth.eta=0",
)
SWEEPS = (
    sweep("base_quality", "base_quality", ALL_KEPT, *SEARCHED, tiny=["domain=hubble", TWO_KEPT, *SEARCH]),
    sweep("base_quality_own", "base_quality", ALL_KEPT, *OWN_DOMAIN, tiny=[TWO_KEPT, QUICK, "scores.latents=8"]),
)
NAMED_ONLY = True  # needs weights that the user trains first

LEVEL = 0.05
POWER = 0.9  # share of replays that must be caught before a copy rate can be trusted
OUTCOMES = {"kid_h": "KID-H", "copy_rate": "copy rate", "round_trip": "round trip, dB", "eta": "bandwidth"}


@dataclass(frozen=True)
class Trend:
    """Kendall's tau between own KID and an outcome on a domain, over the checkpoints of one training.

    Two series that both change steadily along one training have a tau near 1 whatever their relation: no p-value can
    be given for ``tau``. ``changes`` is the tau of their changes from one checkpoint to the next, which do not trend,
    and ``p`` is that of the changes, by Holm over all of the study.
    """

    domain: str
    outcome: str
    tau: float
    changes: float
    p: float


def step(path: str) -> int:
    """Training step of the weights in a folder that `training.loop.keep` named."""
    found = re.search(r"(\d+)/*$", path)
    if found is None:
        raise ValueError(f"model.path={path}: ends in no training step, such as weights-001000")
    return int(found[1])


def own_quality(results: dict[str, Any]) -> dict[str, Any]:
    """KID between the model's own samples and images of its training domain."""
    extractor = build(results["config"]["features"])
    own = load_tensor(artefacts(results, "denoise")[-1], "images")
    test = artefact(results, "split")["references"][: len(own)]
    found = kid(extract(extractor, own), extract(extractor, test))
    return {"step": step(results["config"]["model"]["path"])} | {
        "own_kid": found.value,
        "own_kid_low": found.low,
        "own_kid_high": found.high,
    }


def line(results: dict[str, Any]) -> dict[str, Any]:
    """The row of one base model on one domain."""
    generated = results["rows"][0]
    replay = next(row for row in results["rows"] if row["row"] == "replay")
    found = results["bandwidth"]
    without_noise = found["curve"][0]
    half = normal_quantile(0.95) * without_noise["psnr_se"]
    row = {"step": step(results["config"]["model"]["path"]), "domain": results["settings"]["domain"]}
    for name in ("kid_h", "copy_rate"):
        row |= {key: generated[key] for key in (name, f"{name}_low", f"{name}_high")}
    row |= {"replay_copies": replay["copy_rate"], "eta": found["eta"], "eta_low": found["low"]}
    row |= {"eta_high": found["high"], "round_trip": without_noise["psnr_mean"]}
    return row | {"round_trip_low": row["round_trip"] - half, "round_trip_high": row["round_trip"] + half}


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results: unseen domains from the first sweep, own quality from the second."""
    own = pd.DataFrame([own_quality(results) for results in runs(folders[1:])])
    full = pd.DataFrame([line(results) for results in runs(folders[:1])]).merge(own, on="step")
    full = full.sort_values(["domain", "step"], kind="stable").reset_index(drop=True)
    write_study(out, folders, full, table(full), draw(full), conclusions(full))


def conclusions(full: pd.DataFrame) -> list[Answer]:
    """The answer."""
    return [answer(full, measured(full))]


def exact_tau(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Kendall's tau-b and its exact two-sided p over all orders of y, ties or not; 0 and 1 where one does not vary."""
    signs, others = (np.sign(values[:, None] - values) for values in (x, y))
    total = np.sqrt((signs**2).sum() * (others**2).sum())
    if not total > 0:  # or not a number
        return 0.0, 1.0
    orders = np.array(list(permutations(range(len(y)))))
    sums = np.einsum("ij,kij->k", signs, others[orders[:, :, None], orders[:, None, :]])
    return float(sums[0] / total), float((abs(sums) >= abs(sums[0]) - 1e-9).mean())


def measured(full: pd.DataFrame) -> list[Trend]:
    """All trends; copies only where replays are recognised as such."""
    found = []
    for domain, part in full.groupby("domain", sort=False):
        for outcome in OUTCOMES:
            if outcome == "copy_rate" and part["replay_copies"].min() < POWER:
                continue
            own, other = part["own_kid"].to_numpy(), part[outcome].to_numpy()
            found.append((domain, outcome, exact_tau(own, other)[0], *exact_tau(np.diff(own), np.diff(other))))
    adjusted = holm([p for *_, p in found])
    return [Trend(*trend[:4], p) for trend, p in zip(found, adjusted, strict=True)]


def answer(full: pd.DataFrame, trends: Sequence[Trend]) -> Answer:
    """What goes together along the training; one training shows no cause."""
    words, effects = [], []
    for outcome, title in OUTCOMES.items():
        own = [trend for trend in trends if trend.outcome == outcome]
        if not own:
            words.append(f"{title.partition(',')[0]} can be told on no domain")
            continue
        same = [trend for trend in own if trend.tau > 0]
        direction = "falls" if 2 * len(same) > len(own) else "rises"
        count = len(same) if direction == "falls" else len(own) - len(same)
        words.append(f"{title.partition(',')[0]} {direction} on {count} of {len(own)} domains")
        values = ", ".join(f"{t.domain} {t.tau:+.2f} (changes {t.changes:+.2f}, p {t.p:.2g})" for t in own)
        effects.append(f"{title} {values}")
    ends = full.drop_duplicates("step").sort_values("step")["own_kid"]
    kid = [trend for trend in trends if trend.outcome == "kid_h"]
    told = sum(trend.p < LEVEL for trend in kid)
    taus = sorted(trend.tau for trend in kid)
    return Answer(
        "reviewer 8",
        f"Along one training, in which own KID x1000 falls from {1000 * ends.iloc[0]:.0f} to "
        f"{1000 * ends.iloc[-1]:.0f}: {'; '.join(words)}. Series that both trend go together "
        "whatever the cause, and one training has no other to "
        f"compare with: this shows no effect of quality. The changes of KID-H from one checkpoint to the next go with "
        f"those of own KID on {told} of {len(kid)} domains (exact test, Holm).",
        f"Kendall's tau with own KID, and that of the changes with its p: {'; '.join(effects)}",
        "Along one training, own KID and KID-H fall together; this shows no cause.",
        f"Kendall's tau {taus[0]:.2f} to {taus[-1]:.2f} over {full['step'].nunique()} checkpoints",
    )


def table(full: pd.DataFrame) -> pd.DataFrame:
    """The formatted table."""
    records = full.to_dict("records")
    halves = [(one["round_trip_high"] - one["round_trip_low"]) / 2 for one in records]
    return pd.DataFrame(
        {
            "domain": full["domain"],
            "step": full["step"],
            "own KID x1000": [
                pm(1000 * one["own_kid"], 500 * (one["own_kid_high"] - one["own_kid_low"]), 0) for one in records
            ],
            "KID-H x1000": [score(one, "kid_h") for one in records],
            "copies": [score(one, "copy_rate") for one in records],
            "copies of replays": [f"{100 * value:.0f}%" for value in full["replay_copies"]],
            "round trip, dB": [pm(one["round_trip"], half) for one, half in zip(records, halves, strict=True)],
            "bandwidth": [f"{one['eta']:.2f} ({one['eta_low']:.2f} to {one['eta_high']:.2f})" for one in records],
        }
    )


def draw(full: pd.DataFrame) -> Figure:
    """Draws every outcome against own KID, one colour per domain; training runs from right to left."""
    figure = Figure(figsize=(13, 3.4), layout="constrained")
    axes = figure.subplots(1, len(OUTCOMES))
    for axis, (name, title) in zip(axes, OUTCOMES.items(), strict=True):
        scale = {"kid_h": 1000, "copy_rate": 100}.get(name, 1)
        for number, (domain, part) in enumerate(full.groupby("domain", sort=False)):
            x, y = 1000 * part["own_kid"].to_numpy(), scale * part[name].to_numpy()
            ends = [scale * part[f"{name}_{end}"].to_numpy() for end in ("low", "high")]
            error = np.abs(np.array([y - ends[0], ends[1] - y]))
            style = {"fmt": "o-", "ms": 4, "lw": 1.1, "capsize": 2, "color": f"C{number}"}
            axis.errorbar(x, y, error, label=domain, **style)
        axis.set_xlabel("own KID x1000 (better to the left)")
        axis.set_ylabel({"kid_h": "KID-H x1000", "copy_rate": "copies (%)"}.get(name, title))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=8)
    return figure
