"""Stages that lead from references to generated images; each artefact is computed once and kept in the store.

images -> latents -> prior -> selected latents -> images. An artefact's key names everything that determines it and
nothing else: neither batch size nor device, which change its last bits alone (its facts name the batch sizes). Stages
whose rows are independent (inversion, denoising, base latents) are computed in shards of one batch, which several
workers share; one worker computes the others.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.domains.base import Domain, check_pixels, pool_of, read_split
from unseen_diffusion.models.base import DiffusionModel, ModelSpec
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import FittedPrior, Prior, require_fitted
from unseen_diffusion.rejection import Rejection, Tolerances, select_latents, within
from unseen_diffusion.rejection.geometry import summarise
from unseen_diffusion.runs.measurements import Measurements
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import RowWise, StageOutput
from unseen_diffusion.training.finetuning import Tuning, describe, tune
from unseen_diffusion.utils.digests import json_digest, tensor_digest
from unseen_diffusion.utils.images import dequantise, quantise
from unseen_diffusion.utils.progress import skip
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import normal_rows


@dataclass(frozen=True)
class StoredPrior:
    """A fitted prior in the store, with the config of the run that restores it.

    Attributes:
        config: what fitted it.
        artefact: its tensors; facts: the class of the fitted prior.
    """

    config: Prior
    artefact: Artefact

    @property
    def restored(self) -> FittedPrior:
        """The fitted prior, built by its config: no class is looked up by a name in a file."""
        return self.config.restore(self.artefact.tensors)


class Stages(Measurements):
    """The stages of the method, over one store."""

    def split(self, domain: Domain, spec: ModelSpec) -> Artefact:
        """Domain -> tensors references, validation, heldout (n, C, H, W) uint8; facts: their names."""

        def make() -> StageOutput:
            split = read_split(domain, spec.size, spec.channels)
            names = {part: list(getattr(split, f"{part}_names")) for part in ("reference", "validation", "heldout")}
            tensors = {part: getattr(split, part) for part in ("references", "validation", "heldout")}
            return tensors, {"names": names, "skipped": split.skipped}

        pool = pool_of(domain, spec.size, spec.channels)
        inputs = {k: getattr(domain, k) for k in ("references", "validation", "heldout", "split_seed", "draw")}
        if pool.repeated:  # a version of its own: earlier splits put equal images into different parts
            inputs["repeated"] = "together"
        if pool.clusters is not None:
            inputs["clusters"] = json_digest(pool.clusters)
        if domain.redraw_heldout:
            inputs["redraw_heldout"] = True
        artefact = self.get("split", 1, {"pool": pool.fingerprint, **inputs}, make)
        check_pixels(domain.name, list(artefact.tensors.values()), pool)
        return artefact

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
            **self._bits(),
        }
        grid = solver.make_grid(model.schedule, times[-1], times)
        steps, network, codec = len(grid.up) - 1, self._batch(), self._batch()
        with self._bar("invert", len(images), steps) as bar:

            def make(rows: range) -> StageOutput:
                before = model.evaluations
                states = model.encode(dequantise(images[rows.start : rows.stop]), codec)
                residuals = list[float]()
                latents = invert(model, states, grid, times, solver, network, bar, residuals, rows.start)
                facts: dict[str, Any] = {"evaluations": model.evaluations - before, "batch_size": network.size}
                if residuals:
                    facts["largest_residual"] = max(residuals) if all(map(math.isfinite, residuals)) else None
                return {f"t{s:g}": latents[s] for s in times}, facts

            def finish(latents: dict[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
                geometry = {f"{s:g}": _geometry(latents[f"t{s:g}"]) for s in times}
                facts = {**_evaluations(latents, parts), "nodes": [node.t for node in grid.up], "geometry": geometry}
                if residuals := [part["largest_residual"] for part in parts if "largest_residual" in part]:
                    facts["largest_residual"] = None if None in residuals else max(residuals)
                return facts

            how = RowWise(len(images), self._shard, make, finish, lambda rows: skip(bar, rows * steps))
            artefact = self.get_rows("invert", 3, inputs, how)
        latents = artefact.tensors[f"t{float(t):g}"]
        return artefact, LatentSet(float(t), latents, list(range(len(latents))))

    def noised(self, model: DiffusionModel, images: Tensor, t: float, count: int, seed: int) -> LatentSet:
        """The forward process: adds the noise of ``t`` to ``count`` images, in order, repeated as needed."""
        node = model.schedule.node(t)
        x0 = model.encode(dequantise(images), self._batch())[torch.arange(count) % len(images)]
        eps = normal_rows(model.shape, seed, "noised", range(count))
        return LatentSet(float(t), node.alpha * x0 + node.sigma * eps, list(range(count)))

    def real(self, images: Tensor) -> Artefact:
        """Real images as if they had been generated."""
        return self.get("real", 1, {"images": tensor_digest(images)}, lambda: ({"images": images}, {}))

    def base_latents(self, model: DiffusionModel, solver: SolverSettings, t: float, count: int, seed: int) -> LatentSet:
        """The model's own domain at ``t``: pure noise at the schedule's end, denoised deterministically to ``t``."""
        model = model.for_denoising()
        inputs = {
            "model": model.fingerprint,
            "solver": asdict(solver),
            "t": float(t),
            "count": count,
            "seed": seed,
            **self._bits(),
        }
        top = model.schedule.timesteps - 1
        grid = solver.make_grid(model.schedule, top, [float(t)])
        steps, network = sum(node.t >= t for node in grid.down) - 1, self._batch()
        with self._bar("denoise", count, steps) as bar:

            def make(rows: range) -> StageOutput:
                before = model.evaluations
                noise = normal_rows(model.shape, seed, "base", rows) * model.schedule.state_std(top)
                states = denoise(model, noise, grid, 0.0, seed, rows, solver, network, float(t), bar)
                return {"latents": states}, {"evaluations": model.evaluations - before, "batch_size": network.size}

            how = RowWise(count, self._shard, make, _evaluations, lambda rows: skip(bar, rows * steps))
            artefact = self.get_rows("base_latents", 2, inputs, how)
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

        def make() -> StageOutput:
            return tune(model, references, validation, settings, seed, self.progress)

        artefact = self.get("tune", 1, inputs, make)
        return artefact, model.with_network(settings.tuned(model.network, artefact.tensors), artefact.key)

    def prior(
        self, prior: Prior, settings: dict[str, Any], references: LatentSet, own: LatentSet | None
    ) -> StoredPrior:
        """Reference latents -> the fitted prior's parameters."""
        inputs = {"prior": settings, "latents": references.key, "own": own.key if own else None}

        def make() -> StageOutput:
            fitted = prior.fit(references.latents, own.latents if own else None)
            require_fitted(prior.name, fitted)
            return fitted.tensors(), {"kind": type(fitted).__name__}

        return StoredPrior(prior, self.get("prior", 1, inputs, make))

    def selection(
        self,
        prior: StoredPrior,
        references: LatentSet,
        tolerances: Tolerances,
        settings: dict[str, Any],
        count: int,
        seed: int,
        rejection: Rejection,
    ) -> tuple[Artefact, LatentSet]:
        """Prior -> accepted latents; facts: bands, proposals, passes, acceptance with its interval, seconds."""
        inputs = {
            "prior": prior.artefact.key,
            "references": references.key,
            "tolerances": settings,
            "count": count,
            "seed": seed,
            "max_proposals": rejection.max_proposals,
            "allow_fewer": rejection.allow_fewer,
        }
        if rejection.route != "direct":
            inputs["route"] = rejection.route

        def make() -> StageOutput:
            chosen = select_latents(
                prior.restored, references.latents, tolerances, count, seed, rejection, progress=self.progress
            )
            facts = {
                "bands": {name: list(band) for name, band in chosen.bands.items()},
                "proposals": chosen.proposals,
                "passes": {n: asdict(wilson(c, chosen.proposals)) for n, c in chosen.passes.items()},
                "acceptance": asdict(wilson(len(chosen.indices), chosen.proposals)),
                "seconds": chosen.seconds,
            }
            if len(chosen.distances):
                facts["moved"] = {"mean": float(chosen.distances.mean()), "max": float(chosen.distances.max())}
                facts["drawn_inside"] = int(within(chosen.drawn_statistics, chosen.bands).all(1).sum())
            indices = torch.tensor(chosen.indices)
            return {"latents": chosen.latents, "indices": indices, "statistics": chosen.statistics}, facts

        artefact = self.get("select", 1 if rejection.route == "direct" else 2, inputs, make)
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
            "seed": seed if eta else None,  # without noise the seed changes nothing
            **self._bits(),
        }
        grid = solver.make_grid(model.schedule, latents.t)
        count, steps = len(latents.indices), len(grid.down) - 1
        network, codec = self._batch(), self._batch()
        with self._bar("denoise", count, steps) as bar:

            def make(rows: range) -> StageOutput:
                before, part = model.evaluations, slice(rows.start, rows.stop)
                x, indices = latents.latents[part], latents.indices[part]
                states = denoise(model, x, grid, eta, seed, indices, solver, network, progress=bar)
                images = quantise(model.decode(states, codec))
                return {"images": images}, {"evaluations": model.evaluations - before, "batch_size": network.size}

            how = RowWise(count, self._shard, make, _evaluations, lambda rows: skip(bar, rows * steps))
            return self.get_rows("denoise", 2, inputs, how)


def _evaluations(tensors: Mapping[str, Tensor], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Facts of a row-wise artefact: the cost of all its shards, by whichever worker, and their batch sizes."""
    sizes = sorted({part["batch_size"] for part in parts if "batch_size" in part})  # absent before version 0.4
    return {"evaluations": sum(part["evaluations"] for part in parts), "batch_sizes": sizes}


def _geometry(latents: Tensor) -> dict[str, dict[str, float]]:
    """Geometric summary of a set of latents as JSON values; empty for fewer than 4."""
    if len(latents) < 4:
        return {}
    return {name: asdict(value) for name, value in summarise(latents, seed=0).items()}


__getattr__ = new_names(__name__)
