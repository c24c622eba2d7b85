"""Stages beside the path from latents to images: combined pixels, features of the network, choices of images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.priors import Draws, Prior, combined_pixels
from unseen_diffusion.rejection.images.base import ImageSelection, ImageTask, Seen
from unseen_diffusion.runs.stage import How, Identified, RowStage, WholeStage
from unseen_diffusion.runs.stage_store import StageStore
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import StageOutput
from unseen_diffusion.utils.images import dequantise, quantise


@dataclass(frozen=True, kw_only=True)
class PixelCombinations(WholeStage):
    """Reference images (n, C, H, W) uint8 -> clamped combinations of them; evaluates no network."""

    stage: ClassVar[str] = "combine"
    prior: Identified[Prior]
    images: Tensor
    shape: Sequence[int]
    start: int
    stop: int
    seed: int

    def make(self, how: How) -> StageOutput:
        channels, height, width = self.shape
        draws = Draws((channels, height, width), range(self.start, self.stop), self.seed)
        return {"images": quantise(combined_pixels(self.prior.value, dequantise(self.images), draws))}, {}


def pixel_combinations(
    stages: StageStore, prior: Prior, settings: dict[str, Any], images: Tensor, draws: Draws
) -> Artefact:
    """Combinations (b, C, H, W) uint8 of reference images (n, C, H, W) uint8; ``settings``: the prior's config."""
    stage = PixelCombinations(
        prior=Identified(settings, prior),
        images=images,
        shape=list(draws.shape),
        start=draws.indices.start,
        stop=draws.indices.stop,
        seed=draws.seed,
    )
    return stages.run(stage)


@dataclass(frozen=True, kw_only=True)
class NetworkFeatures(RowStage):
    """Images (n, C, H, W) uint8 -> float32 features (n, d) from inside the model's network."""

    stage: ClassVar[str] = "network_features"
    batched: ClassVar[bool] = True
    model: DiffusionModel
    images: Identified[Tensor]

    @property
    def rows(self) -> int:
        return len(self.images.value)

    def make_rows(self, rows: range, how: How) -> StageOutput:
        model, before = self.model, self.model.evaluations
        features = model.features(dequantise(self.images.value[rows.start : rows.stop]), how.network)
        return {"features": features}, {"evaluations": model.evaluations - before, "batch_size": how.network.size}


def network_features(stages: StageStore, model: DiffusionModel, key: str, images: Tensor) -> Tensor:
    """Features (n, d) of images (n, C, H, W) uint8 from inside the network; ``key`` identifies the images."""
    return stages.run(NetworkFeatures(model=model, images=Identified(key, images))).tensors["features"]


@dataclass(frozen=True, kw_only=True)
class ImageChoice(WholeStage):
    """Candidates -> the images that a selection keeps and their positions; facts: counts and thresholds."""

    stage: ClassVar[str] = "choose"
    selection: Identified[ImageSelection]
    candidates: Identified[tuple[Tensor, Seen]]
    """images (n, C, H, W) uint8, and the same as the selection sees them"""
    references: Identified[Seen]
    model: DiffusionModel | None
    """the model that the features come from, if the selection needs them"""
    task: ImageTask

    def make(self, how: How) -> StageOutput:
        selection, (images, seen) = self.selection.value, self.candidates.value
        choice = selection.choose(seen, self.references.value, self.task)
        kept = choice.kept[: self.task.count]
        judged = choice.judged
        if judged is None:
            judged = len(images) if len(kept) < self.task.count else int(kept[-1]) + 1
        facts: dict[str, Any] = {
            "name": selection.name,
            "judged": judged,
            "acceptance": asdict(wilson(len(kept), judged)),
            "independent": all(one.independent for one in selection.every()),
            **choice.facts,
        }
        return {"images": images[kept], "positions": kept}, facts
