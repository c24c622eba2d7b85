"""Status of jobs: each job writes status.json with heartbeats, from which other processes infer its state."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from types import TracebackType

from pydantic import TypeAdapter

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import FULL, locked, read_json, write_json
from unseen_diffusion.utils.liveness import CLOCK, HEARTBEAT, SILENCE_BY_STAMP, Clock, ProcessIdentity, heartbeat_age
from unseen_diffusion.utils.renamed import new_names

log = logging.getLogger(__name__)

STATUS = "status.json"
LOCK = ".job.lock"
WRITTEN = ("running", "done", "failed", "interrupted")  # states that a job writes of itself
STATES = ("done", "running", "failed", "interrupted", "dead", "missing")


@dataclass(frozen=True)
class Status:
    """The content of status.json.

    Attributes:
        state: ``running``, ``done``, ``failed`` or ``interrupted``, as the job itself wrote it.
        started, heartbeat, ended: ISO 8601, UTC.
        host: name of the machine.
        space: the machine's namespace of process ids, in which containers differ.
        pid: process id.
        born: when that process started, seconds since 1970; detects that a process id was reused.
        attempt: 1 at the first start, and one more for each start after a failure or a kill.
        activity: the last line that the job logged.
        error: why it failed, or what interrupted it.
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
        if not (last and self.started):
            return None
        return (datetime.fromisoformat(last) - datetime.fromisoformat(self.started)).total_seconds()

    @property
    def process(self) -> ProcessIdentity:
        """The process that runs the job."""
        return ProcessIdentity(self.host, "", self.space, self.pid, started=self.born)


def read_status(folder: Path) -> Status | None:
    """Reads the status in a job's folder; None where there is none, or none that can be read."""
    try:
        status = TypeAdapter(Status).validate_python(read_json(folder / STATUS))
        stamps = [datetime.fromisoformat(one) for one in (status.started, status.heartbeat, status.ended) if one]
    except (InputError, ValueError):  # ValidationError is a ValueError
        return None
    is_whole = status.state in WRITTEN and all(stamp.tzinfo for stamp in stamps)
    return status if is_whole else None


def state_of(status: Status | None, clock: Clock = CLOCK) -> str:
    """One of ``STATES``: ``dead`` if its process ended without recording an end, ``missing`` if it never started."""
    if status is None:
        return "missing"
    if status.state == "running" and not is_alive(status, clock):
        return "dead"
    return status.state


def is_alive(status: Status, clock: Clock = CLOCK) -> bool:
    """Whether a running job's process still runs: asks the system on the job's machine, and heartbeats elsewhere."""
    return status.process.is_running() if is_local(status) else _beats(status, clock)


def is_local(status: Status) -> bool:
    """Whether the job runs on this machine, so that its process id has a meaning here."""
    return status.process.is_local


def is_this_process(status: Status) -> bool:
    """Whether this very process runs the job."""
    return status.process.is_current


def _beats(status: Status, clock: Clock) -> bool:
    """Whether the job's last heartbeat is recent."""
    return bool(status.heartbeat) and heartbeat_age(status.heartbeat, clock) < SILENCE_BY_STAMP


@contextmanager
def claimed(folder: Path, clock: Clock = CLOCK, beat: float = HEARTBEAT) -> Iterator["Journal | None"]:
    """Claims a job's folder: yields its journal, or None where the job is done or another process works on it.

    The claim is a file lock, which the system releases when the process ends. Heartbeats replace it where locks do not
    reach other machines, or where the file system has none.

    Args:
        folder: the job's.
        clock: gives the time and waits; tests pass their own.
        beat: seconds between two heartbeats.
    """
    with locked(folder / LOCK) as is_locked:
        before = read_status(folder)
        if is_locked is False or (before and _is_taken(folder, before, is_locked is None, clock)):
            yield None
        else:
            with Journal(folder, before.attempt + 1 if before else 1, clock, beat) as journal:
                yield journal


def _is_taken(folder: Path, status: Status, without_locks: bool, clock: Clock) -> bool:
    """Whether a job is done, or runs without a lock: waits until its status changes or its heartbeats stop."""
    if status.state != "running":
        return status.state == "done"
    if is_this_process(status) or (is_local(status) and not without_locks):
        return False  # the job ended without recording it; otherwise its lock would be held
    while is_alive(status, clock) and _beats(status, clock):
        clock.sleep(1)
        if read_status(folder) not in (None, status):
            return True
    return False


class Journal(logging.Handler):
    """Writes a running job's status at once, then every ``beat`` seconds with the last line logged, then its end.

    A status that cannot be written, on a full disk say, is logged and never stops the job.
    """

    def __init__(self, folder: Path, attempt: int, clock: Clock = CLOCK, beat: float = HEARTBEAT):
        super().__init__(logging.INFO)
        self.folder, self.clock, self.beat = folder, clock, beat
        now, process = self._stamp(), ProcessIdentity.current()
        self.status = Status(
            state="running",
            started=now,
            heartbeat=now,
            host=process.host,
            space=process.space,
            pid=process.pid,
            born=process.started,
            attempt=attempt,
        )
        self._write = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

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

    def end(self, error: str | None = None, state: str = "") -> None:
        """Writes that the job is done, or why it failed; ``state`` if it is neither."""
        now = self._stamp()
        self._over.set()
        with self._write:
            state = state or ("failed" if error else "done")
            self.status = replace(self.status, state=state, heartbeat=now, ended=now, error=error)
        self._save(logging.DEBUG if error and FULL in error else logging.ERROR)  # the job logs the full disk itself

    def _send_heartbeats(self) -> None:
        while not self._over.wait(self.beat):
            with self._write:
                self.status = replace(self.status, heartbeat=self._stamp())
            self._save(logging.DEBUG)  # the next heartbeat may succeed

    def _save(self, level: int = logging.ERROR) -> None:
        try:
            with self._write:
                write_json(self.folder / STATUS, asdict(self.status))
        except (
            OSError,
            InputError,
        ) as error:  # a full, closed or absent disk; logged without the lock, which emit takes
            log.log(level, "state %r could not be written: %s", self.status.state, error)

    def _stamp(self) -> str:
        return self.clock.now().isoformat(timespec="milliseconds")


__getattr__ = new_names(__name__)
