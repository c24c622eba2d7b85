"""``unseen report`` where results.json was edited deep inside: that run gets one line, the runs beside it are shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.commands import run
from support.finished_runs import Runs

EDITS: tuple[tuple[str, Any], ...] = (
    ("selection.bands", 3),
    ("selection.bands.pair_distance", [1]),
    ("selection.passes.pair_distance", "x"),
    ("selection.acceptance", 3),
    ("geometry.pair_distance.mean", "x"),
    ("reconstruction.eta0", 3),
    ("reconstruction.eta0.psnr", "x"),
    ("reconstruction.eta0.images", 3),
    ("images.source", 3),
    ("artefacts.0.folder", 3),
    ("config.domain", 3),
    ("mixing", {"t": "x", "curve": 3}),
    ("bandwidth", {"curve": [1]}),
)


@pytest.fixture(scope="module")
def full(shared_folder: Path) -> Path:
    """The results.json of a run, beside another run."""
    runs = Runs(shared_folder)
    runs.run("fitted")
    return runs.run("full")


@pytest.mark.parametrize(("key", "value"), EDITS, ids=[f"{key}={value}" for key, value in EDITS])
def test_one_damaged_run_does_not_stop_the_report(
    key: str,
    value: Any,
    full: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    intact = full.read_text()
    content = json.loads(intact)
    *parents, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    place = content
    for part in parents:
        place = place[part]
    place[last] = value
    full.write_text(json.dumps(content))
    page = tmp_path / "page.html"
    code = run("report", str(full.parents[1]), "-o", str(page))
    full.write_text(intact)
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    lines = [line for line in caplog.messages if "skipped" in line]
    if code == 0:
        assert "2 runs" in shown.out or (len(lines) == 1 and str(full) in lines[0] and "1 runs" in shown.out)
        assert page.stat().st_size > 10_000
    else:
        assert str(full) in shown.err.strip().splitlines()[-1]


def test_one_that_is_alone_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Runs(here).run("full", change=lambda results: results["selection"].update(bands=3))
    assert run("report", str(here / "runs"), "-o", "page.html") == 2
    assert f"{file}: damaged (" in capsys.readouterr().err
    assert not Path("page.html").exists()
