"""A sweep's folder belongs to one command at a time; an interrupted job is called interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from support.clocks import FakeClock, wait_for
from support.commands import FAILING, forked, run, states
from unseen_diffusion.sweeps.folders import CLAIM, hold_folder
from unseen_diffusion.sweeps.manifest import (
    MANIFEST,
    Manifest,
    Point,
    check_recorded,
    check_unchanged,
    read_manifest,
    write_manifest,
)
from unseen_diffusion.sweeps.states import SweepState
from unseen_diffusion.sweeps.status import read_status
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import write_json
from unseen_diffusion.utils.liveness import SILENCE

WAITING = (*FAILING, "+features.how=wait")
ELSEWHERE = {"machine": "elsewhere", "pid": 1, "started": "1", "token": "theirs", "beats": 0}


def claim(folder: Path, **values: Any) -> None:
    """Writes a claim, by default one of another machine."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CLAIM).write_text(json.dumps(ELSEWHERE | values))


@pytest.mark.parametrize("multirun", [True, False])
@pytest.mark.parametrize("round_", range(3))
def test_of_commands_started_together_one_gets_the_folder(
    here: Path, capfd: pytest.CaptureFixture[str], multirun: bool, round_: int
) -> None:
    """The others exit with 2 and one line; the runs that exist afterwards are those of the first, all of them."""
    many = ("-m", "hydra.sweep.dir=same") if multirun else ("hydra.run.dir=same",)
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    with ExitStack() as stack:
        seeds = [f"{3 * one},{3 * one + 1}" if multirun else str(3 * one) for one in range(3)]
        all_ = [stack.enter_context(forked("run", *WAITING, *many, f"seed={seed}")) for seed in seeds]
        wait_for(lambda: sum(process.exitcode is not None for process in all_) == 2, 120)
        (first,) = [index for index, process in enumerate(all_) if process.exitcode is None]
        Path("healed").touch()
        all_[first].join(120)
        assert [process.exitcode for process in all_] == [0 if index == first else 2 for index in range(3)]
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("unseen: ")]
    remedy = rf"unseen: {here}/same: process {all_[first].pid} on \S+ is running in this folder; choose another folder "
    assert len(lines) == 2
    assert all(re.fullmatch(rf"{remedy}\({key}=FOLDER\), or wait until it ends", line) for line in lines)
    results = sorted(here.glob("same/**/results.json"))
    assert [json.loads(path.read_text())["settings"]["seed"] for path in results] == [
        int(seed) for seed in seeds[first].split(",")
    ]
    assert not (here / "same" / CLAIM).exists()


@pytest.mark.slow
def test_two_programs_started_together(here: Path) -> None:
    """The same with interpreters of their own."""
    words = [sys.executable, "-m", "unseen_diffusion.cli", "run", "-m", *WAITING, "hydra.sweep.dir=same"]
    both = [subprocess.Popen([*words, f"seed={seed}"], stderr=subprocess.PIPE, text=True) for seed in ("0,1", "2,3")]
    wait_for(lambda: any(process.poll() is not None for process in both), 240)
    Path("healed").touch()
    said = [process.communicate(timeout=240)[1] for process in both]
    loser = [process.returncode for process in both].index(2)
    assert both[1 - loser].returncode == 0
    assert said[loser].startswith(f"unseen: {here}/same: process {both[1 - loser].pid} on ")
    assert states("same") == ["done", "done"]


@pytest.mark.parametrize("same", [True, False])
def test_the_folder_of_a_killed_command_is_taken_over(here: Path, same: bool) -> None:
    """By the same command again, or by another one; its claim is still there."""
    first = ("run", "-m", *WAITING, "hydra.sweep.dir=swept", "seed=0,1")
    with forked(*first) as process:
        wait_for(lambda: states_or_none("swept") == ["running", "missing"], 120)
        assert run(*first) == 2
        process.kill()
        process.join(60)
    assert (here / "swept" / CLAIM).is_file()
    Path("healed").touch()
    assert run(*(first if same else (*first[:-1], "seed=7"))) == 0
    assert states("swept") == (["done", "done"] if same else ["done"])
    assert not (here / "swept" / CLAIM).exists()


def states_or_none(folder: str) -> list[str] | None:
    """States of the jobs; None before there is a manifest."""
    return states(folder) if Path(folder, MANIFEST).is_file() else None


def test_a_sweep_that_is_being_resumed_keeps_others_out(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another sweep is refused; a second resume finds nothing to do."""
    assert run("run", "-m", *FAILING, "+features.how=raise", "hydra.sweep.dir=swept") == 1
    manifest = read_manifest(here / "swept")
    with hold_folder(here / "swept") as holder:
        assert holder is None
        capsys.readouterr()
        assert run("run", "-m", *FAILING, "hydra.sweep.dir=swept", "+features.how=none", "seed=5") == 2
        assert f"{here}/swept: process {os.getpid()} on " in capsys.readouterr().err
        Path("healed").touch()
        assert run("resume", "swept") == 0  # also while the command that started the sweep still runs
    assert read_manifest(here / "swept") == manifest
    assert run("run", "-m", *FAILING, "hydra.sweep.dir=swept", "+features.how=none", "seed=5") == 0


@pytest.mark.parametrize(
    ("content", "taken", "waits"),
    [
        ("silent", True, SILENCE),  # of a lost machine
        ("beating", False, 1),
        ("", True, SILENCE),  # of a disk that was full
        ("not JSON", True, SILENCE),
        ("[]", True, SILENCE),
        ("vanishes", True, 1),
    ],
)
def test_claims_of_other_machines(here: Path, content: str, taken: bool, waits: float) -> None:
    """A living holder is recognised by its next heartbeat, a lost one by its silence."""
    folder, clock = here / "swept", FakeClock()
    claim(folder)
    if content in ("", "not JSON", "[]"):
        (folder / CLAIM).write_text(content)
    if content == "beating":
        clock.on_sleep = lambda: claim(folder, beats=1)
    if content == "vanishes":
        clock.on_sleep = lambda: (folder / CLAIM).unlink(missing_ok=True)
    with hold_folder(folder, clock=clock) as holder:
        assert holder == (None if taken else "process 1 on elsewhere")
    assert clock.seconds == pytest.approx(waits, abs=2)
    assert (folder / CLAIM).exists() is not taken


def test_who_does_not_wait_leaves_a_claim_of_another_machine(here: Path) -> None:
    clock = FakeClock()
    claim(here / "swept")
    with hold_folder(here / "swept", wait=False, clock=clock) as holder:
        assert holder == "process 1 on elsewhere"
    assert clock.seconds == 0


def test_a_file_system_without_locks(here: Path, without_locks: None) -> None:
    """The claim alone keeps others out, and is taken over when its process has ended."""
    folder = here / "swept"
    with hold_folder(folder) as holder:
        assert holder is None
        with hold_folder(folder) as second:
            assert second == f"process {os.getpid()} on {os.uname().nodename}"
        content = json.loads((folder / CLAIM).read_text())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(60)
    claim(folder, **content | {"pid": ended.pid})
    with hold_folder(folder, clock=FakeClock()) as holder:
        assert holder is None


def manifest_of(*seeds: int, **values: Any) -> Manifest:
    points = [Point([f"seed={seed}"], {"seed": seed}) for seed in seeds]
    return replace(Manifest(["-m"], ".", None, True, points, 0, "now"), **values)


@pytest.mark.parametrize(
    ("theirs", "same"),
    [
        (manifest_of(0, 1), True),
        (manifest_of(0, 1, made="later", cwd="elsewhere", command=["-m", "seed=range(2)"]), True),
        (manifest_of(1, 0), False),
        (manifest_of(0), False),
        (manifest_of(0, 1, 2), False),
        (manifest_of(0, 2), False),
        (manifest_of(0, multirun=False), False),
        (manifest_of(trials=2), False),
    ],
)
def test_the_runs_read_back_are_compared(here: Path, theirs: Manifest, same: bool) -> None:
    """Whatever let two commands into one folder, the one whose runs are not recorded there says so."""
    write_manifest(here / "swept", theirs)
    if same:
        check_recorded(here / "swept", manifest_of(0, 1))
    else:
        with pytest.raises(InputError, match=rf"{here}/swept: another command .*\(hydra.sweep.dir=FOLDER\)$"):
            check_recorded(here / "swept", manifest_of(0, 1))


def test_searches_are_compared_by_their_commands(here: Path) -> None:
    write_manifest(here / "swept", manifest_of(trials=2))
    check_recorded(here / "swept", manifest_of(trials=2))
    with pytest.raises(InputError, match="another command"):
        check_recorded(here / "swept", manifest_of(trials=2, command=["-m", "seed=9"]))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_command_whose_folder_got_other_runs_does_not_report_them(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], when: str
) -> None:
    """Claims guard nothing where neither locks nor clocks can be trusted: the table of others is never printed."""
    name = "write_manifest" if when == "before" else "_launch"
    other = f"unseen_diffusion.sweeps.launch.{name}"
    original: Callable[..., Any] = getattr(sys.modules["unseen_diffusion.sweeps.launch"], name)

    def interfere(*arguments: Any) -> None:
        original(*arguments)
        write_json(here / "swept" / MANIFEST, asdict(manifest_of(0, 1)))

    monkeypatch.setattr(other, interfere)
    assert run("run", "-m", *FAILING, "+features.how=none", "hydra.sweep.dir=swept", "seed=5") == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"unseen: {here}/swept: another command has started other runs in this folder")
    assert "runs done" not in said.out
    assert (here / "swept/0").exists() is (when == "after")


def test_a_job_that_its_sweep_does_not_have(here: Path) -> None:
    write_manifest(here / "swept", manifest_of(0))
    with pytest.raises(InputError, match="has no run 1; another sweep was started in this folder"):
        check_unchanged(here / "swept", "1", {"seed": 1})


@pytest.mark.parametrize("multirun", [True, False])
def test_an_interrupted_run_is_called_interrupted(
    here: Path, capfd: pytest.CaptureFixture[str], multirun: bool
) -> None:
    """In its status, in its log and by ``unseen status``; it resumes."""
    many = ("-m", "hydra.sweep.dir=swept", "seed=0,1") if multirun else ("hydra.run.dir=swept",)
    job = here / "swept" / ("0" if multirun else ".")
    with forked("run", *WAITING, *many) as process:
        wait_for(lambda: (job / "status.json").is_file(), 120)
        wait_for(lambda: "denoise computed" in (job / "run.log").read_text(), 120)
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(120)
        assert process.exitcode == 130
    status = read_status(job)
    assert status
    assert (status.state, status.error) == ("interrupted", "stopped by Ctrl-C (SIGINT); what was finished is kept")
    assert json.loads((job / "status.json").read_text())["state"] == "interrupted"
    said = [line for line in (job / "run.log").read_text().splitlines() if "nterrupt" in line]
    assert [line.partition(" ")[2] for line in said] == [f"interrupted: {status.error}"]
    assert "Traceback" not in capfd.readouterr().err
    rest = ["missing"] if multirun else []
    assert states("swept") == ["interrupted", *rest]
    assert SweepState.of(here / "swept").pending() == (["0", "1"] if multirun else ["."])
    assert run("status", "swept") == 1
    out = capfd.readouterr().out
    assert "1 interrupted" in out
    assert "stopped by Ctrl-C" in out
    assert "failed" not in out
    Path("healed").touch()
    assert run("resume", "swept") == 0
    assert set(states("swept")) == {"done"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=folder", "data.path=nowhere"], "data.path=.*nowhere: no such folder"),
        (["training=photos32", "training.data.path=nowhere.parquet"], "nowhere.parquet"),
    ],
)
def test_a_training_without_its_data_leaves_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    """One line on stderr, and no folder."""
    assert run("train", *words, "tracking=none") == 2
    captured = capsys.readouterr()
    assert re.match(f"unseen: .*{said}", captured.err)
    assert captured.err.count("\n") == 1
    assert list(here.iterdir()) == []
