"""The tables of the README hold the numbers of committed files."""

import csv

import pandas as pd
import pytest

from experiments.comparison.analyse import by_method, difference, score
from support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {
    "held_out": "real images",
    "slerp": "slerp between references",
    "fitted": "fitted Gaussian, every draw",
    "full": "the same, criteria applied",
    "noised_reference": "noised references (as SDEdit)",
}


def table(first: str) -> list[list[str]]:
    """The rows of the README's table whose first header is ``first``; the line of dashes is left out."""
    lines = README.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first} "))
    end = next(number for number, line in enumerate(lines[start:], start) if not line.startswith("|"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]
    return [rows[0], *rows[2:]]


def test_the_table_of_the_demo_is_committed() -> None:
    with open(ROOT / "experiments" / "demo" / "table.csv", encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == table("images")


@pytest.mark.parametrize("method", NAMES)
def test_the_table_of_the_comparison_is_that_of_the_study(method: str) -> None:
    frame = pd.read_csv(ROOT / "experiments" / "comparison" / "results.csv")
    header, *rows = table("method")
    (row,) = [row for row in rows if row[0] == NAMES[method]]
    for domain, cell in zip(header[1:], row[1:], strict=True):
        line = by_method(frame)[method][domain]
        copies = "" if method == "held_out" else f" ({100 * line['copy_rate']:.0f}%)"
        assert cell == score(line, "kid_h").replace("±", " ± ") + copies


def test_the_difference_by_the_criteria_is_that_of_the_study() -> None:
    frame = pd.read_csv(ROOT / "experiments" / "comparison" / "results.csv")
    header, *rows = table("method")
    (row,) = [row for row in rows if row[0] == "*criteria - every draw*"]
    for domain, cell in zip(header[1:], row[1:], strict=True):
        line = by_method(frame)["full"][domain]
        assert difference(line, "kid_h", 1000).split(" ")[0] == cell.split(" ")[0]
        half = 500 * (line["kid_h_difference_high"] - line["kid_h_difference_low"])
        assert cell.endswith(f" ± {half:.0f}")
