"""Features that end their process's work as asked, until a file named ``healed`` lies in the working folder."""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

from jaxtyping import Float32
from torch import Tensor

from unseen_diffusion.features.pixels import Pixels


class Failing(Pixels):
    """Pixels; ``how``: none..., raise, exit, kill (itself) or wait (until it is killed or healed)."""

    def __init__(self, how: str, side: int = 8, batch_size: int = 1024) -> None:
        super().__init__(side, batch_size)
        self.how = how
        self.fingerprint = hashlib.sha256(how.encode()).hexdigest()

    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """What Pixels give, if it comes to that."""
        if not Path("healed").exists():
            if self.how == "raise":
                raise RuntimeError("as asked")
            if self.how == "exit":
                sys.exit(3)
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        while self.how == "wait" and not Path("healed").exists():
            time.sleep(0.05)
        return super().__call__(images)
