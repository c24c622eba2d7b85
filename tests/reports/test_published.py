"""Published values beside ours: only where base model and domain are the same, and FID only with the same features."""

from pathlib import Path
from typing import Any

import pytest

from support import ROOT
from support.commands import run
from support.finished_runs import Runs
from unseen_diffusion.reports.published import METRICS, beside, notes, read_published
from unseen_diffusion.reports.result import RunResult, read_results
from unseen_diffusion.utils.errors import InputError

HEAD = "version,table,base,domain,metric,value,source\n"
CELL = (
    "v9,Table 2,afhqdog_p2,gz2,fid,43.5,invented\n"
    "v9,Table 2,afhqdog_p2,gz2,bandwidth,,\n"
    "v9,Table 1,afhqdog_p2,gz2,pair_distance,600,invented\n"
    "v9,Table 2,,,fid,43+,somewhere\n"
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's configs with invented values."""
    (tmp_path / "published.csv").write_text("# a comment\n" + HEAD + CELL)
    monkeypatch.setenv("UNSEEN_CONF", str(tmp_path))
    return tmp_path / "published.csv"


def finished(folder: Path, **settings: Any) -> list[RunResult]:
    path = Runs(folder).run("full", domain="gz2", model="afhqdog_p2", **settings)
    return read_results([path.parent], RunResult)


def test_what_the_package_knows_has_sources_and_leaves_unknown_cells_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNSEEN_CONF", raising=False)
    known = read_published()
    assert all(one.value and one.source for one in known)
    assert not [one for one in known if one.base and one.domain]  # no cell of a table is attested yet
    assert {("v1", "fid", "43+"), ("code 2024", "pair_distance", "611.4")} <= {
        (one.version, one.metric, one.value) for one in known
    }
    lines = (ROOT / "src/unseen_diffusion/reports/published.csv").read_text().splitlines()
    empty = [line.split(",") for line in lines if line.endswith(",,")]
    assert len(empty) == 100
    assert {line[4] for line in empty} == set(METRICS)


def test_the_same_cell_stands_beside(own: Path, tmp_path: Path) -> None:
    """FID with the features of published FID, and the geometry of the references."""
    found = beside(finished(tmp_path, features="inception"), read_published())
    assert found["metric"].tolist() == ["fid", "pair_distance"]
    assert found["published"].tolist() == ["43.5", "600"]
    assert found["ours"].tolist()[1] == "84"
    assert found["where"].tolist() == ["v9, Table 2", "v9, Table 1"]


@pytest.mark.parametrize(
    "settings", [{"features": "embedded"}, {"features": "inception", "target": "validation"}], ids=str
)
def test_other_features_never_stand_beside_published_fid(own: Path, tmp_path: Path, settings: dict[str, str]) -> None:
    results = finished(tmp_path, **settings)
    assert beside(results, read_published())["metric"].tolist() == ["pair_distance"]
    said = notes(results, read_published())
    assert any("43+" in line and "cell not known" in line for line in said)
    assert any("never stands beside published FID" in line for line in said) == (settings["features"] == "embedded")


def test_the_table_and_the_report_show_them(
    own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finished(tmp_path, features="inception")
    assert run("table", "runs", "--published") == 0
    said = capsys.readouterr().out
    assert "published beside ours" in said
    assert "43.5" in said
    assert run("report", "runs", "-o", "page.html") == 0
    page = Path("page.html").read_text()
    assert "Published values" in page
    assert "43.5" in page


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version,value\n", "give the columns version, table"),
        (HEAD + "v9,Table 2,a,b,fid,43.5,\n", "fid=43.5 without a source"),
        (HEAD + "v9,Table 2,a,b,fid,43.5,said, twice\n", "quote texts with commas"),
    ],
)
def test_a_damaged_file_is_refused(own: Path, text: str, message: str) -> None:
    own.write_text(text)
    with pytest.raises(InputError, match=message):
        read_published()
