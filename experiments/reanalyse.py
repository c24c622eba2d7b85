"""Analyses studies again from their committed results.csv, without their sweeps: new verdicts from old measurements.

``python -m experiments.reanalyse [STUDY...]`` rewrites study.json, the verdicts in the study's README and, where the
analysis makes one from the same rows, its table; then the scoreboard. A study takes part if its analyse.py has
``conclusions``.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import pandas as pd

from experiments.common import rewrite
from experiments.scoreboard import write_scoreboard

ROOT = Path(__file__).parent
STUDIES = ("bandwidth_vs_gap", "bandwidth_vs_step", "base_quality", "comparison", "criteria_ablation", "tuning")


def again(name: str, root: Path = ROOT) -> None:
    """Analyses one study again, in its folder below ``root``."""
    module = import_module(f"experiments.{name}.analyse")
    full = pd.read_csv(root / name / "results.csv", keep_default_na=True)
    table_of = getattr(module, "table_of", None)
    rewrite(root / name, module.conclusions(full), table_of(full) if table_of else None)


def main(names: Sequence[str]) -> None:
    """Analyses these studies again, or all."""
    for name in names or STUDIES:
        again(name)
    write_scoreboard(ROOT)


if __name__ == "__main__":
    main(sys.argv[1:])
