"""A score of one's own: one file, one config, and the column it adds to every row, results.json and the table."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import TINY, run
from unseen_diffusion.scores.extra import show_columns
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.errors import InputError

SOURCE = '''
"""How bright the images are."""

from unseen_diffusion.scores.metrics import NEAR, Metric
from unseen_diffusion.utils.checked import Positive, settings


@settings("scores.extra.brightness")
class Brightness:
    columns = {"brightness": Metric("bright", "brightness", "", "number", NEAR)}
    scale: Positive

    def __call__(self, samples, domain):
        return {"brightness": self.scale * float(samples.pixels.mean() - domain.target.pixels.mean())}
'''
CONFIG = """
# The whole suite, and how bright the images are
defaults: [default]
extra:
  brightness:
    _target_: brightness.Brightness
    scale: 100.0
"""
LEAN = ("scores.reconstructions=0", "scores.paths=0", "scores.geometry=0", "scores.rows=[held_out,replay]")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the score's source and its config; the columns that a test adds are forgotten after it."""
    for column in ("brightness", "sharpness"):
        monkeypatch.setitem(METRICS, column, METRICS["vendi"])
        del METRICS[column]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))  # a run adds some to closed streams
    monkeypatch.delitem(sys.modules, "brightness", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "brightness.py").write_text(SOURCE)
    (tmp_path / "conf" / "scores").mkdir(parents=True)
    (tmp_path / "conf" / "scores" / "bright.yaml").write_text(CONFIG)
    return tmp_path / "conf"


def test_an_own_score_is_a_file_and_a_config(conf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("run", "--config-dir", str(conf), *TINY, "scores=bright", *LEAN)
    assert run(*command, "hydra.run.dir=first") == 0
    results = json.loads(Path("first/results.json").read_text())
    rows = {row["row"]: row for row in results["rows"]}
    assert set(rows) == {"generated", "held_out", "replay"}
    assert all(isinstance(row["brightness"], float) for row in rows.values())
    assert abs(rows["held_out"]["brightness"]) < 100
    assert list(rows["replay"])[-2:] == ["brightness", "images"]  # behind the columns of the suite
    assert results["metrics"]["brightness"]["title"] == "bright"
    assert "bright" in capsys.readouterr().out
    del METRICS["brightness"]  # another process: only results.json knows the column
    assert run("table", "first", "--save", "table.csv") == 0
    assert "brightness" in Path("table.csv").read_text().splitlines()[0]
    assert "bright" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scores.extra.brightness.scale=-1", "scores.extra.brightness.scale=-1: give a number above 0"),
        ("+scores.extra.brightness.size=1", "scores.extra.brightness.size: nothing reads this key; choose among scale"),
        ("scores.extra.brightness._target_=brightness.Missing", "brightness.Missing"),
        ("scores.extra.brightness={_target_: builtins.dict}", "scores.extra.brightness="),
        ("+scores.extra.again={_target_: brightness.Brightness, scale: 1.0}", "already has a column brightness"),
    ],
)
def test_what_does_not_fit_is_refused(
    conf: Path, override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("run", "--config-dir", str(conf), *TINY, "scores=bright", override) != 0
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ('{"brightness": samples.pixels.mean()}', "returned Tensor for brightness; return a finite float"),
        ('{"brightness": float("inf")}', "returned inf for brightness; return a finite float"),
        ('{"sharpness": 1.0}', "returned sharpness; declare it in columns"),
    ],
)
def test_what_a_score_returns_is_checked(
    conf: Path, returned: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in SOURCE.splitlines() if not line.startswith("        return")]
    Path("brightness.py").write_text("\n".join([*lines, f"        return {returned}"]))
    assert run("run", "--config-dir", str(conf), *TINY, "scores=bright", *LEAN) != 0
    printed = capsys.readouterr()
    assert message in printed.out + printed.err


def test_tables_and_comparisons_need_no_torch() -> None:
    """Intervals, p-values, titles and the columns of further scores are read without tensors."""
    modules = ", ".join(f"unseen_diffusion.scores.{name}" for name in ("intervals", "metrics", "extra"))
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"brightness": {"name": "bright"}}, "metrics.brightness: "),
        ({"brightness": {"title": ["bright"]}}, "metrics.brightness.title="),
        ({"brightness": "bright"}, "metrics.brightness=bright: "),
        (["brightness"], "metrics=.brightness.: "),
    ],
)
def test_damaged_titles_are_refused_in_one_line(metrics: object, message: str) -> None:
    """A results.json may come from anyone."""
    with pytest.raises(InputError, match=f"^{message}"):
        show_columns({"metrics": metrics})
    assert "brightness" not in METRICS
    show_columns({"metrics": None})
