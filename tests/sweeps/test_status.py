"""Statuses of jobs whose process is hidden, has another's number, or lives and has stopped beating; clocks are fake."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from support.clocks import FakeClock
from support.commands import FAILING, run, states
from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.sweeps.status import STATUS, Journal, Status, claimed, read_status, state_of
from unseen_diffusion.utils.files import write_json
from unseen_diffusion.utils.liveness import SILENCE_BY_STAMP, ProcessIdentity

JOB = Path("job")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def theirs(here: Path, clock: FakeClock) -> Iterator[Status]:
    """The status of a job that another living process of this machine runs, written into its folder."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # ends with its input
        me, born = ProcessIdentity.current(), psutil.Process(process.pid).create_time()
        status = Status(
            state="running",
            started=clock.now().isoformat(),
            heartbeat=clock.now().isoformat(),
            host=me.host,
            space=me.space,
            pid=process.pid,
            born=born,
        )
        put(status)
        yield status


def put(status: Status) -> None:
    write_json(JOB / STATUS, asdict(status))


def hide_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where they are another user's."""

    def hidden(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    def refused(pid: int, number: int) -> None:
        raise PermissionError

    me = ProcessIdentity.current()
    monkeypatch.setattr(psutil, "Process", hidden)
    monkeypatch.setattr(os, "kill", refused)
    monkeypatch.setattr(ProcessIdentity, "current", classmethod(lambda cls: me))


def is_claimed(clock: FakeClock) -> bool:
    """Whether this process gets the folder."""
    with claimed(JOB, clock) as journal:
        return journal is not None


def test_a_local_job_is_running_while_its_process_lives(theirs: Status, clock: FakeClock) -> None:
    """Its heartbeats do not count: it may be suspended, and its lock tells."""
    clock.advance(1e6)
    assert state_of(theirs, clock) == "running"
    assert state_of(replace(theirs, born=theirs.born - 100), clock) == "dead"


def test_another_user_s_job_is_running(theirs: Status, clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    hide_processes(monkeypatch)
    clock.advance(1e6)
    assert state_of(theirs, clock) == "running"


@pytest.mark.parametrize("elsewhere", [{"host": "another"}, {"space": "pid:[1]"}])
def test_jobs_elsewhere_are_judged_by_their_heartbeats(
    theirs: Status, clock: FakeClock, elsewhere: dict[str, str]
) -> None:
    """Another machine's clock may be wrong by a minute, in both directions."""
    away = replace(theirs, **elsewhere, pid=2**22 + 1)
    for seconds, state in ((-60, "running"), (60, "running"), (SILENCE_BY_STAMP - 1, "running"), (2, "dead")):
        clock.advance(seconds)
        assert state_of(away, clock) == state
    assert state_of(replace(away, heartbeat=""), clock) == "dead"


def test_with_locks_the_lock_tells(theirs: Status, clock: FakeClock) -> None:
    """A local job without its lock has ended, even if a process of its number lives and its beats are fresh."""
    assert is_claimed(clock)
    assert clock.seconds == 0
    assert (read_status(JOB) or theirs).attempt == 2


@pytest.mark.parametrize("hidden", [False, True])
def test_a_job_that_lives_and_has_stopped_beating_is_taken_over_without_locks(
    theirs: Status, clock: FakeClock, without_locks: None, monkeypatch: pytest.MonkeyPatch, hidden: bool
) -> None:
    """After ``SILENCE_BY_STAMP`` seconds of silence, also where it is another user's."""
    if hidden:
        hide_processes(monkeypatch)
    assert is_claimed(clock)
    assert SILENCE_BY_STAMP - 1 <= clock.seconds <= SILENCE_BY_STAMP + 1


def test_a_job_that_beats_is_left_alone_without_locks(theirs: Status, clock: FakeClock, without_locks: None) -> None:
    """One new heartbeat is enough, also the last one before the end."""
    clock.on_sleep = lambda: clock.seconds > 50 and put(replace(theirs, heartbeat=clock.now().isoformat()))
    assert not is_claimed(clock)
    assert 50 < clock.seconds < 53
    assert (read_status(JOB) or theirs).pid == theirs.pid


def test_a_reused_process_id_is_taken_over_at_once_without_locks(
    theirs: Status, clock: FakeClock, without_locks: None
) -> None:
    put(replace(theirs, born=theirs.born - 100))
    assert is_claimed(clock)
    assert clock.seconds == 0


def test_a_status_carries_the_clock_of_its_job(here: Path, clock: FakeClock) -> None:
    """Start, heartbeat and end, so that its seconds are those of the job."""
    with Journal(JOB, 3, clock, beat=1e6) as journal:
        clock.advance(75)
        journal.end()
    status = read_status(JOB)
    assert status
    assert (status.state, status.seconds, status.attempt) == ("done", 75, 3)


def test_a_new_attempt_begins_without_the_results_of_an_earlier_one(here: Path) -> None:
    """Else a table would show them for a run that failed."""
    assert run("run", *FAILING, "+features.how=raise", "hydra.run.dir=job") == 1
    (JOB / RESULTS).write_text("{}")
    assert run("resume", "job") == 1
    assert states(JOB) == ["failed"]
    assert not (JOB / RESULTS).exists()
    assert (read_status(JOB) or Status("")).attempt == 2
