"""Who works at what: claims that a worker holds while it computes, and that others take over when it dies.

A claim is a small object that only one worker can create. Its holder rewrites it every ``BEAT`` seconds. It is taken
over at once when its process on the same machine is gone, and elsewhere when nobody has rewritten it for ``STALE``
seconds, by the clock of the one who waits: machines need not agree on the time. Claims save work and guard nothing:
what is computed is determined by its inputs, so that two workers who both hold a claim write the same results.
"""

import json
import logging
import os
import platform
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from unseen_diffusion.store.objects import Objects
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

BEAT = 10.0  # seconds
STALE = 60.0

T = TypeVar("T")


class Claims:
    """The claims of one worker among ``objects``."""

    def __init__(self, objects: Objects, beat: float = BEAT, stale: float = STALE):
        self.objects = objects
        self.beat, self.stale = beat, stale
        self._seen: dict[str, tuple[bytes | None, float]] = {}  # others' claims: content, and since when it is so

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Yields whether the claim ``name`` is this worker's for the length of the block; never waits."""
        me = _identity()
        if not self._take(name, me):
            yield False
            return
        ended = threading.Event()
        pulse = threading.Thread(target=self._pulse, args=(name, me, ended), daemon=True)
        pulse.start()
        try:
            yield True
        finally:
            ended.set()
            pulse.join()
            if _token(self.objects.read(name)) == me["token"]:
                self.objects.delete(name)

    def once(self, name: str, find: Callable[[], T | None], make: Callable[[], T]) -> T:
        """What ``find`` finds; while that is None, one worker makes it under the claim ``name`` and the others wait."""
        pause = Pause(self.objects.pause)
        while True:
            if (found := find()) is not None:
                return found
            with self.hold(name) as mine:
                if mine:
                    found = find()  # another may have ended between the look and the claim
                    return make() if found is None else found
            pause()

    def _take(self, name: str, me: dict[str, Any]) -> bool:
        theirs = self.objects.read(name)  # most claims looked at are held: reading costs less than to be refused
        if theirs is not None:
            if not self._dead(name, theirs):
                return False
            log.info("%s: its holder died; taken over", name)
            self.objects.delete(name)
        return self.objects.create(name, _dump(me))

    def _dead(self, name: str, content: bytes) -> bool:
        """Whether a claim's holder is gone: its process is, or its content has not changed for ``stale`` seconds."""
        now = time.monotonic()
        seen, since = self._seen.get(name, (None, now))
        if seen != content:
            self._seen[name] = (content, now)
            since = now
        return now - since > self.stale or _gone(content)

    def _pulse(self, name: str, me: dict[str, Any], ended: threading.Event) -> None:
        """Rewrites the claim until the block ends or another has taken it over."""
        while not ended.wait(self.beat):
            me["beats"] += 1
            try:
                if _token(self.objects.read(name)) != me["token"]:
                    return
                self.objects.put(name, _dump(me))
            except (OSError, InputError) as error:  # a full disk, say: the next beat may pass
                log.debug("%s: no beat (%s)", name, error)


class Pause:
    """Waits between two looks: short at first, then longer up to ``most`` seconds, and never in step with others."""

    def __init__(self, most: float):
        self.most, self.next = most, min(0.02, most)

    def __call__(self) -> None:
        time.sleep(self.next * random.uniform(0.5, 1.0))
        self.next = min(self.most, 1.5 * self.next)


def _identity() -> dict[str, Any]:
    """This worker, as told to others."""
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "started": _state(pid)[1], "token": os.urandom(8).hex(), "beats": 0}


def _machine() -> str:
    """Where process numbers mean the same: host, boot, and namespace of processes (containers)."""
    parts = [platform.node()]
    with suppress(OSError):  # no Linux: the host's name must do
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def _state(pid: int) -> tuple[str, str]:
    """State and starting time of a process; empty where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]


def _gone(content: bytes) -> bool:
    """Whether a claim's holder was a process of this machine that has ended."""
    try:
        claim = json.loads(content)
        machine, pid, started = claim["machine"], int(claim["pid"]), claim["started"]
    except (ValueError, KeyError, TypeError):
        return False
    if machine != _machine():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, alive
        return False
    state, since = _state(pid)
    return state in ("Z", "X") or since != started  # killed but not yet buried, or the number was given to another


def _dump(claim: dict[str, Any]) -> bytes:
    return json.dumps(claim).encode()


def _token(content: bytes | None) -> str | None:
    try:
        return json.loads(content or b"{}").get("token")
    except (ValueError, AttributeError):
        return None
