"""The tutorial's numbers: round trip, geometry and bandwidth of each domain.

`python -m experiments.studies first_three --analyse`
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, pm, runs, write_study
from experiments.sweeps import SEARCH, sweep
from unseen_diffusion.scores.intervals import normal_quantile

SWEEPS = (sweep("first_three", "first_three", tiny=SEARCH),)

GEOMETRY = ("pair_distance", "pair_angle", "origin_angle")


def line(results: dict[str, Any]) -> dict[str, Any]:
    """The row of one domain."""
    trip, found = results["reconstruction"]["eta0"], results["bandwidth"]
    row = {"domain": results["settings"]["domain"], "model": results["settings"]["model"]}
    row |= {"psnr": trip["psnr"], "psnr_se": trip["psnr_standard_error"], "ssim": trip["ssim"]}
    for name in GEOMETRY:
        row |= {name: results["geometry"][name]["mean"], f"{name}_sd": results["geometry"][name]["sd"]}
    return row | {"bandwidth": found["eta"], "low": found["low"], "high": found["high"]}


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results."""
    found = runs(folders)
    full = pd.DataFrame([line(results) for results in found])
    half = normal_quantile(0.95) * full["psnr_se"]
    text = pd.DataFrame({"domain": full["domain"]})
    text["1: PSNR at eta 0, dB (95%)"] = [pm(value, one) for value, one in zip(full["psnr"], half, strict=True)]
    for name in GEOMETRY:
        values = zip(full[name], full[f"{name}_sd"], strict=True)
        text[f"2: {name.replace('_', ' ')} ± sd"] = [pm(value, sd) for value, sd in values]
    text["3: bandwidth (95%)"] = [f"{row.bandwidth:.2f} ({row.low:.2f} to {row.high:.2f})" for row in full.itertuples()]
    each = [f"{row.domain} {row.psnr:.1f} ± {one:.1f} dB" for row, one in zip(full.itertuples(), half, strict=True)]
    least = found[0]["config"]["bandwidth"]["minimum_psnr"]
    back = [row.domain for row, one in zip(full.itertuples(), half, strict=True) if row.psnr - one >= least]
    answer = Answer(
        "M1",
        f"{full['model'].iloc[0]} brings {' and '.join(back) or 'no domain'} of {len(full)} domains back at eta 0 "
        f"({least:g} dB or more).",
        f"PSNR {', '.join(each)}",
    )
    write_study(out, folders, full, text, draw(found), [answer])


def draw(found: Sequence[dict[str, Any]]) -> Figure:
    """Mean PSNR at every eta tried, with 95% intervals."""
    figure = Figure(figsize=(5, 3.4), layout="constrained")
    axis = figure.subplots()
    for number, results in enumerate(found):
        curve = pd.DataFrame(results["bandwidth"]["curve"])
        error = normal_quantile(0.95) * curve["psnr_se"]
        name = results["settings"]["domain"]
        axis.errorbar(curve["eta"], curve["psnr_mean"], error, fmt="o-", ms=4, lw=1.2, color=f"C{number}", label=name)
    limit = found[0]["config"]["bandwidth"]["minimum_psnr"]
    axis.axhline(limit, color="0.7", lw=0.8, zorder=0, label=f"limit, {limit:g} dB")
    axis.set_xlabel("eta")
    axis.set_ylabel("PSNR of the round trip (dB)")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    return figure
