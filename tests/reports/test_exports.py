"""Exported tables: special characters of LaTeX, Markdown and spreadsheets; results without secrets."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from support.commands import run
from support.finished_runs import Runs
from unseen_diffusion.reports.tables import csv_cell, md_cell, tex_cell, write_frame
from unseen_diffusion.store.bucket import check_address
from unseen_diffusion.sweeps.manifest import (
    Manifest,
    Point,
    check_complete,
    check_unchanged,
    hide_secrets,
    overrides_of,
    read_manifest,
    write_manifest,
)
from unseen_diffusion.utils.errors import InputError


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a&b #1", r"a\&b \#1"),
        (r"C:\new_{50%}", r"C:\textbackslash{}new\_\{50\%\}"),
        ("$x^2$ ~ y", r"\$x\textasciicircum{}2\$ \textasciitilde{} y"),
        ("0.3±0.1 ×", r"0.3$\pm$0.1 $\times$"),
        ("a\nb", "a b"),
    ],
)
def test_latex_shows_names_as_they_are(name: str, written: str) -> None:
    assert tex_cell(name) == written


def test_markdown_cells_end_nowhere_and_hold_no_tags() -> None:
    assert md_cell("a|b <script>\n<.001") == "a&#124;b &lt;script&gt; &lt;.001"


@pytest.mark.parametrize(
    ("value", "written"), [("=1+1", "'=1+1"), ("@x", "'@x"), ("-x", "'-x"), ("-3.5", "-3.5"), (-3, -3)]
)
def test_spreadsheets_compute_no_name(value: object, written: object) -> None:
    assert csv_cell(value) == written


def test_every_format_of_one_table(tmp_path: Path) -> None:
    """Columns are escaped too; numbers stay numbers."""
    frame = pd.DataFrame({"a&b": ["=x", "y|z"], "kid": [-0.5, 1.0]})
    for suffix in (".csv", ".md", ".tex"):
        write_frame(frame, frame, tmp_path / f"t{suffix}")
    rows = list(csv.reader((tmp_path / "t.csv").open()))
    assert rows == [["a&b", "kid"], ["'=x", "-0.5"], ["y|z", "1.0"]]
    assert r"a\&b" in (tmp_path / "t.tex").read_text()
    assert "y&#124;z" in (tmp_path / "t.md").read_text()


@pytest.mark.parametrize(
    "address", ["s3://key:geheimnis@bucket/x", "s3://bucket/x?token=geheimnis", "http://a:geheimnis@h"]
)
def test_a_refused_address_is_not_repeated(address: str) -> None:
    with pytest.raises(InputError, match=r"paths\.store") as refused:
        check_address(address)
    assert "geheimnis" not in str(refused.value)


def test_manifests_hold_no_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logins in addresses, values of suspicious keys and of variables; the sweep that this process started has them."""
    monkeypatch.setenv("SOME_API_KEY", "wertvoll123")
    words = ["domain.source=https://me:geheimnis@host/x", "+token=geheimnis", "domain.name=wertvoll123"]
    config = {"domain": {"source": "https://me:geheimnis@host/x", "name": "wertvoll123"}, "token": "geheimnis"}
    folder = tmp_path / "swept"
    write_manifest(folder, Manifest(words, str(tmp_path), None, True, [Point(words, config)], 0, "now"))
    text = (folder / "manifest.json").read_text()
    assert "geheimnis" not in text
    assert "wertvoll123" not in text
    assert overrides_of(folder) == {"0": words}
    check_unchanged(folder, "0", config)
    with pytest.raises(InputError, match="changed"):
        check_unchanged(folder, "0", config | {"domain": {"source": "ftp://me:geheimnis@other", "name": "x"}})
    with pytest.raises(InputError, match="the secret was not recorded"):
        check_complete(folder, read_manifest(folder))


def test_files_of_hydra_hold_no_secrets(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("a: https://me:geheimnis@host\npassword: geheimnis\nb: ${a}\n")
    (tmp_path / "overrides.yaml").write_text("- password=geheimnis\n- seed=1\n")
    hide_secrets(tmp_path)
    texts = [(tmp_path / name).read_text() for name in ("config.yaml", "overrides.yaml")]
    assert all("geheimnis" not in text for text in texts)
    assert "b: ${a}" in texts[0]
    assert "seed=1" in texts[1]


def test_a_terminal_without_these_characters_shows_a_table(here: Path) -> None:
    """PYTHONIOENCODING=ascii: ± becomes a question mark."""
    file = Runs(here).run("fitted")
    code = "from unseen_diffusion.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", code, "table", str(file)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "KID-H" in done.stdout


@pytest.mark.parametrize(
    "line", [["table", ""], ["status", " "], ["resume", ""], ["report", "x", "-o", ""], ["convert", "", "x"]]
)
def test_empty_arguments_are_refused(here: Path, capsys: pytest.CaptureFixture[str], line: list[str]) -> None:
    assert run(*line) == 2
    assert "empty" in capsys.readouterr().err
