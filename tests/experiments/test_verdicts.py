"""Verdicts are short, and follow from the committed tables."""

from importlib import import_module

import numpy as np
import pandas as pd
import pytest

from experiments.bandwidth_vs_gap.analyse import exact_rank_test
from experiments.common import WORDS, Answer, effect_of, read_answers, widening
from experiments.reanalyse import STUDIES
from support import ROOT

EXPERIMENTS = ROOT / "experiments"
# Studies whose verdicts are still as long as in their README: to be written with their next measurement.
LONG = {
    "first_three",
    "novelty",
    "paths",
    "prior_choice",
    "priors",
    "reconstruct",
    "robustness",
    "separability",
    "solvers",
    "table1_geometry",
    "table2_scores",
    "yardstick",
}


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*/study.json")), ids=lambda path: path.parent.name)
def test_a_verdict_on_the_scoreboard_is_short(path) -> None:
    for answer in read_answers(path.parent)[0]:
        assert bool(answer.brief) == (path.parent.name not in LONG)
        assert len(answer.brief.split()) <= WORDS


def test_long_verdicts_are_refused() -> None:
    with pytest.raises(ValueError, match="16 words"):
        Answer("M1", "", "", "word " * 16)


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_verdicts_follow_from_the_committed_table(name: str) -> None:
    """No number in a verdict comes from anywhere else."""
    full = pd.read_csv(EXPERIMENTS / name / "results.csv")
    answers = import_module(f"experiments.{name}.analyse").conclusions(full)
    assert answers == read_answers(EXPERIMENTS / name)[0]
    readme = (EXPERIMENTS / name / "README.md").read_text(encoding="utf-8")
    assert all(f"- *{answer.question}*: {answer.verdict} ({answer.effect})" in readme for answer in answers)


def test_the_exact_rank_test_counts_all_orders() -> None:
    ordered = np.arange(6.0)
    assert exact_rank_test(ordered, ordered) == (pytest.approx(1), pytest.approx(2 / 720))
    assert exact_rank_test(ordered, np.ones(6))[1] == 1.0


def test_the_exact_rank_test_has_its_level() -> None:
    """Without a relation it rejects at most 5 % of 300 pairs of 6 values; 15 expected, standard deviation 3.8."""
    rng = np.random.default_rng(0)
    assert sum(exact_rank_test(*rng.normal(size=(2, 6)))[1] <= 0.05 for _ in range(300)) < 28


def test_intervals_of_several_cells_are_wider() -> None:
    line = {"kid_h_difference": 0.5, "kid_h_difference_low": 0.0, "kid_h_difference_high": 1.0, "draws": 5, "seeds": 4}
    assert widening(1, 3) == pytest.approx(1)
    assert effect_of(line, "kid_h", 10.0) == "no effect beyond a tenth"
    assert effect_of(line, "kid_h", 10.0, cells=14) == "not resolved"
