"""Prior, mixing step and bandwidth by scores on validation images, where nothing is copied (reviewer 1).

`python -m experiments.studies prior_choice --analyse`
"""

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from experiments.common import Answer, copying, generated, score, write_study
from experiments.sweeps import QUICK, sweep

CHOICE = (QUICK, "mixing.t=250,500", "bandwidth.eta=0,0.5")
SWEEPS = (
    sweep("prior_choice", "prior_choice", tiny=[*CHOICE, "prior=sample_covariance,slerp"]),
    sweep("prior_choice_replay", "prior_choice", "prior=replay", "tolerances=none", tiny=CHOICE),
)

POWER = 0.9  # share of true copies that the criterion must catch before "no copies" can be trusted


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's results; ``folders`` are the sweep's and that of the replays."""
    table = points(folders)
    text = pd.DataFrame([readable(line) for line in table.to_dict("records")])
    write_study(out, folders, table.drop(columns="run"), text, draw(table), [choice(table)], most=10)


def points(folders: Sequence[Path]) -> pd.DataFrame:
    """The generated rows, best first, with the share of replays caught at the same t and eta, and the verdict."""
    table = generated(folders)
    replays = table[table["prior"] == "replay"].set_index(["t", "eta"])["copy_rate"]
    table = table[table["prior"] != "replay"].sort_values("kid_h").reset_index(drop=True)
    table["caught"] = [replays[cell] for cell in zip(table["t"], table["eta"], strict=True)]
    copies = copying(table["copy_rate_p"].tolist())
    table["copies"] = [
        "yes" if copied else "no" if caught >= POWER else "cannot tell"
        for copied, caught in zip(copies, table["caught"], strict=True)
    ]
    return table


def readable(line: dict[Hashable, Any]) -> dict[str, str]:
    """A row of the formatted table."""
    return {
        "prior": line["prior"],
        "t": f"{line['t']:g}",
        "eta": f"{line['eta']:g}",
        "KID-V x1000": score(line, "kid_h"),
        "FID-V": f"{line['fid_h']:.1f}",
        "copies": score(line, "copy_rate"),
        "replays caught": f"{line['caught']:.0%}",
        "copies?": line["copies"],
        "accepted": f"{line['acceptance']:.0%}",
    }


def choice(table: pd.DataFrame) -> Answer:
    """The answer to reviewer 1: priors that copy where copying is recognised, and the best setting that does not."""
    told = table[table["copies"] != "cannot tell"]
    counts = [f"{name} in {(rows['copies'] == 'yes').sum()} of {len(rows)}" for name, rows in told.groupby("prior")]
    new = told[told["copies"] == "no"]
    best = f"{setting(new.iloc[0])} has the lowest KID to validation images" if len(new) else "there is none"
    scores = "; ".join(
        f"{name} {score(rows.iloc[0].to_dict(), 'kid_h')}" for name, rows in new.groupby("prior", sort=False)
    )
    return Answer(
        "reviewer 1",
        f"Copying can be told at {len(told)} of {len(table)} settings of prior, step and eta; of those without copies "
        f"{best}.",
        f"copying: {', '.join(counts)}; KID-V x1000, best setting of each prior that does not: {scores or 'none'}",
    )


def setting(line: pd.Series) -> str:
    """A point's prior, step and bandwidth as overrides."""
    return f"prior={line['prior']} mixing.t={line['t']:g} bandwidth.eta={line['eta']:g}"


def draw(table: pd.DataFrame) -> Figure:
    """KID-V against the mixing step, a panel per eta; filled: no copies; hollow: copies, or unknown."""
    etas = sorted(table["eta"].unique())
    figure = Figure(figsize=(4 * len(etas), 3.8), layout="constrained")
    axes = figure.subplots(1, len(etas), sharey=True, squeeze=False)[0]
    for axis, eta in zip(axes, etas, strict=True):
        for number, (prior, rows) in enumerate(table[table["eta"] == eta].groupby("prior")):
            rows = rows.sort_values("t")
            at = rows["t"] + 6 * (number - 3)  # side by side, so that the bars do not overlap
            error = 1000 * (rows["kid_h_high"] - rows["kid_h_low"]) / 2
            axis.errorbar(at, 1000 * rows["kid_h"], error, color=f"C{number}", linewidth=1, capsize=2, label=prior)
            fill = [f"C{number}" if copies == "no" else "white" for copies in rows["copies"]]
            axis.scatter(at, 1000 * rows["kid_h"], color=fill, edgecolor=f"C{number}", zorder=3)
        axis.set(title=f"eta {eta:g}", xlabel="mixing step t", yscale="log", xticks=sorted(table["t"].unique()))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("KID-V x1000, embedded features")
    axes[-1].legend(frameon=False, fontsize=8, title="filled: does not copy", title_fontsize=8)
    return figure
