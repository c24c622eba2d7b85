"""Is another process alive? Process ids on this machine, heartbeats elsewhere; no test waits."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from support.clocks import FakeClock
from unseen_diffusion.utils import liveness
from unseen_diffusion.utils.liveness import (
    HEARTBEAT,
    SILENCE,
    SILENCE_BY_STAMP,
    ProcessIdentity,
    SilenceWatch,
    heartbeat_age,
)


@pytest.fixture
def other() -> Iterator[subprocess.Popen]:
    """Another living process, which ends with its input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def identity(pid: int) -> ProcessIdentity:
    """A process as it would name itself."""
    started = psutil.Process(pid).create_time()
    return replace(ProcessIdentity.current(), pid=pid, ticks=liveness._ticks(pid), started=started)


def test_this_process() -> None:
    me = ProcessIdentity.current()
    assert me.pid == os.getpid()
    assert me.is_local
    assert me.is_current
    assert me.is_running()
    assert replace(me, ticks="").is_running()
    assert replace(me, ticks="", started=0.0).is_running()


def test_a_process_until_its_end(other: subprocess.Popen) -> None:
    """Killed, it is gone at once, though its parent has not yet waited for it."""
    seen = identity(other.pid)
    assert seen.is_running()
    assert seen.is_local
    assert not seen.is_current
    other.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    assert not seen.is_running()
    other.wait(60)
    assert not seen.is_running()


def test_a_process_id_that_was_reused(other: subprocess.Popen) -> None:
    """The exact start tells, and without it the start in seconds, beyond what a correction of the clock explains."""
    seen = identity(other.pid)
    assert not replace(seen, ticks="1").is_running()
    by_date = replace(seen, ticks="")
    assert replace(by_date, started=seen.started + 2).is_running()
    assert not replace(by_date, started=seen.started - 100).is_running()


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**70])
def test_ids_that_no_process_has(pid: int) -> None:
    """Those below 1 would stand for groups of processes."""
    assert not replace(ProcessIdentity.current(), pid=pid).is_running()


def test_another_user_s_hidden_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """It exists, and the system tells no more of it."""

    def refused(pid: int, number: int) -> None:
        raise PermissionError

    def hidden(pid: int) -> None:
        raise psutil.NoSuchProcess(pid)

    me = ProcessIdentity.current()
    monkeypatch.setattr(psutil, "Process", hidden)
    assert me.is_running()
    monkeypatch.setattr(os, "kill", refused)
    assert me.is_running()


def test_what_is_local() -> None:
    """A process id has no meaning on another machine, after a restart, or in another container."""
    me = ProcessIdentity.current()
    assert replace(me, boot="").is_local  # not every record has it
    for elsewhere in ({"host": "another"}, {"boot": "another"}, {"space": "pid:[1]"}):
        assert not replace(me, **elsewhere).is_local


def test_silence_is_measured_by_this_clock() -> None:
    """From the moment at which a heartbeat was first seen; a new one starts again."""
    clock = FakeClock()
    watch = SilenceWatch(clock)
    assert watch.silent_for("a", b"1") == 0
    clock.advance(5)
    assert watch.silent_for("a", b"1") == 5
    assert watch.silent_for("b", b"1") == 0
    assert watch.silent_for("a", b"2") == 0
    clock.advance(1)
    assert watch.silent_for("a", b"2") == 1


def test_ages_of_time_stamps() -> None:
    clock = FakeClock()
    stamp = clock.now().isoformat()
    clock.advance(90)
    assert heartbeat_age(stamp, clock) == pytest.approx(90)


def test_constants_leave_room_for_lost_heartbeats() -> None:
    assert SILENCE >= 5 * HEARTBEAT
    assert SILENCE_BY_STAMP >= SILENCE + 60  # docs/clusters.md: clocks agree within a minute
    assert sys.float_info.max > SILENCE_BY_STAMP
