"""Each job's own account of itself: status.json, kept fresh by heartbeats, and what others can tell from it."""

import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

import psutil

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import locked, read_json, write_json

log = logging.getLogger(__name__)

STATUS = "status.json"
LOCK = ".job.lock"
BEAT = 15.0  # seconds between heartbeats
STALE = 120.0  # seconds without a heartbeat after which a job on another machine counts as dead
STATES = ("done", "running", "failed", "dead", "missing")


@dataclass(frozen=True)
class Status:
    """What status.json holds.

    Attributes:
        state: ``running``, ``done`` or ``failed``, as the job itself wrote it.
        started, heartbeat, ended: ISO 8601, UTC.
        host: name of the machine.
        space: its space of process ids; containers of one machine differ in it.
        pid: process.
        born: when that process started, seconds since 1970: a number that was given anew tells itself apart.
        attempt: 1, and one more for each start after a failure or a kill.
        activity: the last line that the job logged.
        error: why it failed.
    """

    state: str
    started: str = ""
    heartbeat: str = ""
    ended: str | None = None
    host: str = ""
    space: str = ""
    pid: int = 0
    born: float = 0.0
    attempt: int = 1
    activity: str = ""
    error: str | None = None

    @property
    def seconds(self) -> float | None:
        """From its start to its end, or to its last heartbeat."""
        last = self.ended or self.heartbeat
        return (_time(last) - _time(self.started)).total_seconds() if last and self.started else None


def read_status(folder: Path) -> Status | None:
    """The status of a job's folder; None where there is none, or none that can be read."""
    try:
        found = read_json(folder / STATUS)
        return Status(**{field.name: found[field.name] for field in fields(Status) if field.name in found})
    except (InputError, TypeError):
        return None


def state_of(status: Status | None) -> str:
    """One of ``STATES``: ``dead`` was running and is no more, ``missing`` never started."""
    if status is None:
        return "missing"
    if status.state == "running" and not alive(status):
        return "dead"
    return status.state


def alive(status: Status) -> bool:
    """Whether the process behind a running job still runs: asked here, by heartbeat elsewhere."""
    if not here(status):
        return _heard(status)
    try:
        process = psutil.Process(status.pid)
        return abs(process.create_time() - status.born) < 5 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def here(status: Status) -> bool:
    """Whether a job's process id means something to this process."""
    return (status.host, status.space) == (platform.node(), _space())


def own(status: Status) -> bool:
    """Whether a job's process is this very one."""
    return here(status) and status.pid == os.getpid()


def _heard(status: Status) -> bool:
    """Whether a job's last heartbeat is recent."""
    return bool(status.heartbeat) and (_now() - _time(status.heartbeat)).total_seconds() < STALE


@contextmanager
def claimed(folder: Path) -> Iterator["Journal | None"]:
    """Claims a job's folder: yields its journal, or None where the job is done or another process has it.

    The claim is a file lock, which ends with its process. Where locks do not reach other machines, or there are none,
    heartbeats do.
    """
    with locked(folder / LOCK) as mine:
        before = read_status(folder)
        if mine is False or (before and _taken(folder, before, mine is None)):
            yield None
        else:
            with Journal(folder, before.attempt + 1 if before else 1) as journal:
                yield journal


def _taken(folder: Path, status: Status, unlocked: bool) -> bool:
    """Whether a job is done, or runs though no lock tells of it: watched until its status changes or should have."""
    if status.state != "running":
        return status.state == "done"
    if own(status) or (here(status) and not unlocked):
        return False  # an end that was not recorded, or its lock was free
    while alive(status) and _heard(status):
        time.sleep(1)
        if read_status(folder) not in (None, status):
            return True
    return False


class Journal(logging.Handler):
    """Writes a running job's status at once, then every ``BEAT`` seconds with the last line logged, and its end.

    It is an account of the work and never ends it: what a full disk keeps it from writing is logged.
    """

    def __init__(self, folder: Path, attempt: int):
        super().__init__(logging.INFO)
        self.folder = folder
        now, process = _stamp(), psutil.Process()
        self.status = Status(
            state="running",
            started=now,
            heartbeat=now,
            host=platform.node(),
            space=_space(),
            pid=process.pid,
            born=process.create_time(),
            attempt=attempt,
        )
        self._write = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def __enter__(self) -> "Journal":
        self._save()
        logging.getLogger("unseen_diffusion").addHandler(self)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logging.getLogger("unseen_diffusion").removeHandler(self)
        self._over.set()
        self._thread.join()

    def emit(self, record: logging.LogRecord) -> None:
        """Remembers the line; the next heartbeat carries it."""
        with self._write:
            self.status = replace(self.status, activity=record.getMessage().partition("\n")[0][:200])

    def end(self, error: str | None = None) -> None:
        """Writes that the job is done, or why it failed."""
        now = _stamp()
        self._over.set()
        with self._write:
            state = "failed" if error else "done"
            self.status = replace(self.status, state=state, heartbeat=now, ended=now, error=error)
        self._save()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            with self._write:
                self.status = replace(self.status, heartbeat=_stamp())
            self._save(logging.DEBUG)  # the next heartbeat may get through

    def _save(self, level: int = logging.ERROR) -> None:
        try:
            with self._write:
                write_json(self.folder / STATUS, asdict(self.status))
        except (OSError, InputError) as error:  # a full, closed or absent disk; logged without the lock, for emit
            log.log(level, "state %r is not recorded: %s", self.status.state, error)


def _space() -> str:
    """The kernel's name of this process's space of process ids, where it has one."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""


def _now() -> datetime:
    return datetime.now(UTC)


def _stamp() -> str:
    return _now().isoformat(timespec="milliseconds")


def _time(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp)
