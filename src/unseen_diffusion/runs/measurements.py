"""Stages that measure: features, fidelity, nearest neighbours, paths, geometry of latents, training losses."""

from collections.abc import Mapping
from dataclasses import asdict

import torch
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.losses import image_losses
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import slerp
from unseen_diffusion.rejection.geometry import CRITERIA, References, draw_references, leave_one_out, statistics
from unseen_diffusion.runs.stage_store import StageStore
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.reconstruction import psnr, ssim
from unseen_diffusion.solvers.sampling import denoise
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import RowWise, StageOutput
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.digests import tensor_digest
from unseen_diffusion.utils.images import dequantise, quantise

LOSS_DRAWS = 8  # noise levels at which an image's loss is measured


class Measurements(StageStore):
    """The stages that measure images and latents; none of them changes a sample."""

    def image_losses(self, model: DiffusersModel, images: Tensor, seed: int) -> Tensor:
        """The training loss of every image (n, C, H, W) uint8, (n,) float64, at the same noise for all models."""
        inputs = {"model": model.fingerprint, "images": tensor_digest(images), "seed": seed}

        def make() -> StageOutput:
            losses = image_losses(model.network, model.loss(images), seed, LOSS_DRAWS)
            return {"losses": losses}, {"evaluations": LOSS_DRAWS * len(images)}

        return self.get("image_losses", 1, inputs, make).tensors["losses"]

    def features(self, extractor: FeatureExtractor, key: str, images: Tensor, device: torch.device) -> Tensor:
        """Images -> float32 features (n, dimension); ``key`` identifies the images."""
        inputs = {"images": key, "extractor": extractor.fingerprint}
        facts, size = {"extractor": extractor.name}, BatchSize(extractor.batch_size)

        def make(rows: range) -> StageOutput:
            return {"features": extract(extractor, images[rows.start : rows.stop], size, device)}, {}

        how = RowWise(len(images), extractor.batch_size, make, lambda features, parts: facts)
        return self.get_rows("features", 1, inputs, how).tensors["features"]

    def fidelity(self, originals: Tensor, reconstructions: Artefact) -> Artefact:
        """Originals (n, C, H, W) uint8 against the first n ``reconstructions``: tensors psnr (dB) and ssim, (n,)."""
        inputs = {"originals": tensor_digest(originals), "made": reconstructions.key}

        def make() -> StageOutput:
            images = reconstructions.tensors["images"][: len(originals)]
            return {"psnr": psnr(originals, images), "ssim": ssim(originals, images)}, {}

        return self.get("fidelity", 1, inputs, make)

    def nearest(self, samples: Artefact, pixels: Tensor, others: Mapping[str, tuple[str, Tensor]]) -> Artefact:
        """Nearest neighbours in pixels (L2): tensors NAME_index and NAME_distance (n,) for each of ``others``.

        Args:
            samples: the images.
            pixels: theirs, (n, d).
            others: (key, pixels) of the sets to search, by name.
        """
        inputs = {"samples": samples.key, "others": {name: key for name, (key, _) in others.items()}}

        def make() -> StageOutput:
            tensors = {}
            for name, (_, candidates) in others.items():
                tensors[f"{name}_distance"], tensors[f"{name}_index"] = nearest(pixels, candidates)
            return tensors, {}

        return self.get("nearest", 1, inputs, make)

    def paths(
        self,
        model: DiffusionModel,
        references: LatentSet,
        images: Tensor,
        solver: SolverSettings,
        pairs: int,
        steps: int,
    ) -> Artefact:
        """Images along paths between references 0 and 1, 2 and 3, ...: tensors (pairs, steps, C, H, W) uint8.

        ``slerp`` and ``linear`` run between their latents and are denoised at eta 0; ``data`` blends the images.
        """
        model = model.for_denoising()
        inputs = {
            "model": model.fingerprint,
            "latents": references.key,
            "images": tensor_digest(images),
            "solver": asdict(solver),
            "pairs": pairs,
            "steps": steps,
            **self._bits(),
        }

        def make() -> StageOutput:
            before = model.evaluations
            first, second = references.latents[: 2 * pairs : 2], references.latents[1 : 2 * pairs : 2]
            share = torch.linspace(0, 1, steps)
            a, b, u = first.repeat_interleave(steps, 0), second.repeat_interleave(steps, 0), share.repeat(pairs)
            wide = u[:, None, None, None]
            grid = solver.make_grid(model.schedule, references.t)
            path_latents = torch.cat([slerp(a, b, u), (1 - wide) * a + wide * b])
            states = denoise(model, path_latents, grid, 0.0, 0, None, solver, self._batch(), progress=self.progress)
            x0 = dequantise(images)
            blend = (1 - wide) * x0[: 2 * pairs : 2].repeat_interleave(steps, 0)
            blend = blend + wide * x0[1 : 2 * pairs : 2].repeat_interleave(steps, 0)
            shape = (pairs, steps, *images.shape[1:])
            halves = quantise(model.decode(states, self._batch())).reshape(2, *shape)
            tensors = {"slerp": halves[0].clone(), "linear": halves[1].clone(), "data": quantise(blend).reshape(shape)}
            facts = {"evaluations": model.evaluations - before, "pairs": [[2 * i, 2 * i + 1] for i in range(pairs)]}
            return tensors, facts

        return self.get("paths", 1, inputs, make)

    def geometry(self, references: LatentSet, sets: Mapping[str, Tensor], k: int, seed: int) -> Artefact:
        """Distances, angles and radius of sets of latents: a tensor (m, 4) float64 by name.

        Columns: ``CRITERIA`` against k references drawn for each latent (leave one out for the references
        themselves), then the L2 norm.
        """
        inputs = {
            "references": references.key,
            "sets": {name: tensor_digest(latents) for name, latents in sets.items()},
            "k": k,
            "seed": seed,
        }

        def make() -> StageOutput:
            prepared = References.of(references.latents)
            own = leave_one_out(prepared, k, seed, repeats=1)
            tensors = {"references": torch.cat([own, _radius(references.latents)], 1)}
            for name, latents in sets.items():
                drawn = draw_references(len(prepared), k, seed, range(len(latents)))
                tensors[name] = torch.cat([statistics(latents, prepared, drawn), _radius(latents)], 1)
            return tensors, {"columns": [*CRITERIA, "radius"], "k": k}

        return self.get("geometry", 1, inputs, make)


def _radius(latents: Tensor) -> Tensor:
    return latents.double().flatten(1).norm(dim=1, keepdim=True)
