"""Stages beside the path from latents to images: combinations of pixels, and features from inside the base network."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.blocks import READ_AT
from unseen_diffusion.priors import Draws, Prior, combined_pixels
from unseen_diffusion.runs.stage_store import StageStore
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import RowWise, StageOutput
from unseen_diffusion.utils.digests import tensor_digest
from unseen_diffusion.utils.images import dequantise, quantise


def pixel_combinations(
    stages: StageStore, prior: Prior, settings: dict[str, Any], images: Tensor, draws: Draws
) -> Artefact:
    """Reference images (n, C, H, W) uint8 -> clamped combinations (b, C, H, W) uint8; evaluates no network.

    Args:
        stages: where the result is kept.
        prior: whose combinations they are.
        settings: the config that built it.
        images: the references.
        draws: which candidates.
    """
    inputs = {
        "images": tensor_digest(images),
        "prior": settings,
        "shape": list(draws.shape),
        "indices": [draws.indices.start, draws.indices.stop],
        "seed": draws.seed,
    }

    def make() -> StageOutput:
        return {"images": quantise(combined_pixels(prior, dequantise(images), draws))}, {}

    return stages.get("combine", 1, inputs, make)


def network_features(stages: StageStore, model: DiffusionModel, key: str, images: Tensor) -> Tensor:
    """Images (n, C, H, W) uint8 -> features from inside the network, (n, d) float32; ``key`` identifies the images."""
    inputs = {"model": model.fingerprint, "images": key, "read_at": READ_AT, **stages._bits()}
    size = stages._batch()

    def make(rows: range) -> StageOutput:
        before = model.evaluations
        features = model.features(dequantise(images[rows.start : rows.stop]), size)
        return {"features": features}, {"evaluations": model.evaluations - before}

    def finish(tensors: Mapping[str, Tensor], parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"evaluations": sum(part["evaluations"] for part in parts)}

    how = RowWise(len(images), stages._shard, make, finish)
    return stages.get_rows("network_features", 1, inputs, how).tensors["features"]
