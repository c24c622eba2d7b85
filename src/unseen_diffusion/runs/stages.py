"""One function per arrow of the pipeline: artefact in, artefact out, each made once.

images -> latents -> prior -> selected latents -> images -> features. Keys name what determines a result and
nothing else: neither batch size nor device. Stages whose rows are independent (inversion, denoising, base latents,
features) are made in shards of one batch, which several workers share; the others whole, by one of them.
"""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.domains.base import Domain, load_split, pool_of
from unseen_diffusion.models.base import DiffusionModel, ModelSpec
from unseen_diffusion.models.losses import image_losses
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.priors import Prior, restore, slerp
from unseen_diffusion.rejection import Tolerances, select, within
from unseen_diffusion.rejection.geometry import (
    CRITERIA,
    References,
    draw_references,
    leave_one_out,
    statistics,
    summarise,
)
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.reconstruction import psnr, ssim
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.store.shards import RowWise
from unseen_diffusion.store.shards import StageOutput as Made
from unseen_diffusion.training.finetuning import Tuning, describe, tune
from unseen_diffusion.utils.batching import BatchSize
from unseen_diffusion.utils.digests import raw_digest, tensor_digest
from unseen_diffusion.utils.images import dequantise, quantise
from unseen_diffusion.utils.progress import skip, steps_bar
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import normal_rows

log = logging.getLogger(__name__)

LOSS_DRAWS = 8  # noise levels at which an image's loss is measured


@dataclass(frozen=True)
class LatentSet:
    """Latents at one mixing step.

    Attributes:
        t: mixing step.
        latents: (n, C, H, W) float32.
        indices: stream of each one's denoising noise.
    """

    t: float
    latents: Tensor
    indices: list[int]

    @cached_property
    def key(self) -> str:
        """SHA-256 of the latents and all that their denoising depends on, however they were found."""
        head = json.dumps([self.t, list(self.latents.shape), self.indices])
        return raw_digest([head, self.latents.contiguous().numpy().tobytes()]).hex()

    def first(self, count: int) -> "LatentSet":
        """The first ``count`` of them."""
        return LatentSet(self.t, self.latents[:count], self.indices[:count])


@dataclass
class Stages:
    """The arrows, over one store and with one way of computing.

    Attributes:
        store: where artefacts live.
        batch_size: images per network call.
        progress: show progress bars.
        used: every artefact asked for, in order: what a run consists of.
    """

    store: Store
    batch_size: int = 64
    progress: bool = False

    def __post_init__(self) -> None:
        self.used: list[tuple[str, Artefact]] = []

    def _get(self, stage: str, version: int, inputs: dict[str, Any], make: Callable[[], Made]) -> Artefact:
        return self._use(stage, self.store.get_or_make(stage, version, inputs, make))

    def _get_rows(self, stage: str, version: int, inputs: dict[str, Any], how: RowWise) -> Artefact:
        return self._use(stage, self.store.get_or_make_rows(stage, version, inputs, how))

    def _bar(self, label: str, images: int, steps: int) -> "AbstractContextManager[tqdm[None]]":
        """Progress over all shards; a stage that is found shows none."""
        return steps_bar(label, images, steps, self.progress, delay=0.5)

    def _use(self, stage: str, artefact: Artefact) -> Artefact:
        if artefact.reused:
            log.debug("%s reused from %s", stage, artefact.folder)
        else:
            log.info("%s made in %.1f s", stage, artefact.spent.seconds)
        self.used.append((stage, artefact))
        return artefact

    def split(self, domain: Domain, spec: ModelSpec) -> Artefact:
        """Domain -> tensors references, validation, heldout (n, C, H, W) uint8; facts: their names."""

        def make() -> Made:
            split = load_split(domain, spec.size, spec.channels)
            names = {part: list(getattr(split, f"{part}_names")) for part in ("reference", "validation", "heldout")}
            tensors = {part: getattr(split, part) for part in ("references", "validation", "heldout")}
            return tensors, {"names": names, "skipped": split.skipped}

        pool = pool_of(domain, spec.size, spec.channels)
        inputs = {k: getattr(domain, k) for k in ("references", "validation", "heldout", "split_seed", "draw")}
        if pool.repeated:  # earlier splits of such images put equal ones into different parts
            inputs["repeated"] = "together"
        return self._get("split", 1, {"pool": pool.fingerprint, **inputs}, make)

    def inversion(
        self,
        model: DiffusionModel,
        images: Tensor,
        solver: SolverSettings,
        t: float,
        record: Sequence[float] = (),
    ) -> tuple[Artefact, LatentSet]:
        """Images (n, C, H, W) uint8 -> latents at ``t``; one trajectory serves every step of ``record``."""
        times = sorted({float(t), *(float(r) for r in record)})
        inputs = {
            "model": model.fingerprint,
            "images": tensor_digest(images),
            "solver": asdict(solver),
            "record": times,
        }
        grid = solver.make_grid(model.schedule, times[-1], times)
        steps, network, codec = len(grid.up) - 1, BatchSize(self.batch_size), BatchSize(self.batch_size)
        with self._bar("invert", len(images), steps) as bar:

            def make(rows: range) -> Made:
                before = model.evaluations
                states = model.encode(dequantise(images[rows.start : rows.stop]), codec)
                residuals = list[float]()
                latents = invert(model, states, grid, times, solver, network, bar, residuals)
                facts: dict[str, Any] = {"evaluations": model.evaluations - before}
                if residuals:
                    facts["largest_residual"] = max(residuals) if all(map(math.isfinite, residuals)) else None
                return {f"t{s:g}": latents[s] for s in times}, facts

            def finish(latents: dict[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
                geometry = {f"{s:g}": _geometry(latents[f"t{s:g}"]) for s in times}
                facts = {**_evaluations(latents, parts), "nodes": [node.t for node in grid.up], "geometry": geometry}
                if residuals := [part["largest_residual"] for part in parts if "largest_residual" in part]:
                    facts["largest_residual"] = None if None in residuals else max(residuals)
                return facts

            how = RowWise(len(images), self.batch_size, make, finish, lambda rows: skip(bar, rows * steps))
            artefact = self._get_rows("invert", 3, inputs, how)
        latents = artefact.tensors[f"t{float(t):g}"]
        return artefact, LatentSet(float(t), latents, list(range(len(latents))))

    def noised(self, model: DiffusionModel, images: Tensor, t: float, count: int, seed: int) -> LatentSet:
        """The forward process at ``t`` from ``count`` images, in order and from the start when they run out."""
        node = model.schedule.node(t)
        x0 = model.encode(dequantise(images), self.batch_size)[torch.arange(count) % len(images)]
        eps = normal_rows(model.shape, seed, "noised", range(count))
        return LatentSet(float(t), node.alpha * x0 + node.sigma * eps, list(range(count)))

    def real(self, images: Tensor) -> Artefact:
        """Real images as if they had been generated."""
        return self._get("real", 1, {"images": tensor_digest(images)}, lambda: ({"images": images}, {}))

    def base_latents(self, model: DiffusionModel, solver: SolverSettings, t: float, count: int, seed: int) -> LatentSet:
        """The model's own domain at ``t``: pure noise at the schedule's end, denoised deterministically to ``t``."""
        model = model.for_denoising()
        inputs = {
            "model": model.fingerprint,
            "solver": asdict(solver),
            "t": float(t),
            "count": count,
            "seed": seed,
        }
        top = model.schedule.timesteps - 1
        grid = solver.make_grid(model.schedule, top, [float(t)])
        steps, network = sum(node.t >= t for node in grid.down) - 1, BatchSize(self.batch_size)
        with self._bar("denoise", count, steps) as bar:

            def make(rows: range) -> Made:
                before = model.evaluations
                noise = normal_rows(model.shape, seed, "base", rows) * model.schedule.state_std(top)
                states = denoise(model, noise, grid, 0.0, seed, None, solver, network, float(t), bar)
                return {"latents": states}, {"evaluations": model.evaluations - before}

            how = RowWise(count, self.batch_size, make, _evaluations, lambda rows: skip(bar, rows * steps))
            artefact = self._get_rows("base_latents", 2, inputs, how)
        return LatentSet(float(t), artefact.tensors["latents"], list(range(count)))

    def tuned(
        self, model: DiffusersModel, references: Tensor, validation: Tensor, settings: Tuning, seed: int
    ) -> tuple[Artefact, DiffusersModel]:
        """Images (n, C, H, W) uint8 -> weights and facts of ``tune``, and the model that they make."""
        inputs = {
            "model": model.fingerprint,
            "references": tensor_digest(references),
            "validation": tensor_digest(validation),
            "tuning": describe(settings),
            "seed": seed,
        }

        def make() -> Made:
            return tune(model, references, validation, settings, seed, self.progress)

        artefact = self._get("tune", 1, inputs, make)
        return artefact, model.with_network(settings.tuned(model.network, artefact.tensors), artefact.key)

    def image_losses(self, model: DiffusersModel, images: Tensor, seed: int) -> Tensor:
        """The training loss of every image (n, C, H, W) uint8, (n,) float64, at the same noise for all models."""
        inputs = {"model": model.fingerprint, "images": tensor_digest(images), "seed": seed}

        def make() -> Made:
            losses = image_losses(model.network, model.loss(images), seed, LOSS_DRAWS)
            return {"losses": losses}, {"evaluations": LOSS_DRAWS * len(images)}

        return self._get("image_losses", 1, inputs, make).tensors["losses"]

    def prior(self, prior: Prior, settings: dict[str, Any], references: LatentSet, own: LatentSet | None) -> Artefact:
        """Reference latents -> the fitted prior's parameters."""
        inputs = {"prior": settings, "latents": references.key, "own": own.key if own else None}

        def make() -> Made:
            fitted = prior.fit(references.latents, own.latents if own else None)
            return fitted.tensors(), {"kind": type(fitted).__name__}

        return self._get("prior", 1, inputs, make)

    def selection(
        self,
        prior: Artefact,
        references: LatentSet,
        tolerances: Tolerances,
        settings: dict[str, Any],
        count: int,
        seed: int,
        max_proposals: int,
        allow_fewer: bool,
        route: str = "direct",
    ) -> tuple[Artefact, LatentSet]:
        """Prior -> accepted latents; facts: bands, proposals, passes, acceptance with its interval, seconds."""
        inputs = {
            "prior": prior.key,
            "references": references.key,
            "tolerances": settings,
            "count": count,
            "seed": seed,
            "max_proposals": max_proposals,
            "allow_fewer": allow_fewer,
        }
        if route != "direct":
            inputs["route"] = route

        def make() -> Made:
            fitted = restore(prior.facts["kind"], prior.tensors)
            chosen = select(
                fitted,
                references.latents,
                tolerances,
                count,
                seed,
                max_proposals,
                allow_fewer,
                progress=self.progress,
                route=route,
            )
            facts = {
                "bands": {name: list(band) for name, band in chosen.bands.items()},
                "proposals": chosen.proposals,
                "passes": {n: asdict(wilson(c, chosen.proposals)) for n, c in chosen.passes.items()},
                "acceptance": asdict(wilson(len(chosen.indices), chosen.proposals)),
                "seconds": chosen.seconds,
            }
            if len(chosen.moved):
                facts["moved"] = {"mean": float(chosen.moved.mean()), "max": float(chosen.moved.max())}
                facts["drawn_inside"] = int(within(chosen.drawn_statistics, chosen.bands).all(1).sum())
            indices = torch.tensor(chosen.indices)
            return {"latents": chosen.latents, "indices": indices, "statistics": chosen.statistics}, facts

        artefact = self._get("select", 1 if route == "direct" else 2, inputs, make)
        indices = artefact.tensors["indices"].tolist()
        return artefact, LatentSet(references.t, artefact.tensors["latents"], indices)

    def denoising(
        self, model: DiffusionModel, latents: LatentSet, solver: SolverSettings, eta: float, seed: int
    ) -> Artefact:
        """Latents -> images (n, C, H, W) uint8, as they are saved and scored."""
        model = model.for_denoising()
        inputs = {
            "model": model.fingerprint,
            "latents": latents.key,
            "solver": asdict(solver),
            "eta": float(eta),
            "seed": seed if eta else None,  # without noise the seed decides nothing
        }
        grid = solver.make_grid(model.schedule, latents.t)
        count, steps = len(latents.indices), len(grid.down) - 1
        network, codec = BatchSize(self.batch_size), BatchSize(self.batch_size)
        with self._bar("denoise", count, steps) as bar:

            def make(rows: range) -> Made:
                before, part = model.evaluations, slice(rows.start, rows.stop)
                x, indices = latents.latents[part], latents.indices[part]
                states = denoise(model, x, grid, eta, seed, indices, solver, network, progress=bar)
                images = quantise(model.decode(states, codec))
                return {"images": images}, {"evaluations": model.evaluations - before}

            how = RowWise(count, self.batch_size, make, _evaluations, lambda rows: skip(bar, rows * steps))
            return self._get_rows("denoise", 2, inputs, how)

    def features(self, extractor: FeatureExtractor, key: str, images: Tensor, device: torch.device) -> Tensor:
        """Images -> float32 features (n, dimension); ``key`` identifies the images."""
        inputs = {"images": key, "extractor": extractor.fingerprint}
        facts, size = {"extractor": extractor.name}, BatchSize(extractor.batch_size)

        def make(rows: range) -> Made:
            return {"features": extract(extractor, images[rows.start : rows.stop], size, device)}, {}

        how = RowWise(len(images), extractor.batch_size, make, lambda features, parts: facts)
        return self._get_rows("features", 1, inputs, how).tensors["features"]

    def fidelity(self, originals: Tensor, made: Artefact) -> Artefact:
        """Originals (n, C, H, W) uint8 against the first n images of ``made``: tensors psnr (dB) and ssim, (n,)."""
        inputs = {"originals": tensor_digest(originals), "made": made.key}

        def make() -> Made:
            images = made.tensors["images"][: len(originals)]
            return {"psnr": psnr(originals, images), "ssim": ssim(originals, images)}, {}

        return self._get("fidelity", 1, inputs, make)

    def nearest(self, samples: Artefact, pixels: Tensor, others: Mapping[str, tuple[str, Tensor]]) -> Artefact:
        """Nearest neighbours in pixels (L2): tensors NAME_index and NAME_distance (n,) for each of ``others``.

        Args:
            samples: the images.
            pixels: theirs, (n, d).
            others: (key, pixels) of the sets to search, by name.
        """
        inputs = {"samples": samples.key, "others": {name: key for name, (key, _) in others.items()}}

        def make() -> Made:
            tensors = {}
            for name, (_, candidates) in others.items():
                tensors[f"{name}_distance"], tensors[f"{name}_index"] = nearest(pixels, candidates)
            return tensors, {}

        return self._get("nearest", 1, inputs, make)

    def paths(
        self,
        model: DiffusionModel,
        references: LatentSet,
        images: Tensor,
        solver: SolverSettings,
        pairs: int,
        steps: int,
    ) -> Artefact:
        """Images along the way between references 0 and 1, 2 and 3, ...: tensors (pairs, steps, C, H, W) uint8.

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
        }

        def make() -> Made:
            before = model.evaluations
            first, second = references.latents[: 2 * pairs : 2], references.latents[1 : 2 * pairs : 2]
            share = torch.linspace(0, 1, steps)
            a, b, u = first.repeat_interleave(steps, 0), second.repeat_interleave(steps, 0), share.repeat(pairs)
            wide = u[:, None, None, None]
            grid = solver.make_grid(model.schedule, references.t)
            ways = torch.cat([slerp(a, b, u), (1 - wide) * a + wide * b])
            made = denoise(model, ways, grid, 0.0, 0, None, solver, self.batch_size, progress=self.progress)
            x0 = dequantise(images)
            blend = (1 - wide) * x0[: 2 * pairs : 2].repeat_interleave(steps, 0)
            blend = blend + wide * x0[1 : 2 * pairs : 2].repeat_interleave(steps, 0)
            shape = (pairs, steps, *images.shape[1:])
            halves = quantise(model.decode(made, self.batch_size)).reshape(2, *shape)
            tensors = {"slerp": halves[0].clone(), "linear": halves[1].clone(), "data": quantise(blend).reshape(shape)}
            facts = {"evaluations": model.evaluations - before, "pairs": [[2 * i, 2 * i + 1] for i in range(pairs)]}
            return tensors, facts

        return self._get("paths", 1, inputs, make)

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

        def make() -> Made:
            prepared = References.of(references.latents)
            own = leave_one_out(prepared, k, seed, repeats=1)
            tensors = {"references": torch.cat([own, _radius(references.latents)], 1)}
            for name, latents in sets.items():
                drawn = draw_references(len(prepared), k, seed, range(len(latents)))
                tensors[name] = torch.cat([statistics(latents, prepared, drawn), _radius(latents)], 1)
            return tensors, {"columns": [*CRITERIA, "radius"], "k": k}

        return self._get("geometry", 1, inputs, make)


def _evaluations(tensors: Mapping[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts of a row-wise artefact: what all of its shards cost, whoever made them."""
    return {"evaluations": sum(part["evaluations"] for part in parts)}


def _radius(latents: Tensor) -> Tensor:
    return latents.double().flatten(1).norm(dim=1, keepdim=True)


def _geometry(latents: Tensor) -> dict[str, dict[str, float]]:
    """Geometric summary of a set of latents as JSON values; empty for fewer than 4."""
    if len(latents) < 4:
        return {}
    return {name: asdict(value) for name, value in summarise(latents, seed=0).items()}


__getattr__ = new_names(__name__)
