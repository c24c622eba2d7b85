"""The examples of CONTRIBUTING.md: each is written into an empty folder as it stands there, and its command is run."""

import json
import os
import re
import shlex
import sys
from multiprocessing import get_context
from pathlib import Path

import pytest

import experiments
from experiments import studies
from support import ROOT
from support.commands import TINY, run
from support.studies import OneAfterAnother
from unseen_diffusion.scores.metrics import METRICS

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = {
    title: re.findall(r"^```(\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
}
EXAMPLES = {title: blocks for title, blocks in SECTIONS.items() if blocks}
RUNS = [title for title in EXAMPLES if title != "A study"]
LEAN = ("scores.reconstructions=2", "scores.paths=0", "scores.geometry=0", "scores.rows=[held_out]")


@pytest.fixture
def written(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of every example: modules and studies in this folder, configs below conf/."""
    for blocks in EXAMPLES.values():
        for language, text in blocks:
            if language in ("python", "yaml"):
                name, body = re.fullmatch(r"# (\S+)\n(.*)", text, re.DOTALL).groups()
                path = here / ("conf" if language == "yaml" else "") / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(body, encoding="utf-8")
                monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(here), os.environ["PYTHONPATH"])))
    monkeypatch.setenv("UNSEEN_CONF", str(here / "conf"))
    return here


def command(title: str) -> list[str]:
    """The words of an example's command."""
    (line,) = [text for language, text in EXAMPLES[title] if language == "sh"]
    return shlex.split(line)


def test_there_is_an_example_of_everything() -> None:
    kinds = {"A domain", "A prior", "Tolerances", "A solver", "A score", "A method", "A study"}
    assert set(EXAMPLES) == kinds


@pytest.mark.parametrize("title", RUNS)
def test_an_example_runs(written: Path, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(METRICS, "brightness", raising=False)
    program, verb, *words = command(title)
    assert (program, verb) == ("unseen", "run")
    given = {word.partition("=")[0] for word in words}
    group = words[0].partition("=")[0]
    tiny = [word for word in (*TINY, *LEAN) if word.partition("=")[0] not in given]
    tiny = [word for word in tiny if not (group == "domain" and word.startswith("domain"))]
    assert run("run", *words, *tiny) == 0
    (file,) = written.rglob("results.json")
    results = json.loads(file.read_text(encoding="utf-8"))
    names = {"domain": "stripes", "prior": "wide", "tolerances": "upright", "method": "seen_again"}
    if group in names:
        assert results["settings"][group] == names[group]
    if group == "solver":
        assert results["settings"]["solver"].startswith("midpoint.Midpoint/karras")
    if group == "scores":
        assert isinstance(results["rows"][0]["brightness"], float)
    METRICS.pop("brightness", None)


def test_the_study_runs(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its folder; its results are a table, a figure and an answer."""
    program, flag, module, *words = command("A study")
    assert (program, flag, module) == ("python", "-m", "experiments.studies")
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(written / "experiments")])
    monkeypatch.setattr(studies, "HERE", written / "experiments")
    monkeypatch.setattr(studies, "PROCESSES", get_context("fork"))
    monkeypatch.setattr(studies, "ThreadPoolExecutor", OneAfterAnother)
    monkeypatch.setattr("sys.argv", ["studies", *words, "--jobs=1"])
    assert studies.studies() == ["steps"]
    assert studies.main() == 0
    out = written / "outputs" / "tiny" / "steps"
    assert {path.name for path in out.iterdir()} == {"results.csv", "table.md", "figure.png", "study.json"}
    assert len((out / "results.csv").read_text().splitlines()) == 3
