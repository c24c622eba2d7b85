"""Checks whether another process is alive: by its process id on the same machine, by its heartbeats elsewhere."""

import os
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

HEARTBEAT = 10.0  # seconds between two heartbeats
# Seconds without a heartbeat after which a process on another machine counts as dead, by the clock of the process that
# waits.
SILENCE = 60.0
# The same limit where the other machine's time stamps are read: its clock may be wrong by a minute.
SILENCE_BY_STAMP = SILENCE + 60.0
START_TOLERANCE = 5.0  # seconds; clock corrections change the computed start time of a process


class Clock:
    """The system's time. Tests pass a clock that they advance themselves."""

    def monotonic(self) -> float:
        """Seconds since an arbitrary start; never decreases."""
        return time.monotonic()

    def now(self) -> datetime:
        """Date and time in UTC."""
        return datetime.now(UTC)

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)


CLOCK = Clock()


@dataclass(frozen=True)
class ProcessIdentity:
    """Names one process among all machines, and detects that its process id was reused.

    Attributes:
        host: name of the machine.
        boot: id of the machine's boot; empty where it was not recorded.
        space: the kernel's name for the namespace of process ids, in which containers differ; empty without Linux.
        pid: process id.
        ticks: start of the process in clock ticks since the boot, which is exact; empty where it was not recorded.
        started: start of the process in seconds since 1970, to ``START_TOLERANCE``; 0 where it was not recorded.
    """

    host: str
    boot: str
    space: str
    pid: int
    ticks: str = ""
    started: float = 0.0

    @classmethod
    def current(cls) -> "ProcessIdentity":
        """This process."""
        process = psutil.Process()
        return cls(*_machine(), process.pid, _ticks(process.pid), process.create_time())

    @property
    def is_local(self) -> bool:
        """Whether the process id has a meaning here: same machine, same boot, same namespace."""
        host, boot, space = _machine()
        return (self.host, self.space) == (host, space) and self.boot in ("", boot)

    @property
    def is_current(self) -> bool:
        """Whether it is this very process."""
        return self.is_local and self.pid == os.getpid()

    def is_running(self) -> bool:
        """Whether a local process has not ended; True where the system hides another user's process from us."""
        try:
            process = psutil.Process(self.pid)
            if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return False  # killed, and its parent has not asked for its exit code yet
            if self.ticks:
                return _ticks(self.pid) == self.ticks
            return not self.started or abs(process.create_time() - self.started) < START_TOLERANCE
        except psutil.ZombieProcess:
            return False
        except (psutil.Error, ValueError):
            return _exists(self.pid)


class SilenceWatch:
    """Measures how long others' heartbeats have not changed, by this machine's clock: clocks need not agree."""

    def __init__(self, clock: Clock = CLOCK):
        self.clock = clock
        self._seen: dict[str, tuple[bytes, float]] = {}  # by name: the last heartbeat, and when it was first seen

    def silent_for(self, name: str, heartbeat: bytes) -> float:
        """Seconds since the heartbeat of ``name`` was first seen as it is now; 0 when it is new."""
        now = self.clock.monotonic()
        last, since = self._seen.get(name, (None, now))
        if last != heartbeat:
            self._seen[name] = (heartbeat, now)
            return 0.0
        return now - since


def heartbeat_age(stamp: str, clock: Clock = CLOCK) -> float:
    """Seconds since an ISO 8601 time stamp."""
    return (clock.now() - datetime.fromisoformat(stamp)).total_seconds()


def _machine() -> tuple[str, str, str]:
    """Host, boot and namespace within which process ids are unique; without Linux, the host only."""
    boot = space = ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return platform.node(), boot, space


def _ticks(pid: int) -> str:
    """Start of a process in clock ticks since the boot; empty where the system does not report it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except OSError:
        return ""


def _exists(pid: int) -> bool:
    """Whether any process has this id; it may be another one than the process asked about."""
    if pid <= 0:  # 0 and below stand for groups of processes
        return False
    try:
        os.kill(pid, 0)
    except PermissionError:  # it belongs to another user
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True
