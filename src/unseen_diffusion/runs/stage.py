"""What a stage is: a dataclass whose fields are all that its computation receives and all that its key names.

A new stage is a class with fields and ``make`` (or ``make_rows``, see ``RowStage``). ``StageStore.run`` reads its
result from the store, or computes it::

    @dataclass(frozen=True, kw_only=True)
    class Real(WholeStage):
        stage: ClassVar[str] = "real"
        images: Tensor

        def make(self, how):
            return {"images": self.images}, {}

No key is written by hand, so no input can be left out of one. What may change no result (batch size, device, progress)
is no field; ``make`` receives it as ``how``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.scores.features.base import FeatureExtractor
from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.shards import Facts, RowWise, StageOutput, Tensors
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.digests import tensor_digest
from unseen_diffusion.utils.identity import named
from unseen_diffusion.utils.progress import skip, steps_bar

Value = TypeVar("Value")


@dataclass(frozen=True)
class Identified(Generic[Value]):
    """A value with what identifies it in keys.

    Attributes:
        key: the key of the artefact that the value comes from, or the config that built it, as JSON values.
        value: what the computation uses.
    """

    key: Any
    value: Value


@dataclass
class How:
    """How a stage is computed: what no key names, because it changes the last bits of a result at most.

    Attributes:
        network: images per call of the diffusion network; after memory ran out it stays smaller.
        codec: images per call of the codec, likewise.
        shard: rows of a shard of a stage that calls the diffusion network.
        device: where feature networks run; diffusion networks know their own.
        progress: whether to show progress bars.
        features: images per call of a feature network; None takes its own.
        bar: the bar of a stage of rows.
    """

    network: BatchSize
    codec: BatchSize
    shard: int
    device: torch.device
    progress: bool
    features: BatchSize | None = None
    bar: "tqdm[None] | None" = None

    @property
    def shown(self) -> "bool | tqdm[None]":
        """The bar to advance, or whether to show a new one."""
        return self.progress if self.bar is None else self.bar


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """One computation, whose result is an artefact; see the module."""

    stage: ClassVar[str]
    """name of its artefacts' folder"""
    version: ClassVar[int] = 1
    """raised whenever its meaning changes"""
    batched: ClassVar[bool] = False
    """whether it calls the network with ``how.network`` images at a time: a fixed number (deterministic=true), which
    decides the last bits of its result, is in its key"""

    @property
    def key_version(self) -> int:
        """The version in its key."""
        return self.version

    def inputs(self) -> dict[str, Any]:
        """What the key is computed from: every field, as JSON values."""
        return {name: json_of(value) for name, value in named(self).items()}

    @abstractmethod
    def obtain(self, store: Store, inputs: dict[str, Any], how: How) -> Artefact:
        """Reads the result from a store, or computes and writes it."""


@dataclass(frozen=True, kw_only=True)
class WholeStage(Stage):
    """A stage that one worker computes at once."""

    @abstractmethod
    def make(self, how: How) -> StageOutput:
        """Computes the result from the fields alone: (tensors, JSON facts)."""

    def obtain(self, store: Store, inputs: dict[str, Any], how: How) -> Artefact:
        return store.get_or_make(self.stage, self.key_version, inputs, lambda: self.make(how))


@dataclass(frozen=True, kw_only=True)
class RowStage(Stage):
    """A stage whose rows are independent: several workers compute it in shards."""

    label: ClassVar[str] = ""
    """of its progress bar; empty shows none"""

    @property
    @abstractmethod
    def rows(self) -> int:
        """Number of rows of the result."""

    @property
    def steps(self) -> int:
        """Steps per row that the progress bar counts."""
        return 0

    def shard(self, how: How) -> int:
        """Rows of a shard: of one batch."""
        return how.shard

    @abstractmethod
    def make_rows(self, rows: range, how: How) -> StageOutput:
        """Computes some rows from the fields alone: (tensors whose first dimension is these rows, JSON facts)."""

    def finish(self, tensors: Tensors, parts: Sequence[Facts]) -> Facts:
        """Whole tensors and the facts of all shards -> facts of the artefact: here the cost, by whichever worker."""
        sizes = sorted({part["batch_size"] for part in parts if "batch_size" in part})  # absent before version 0.4
        return {"evaluations": sum(part["evaluations"] for part in parts), "batch_sizes": sizes}

    def obtain(self, store: Store, inputs: dict[str, Any], how: How) -> Artefact:
        rows, steps = self.rows, self.steps
        with steps_bar(self.label, rows, steps, how.progress and bool(self.label), delay=0.5) as how.bar:
            bar = how.bar
            work = RowWise(
                rows,
                self.shard(how),
                lambda part: self.make_rows(part, how),
                self.finish,
                lambda existing: skip(bar, existing * steps),
            )
            return store.get_or_make_rows(self.stage, self.key_version, inputs, work)


def json_of(value: Any) -> Any:
    """An input as the JSON value by which keys name it.

    Raises:
        TypeError: a value that nothing identifies.
    """
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, DiffusionModel | FeatureExtractor):
        return value.fingerprint
    if not isinstance(value, type) and hasattr(value, "key"):  # an artefact, latents, Identified
        return value.key
    if is_dataclass(value) and not isinstance(value, type):
        return json_of(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): json_of(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_of(one) for one in value]
    if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise TypeError(f"a {type(value).__name__} has no place in a key; wrap it as Identified(key, value)")
