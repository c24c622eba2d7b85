"""Tracking: what a run logs is read back with wandb's own reader; what cannot work is refused or survived."""

import json
import logging
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from PIL import Image

from unseen_diffusion.reports import tracking
from unseen_diffusion.reports.tracking import HIDDEN, NoTracker, RunRecord, Tracker, WandbTracker, without_secrets
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError

SECRET = "hf_0123456789abcdefSECRET"
KEY = "0" * 40  # of the form that wandb accepts, of nobody
SCORES = {"generated/kid_h": 0.25, "held_out/kid_h": -0.001, "generated/n": 12, "psnr/eta0.2": 26.5, "acceptance": 1.0}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty home folder, and no setting of the developer's own wandb."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("WANDB_") and "SERVICE" not in name]:
            patch.delenv(name)
        patch.delenv("NETRC", raising=False)
        patch.setenv("HOME", str(folder))
        patch.setenv("HF_TOKEN", SECRET)
        yield folder
        wandb.teardown()


@pytest.fixture(autouse=True)
def _isolated(home: Path) -> None:
    """For every test here."""


def tracker(folder: Path, **changes: Any) -> WandbTracker:
    settings = {"project": "unseen-tests", "mode": "offline", "folder": str(folder), "entity": None, "pictures": True}
    return WandbTracker(**{**settings, **changes})


def record(folder: Path) -> RunRecord:
    """A small run, with what is not measured as None and NaN, and tokens where users may put them."""
    paths = {}
    for i, name in enumerate(("samples", "reconstructions")):
        paths[name] = folder / f"{name}.png"
        Image.new("RGB", (8 + i, 6), (200, i, 90)).save(paths[name])
    rows = [
        {"domain": "hubble", "row": "generated", "kid_h": 0.25, "psnr": 26.5, "note": None},
        {"domain": "hubble", "row": "held_out", "kid_h": -0.001, "psnr": math.nan, "note": "floor"},
    ]
    nested = {
        "domain": {"_target_": "x.Hub", "token": "plain", "url": f"https://me:pw@host/a?t={SECRET}"},
        "samples": 12,
    }
    return RunRecord(
        group="2026-01-02_sweep",
        name="hubble isotropic none t500 eta0.2",
        domain="hubble",
        config={"domain": "hubble", "method": "fitted", "eta": 0.2, "t": 500.0, "config": nested},
        scores={**SCORES, "generated/vendi": None, "generated/target_classifier": math.nan},
        table=pd.DataFrame(rows),
        pictures=paths,
    )


def inspect(folder: Path, *arguments: str) -> str:
    """What wandb's own reader says of the only run below ``folder``; a damaged file is an error."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *arguments, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "corrupt" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def logged(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one recorded run."""
    folder = tmp_path_factory.mktemp("logged")
    (folder / "run").mkdir()
    tracker(folder / "wandb").record(record(folder / "run"))
    return folder


@pytest.fixture(scope="module")
def summary(logged: Path) -> dict[str, Any]:
    return json.loads(inspect(logged / "wandb", "--summary", "--json"))


@pytest.fixture(scope="module")
def records(logged: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in inspect(logged / "wandb", "--json").splitlines()]


def test_scores_are_read_back_exactly(summary: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """In the summary and in the history, from which panels are made; what was not measured is absent."""
    assert summary["state"] == "finished"
    numbers = {k: v for k, v in summary["summary"].items() if isinstance(v, int | float) and not k.startswith("_")}
    assert numbers == SCORES
    (step,) = [entry["history"]["item"] for entry in records if entry["type"] == "history"]
    assert {name: step[name] for name in SCORES} == SCORES


def test_config_group_job_type_and_tags(summary: dict[str, Any], records: list[dict[str, Any]]) -> None:
    """Flat settings at the top, the whole configuration below; the sweep is the group, the domain the tag."""
    assert summary["project"] == "unseen-tests"
    assert summary["name"] == "hubble isotropic none t500 eta0.2"
    flat = {name: summary["config"][name] for name in ("domain", "method", "eta", "t")}
    assert flat == {"domain": "hubble", "method": "fitted", "eta": 0.2, "t": 500}
    assert summary["config"]["config"]["samples"] == 12
    (run,) = [entry["run"] for entry in records if entry["type"] == "run"]
    assert (run["run_group"], run["job_type"], run["tags"]) == ("2026-01-02_sweep", "run", ["hubble"])


def test_table_is_read_back(logged: Path, summary: dict[str, Any]) -> None:
    """Every row and column, missing values as null."""
    (session,) = (logged / "wandb").glob("wandb/offline-run-*")
    table = json.loads((session / "files" / summary["summary"]["results"]["path"]).read_text())
    assert table["columns"] == ["domain", "row", "kid_h", "psnr", "note"]
    assert table["data"] == [["hubble", "generated", 0.25, 26.5, None], ["hubble", "held_out", -0.001, None, "floor"]]


def test_pictures_are_the_sheets_themselves(logged: Path, summary: dict[str, Any]) -> None:
    """Byte for byte, with the run's name as caption."""
    (session,) = (logged / "wandb").glob("wandb/offline-run-*")
    for name in ("samples", "reconstructions"):
        entry = summary["summary"][name]
        assert (session / "files" / entry["path"]).read_bytes() == (logged / "run" / f"{name}.png").read_bytes()
        assert entry["caption"] == summary["name"]


def test_everything_lies_below_the_folder(home: Path, logged: Path) -> None:
    """Also wandb's copy of the table, which a later upload needs: not in the home folder."""
    assert list((logged / "wandb").glob("artifacts/staging/*"))
    assert not [path for path in home.rglob("*") if path.is_file() and "log" not in path.suffix]
    assert "WANDB_DATA_DIR" not in os.environ


def test_no_secret_is_written(logged: Path, summary: dict[str, Any]) -> None:
    """Neither by the name of its key, nor as the value of an environment variable, nor in a URL."""
    domain = summary["config"]["config"]["domain"]
    assert domain == {"_target_": "x.Hub", "token": HIDDEN, "url": f"https://{HIDDEN}@host/a?t={HIDDEN}"}
    written = [path.read_bytes() for path in logged.rglob("*") if path.is_file()]
    assert any(b"hubble" in content for content in written)
    assert not any(SECRET.encode() in content or b"me:pw" in content for content in written)


@pytest.mark.parametrize("key", ["token", "hf_token", "api_key", "apikey", "API-KEY", "aws.secret", "password"])
def test_keys_named_like_secrets_are_hidden(key: str) -> None:
    assert without_secrets({"a": [{key: "x"}]}) == {"a": [{key: HIDDEN}]}
    assert without_secrets({key: None}) == {key: None}


@pytest.mark.parametrize("key", ["tokenizer", "max_tokens", "key", "keys", "domain", "secretary"])
def test_other_keys_are_kept(key: str) -> None:
    kept = {key: ["x", 1, None, True, "https://host/a:b@c"]}
    assert without_secrets(kept) == kept


def test_without_pictures(tmp_path: Path) -> None:
    """tracking.pictures=false: numbers and the table only."""
    tracker(tmp_path / "wandb", pictures=False).record(record(tmp_path))
    found = json.loads(inspect(tmp_path / "wandb", "--summary", "--json"))["summary"]
    assert found["results"]["nrows"] == 2
    assert found["generated/kid_h"] == 0.25
    assert "samples" not in found
    assert not list(tmp_path.rglob("offline-run-*/**/*.png"))


def test_a_failure_of_wandb_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The run is finished: it must not become a failed one."""

    def broken(**_: object) -> None:
        raise OSError("no space\nleft on device")

    monkeypatch.setattr(wandb, "init", broken)
    with caplog.at_level(logging.ERROR, "unseen_diffusion"):
        tracker(tmp_path / "wandb").record(record(tmp_path))
    (line,) = [entry.getMessage() for entry in caplog.records]
    assert "hubble isotropic" in line
    assert "no space left on device" in line
    assert "\n" not in line


def test_a_missing_picture_is_one_line_and_closes_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A failure after wandb has opened the run: the next one can still be recorded."""
    run = record(tmp_path)
    tracker(tmp_path / "a").record(replace(run, pictures={"samples": tmp_path / "absent.png"}))
    assert "did not record all" in caplog.text
    assert wandb.run is None
    tracker(tmp_path / "b").record(run)
    assert json.loads(inspect(tmp_path / "b", "--summary", "--json"))["exit_code"] == 0


def test_an_unreachable_server_leaves_an_offline_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """mode=online without a server: recorded offline, with the command that uploads it."""
    wandb.teardown()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # the discard port: nothing listens
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(tracking, "CONNECT_SECONDS", 1)
    online = tracker(tmp_path / "wandb", mode="online")
    online.check()
    online.record(record(tmp_path))
    wandb.teardown()
    assert f"wandb sync {tmp_path}/wandb/wandb/offline-run-*" in caplog.text
    assert json.loads(inspect(tmp_path / "wandb", "--summary", "--json"))["summary"]["acceptance"] == 1
    written = [path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in written)


def test_online_without_a_key_is_refused_before_the_run(tmp_path: Path) -> None:
    """One line with every remedy, and nothing written."""
    with pytest.raises(InputError, match=r"wandb login.*WANDB_API_KEY.*tracking.mode=offline"):
        tracker(tmp_path / "wandb", mode="online").check()
    assert not list(tmp_path.iterdir())


def test_keys_are_found_where_wandb_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, or a netrc entry of the very server that is used; a broken file is no key."""
    online = tracker(tmp_path / "wandb", mode="online")
    entries = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(entries))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    entries.write_text(f"machine api.wandb.ai login user password {KEY}\n")
    online.check()
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    with pytest.raises(InputError, match="no wandb key"):
        online.check()
    entries.write_text(f"machine wandb.example.org login user password {KEY}\n")
    online.check()
    monkeypatch.delenv("WANDB_BASE_URL")
    with pytest.raises(InputError, match="no wandb key"):
        online.check()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings").write_text("[default]\nbase_url = https://wandb.example.org\n")
    online.check()  # as `wandb login --host` leaves it
    entries.write_text("machine\n")
    with pytest.raises(InputError, match="no wandb key"):
        online.check()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    online.check()


def test_an_unusable_folder_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the way, or no right to write; a folder that can be made is fine and not made."""
    (tmp_path / "file").write_text("")
    for name in ("file", "file/wandb"):
        with pytest.raises(InputError, match=r"tracking.folder=.*cannot write to"):
            tracker(tmp_path / name).check()
    tracker(tmp_path / "new" / "wandb").check()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr(os, "access", lambda *_: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(InputError, match="choose another folder"):
        tracker(tmp_path / "new").check()


@pytest.mark.parametrize(
    "name", ["unseen-diffusion", "a b", "é", "a/b", "a:b", "50%", "a#b", "what?", "x" * 128, "x" * 129]
)
def test_project_names_are_judged_as_wandb_does(name: str) -> None:
    """The same verdict as wandb's own settings, but before the run."""
    try:
        wandb.Settings(project=name)
    except Exception:
        with pytest.raises(InputError, match=r"tracking.project="):
            tracker(Path("folder"), project=name)
    else:
        tracker(Path("folder"), project=name)


@pytest.mark.parametrize(("key", "value"), [("mode", "maybe"), ("pictures", "perhaps"), ("project", "")])
def test_bad_settings_are_one_line(key: str, value: str) -> None:
    config = {
        "_target_": "unseen_diffusion.reports.tracking.WandbTracker",
        "project": "p",
        "mode": "offline",
        "folder": "f",
        "entity": None,
        "pictures": True,
    }
    with pytest.raises(InputError, match=key) as caught:
        build({**config, key: value})
    assert "\n" not in str(caught.value)


def test_nothing_is_a_tracker_too(tmp_path: Path) -> None:
    """tracking=none: no file, no error."""
    nothing = NoTracker()
    assert isinstance(nothing, Tracker)
    nothing.check()
    run = record(tmp_path)
    before = sorted(tmp_path.iterdir())
    nothing.record(run)
    assert sorted(tmp_path.iterdir()) == before
