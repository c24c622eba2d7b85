"""The base class of stages: reads artefacts from a store or computes them, and lists those that a run uses."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.shards import RowWise, StageOutput
from unseen_diffusion.utils.progress import steps_bar

log = logging.getLogger(__name__)


@dataclass
class StageStore:
    """One store, and how stages compute.

    Attributes:
        store: where artefacts are.
        batch_size: images per network call.
        progress: whether to show progress bars.
        used: every artefact that the run requested, in order, with its stage.
    """

    store: Store
    batch_size: int = 64
    progress: bool = False

    def __post_init__(self) -> None:
        self.used: list[tuple[str, Artefact]] = []

    def _get(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[], StageOutput]) -> Artefact:
        """The artefact of a stage, read from the store or computed as a whole."""
        return self._use(stage, self.store.get_or_make(stage, version, inputs, make))

    def _get_rows(self, stage: str, version: int, inputs: dict[str, Any], work: RowWise) -> Artefact:
        """The artefact of a stage whose rows are independent, read from the store or computed in shards."""
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
