"""Stages that measure: features, fidelity, nearest neighbours, paths, geometry of latents, training losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.losses import image_losses
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import slerp
from unseen_diffusion.rejection.geometry import CRITERIA, References, draw_references, leave_one_out, statistics
from unseen_diffusion.runs.stage import How, Identified, RowStage, WholeStage
from unseen_diffusion.runs.stage_store import StageStore
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.reconstruction import psnr, ssim
from unseen_diffusion.solvers.sampling import denoise
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import Facts, StageOutput, Tensors
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.images import dequantise, quantise

LOSS_DRAWS = 8  # noise levels at which an image's loss is measured


@dataclass(frozen=True, kw_only=True)
class ImageLosses(WholeStage):
    """The training loss of every image, at the same noise for all models."""

    stage: ClassVar[str] = "image_losses"
    model: DiffusersModel
    images: Tensor
    seed: int

    def make(self, how: How) -> StageOutput:
        losses = image_losses(self.model.network, self.model.loss(self.images), self.seed, LOSS_DRAWS)
        return {"losses": losses}, {"evaluations": LOSS_DRAWS * len(self.images)}


@dataclass(frozen=True, kw_only=True)
class Features(RowStage):
    """Images (n, C, H, W) uint8 -> float32 features (n, dimension)."""

    stage: ClassVar[str] = "features"
    images: Identified[Tensor]
    extractor: FeatureExtractor

    @property
    def rows(self) -> int:
        return len(self.images.value)

    def shard(self, how: How) -> int:
        return self.extractor.batch_size

    def make_rows(self, rows: range, how: How) -> StageOutput:
        images = self.images.value[rows.start : rows.stop]
        return {"features": extract(self.extractor, images, how.features, how.device)}, {}

    def finish(self, tensors: Tensors, parts: Sequence[Facts]) -> Facts:
        return {"extractor": self.extractor.name}


@dataclass(frozen=True, kw_only=True)
class Fidelity(WholeStage):
    """Originals (n, C, H, W) uint8 against the first n reconstructions: tensors psnr (dB) and ssim, (n,)."""

    stage: ClassVar[str] = "fidelity"
    originals: Tensor
    made: Artefact

    def make(self, how: How) -> StageOutput:
        images = self.made.tensors["images"][: len(self.originals)]
        return {"psnr": psnr(self.originals, images), "ssim": ssim(self.originals, images)}, {}


@dataclass(frozen=True, kw_only=True)
class Nearest(WholeStage):
    """Nearest neighbours in pixels (L2): tensors NAME_index and NAME_distance (n,) for each of ``others``."""

    stage: ClassVar[str] = "nearest"
    samples: Identified[Tensor]
    others: Mapping[str, Identified[Tensor]]

    def make(self, how: How) -> StageOutput:
        tensors = {}
        for name, candidates in self.others.items():
            tensors[f"{name}_distance"], tensors[f"{name}_index"] = nearest(self.samples.value, candidates.value)
        return tensors, {}


@dataclass(frozen=True, kw_only=True)
class Paths(WholeStage):
    """Images along paths between references 0 and 1, 2 and 3, ...: tensors (pairs, steps, C, H, W) uint8.

    ``slerp`` and ``linear`` run between their latents and are denoised at eta 0; ``data`` blends the images.
    """

    stage: ClassVar[str] = "paths"
    batched: ClassVar[bool] = True
    model: DiffusionModel
    latents: LatentSet
    images: Tensor
    solver: SolverSettings
    pairs: int
    steps: int

    def make(self, how: How) -> StageOutput:
        model, pairs, steps, before = self.model, self.pairs, self.steps, self.model.evaluations
        first, second = self.latents.latents[: 2 * pairs : 2], self.latents.latents[1 : 2 * pairs : 2]
        share = torch.linspace(0, 1, steps)
        a, b, u = first.repeat_interleave(steps, 0), second.repeat_interleave(steps, 0), share.repeat(pairs)
        wide = u[:, None, None, None]
        grid = self.solver.make_grid(model.schedule, self.latents.t)
        path_latents = torch.cat([slerp(a, b, u), (1 - wide) * a + wide * b])
        states = denoise(model, path_latents, grid, 0.0, 0, None, self.solver, how.network, progress=how.progress)
        x0 = dequantise(self.images)
        blend = (1 - wide) * x0[: 2 * pairs : 2].repeat_interleave(steps, 0)
        blend = blend + wide * x0[1 : 2 * pairs : 2].repeat_interleave(steps, 0)
        shape = (pairs, steps, *self.images.shape[1:])
        halves = quantise(model.decode(states, how.codec)).reshape(2, *shape)
        tensors = {"slerp": halves[0].clone(), "linear": halves[1].clone(), "data": quantise(blend).reshape(shape)}
        facts = {"evaluations": model.evaluations - before, "pairs": [[2 * i, 2 * i + 1] for i in range(pairs)]}
        return tensors, facts


@dataclass(frozen=True, kw_only=True)
class Geometry(WholeStage):
    """Distances, angles and radius of sets of latents: a tensor (m, 4) float64 by name.

    Columns: ``CRITERIA`` against k references drawn for each latent (leave one out for the references themselves),
    then the L2 norm.
    """

    stage: ClassVar[str] = "geometry"
    references: LatentSet
    sets: Mapping[str, Tensor]
    k: int
    seed: int

    def make(self, how: How) -> StageOutput:
        prepared, k, seed = References.of(self.references.latents), self.k, self.seed
        own = leave_one_out(prepared, k, seed, repeats=1)
        tensors = {"references": torch.cat([own, _radius(self.references.latents)], 1)}
        for name, latents in self.sets.items():
            drawn = draw_references(len(prepared), k, seed, range(len(latents)))
            tensors[name] = torch.cat([statistics(latents, prepared, drawn), _radius(latents)], 1)
        return tensors, {"columns": [*CRITERIA, "radius"], "k": k}


class Measurements(StageStore):
    """The stages that measure images and latents; none of them changes a sample."""

    def image_losses(self, model: DiffusersModel, images: Tensor, seed: int) -> Tensor:
        """The training loss of every image (n, C, H, W) uint8, (n,) float64, at the same noise for all models."""
        return self.run(ImageLosses(model=model, images=images, seed=seed)).tensors["losses"]

    def features(self, extractor: FeatureExtractor, key: str, images: Tensor, device: torch.device) -> Tensor:
        """Images -> float32 features (n, dimension); ``key`` identifies the images."""
        stage = Features(images=Identified(key, images), extractor=extractor)
        return self.run(stage, self.how(device, BatchSize(extractor.batch_size))).tensors["features"]

    def fidelity(self, originals: Tensor, reconstructions: Artefact) -> Artefact:
        """Originals (n, C, H, W) uint8 against the first n ``reconstructions``: tensors psnr (dB) and ssim, (n,)."""
        return self.run(Fidelity(originals=originals, made=reconstructions))

    def nearest(self, samples: Artefact, pixels: Tensor, others: Mapping[str, tuple[str, Tensor]]) -> Artefact:
        """Nearest neighbours in pixels (L2): tensors NAME_index and NAME_distance (n,) for each of ``others``.

        Args:
            samples: the images.
            pixels: theirs, (n, d).
            others: (key, pixels) of the sets to search, by name.
        """
        named = {name: Identified(*other) for name, other in others.items()}
        return self.run(Nearest(samples=Identified(samples.key, pixels), others=named))

    def paths(
        self,
        model: DiffusionModel,
        references: LatentSet,
        images: Tensor,
        solver: SolverSettings,
        pairs: int,
        steps: int,
    ) -> Artefact:
        """Images along paths between pairs of references (``Paths``)."""
        model = model.for_denoising()
        return self.run(Paths(model=model, latents=references, images=images, solver=solver, pairs=pairs, steps=steps))

    def geometry(self, references: LatentSet, sets: Mapping[str, Tensor], k: int, seed: int) -> Artefact:
        """Distances, angles and radius of sets of latents (``Geometry``)."""
        return self.run(Geometry(references=references, sets=sets, k=k, seed=seed))


def _radius(latents: Tensor) -> Tensor:
    return latents.double().flatten(1).norm(dim=1, keepdim=True)
