"""What tests use instead of waiting: a clock that stands still until a test advances it, and a wait with an end."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from unseen_diffusion.utils.liveness import Clock


class FakeClock(Clock):
    """Sleeping advances it at once, and runs ``on_sleep`` where a test gives it."""

    def __init__(self, on_sleep: Callable[[], object] = lambda: None):
        self.seconds, self.on_sleep = 0.0, on_sleep
        self.start = datetime.now(UTC)

    def monotonic(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self.seconds += seconds

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)
        self.on_sleep()


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Waits until another thread or process has done something, and fails if it takes longer than these seconds."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()
