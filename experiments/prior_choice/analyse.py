"""Reads the sweep's artefacts; writes results.csv, table.md and figure.png beside this file, and names the choice.

python experiments/prior_choice/analyse.py outputs/sweeps/SWEEP outputs/sweeps/REPLAYS
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

from unseen_diffusion.files import atomic_path
from unseen_diffusion.tables import load_results

HERE = Path(__file__).parent
NOMINAL = 0.01  # share of held-out images that count as copies
POWER = 0.9  # share of true copies that the criterion must catch before "no" means anything


def points(paths: list[str]) -> pd.DataFrame:
    """The generated rows, best first, with the share of replays caught at the same t and eta, and the verdict."""
    table = load_results(paths)
    table = table[table["row"] == "generated"]
    replays = table[table["prior"] == "replay"].set_index(["t", "eta"])["copy_rate"]
    table = table[table["prior"] != "replay"].sort_values("kid_h").reset_index(drop=True)
    table["caught"] = [replays[cell] for cell in zip(table["t"], table["eta"], strict=True)]
    table["copies"] = [
        "yes" if line.copy_rate_low > NOMINAL else "no" if line.caught >= POWER else "cannot tell"
        for line in table.itertuples()
    ]
    return table


def markdown(table: pd.DataFrame, most: int) -> str:
    """The first rows as Markdown."""
    text = pd.DataFrame(
        {
            "prior": table["prior"],
            "t": table["t"].map("{:g}".format),
            "eta": table["eta"].map("{:g}".format),
            "KID-V x1000 (95%)": [
                f"{1000 * r.kid_h:.0f} ({1000 * r.kid_h_low:.0f} to {1000 * r.kid_h_high:.0f})"
                for r in table.itertuples()
            ],
            "FID-V": table["fid_h"].map("{:.1f}".format),
            "copy rate (95%)": [
                f"{r.copy_rate:.0%} ({r.copy_rate_low:.1%} to {r.copy_rate_high:.1%})" for r in table.itertuples()
            ],
            "replays caught": table["caught"].map("{:.0%}".format),
            "copies": table["copies"],
            "accepted": table["acceptance"].map("{:.0%}".format),
        }
    )
    return text.head(most).to_markdown(index=False) + "\n"


def figure(table: pd.DataFrame, path: Path) -> None:
    """KID-V against the mixing step, a panel an eta; filled: does not copy, hollow: does, or nobody can tell."""
    etas = sorted(table["eta"].unique())
    figure, axes = plt.subplots(1, len(etas), figsize=(4 * len(etas), 3.8), sharey=True, layout="constrained")
    for axis, eta in zip(axes, etas, strict=True):
        for number, (prior, rows) in enumerate(table[table["eta"] == eta].groupby("prior")):
            rows = rows.sort_values("t")
            at = rows["t"] + 6 * (number - 3)  # side by side, so that the bars can be told apart
            error = 1000 * (rows["kid_h_high"] - rows["kid_h_low"]) / 2
            axis.errorbar(at, 1000 * rows["kid_h"], error, color=f"C{number}", linewidth=1, capsize=2, label=prior)
            fill = [f"C{number}" if copies == "no" else "white" for copies in rows["copies"]]
            axis.scatter(at, 1000 * rows["kid_h"], color=fill, edgecolor=f"C{number}", zorder=3)
        axis.set(title=f"eta {eta:g}", xlabel="mixing step t", yscale="log", xticks=sorted(table["t"].unique()))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("KID-V x1000, embedded features")
    axes[-1].legend(frameon=False, fontsize=8, title="filled: does not copy", title_fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def main() -> None:
    table = points(sys.argv[1:])
    table.drop(columns="run").round(6).to_csv(HERE / "results.csv", index=False)
    (HERE / "table.md").write_text(markdown(table, len(table)), encoding="utf-8")
    figure(table, HERE / "figure.png")
    print(markdown(table, 12))
    best = table[table["copies"] == "no"].iloc[0]
    print(f"choice: prior={best['prior']} mixing.t={best['t']:g} bandwidth.eta={best['eta']:g}")


if __name__ == "__main__":
    main()
