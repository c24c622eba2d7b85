"""Rows and results: read back as written, named once, printed in one place, and without torch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.finished_runs import Runs
from unseen_diffusion.reports.html import load_runs
from unseen_diffusion.reports.html.tables import lines_of
from unseen_diffusion.reports.result import RESULTS, RunResult
from unseen_diffusion.reports.rows import (
    COMPARISON_ROWS,
    SETTINGS,
    as_text,
    independent_of,
    merge_same_images,
    plus_minus,
    run_name,
    tracking_name,
)
from unseen_diffusion.reports.tables import load_results
from unseen_diffusion.scores.suite import ROWS
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json

FULL = {"domain": "hubble", "method": "full", "prior": "low_rank", "tolerances": "calibrated", "t": 500.0, "eta": 0.2}


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        (("reports.tables", "reports.comparison", "reports.figures"), ("torch", "diffusers", "matplotlib", "wandb")),
        (("reports.result", "reports.rows", "reports.tracking"), ("torch", "pandas", "wandb")),
    ],
)
def test_tables_need_no_torch(modules: tuple[str, ...], absent: tuple[str, ...]) -> None:
    imports = ", ".join(f"unseen_diffusion.{module}" for module in modules)
    code = f"import sys, {imports}; print([name for name in {absent} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_results_are_read_back_as_written(tmp_path: Path) -> None:
    """The same keys in the same order; parts that a run does not have are absent."""
    file = Runs(tmp_path).run("full")
    before = file.read_text(encoding="utf-8")
    RunResult.read(file).write()
    after = json.loads(file.read_text(encoding="utf-8"))
    assert after == json.loads(before) | {"environment": after["environment"]}
    assert "bandwidth" not in after
    assert "tuning" not in after
    assert list(after)[:3] == ["schema", "settings", "rows"]


def test_a_part_of_the_wrong_kind_is_one_line(tmp_path: Path) -> None:
    file = Runs(tmp_path).run("full", change=lambda results: results.update(rows={"row": "generated"}))
    with pytest.raises(InputError, match=r"rows=.*: give a list .*; run this point again"):
        RunResult.read(file)


def test_comparison_rows_are_those_of_the_scores() -> None:
    """And the settings that do not change them are settings."""
    assert set(COMPARISON_ROWS) == set(ROWS)
    assert independent_of("generated") == ()
    assert all(set(row.independent_of) < set(SETTINGS) for row in COMPARISON_ROWS.values())


def test_rows_scored_otherwise_stay_apart_in_tables_and_report(tmp_path: Path) -> None:
    """Real images that two runs score with other ``scores`` settings: two lines in both."""

    def with_k(k: int) -> Any:
        return lambda results: results["config"].update(scores={"k": k, "rows": [str(k)]})

    runs = Runs(tmp_path)
    files = [
        runs.run("full", change=with_k(3)),
        runs.run("fitted", change=with_k(5)),
        runs.run("slerp", change=with_k(5)),
    ]
    held_out = [line for line in lines_of(load_runs(files)) if line.row["row"] == "held_out"]
    assert len(held_out) == 2
    table = load_results(files)
    assert (table["row"] == "held_out").sum() == 2


def test_the_same_images_in_two_runs_keep_what_both_say() -> None:
    row = {"kid_h": 0.1, "target_classifier": 0.5, "target_classifier_low": 0.4}
    assert merge_same_images(row, row) == row
    assert merge_same_images(row, {**row, "target_classifier": 0.6}) == {"kid_h": 0.1}


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "full, low_rank, calibrated, t 500, eta 0.2"),
        ({"method": "fitted", "tolerances": "none"}, "fitted, low_rank, t 500, eta 0.2"),
        ({"method": "slerp", "prior": "slerp", "tolerances": "none"}, "slerp, t 500, eta 0.2"),
        ({"selection": "copies"}, "full, low_rank, calibrated, copies, t 500, eta 0.2"),
        ({"method": "base_samples", "prior": None, "tolerances": None}, "base_samples, t 500, eta 0.2"),
    ],
)
def test_runs_have_names(changes: dict[str, Any], name: str) -> None:
    assert run_name(FULL | changes) == name
    assert run_name(FULL, ("tolerances", "eta")) == "calibrated, eta 0.2"


def test_names_in_wandb() -> None:
    settings = FULL | {"draw": 0, "seed": 3}
    assert tracking_name(settings) == "hubble low_rank calibrated t500 eta0.2 draw0 seed3"
    assert tracking_name(settings | {"prior": None}) == "hubble full t500 eta0.2 draw0 seed3"
    twin = settings | {"method": "pixel_combination", "tolerances": None, "selection": "copies"}
    assert tracking_name(twin) == "hubble low_rank pixel_combination copies t500 eta0.2 draw0 seed3"


def test_scores_as_text() -> None:
    """KID in thousandths, shares in per cent; on a page with three digits and thousands separators."""
    assert [as_text("kid_h", value) for value in (-0.0007, 0.323, 3.888, None)] == ["-0.7", "323", "3888", ""]
    assert as_text("kid_h", 3.888, roomy=True) == "3,888"
    assert [as_text("fid_h", value) for value in (0.331, 53.38, float("nan"))] == ["0.33", "53.4", ""]
    assert as_text("fid_h", 0.331, roomy=True) == "0.331"
    assert plus_minus("copy_rate", 0.225, 0.031) == "22.5±3.1%"
    assert plus_minus("kid_h", 0.323, float("nan")) == "323"


def test_results_of_another_schema_are_refused(tmp_path: Path) -> None:
    file = Runs(tmp_path).run("full")
    write_json(file, read_json(file) | {"schema": 3})
    with pytest.raises(InputError, match=f"{RESULTS}: not the results of a run"):
        load_results([file])
