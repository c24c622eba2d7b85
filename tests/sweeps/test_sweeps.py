"""Status and resume of runs and sweeps after real failures."""

import errno
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from benchmarks.service import JOB as LEAN
from hydra_plugins.unseen_sweeper import ManifestSweeper
from support.clocks import FakeClock, wait_for
from support.commands import FAILING, HALTING, forked, halted, run, same_as_whole, shards, states
from support.failing import CALLS
from unseen_diffusion.reports.result import results_files
from unseen_diffusion.sweeps.explanations import PLUGINS
from unseen_diffusion.sweeps.manifest import (
    COMPARISONS,
    FOUND,
    MANIFEST,
    SUMMARIES,
    Manifest,
    Point,
    sweep_folders,
    write_manifest,
)
from unseen_diffusion.sweeps.overrides import quoted, replace_overrides
from unseen_diffusion.sweeps.states import SweepState
from unseen_diffusion.sweeps.status import LOCK, STATUS, Status, claimed, read_status, state_of
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import write_json
from unseen_diffusion.utils.liveness import SILENCE_BY_STAMP


@pytest.fixture
def other(here: Path) -> Iterator[subprocess.Popen]:
    """Another living process."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        yield process
        process.kill()


def running(process: subprocess.Popen) -> Status:
    """A status as a job in that process would have written it."""
    import psutil

    with_this = claim_of(Path("probe"))
    return replace(with_this, pid=process.pid, born=psutil.Process(process.pid).create_time())


def claim_of(folder: Path) -> Status:
    """The status that a job in this process writes while it runs."""
    with claimed(folder) as journal:
        assert journal
        status = read_status(folder)
    assert status
    return status


def test_a_killed_sweep_reports_its_state_and_resumes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An exception or sys.exit ends one run, SIGKILL the sweep; resume runs all that are not done, and no other."""
    sweep = ("run", "-m", *FAILING, "+features.how=none,raise,exit,kill,last", "hydra.sweep.dir=swept")
    with forked(*sweep) as process:
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
    assert states("swept") == ["done", "failed", "failed", "dead", "missing"]

    assert run("status", "swept") == 1
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80
    assert "1 done, 2 failed, 1 dead, 1 missing of 5" in said
    assert "RuntimeError: as asked" in said
    assert "unseen resume swept" in said
    assert run("status", ".", "--json") == 1
    (report,) = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"done": 1, "running": 0, "failed": 2, "interrupted": 0, "dead": 1, "missing": 1}
    assert report["jobs"][3]["overrides"] == ["+features.how=kill"]
    assert report["jobs"][2]["status"]["error"] == "SystemExit: 3"

    first = {path: path.read_bytes() for path in Path("swept/0").rglob("*") if path.is_file()}
    Path("healed").touch()
    assert run("resume", "swept") == 0
    assert {path: path.read_bytes() for path in Path("swept/0").rglob("*") if path.is_file()} == first
    attempts = [read_status(Path("swept") / str(number)) for number in range(5)]
    assert [status.attempt for status in attempts if status] == [1, 2, 2, 2, 1]
    assert run("status", "swept") == 0
    capsys.readouterr()
    assert run("resume", "swept") == 0
    assert "nothing to resume" in capsys.readouterr().out

    # All points have the same settings but for ``how``, which changes no feature: the first, never disturbed, tells.
    whole, *resumed = (json.loads(Path("swept", str(number), "results.json").read_text()) for number in range(5))
    assert whole["config"]["features"].pop("how") == "none"
    for how, results in zip(("raise", "exit", "kill", "last"), resumed, strict=True):
        assert results["config"]["features"].pop("how") == how
        assert results["config"] == whole["config"]
        assert results["rows"] == whole["rows"]


def test_two_workers_share_a_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Worker 0 is killed halfway: worker 1 makes all that is missing; worker 0, resumed, writes the results."""
    sweep = ("run", "-m", *HALTING, "workers=2", "hydra.sweep.dir=swept")
    with forked(*sweep) as first:
        wait_for(lambda: halted() or not first.is_alive())
        mine = shards("invert")
        assert mine >= 1

        over = threading.Event()  # nothing is waited for once worker 1 has ended, whatever made it end

        def interrupt() -> None:
            try:
                wait_for(lambda: over.is_set() or len(halted()) == 2)
            finally:
                first.kill()
                first.join(60)
                Path("healed").touch()

        killer = threading.Thread(target=interrupt)
        killer.start()
        try:
            assert run("resume", "swept") == 1
        finally:
            over.set()
            killer.join(60)
    assert states("swept") == ["dead", "done"]
    assert shards("invert") > mine
    assert sorted(path.name for path in Path("swept/1").iterdir() if path.suffix in (".json", ".png")) == [STATUS]
    assert "results: swept/0" in getattr(read_status(Path("swept/1")), "activity", "")
    calls = CALLS.read_text()
    assert run("resume", "swept") == 0
    assert CALLS.read_text() == calls  # nothing was left to evaluate
    capsys.readouterr()
    assert run("status", "swept") == 0
    assert "2 done of 2 workers of 1 run" in capsys.readouterr().out
    assert run("table", "swept") == 0
    assert "1 runs" in capsys.readouterr().out
    same_as_whole("swept/0")


def test_workers_of_a_sweep(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Workers 0 have the numbers of the runs, the others follow; once a run is done, its other workers do not count."""
    assert run("run", "-m", *LEAN, "seed=3,4", "workers=2", "hydra.sweep.dir=swept") == 0
    said = capsys.readouterr().out
    assert "swept (2 of 2 runs done)" in said
    assert [json.loads(Path("swept", n, "results.json").read_text())["settings"]["seed"] for n in "01"] == [3, 4]
    assert [sorted(path.name for path in Path("swept", n).glob("*.json")) for n in "23"] == [[STATUS]] * 2
    assert SweepState.of(Path("swept")).varied()[3] == ["worker=1", "seed=4"]
    assert SweepState.of(Path("swept")).manifest.runs() == {"0": "0", "1": "1", "2": "0", "3": "1"}
    Path("swept/0", STATUS).unlink()
    for name in "23":
        Path("swept", name, STATUS).unlink()
    assert states("swept") == ["missing", "done", "missing", "missing"]
    assert SweepState.of(Path("swept")).pending() == ["0", "2"]
    assert run("status", "swept") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-m workers=0", "workers=0: give a whole number of 1 or more"),
        ("-m workers=-1", "workers=-1: give a whole number of 1 or more"),
        ("-m workers=1.5", "workers=1.5: give a whole number"),
        ("-m workers=1,2", "workers=1,2: give one number for the whole sweep"),
        ("-m workers=2 worker=1", "worker=1: workers=N numbers its jobs automatically"),
        ("workers=2", "workers=2: several jobs need a launcher; write unseen run -m"),
    ],
)
def test_bad_numbers_of_workers(here: Path, capsys: pytest.CaptureFixture[str], arguments: str, said: str) -> None:
    """One line before anything starts."""
    assert run("run", *arguments.split()) == 2
    assert capsys.readouterr().err.startswith(f"unseen: {said}")
    assert list(here.iterdir()) == []


def test_a_single_run_resumes_in_its_folder(here: Path) -> None:
    """Its folder may have any characters in its name, and be resumed from any working folder."""
    folder = Path("it's = here, [too]")
    assert run("run", *FAILING, "+features.how=raise", f"hydra.run.dir={quoted(str(folder))}") == 1
    assert states(folder) == ["failed"]
    Path("healed").touch()
    Path("elsewhere").mkdir()
    os.chdir("elsewhere")
    assert run("resume", f"../{folder}") == 0
    assert Path("../outputs/artefacts").is_dir()
    assert states(Path("..") / folder) == ["done"]


def test_resume_keeps_the_settings(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Other settings are refused, on the command line or in changed configs; nothing is run."""
    own = here / "own" / "bandwidth"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("# mine\neta: 0.1\n")
    monkeypatch.setenv("UNSEEN_CONF", str(here / "own"))
    assert run("run", "-m", *FAILING, "+features.how=raise", "bandwidth=mine", "hydra.sweep.dir=swept") == 1
    before = read_status(Path("swept/0"))
    monkeypatch.delenv("UNSEEN_CONF")
    assert run("resume", "swept", "seed=3") == 2
    assert "seed: a resumed sweep keeps its settings" in capsys.readouterr().err
    (own / "mine.yaml").write_text("# mine\neta: 0.2\n")
    assert run("resume", "swept") == 2
    assert "bandwidth.eta changed from 0.1 to 0.2" in capsys.readouterr().err
    assert run("resume") == 2
    assert run("resume", "own") == 2
    assert run("status", "nowhere") == 2
    assert MANIFEST in capsys.readouterr().err
    assert read_status(Path("swept/0")) == before
    (own / "mine.yaml").write_text("# mine\neta: 0.1\n")
    Path("healed").touch()
    assert run("resume", "swept") == 0


def test_a_folder_is_used_again_only_when_nothing_runs_there(
    here: Path, other: subprocess.Popen, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second sweep in the same folder replaces the first, unless a run of that is going on; other files stay."""
    swept = ("run", "-m", *LEAN, "hydra.sweep.dir=swept")
    assert run(*swept, "seed=0,1") == 0
    assert Path("swept/1/samples.png").is_file()
    assert {path.name for path in Path("swept").iterdir()} >= {*SUMMARIES} - {FOUND}
    shutil.copytree("swept/1", "swept/mine")
    for mine in ("swept/1/mine.png", "swept/mine.csv", f"swept/{FOUND}"):
        Path(mine).touch()
    assert run(*swept, "seed=5") == 0
    assert states("swept") == ["done"]
    assert results_files(["swept"]) == [Path("swept/0/results.json"), Path("swept/mine/results.json")]
    assert json.loads(Path("swept/0/results.json").read_text())["settings"]["seed"] == 5
    assert [path.name for path in Path("swept/1").iterdir() if path.suffix in (".png", ".parquet")] == ["mine.png"]
    left = {path.name for path in Path("swept").iterdir()}
    assert left.isdisjoint({*COMPARISONS, FOUND})  # of two seeds, and of a search
    assert left >= {"table.csv", "samples.png", "mine.csv"}
    assert set(pd.read_csv("swept/table.csv")["seed"].dropna()) == {5}
    assert Path("swept/mine", STATUS).is_file()
    assert Path("swept/mine/samples.png").is_file()
    write_json(Path("swept/0") / STATUS, asdict(running(other)))
    assert run(*swept, "seed=6") == 2
    assert "still running there" in capsys.readouterr().err
    assert run("resume", "swept") == 1
    assert "1 running of 1; nothing to resume" in capsys.readouterr().out


def test_states_of_other_processes(other: subprocess.Popen) -> None:
    """A process id is believed only with its birth time, on its machine; elsewhere the heartbeat counts."""
    status = running(other)
    assert state_of(status) == "running"
    assert state_of(replace(status, born=status.born - 100)) == "dead"  # the process id was reused
    assert state_of(replace(status, host="elsewhere")) == "running"
    old = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    assert state_of(replace(status, heartbeat=old)) == "running"  # suspended, say
    assert state_of(replace(status, host="elsewhere", heartbeat=old)) == "dead"
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert state_of(status) == "dead"  # a zombie that nobody has waited for
    other.wait(60)
    assert state_of(status) == "dead"
    assert state_of(None) == "missing"


def test_a_folder_has_one_job_at_a_time(here: Path) -> None:
    """A locked or finished job, or one with heartbeats, is not claimed; a dead or failed one is attempted again."""
    folder = Path("job")
    status = claim_of(folder)
    assert (status.state, status.attempt, status.pid) == ("running", 1, os.getpid())
    with claimed(folder) as journal:
        assert journal
        with claimed(folder) as second:
            assert second is None
        journal.end("no luck")
    assert read_status(folder).attempt == 2
    assert state_of(read_status(folder)) == "failed"
    away = replace(status, host="elsewhere")
    late = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    write_json(folder / STATUS, asdict(replace(away, heartbeat=late)))
    with claimed(folder) as journal:
        assert journal
        journal.end()
    with claimed(folder) as journal:
        assert journal is None
    # On another machine, with heartbeats while this process watches.
    write_json(folder / STATUS, asdict(away))
    clock = FakeClock()
    clock.on_sleep = lambda: write_json(folder / STATUS, asdict(replace(away, heartbeat=clock.now().isoformat())))
    with claimed(folder, clock) as journal:
        assert journal is None
    # Elsewhere, and silent from now on.
    clock = FakeClock()
    write_json(folder / STATUS, asdict(replace(away, heartbeat=clock.now().isoformat())))
    with claimed(folder, clock) as journal:
        assert journal
        assert SILENCE_BY_STAMP - 2 < clock.seconds < SILENCE_BY_STAMP + 2
    with FileLock(folder / LOCK):
        pass  # claims leave the lock free


def test_a_job_that_cannot_claim_its_folder_says_why(here: Path) -> None:
    """The log names the folder and the cause, and the next job runs."""
    Path("swept/0", LOCK).mkdir(parents=True)
    assert run("run", "-m", *LEAN, "seed=0,1", "hydra.sweep.dir=swept") == 1
    assert states("swept") == ["missing", "done"]
    (line,) = [line for line in Path("swept/0/run.log").read_text().splitlines() if "cannot be claimed" in line]
    assert f"{here}/swept/0: not started" in line
    assert f"{LOCK}: a file is in the way of a folder, or a folder in that of a file" in line


def test_a_folder_without_locks_is_claimed_by_heartbeats(
    here: Path, other: subprocess.Popen, without_locks: None
) -> None:
    """Without flock, the marker of a lost node does not prevent a claim, a job with heartbeats does."""
    folder = Path("job")
    status = running(other)
    (folder / LOCK).parent.mkdir()
    (folder / LOCK).write_text("1\nelsewhere\n")
    late = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    write_json(folder / STATUS, asdict(replace(status, host="elsewhere", heartbeat=late)))
    with claimed(folder) as journal:
        assert journal
    write_json(folder / STATUS, asdict(status))
    clock = FakeClock()
    clock.on_sleep = lambda: write_json(folder / STATUS, asdict(replace(status, heartbeat=clock.now().isoformat())))
    with claimed(folder, clock) as journal:
        assert journal is None


def test_heartbeats_carry_the_last_line(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of a running job has its last log line."""
    log = logging.getLogger("unseen_diffusion.runs.stages")
    monkeypatch.setattr(logging.getLogger("unseen_diffusion"), "level", logging.INFO)
    with claimed(Path("job"), beat=0.01) as journal:
        assert journal
        log.info("half way")
        wait_for(lambda: (read_status(Path("job")) or journal.status).activity == "half way")
        assert read_status(Path("job")).state == "running"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_heartbeats_outlive_a_full_disk(here: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    """A job goes on, and so do its heartbeats, while its status cannot be written."""
    failed = failing_statuses(monkeypatch, code, lambda: not Path("freed").exists())
    with claimed(Path("job"), beat=0.01) as journal:
        assert journal
        wait_for(lambda: len(failed) > 5)
        assert read_status(Path("job")) is None
        Path("freed").touch()
        wait_for(lambda: state_of(read_status(Path("job"))) == "running")
        journal.end()
    assert state_of(read_status(Path("job"))) == "done"


def test_a_full_disk_at_a_job_s_end_does_not_stop_the_others(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose last status cannot be written says so in its log, and the next job runs."""
    failing_statuses(monkeypatch, errno.ENOSPC, lambda: not Path("swept/2/.job.lock").exists())
    assert run("run", "-m", *FAILING, "+features.how=raise,none,last", "hydra.sweep.dir=swept") == 1
    assert read_status(Path("swept/0")) is None
    assert read_status(Path("swept/1")) is None
    assert states("swept")[2] == "done"
    assert [Path("swept", name, "results.json").is_file() for name in "012"] == [False, True, True]
    for name, state in (("0", "failed"), ("1", "done")):
        lines = Path("swept", name, "run.log").read_text().splitlines()
        assert sum(f"state '{state}' could not be written: " in line and "no space left" in line for line in lines) == 1
    Path("healed").touch()
    assert run("resume", "swept") == 0


def test_a_sweep_does_not_wait_for_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep does not wait for a job of its own process whose end a full disk kept out of its status."""
    points = [Point([f"seed={seed}"], {"seed": seed}) for seed in (0, 1)]
    write_manifest(here / "swept", Manifest([], ".", None, True, points, 0, "now"))
    started: list[list[str]] = []

    def launch(self: ManifestSweeper, folder: Path, names: list[str]) -> bool:
        write_json(folder / "0" / STATUS, asdict(claim_of(Path("probe"))))
        started.append(names)
        return len(started) > 1

    def waits(seconds: float) -> None:
        raise AssertionError("waits for itself")

    monkeypatch.setattr(ManifestSweeper, "_launch", launch)
    monkeypatch.setattr("time.sleep", waits)
    sweeper = object.__new__(ManifestSweeper)
    sweeper.config = OmegaConf.create({"hydra": {"sweep": {"dir": "swept"}}})
    sweeper.sweep([])
    assert started == [["0", "1"], ["1"]]


def failing_statuses(monkeypatch: pytest.MonkeyPatch, code: int, while_: Callable[[], bool]) -> list[Path]:
    """Lets writing a status fail while ``while_`` is true; returns the paths that failed."""
    rename, failed = os.replace, []

    def replace_(source: Path, target: Path) -> None:
        if Path(target).name == STATUS and while_():
            failed.append(Path(target))
            raise OSError(code, os.strerror(code))
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace_)
    return failed


def test_an_absent_launcher_is_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says what to install."""
    monkeypatch.setitem(PLUGINS, "launcher/absent", "absent")
    assert run("run", "-m", *LEAN, "hydra/launcher=absent", "seed=0,1") == 2
    said = capsys.readouterr().err.strip()
    assert said == "unseen: hydra/launcher=absent: not installed; pip install 'unseen-diffusion[absent]'"
    assert list(here.iterdir()) == []


def test_a_range_needs_a_search(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plain sweep cannot run through an interval."""
    assert run("run", "-m", *LEAN, "bandwidth.eta=interval(0,1)") == 2
    assert "a range needs a search" in capsys.readouterr().err


def test_replaced_overrides_and_quotes() -> None:
    """Another launcher drops the settings of the first; a key is given once."""
    old = ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=a"]
    assert replace_overrides(old, ["hydra/launcher=ray", "hydra.sweep.dir=b"]) == [
        "-m",
        "seed=1,2",
        "hydra/launcher=ray",
        "hydra.sweep.dir=b",
    ]
    assert replace_overrides(old, ["hydra.launcher.n_jobs=3"])[2:] == [
        "hydra/launcher=joblib",
        "hydra.sweep.dir=a",
        "hydra.launcher.n_jobs=3",
    ]


def test_folders_of_sweeps(here: Path) -> None:
    """A folder that contains sweeps stands for all of them."""
    for name in ("a", "b"):
        write_json(Path("outputs") / name / MANIFEST, {})
    assert sweep_folders(["outputs"]) == [Path("outputs/a"), Path("outputs/b")]
    with pytest.raises(InputError, match="written by another version"):
        SweepState.of(Path("outputs/a"))
