"""The base class of stages: reads artefacts from a store or computes them, and lists those that a run uses."""

import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.shards import RowWise, StageOutput
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.precision import reproducible
from unseen_diffusion.utils.progress import steps_bar

GROUP = 8  # rows per network call where results are deterministic: a CPU is as fast with 8 images as with 64

log = logging.getLogger(__name__)


@dataclass
class StageStore:
    """One store, and how stages compute.

    Attributes:
        store: where artefacts are.
        batch_size: images per network call.
        progress: whether to show progress bars.
        deterministic: whether latents and images are the same bytes for every ``batch_size`` and number of threads: the
            network gets rows 0 to 7, 8 to 15 and so on of a set together, on one thread of the CPU, and shards hold
            whole such groups.
        used: every artefact that the run requested, in order, with its stage.
    """

    store: Store
    batch_size: int = 64
    progress: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        self.used: list[tuple[str, Artefact]] = []
        if self.deterministic:  # read when the first matrix is multiplied on CUDA
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    @property
    def _shard(self) -> int:
        """Rows of a shard."""
        return -(-self.batch_size // GROUP) * GROUP if self.deterministic else self.batch_size

    def _batch(self) -> BatchSize:
        """Rows per network call, for one stage."""
        return BatchSize(GROUP, fixed=True) if self.deterministic else BatchSize(self.batch_size)

    def _bits(self) -> dict[str, Any]:
        """The inputs of a stage that evaluates the network: what decides the last bits of its result."""
        return {"deterministic": GROUP} if self.deterministic else {}

    def get(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[], StageOutput]) -> Artefact:
        """The artefact of a stage, read from the store or computed as a whole."""
        with reproducible(self.deterministic):
            return self._use(stage, self.store.get_or_make(stage, version, inputs, make))

    def get_rows(self, stage: str, version: int, inputs: dict[str, Any], work: RowWise) -> Artefact:
        """The artefact of a stage whose rows are independent, read from the store or computed in shards."""
        with reproducible(self.deterministic):
            return self._use(stage, self.store.get_or_make_rows(stage, version, inputs, work))

    def _bar(self, label: str, images: int, steps: int) -> "AbstractContextManager[tqdm[None]]":
        """A progress bar over all shards; a stage that is in the store shows none."""
        return steps_bar(label, images, steps, self.progress, delay=0.5)

    def _use(self, stage: str, artefact: Artefact) -> Artefact:
        if artefact.reused:
            log.debug("%s reused from %s", stage, artefact.folder)
        else:
            log.info("%s computed in %.1f s", stage, artefact.spent.seconds)
        self.used.append((stage, artefact))
        return artefact
