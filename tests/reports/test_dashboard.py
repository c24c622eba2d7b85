"""The dashboard: grouped by domain, and every panel shows something that a run really logs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from support.commands import TINY, run
from unseen_diffusion.reports.dashboard import (
    PICTURES,
    QUESTIONS,
    dashboard_command,
    definition,
    rows_of,
    workspace,
)
from unseen_diffusion.reports.rows import COMPARISON_ROWS, GENERATED
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.scores.suite import ROWS
from unseen_diffusion.utils.errors import InputError

pytest.importorskip("wandb_workspaces", reason="the dashboard extra is not installed")


@pytest.fixture(autouse=True)
def _isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working and home folder, and no key."""
    for name in [name for name in os.environ if name.startswith("WANDB_") and "SERVICE" not in name]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Configuration and summary of a real run, by wandb's own reader."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder / "home"))
        fewer = ("scores.permutations=0", "scores.paths=0", "scores.geometry=0", "scores.reconstructions=2")
        given = {argument.split("=")[0]: argument for argument in (*TINY, *fewer, "tracking=wandb")}
        assert run("run", *given.values()) == 0
        (path,) = folder.glob("outputs/wandb/wandb/offline-run-*/run-*.wandb")
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        yield json.loads(done.stdout)
        wandb.teardown()


def made(**arguments: str) -> dict[str, Any]:
    return definition(workspace(**{"project": "p", **arguments}))


def sections(dashboard: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Panels by the name of their section."""
    return {s["name"]: s["panels"] for s in dashboard["spec"]["section"]["panelBankConfig"]["sections"]}


def named(dashboard: dict[str, Any]) -> dict[str, set[str]]:
    """All that panels, groupings and columns refer to, by kind: summary, config, media, table."""
    found: dict[str, set[str]] = {"summary": set(), "config": set(), "media": set(), "table": set()}

    def add(accessor: str) -> None:
        kind, _, name = accessor.partition(":")
        if kind != "run":
            found[kind].add(name.removesuffix(".value") if kind == "config" else name)

    (runs,) = dashboard["spec"]["section"]["runSets"]
    for column in runs["runFeed"]["columnOrder"]:
        add(column)
    for key in [*runs["grouping"], *(entry["key"] for entry in runs["sort"]["keys"])]:
        add(f"{key['section']}:{key['name']}")
    for panel in (panel for panels in sections(dashboard).values() for panel in panels):
        config = panel["config"]
        found["summary"] |= set(config.get("metrics", []))
        found["media"] |= set(config.get("mediaKeys", []))
        if "groupBy" in config:
            add(f"config:{config['groupBy']}")
        for accessor in [config.get("xAxis"), config.get("yAxis"), *(c["accessor"] for c in config.get("columns", []))]:
            if accessor:
                add(accessor)
        if panel["viewType"] == "Weave":
            text = json.dumps(config)
            found["table"] |= {name for name in ("results",) if f'"val": "{name}"' in text}
    return found


def test_every_panel_shows_what_a_run_logs(logged: dict[str, Any]) -> None:
    """Scores, settings, pictures and the table, read back from a run of the command line."""
    names = named(made())
    assert not names["summary"] - logged["summary"].keys()
    assert not names["config"] - logged["config"].keys()
    assert names["media"] == {name for name, value in logged["summary"].items() if _is(value, "image-file")}
    assert names["table"] == {name for name, value in logged["summary"].items() if _is(value, "table-file")}


def _is(value: object, kind: str) -> bool:
    return isinstance(value, dict) and value.get("_type") == kind


def test_every_score_has_a_section_and_its_panels() -> None:
    """All scores of printed tables, under its question, by domain, method and prior and against eta."""
    found = sections(made())
    assert {metric.question for metric in METRICS.values()} == set(QUESTIONS)
    assert list(found)[1:-2] == [question.capitalize() for question in QUESTIONS]
    shown = {name: metric for name, metric in METRICS.items() if metric.in_tables}
    for name, metric in shown.items():
        panels = [
            p["config"] for p in found[metric.question.capitalize()] if p["config"]["chartTitle"].startswith(name)
        ]
        bars = {
            p["groupBy"]: p["metrics"] for p in panels if "groupBy" in p and p["metrics"][0] == f"{GENERATED}/{name}"
        }
        assert bars["domain.value"] == [f"{row}/{name}" for row in rows_of(name)]
        assert bars["method.value"] == bars["prior.value"] == [f"{GENERATED}/{name}"]
        assert {"xAxis": "config:eta.value", "yAxis": f"summary:{GENERATED}/{name}"}.items() <= panels[-1].items()
        assert set(rows_of(name)) <= {GENERATED, *ROWS}
    assert sum(len(found[q.capitalize()]) for q in QUESTIONS) == 4 * len(shown)


def test_runs_are_grouped_by_domain_and_panels_by_their_own_setting() -> None:
    """The flat config entry, at the place where wandb keeps it."""
    section = made()["spec"]["section"]
    (runs,) = section["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "domain.value"}]
    assert section["settings"]["useRunsTableGroupingInPanels"] is False
    assert section["settings"]["shouldAutoGeneratePanels"] is False


def test_the_guide_explains_every_row_and_question() -> None:
    first = sections(made())["How to read this"][0]["config"]["value"]
    for word in (*COMPARISON_ROWS, *(row.short for row in COMPARISON_ROWS.values()), *QUESTIONS):
        assert word in first


def test_the_definition_is_a_view_that_wandb_reads_back() -> None:
    """The same twice, with distinct panel ids, and loadable by wandb-workspaces."""
    import wandb_workspaces.workspaces.interface as ws
    from wandb_workspaces.workspaces import internal

    first = made(entity="me")
    assert first == made(entity="me")
    ids = [panel["__id__"] for panels in sections(first).values() for panel in panels]
    assert len(ids) == len(set(ids))
    view = internal.View(
        entity=first["entity"],
        project=first["project"],
        display_name=first["displayName"],
        name="nw-x-v",
        id="",
        spec=internal.WorkspaceViewspec.model_validate_json(json.dumps(first["spec"])),
    )
    back = ws.Workspace._from_model(view)
    assert [section.name for section in back.sections] == list(sections(first))
    assert not any(type(panel).__name__ == "UnknownPanel" for section in back.sections for panel in section.panels)
    media = [panel for section in back.sections for panel in section.panels if type(panel).__name__ == "MediaBrowser"]
    assert [name for panel in media for name in panel.media_keys] == list(PICTURES)


def test_the_command_writes_json_without_a_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And says how to get it into wandb."""
    assert dashboard_command(["--project", "p", "--entity", "me", "--save", "a/b.json"]) == 0
    said = capsys.readouterr().out
    assert "wrote a/b.json" in said
    assert "unseen dashboard --online --project p --entity me" in said
    assert json.loads(Path("a/b.json").read_text()) == made(entity="me")
    assert dashboard_command([]) == 0
    assert json.loads(Path("dashboard.json").read_text())["project"] == "unseen-diffusion"


def test_online_needs_a_key_and_writes_nothing_without(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--online: no wandb key found; run `wandb login`"):
        dashboard_command(["--online"])
    with pytest.raises(InputError, match="--project=a/b: give a name"):
        dashboard_command(["--project", "a/b"])
    assert not list(tmp_path.iterdir())


def test_online_saves_the_same_dashboard(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a key: what goes to the server is what the JSON holds; the server is a stand-in."""
    from wandb_workspaces.workspaces import internal

    sent: list[Any] = []

    def upsert(view: Any) -> dict[str, Any]:
        sent.append(view)
        return {"upsertView": {"view": {"id": "1", "name": view.name}}}

    server = SimpleNamespace(default_entity="me", client=SimpleNamespace(app_url="https://wandb.example.org"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb, "Api", lambda: server)
    monkeypatch.setattr(internal, "upsert_view2", upsert)
    assert dashboard_command(["--online", "--project", "p"]) == 0
    (view,) = sent
    slug = view.name.removeprefix("nw-").removesuffix("-v")
    assert f"saved https://wandb.example.org/me/p?nw={slug}" in capsys.readouterr().out
    assert not Path("dashboard.json").exists()
    spec = json.loads(view.spec.model_dump_json(by_alias=True, exclude_none=True))
    for panels in (section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]):
        for panel in panels:
            panel["__id__"] = ""
    expected = made()["spec"]
    for panels in (section["panels"] for section in expected["section"]["panelBankConfig"]["sections"]):
        for panel in panels:
            panel["__id__"] = ""
    assert spec == expected


def test_a_refusal_of_the_server_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb_workspaces.workspaces import internal

    def refuse(_: Any) -> None:
        raise ValueError("permission\ndenied")

    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(internal, "upsert_view2", refuse)
    with pytest.raises(InputError, match=r"permission denied.*check --entity and --project") as caught:
        dashboard_command(["--online", "--entity", "me"])
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(InputError, match=r"pip install 'unseen-diffusion\[dashboard\]'"):
        dashboard_command([])
    assert not Path("dashboard.json").exists()
