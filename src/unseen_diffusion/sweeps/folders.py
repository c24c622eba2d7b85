"""The claim on the folder of a run or sweep: one ``unseen run`` at a time records and launches its runs there.

The claim is a file lock, which the system releases when the process ends, and a claim with heartbeats, for machines
that do not see each other's locks and for file systems that have none.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from unseen_diffusion.store.claims import Claims, holder_of
from unseen_diffusion.store.objects import LocalObjects
from unseen_diffusion.utils.files import locked
from unseen_diffusion.utils.liveness import CLOCK, HEARTBEAT, SILENCE, Clock

log = logging.getLogger(__name__)

LOCK, CLAIM = ".sweep.lock", ".sweep.claim"


@contextmanager
def hold_folder(folder: Path, wait: bool = True, clock: Clock = CLOCK, beat: float = HEARTBEAT) -> Iterator[str | None]:
    """Claims a folder for the length of the block; yields None, or the name of the process that holds it.

    A claim of a process that has ended is taken over: at once on the same machine; after ``SILENCE`` seconds without a
    heartbeat where another machine wrote it.

    Args:
        folder: of the run or sweep.
        wait: whether to wait for a sign of a holder on another machine; if not, such a holder counts as working.
        clock: tells the time and waits; tests pass their own.
        beat: seconds between two heartbeats of the claim.
    """
    objects = LocalObjects(folder)
    with ExitStack() as held:
        if held.enter_context(locked(folder / LOCK)) is False or not _claim(objects, held, wait, clock, beat):
            yield _name(objects.read(CLAIM))
        else:
            yield None


def _claim(objects: LocalObjects, held: ExitStack, wait: bool, clock: Clock, beat: float) -> bool:
    """Gets the claim until ``held`` closes; False where its holder works."""
    claims = Claims(objects, beat, clock=clock)
    seen: bytes | None = None
    while not held.enter_context(claims.hold(CLAIM)):
        content = objects.read(CLAIM)
        holder = holder_of(content)
        if not wait or (holder and holder.is_local) or (seen and content and content != seen):
            return False
        if seen is None:
            log.warning(
                "%s: claimed by %s; waiting up to %d s for a sign of it", objects.folder, _name(content), SILENCE
            )
        seen = content or seen
        clock.sleep(1)
    return True


def _name(content: bytes | None) -> str:
    """The holder of a claim, for messages."""
    holder = holder_of(content)
    return f"process {holder.pid} on {holder.host}" if holder else "another process"
