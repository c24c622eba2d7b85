"""Measures the solvers; writes results.csv, table.md and figure.svg beside this file.

python experiments/solvers/measure.py [images]
"""

import sys
from pathlib import Path

import pandas as pd

import unseen_diffusion as ud
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.solvers.work_precision import Pair, measure, solvers_figure

HERE = Path(__file__).parent
BUDGETS = (8, 16, 32, 64)
COLUMNS = {"latent_rms": "latent RMS", "pair_psnr": "image round trip dB", "fresh_rms": "fresh round trip RMS"}


def write(table: pd.DataFrame) -> None:
    """The rows so far, as CSV, as Markdown (a line per pair and error, a column per budget) and drawn."""
    table.to_csv(HERE / "results.csv", index=False, float_format="%.6g")
    labels = [Pair(*key).label for key in zip(table["solver"], table["grid"], table["clean_end"], strict=True)]
    pieces = []
    for column, title in COLUMNS.items():
        wide = table.assign(pair=labels).pivot(index="pair", columns="steps", values=column)
        wide = wide.reindex(dict.fromkeys(labels)).reset_index().rename(columns={"pair": title})
        form = ".1f" if column == "pair_psnr" else ".4f"
        pieces.append(wide.to_markdown(index=False, floatfmt=form))
    (HERE / "table.md").write_text("\n\n".join(pieces) + "\n", encoding="utf-8")
    solvers_figure(table, HERE / "figure.svg")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    model = ud.DiffusersModel("embedded:photos32")
    split = ud.load_split(Hubble(references=230, validation=70, heldout=200), size=32, channels=3)
    rows = []
    for row in measure(model, ud.dequantise(split.references[:count]), 500.0, BUDGETS):
        rows.append(row)
        print(row, flush=True)
        if len(rows) > 1:
            write(pd.DataFrame(rows))


if __name__ == "__main__":
    main()
