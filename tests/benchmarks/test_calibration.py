"""The committed simulations of intervals and tests: their figures are nominal, and the script still makes such rows."""

import pandas as pd
import pytest

from benchmarks.calibration import OUT, PARTS, SCENES, coverage_rows

TABLE = pd.read_csv(OUT)


def test_the_committed_table_has_every_part() -> None:
    assert set(TABLE["part"]) == set(PARTS)
    assert (TABLE["repetitions"] >= 500).all()


@pytest.mark.parametrize("pool", [scene.name for scene in SCENES])
def test_corrected_intervals_cover_the_mean_of_the_domain(pool: str) -> None:
    """93 % or more where every draw has its own held-out images; uncorrected ones fall short on small pools."""
    rows = TABLE[(TABLE["part"] == "coverage") & (TABLE["pool"] == pool)]
    fresh = rows[(rows["design"] == "held-out images of every draw") & rows["correction"].astype(bool)]
    assert len(fresh) == 3
    assert (fresh["value"] >= 0.93).all()


def test_permutation_tests_of_clusters_keep_their_level() -> None:
    rows = TABLE[TABLE["part"] == "level"]
    whole = rows[rows["correction"].astype(bool)]
    splits = whole[whole["score"].str.contains("two parts of a split")]
    assert len(splits) == 2
    assert splits["value"].between(0.035, 0.065).all()
    assert (whole["value"] <= 0.065).all()


def test_conformal_shares_are_covered() -> None:
    assert (TABLE[TABLE["part"] == "conformal"]["value"] >= 0.93).all()


def test_the_script_makes_such_rows() -> None:
    rows = pd.DataFrame(list(coverage_rows(SCENES[0], 2)))
    assert len(rows) == 12
    assert rows["value"].between(0, 1).all()
    assert rows["overlap"].max() == pytest.approx(0.77, abs=0.06)
