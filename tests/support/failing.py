"""Parts of a run that fail or halt on purpose, until the working folder has a file named ``healed``."""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from unseen_diffusion.models.analytic import GaussianModel, natural_gaussian
from unseen_diffusion.models.base import Prediction
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.scores.features.pixels import Pixels

CALLS = Path("calls")  # a line for each network evaluation: the number of its process
HALT = 6  # the evaluation at which every process waits
PATIENCE = 400  # seconds after which a process no longer waits and fails


class Failing(Pixels):
    """Pixels that first fail as ``how`` says: raise, exit, kill (the process), wait (for ``healed``), or not at all."""

    def __init__(self, how: str, side: int = 8, batch_size: int = 1024) -> None:
        super().__init__(side, batch_size)
        self.how = how
        self.fingerprint = hashlib.sha256(how.encode()).hexdigest()

    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """Fails, or returns the features of ``Pixels``."""
        if not Path("healed").exists():
            if self.how == "raise":
                raise RuntimeError("as asked")
            if self.how == "exit":
                sys.exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "wait":
            wait_until_healed()
        return super().__call__(images)


class Halting(GaussianModel):
    """The analytic model, with the same fingerprint; each process halts at evaluation ``HALT`` until healed."""

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        with CALLS.open("a") as calls:
            calls.write(f"{os.getpid()}\n")
        if calls_of(os.getpid()) >= HALT:
            wait_until_healed()
        return super()._predict(x, node)


def wait_until_healed() -> None:
    """Waits for the file ``healed``.

    Raises:
        TimeoutError: it did not appear.
    """
    deadline = time.monotonic() + PATIENCE
    while not Path("healed").exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no file healed after {PATIENCE} s")
        time.sleep(0.02)


def calls_of(pid: int) -> int:
    """Network evaluations that a process has begun."""
    return CALLS.read_text().split().count(str(pid)) if CALLS.exists() else 0


def halting(size: int, channels: int, std: float, slope: float, device: str = "cpu", name: str = "") -> Halting:
    """``natural_gaussian`` as a ``Halting`` model."""
    base = natural_gaussian(size, channels, std, slope, device)
    return Halting(base.mean, base.basis, base.variances, base.spec.schedule, name)
