"""Tables and report say what the feature extractor can see in each domain."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from support.finished_runs import Runs
from unseen_diffusion.reports.html import load_runs, render
from unseen_diffusion.reports.result import RunResult
from unseen_diffusion.reports.tables import YARDSTICK, load_results, print_table, write_table
from unseen_diffusion.reports.yardstick import yardstick_line

SEEN = (
    "embedded on hubble, KID x1000 of 100 held-out images against the others: real 1.20, blurred by a pixel 412 "
    "(p 0.002), Gaussian texture 215 (p 0.002); this extractor tells both from real images."
)
MISSED = (
    "embedded on faces, KID x1000 of 100 held-out images against the others: real 1.20, blurred by a pixel 412 "
    "(p 0.002), Gaussian texture 215 (p 0.300); Gaussian texture not told from real images: this extractor cannot "
    "judge this domain."
)


def measured(texture_p: float) -> Any:
    """A change of a run's results: what its extractor sees."""

    def change(results: dict[str, Any]) -> None:
        results["yardstick"] = {
            "n": 100,
            "level": 0.05,
            "real": 0.0012,
            "changes": {"blurred": {"kid": 0.412, "p": 0.002}, "texture": {"kid": 0.215, "p": texture_p}},
            "judges": texture_p <= 0.05,
        }

    return change


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two runs of hubble, where the extractor sees; one of faces, where it does not; one that did not measure it."""
    monkeypatch.chdir(tmp_path)
    runs = Runs(tmp_path)
    return [
        runs.run("fitted", "hubble", change=measured(0.002)),
        runs.run("full", "hubble", change=measured(0.002)),
        runs.run("fitted", "faces", change=measured(0.3)),
        runs.run("fitted", "textures"),
    ]


def test_one_line_for_each_domain(paths: list[Path]) -> None:
    assert [yardstick_line(RunResult.read(path)) for path in paths] == [SEEN, SEEN, MISSED, ""]
    assert load_results(paths).attrs[YARDSTICK] == [MISSED, SEEN]  # in the order of the paths


def test_the_printed_table_and_its_files_end_with_the_lines(paths: list[Path], tmp_path: Path) -> None:
    table = load_results(paths)
    console = Console(file=io.StringIO(), width=1000)
    print_table(table, "runs", console)
    words = " ".join(console.file.getvalue().split())  # lines are broken at the table's width
    assert words.endswith(f"{MISSED} {SEEN}")
    for suffix, comment in ((".md", ""), (".tex", "% ")):
        write_table(table, tmp_path / f"table{suffix}")
        lines = (tmp_path / f"table{suffix}").read_text().splitlines()
        assert {f"{comment}{SEEN}", f"{comment}{MISSED}"} <= set(lines)


def test_existing_columns_stay_as_they_are(paths: list[Path], tmp_path: Path) -> None:
    write_table(load_results(paths), tmp_path / "table.csv")
    assert YARDSTICK not in (tmp_path / "table.csv").read_text().splitlines()[0]


def test_the_report_says_it_before_the_numbers(paths: list[Path]) -> None:
    page = render(load_runs(paths), "title")
    assert page.index(SEEN) < page.index('id="results"')
    assert MISSED in page
