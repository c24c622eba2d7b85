"""The base class of stages: reads artefacts from a store or computes them, and lists those that a run uses."""

import logging
import os
from dataclasses import dataclass

import torch

from unseen_diffusion.runs.stage import How, Stage
from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.precision import reproducible

GROUP = 8  # rows per network call where results are deterministic: a CPU is as fast with 8 images as with 64
CPU = torch.device("cpu")

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

    def how(self, device: torch.device = CPU, features: BatchSize | None = None) -> How:
        """How one stage is computed: what changes no key."""
        return How(self._batch(), self._batch(), self._shard, device, self.progress, features)

    def _batch(self) -> BatchSize:
        """Rows per call of the diffusion network, for one stage."""
        return BatchSize(GROUP, fixed=True) if self.deterministic else BatchSize(self.batch_size)

    @property
    def _shard(self) -> int:
        """Rows of a shard."""
        return -(-self.batch_size // GROUP) * GROUP if self.deterministic else self.batch_size

    def run(self, stage: Stage, how: How | None = None) -> Artefact:
        """The artefact of a stage, read from the store or computed."""
        inputs = stage.inputs()
        if stage.batched and self.deterministic:
            inputs["deterministic"] = GROUP
        with reproducible(self.deterministic):
            return self._use(stage.stage, stage.obtain(self.store, inputs, how or self.how()))

    def _use(self, stage: str, artefact: Artefact) -> Artefact:
        if artefact.reused:
            log.debug("%s reused from %s", stage, artefact.folder)
        else:
            log.info("%s computed in %.1f s", stage, artefact.spent.seconds)
        self.used.append((stage, artefact))
        return artefact
