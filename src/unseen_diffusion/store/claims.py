"""Work leases: one worker computes an artefact while others wait, and another takes over if it dies.

A claim is a small object that only one worker can create. Its holder rewrites it every ``HEARTBEAT`` seconds. Another
worker takes it over at once when the holder's process on the same machine has ended, and elsewhere when nobody has
rewritten it for ``SILENCE`` seconds, by the clock of the worker that waits: clocks of machines need not agree. Claims
only save work, and correctness does not depend on them: inputs determine the result, so two workers that hold one claim
write the same artefact.
"""

import json
import logging
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from unseen_diffusion.store.objects import Objects
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.liveness import CLOCK, HEARTBEAT, SILENCE, Clock, ProcessIdentity, SilenceWatch
from unseen_diffusion.utils.renamed import new_names

log = logging.getLogger(__name__)

T = TypeVar("T")


class Claims:
    """The claims that one worker holds or waits for.

    Args:
        objects: where claims are kept.
        beat: seconds between two heartbeats of a held claim.
        stale: seconds without a heartbeat after which another machine's worker counts as dead.
        clock: for waiting; tests pass their own.
    """

    def __init__(self, objects: Objects, beat: float = HEARTBEAT, stale: float = SILENCE, clock: Clock = CLOCK):
        self.objects = objects
        self.beat, self.stale, self.clock = beat, stale, clock
        self._watch = SilenceWatch(clock)

    @contextmanager
    def hold(self, name: str) -> Iterator[bool]:
        """Tries to claim ``name`` for the duration of the block, without waiting; yields whether it succeeded."""
        claim = _new_claim()
        if not self._take(name, claim):
            yield False
            return
        ended = threading.Event()
        heartbeats = threading.Thread(target=self._send_heartbeats, args=(name, claim, ended), daemon=True)
        heartbeats.start()
        try:
            yield True
        finally:
            ended.set()
            heartbeats.join()
            if _token(self.objects.read(name)) == claim["token"]:
                self.objects.delete(name)

    def once(self, name: str, find: Callable[[], T | None], make: Callable[[], T]) -> T:
        """Returns the result of ``find``; while it is None, one worker computes it under the claim, and others wait."""
        pause = self.pause()
        while True:
            if (existing := find()) is not None:
                return existing
            with self.hold(name) as is_held:
                if is_held:
                    existing = find()  # another worker may have finished before this one got the claim
                    return make() if existing is None else existing
            pause()

    def pause(self) -> "Pause":
        """A new series of waits between checks on other workers."""
        return Pause(self.objects.pause, self.clock)

    def is_abandoned(self, name: str, content: bytes) -> bool:
        """Whether a claim's holder is dead: its local process ended, or no heartbeat came for ``stale`` seconds."""
        return self._watch.silent_for(name, content) > self.stale or _has_ended(content)

    def _take(self, name: str, claim: dict[str, Any]) -> bool:
        """Creates the claim, after deleting an abandoned one; False where another worker holds it."""
        existing = self.objects.read(name)  # most claims are held: a read costs less than a refused write
        if existing is not None:
            if not self.is_abandoned(name, existing):
                return False
            log.info("%s: the worker that computed it died; this one takes over", name)
            self.objects.delete(name)
        return self.objects.create(name, _dump(claim))

    def _send_heartbeats(self, name: str, claim: dict[str, Any], ended: threading.Event) -> None:
        """Rewrites the claim until the block ends or another worker has taken it over."""
        while not ended.wait(self.beat):
            claim["beats"] += 1
            try:
                if _token(self.objects.read(name)) != claim["token"]:
                    return
                self.objects.put(name, _dump(claim))
            except (OSError, InputError) as error:  # a full disk, say: the next heartbeat may succeed
                log.debug("%s: heartbeat failed (%s)", name, error)


class Pause:
    """Waits between two checks: briefly at first, then longer; random lengths keep workers from checking together.

    Args:
        longest: seconds that a wait grows to.
        clock: does the waiting.
    """

    def __init__(self, longest: float, clock: Clock = CLOCK):
        self.longest, self.clock = longest, clock
        self.next = min(0.02, longest)

    def __call__(self) -> None:
        self.clock.sleep(self.next * random.uniform(0.5, 1.0))
        self.next = min(self.longest, 1.5 * self.next)


def _new_claim() -> dict[str, Any]:
    """The content of a claim by this process; the token distinguishes it from every other claim."""
    process = ProcessIdentity.current()
    machine = "/".join((process.host, process.boot, process.space)).rstrip("/")
    token = os.urandom(8).hex()
    return {"machine": machine, "pid": process.pid, "started": process.ticks, "token": token, "beats": 0}


def holder_of(content: bytes | None) -> ProcessIdentity | None:
    """The process that wrote a claim; None where the claim is absent or not readable."""
    try:
        claim = json.loads(content or b"")
        host, boot, space = [*str(claim["machine"]).split("/"), "", ""][:3]
        return ProcessIdentity(host, boot, space, int(claim["pid"]), ticks=claim["started"])
    except (ValueError, KeyError, TypeError):
        return None


def _has_ended(content: bytes) -> bool:
    """Whether a claim's holder was a process of this machine that has ended."""
    process = holder_of(content)
    return process is not None and process.is_local and not process.is_running()


def _dump(claim: dict[str, Any]) -> bytes:
    return json.dumps(claim).encode()


def _token(content: bytes | None) -> str | None:
    try:
        return json.loads(content or b"{}").get("token")
    except (ValueError, AttributeError):
        return None


__getattr__ = new_names(__name__)
