"""Stages that lead from references to generated images: images -> latents -> prior -> selected latents -> images."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from unseen_diffusion.domains.base import Domain, read_split
from unseen_diffusion.models.base import DiffusionModel, ModelSpec
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import FittedPrior, Prior, require_fitted
from unseen_diffusion.rejection import Rejection, Tolerances, select_latents, within
from unseen_diffusion.rejection.geometry import summarise
from unseen_diffusion.rejection.settings import RouteName
from unseen_diffusion.runs.stage import How, Identified, RowStage, WholeStage
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.solvers.grids import Grid
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.store.shards import Facts, StageOutput, Tensors
from unseen_diffusion.training.finetuning import Tuning, tune
from unseen_diffusion.utils.identity import OmittedIf
from unseen_diffusion.utils.images import dequantise, quantise
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
    def key(self) -> str:
        """The artefact's, which depends on the config."""
        return self.artefact.key

    @property
    def restored(self) -> FittedPrior:
        """The fitted prior, built by its config: no class is looked up by a name in a file."""
        return self.config.restore(self.artefact.tensors)


@dataclass(frozen=True, kw_only=True)
class SplitDomain(WholeStage):
    """Domain -> tensors references, validation, heldout (n, C, H, W) uint8; facts: their names."""

    stage: ClassVar[str] = "split"
    pool: Identified[tuple[Domain, ModelSpec]]
    """source of the images, and the model that they are fitted to; the pool's fingerprint identifies both"""
    references: int | None
    validation: int | None
    heldout: int | None
    split_seed: int
    draw: int
    repeated: Annotated[str | None, OmittedIf(None)]
    """``together`` where images occur more than once: earlier splits put equal images into different parts"""
    redraw_heldout: Annotated[bool, OmittedIf(False)] = False
    clusters: Annotated[str | None, OmittedIf(None)] = None
    """digest of the clusters that the domain names"""

    def make(self, how: How) -> StageOutput:
        domain, spec = self.pool.value
        domain = replace(
            domain,
            references=self.references,
            validation=self.validation,
            heldout=self.heldout,
            split_seed=self.split_seed,
            draw=self.draw,
            redraw_heldout=self.redraw_heldout,
        )
        split = read_split(domain, spec.size, spec.channels)
        names = {part: list(getattr(split, f"{part}_names")) for part in ("reference", "validation", "heldout")}
        tensors = {part: getattr(split, part) for part in ("references", "validation", "heldout")}
        return tensors, {"names": names, "skipped": split.skipped}


@dataclass(frozen=True, kw_only=True)
class Inversion(RowStage):
    """Images (n, C, H, W) uint8 -> latents at every step of ``record``, by one trajectory."""

    stage: ClassVar[str] = "invert"
    version: ClassVar[int] = 3
    batched: ClassVar[bool] = True
    label: ClassVar[str] = "invert"
    model: DiffusionModel
    images: Tensor
    solver: SolverSettings
    record: Sequence[float]
    """timesteps, ascending; the last is the end of the trajectory"""

    @property
    def rows(self) -> int:
        return len(self.images)

    @property
    def steps(self) -> int:
        return len(self.grid.up) - 1

    @cached_property
    def grid(self) -> Grid:
        """The nodes of the trajectory."""
        return self.solver.make_grid(self.model.schedule, self.record[-1], self.record)

    def make_rows(self, rows: range, how: How) -> StageOutput:
        model, residuals, before = self.model, list[float](), self.model.evaluations
        states = model.encode(dequantise(self.images[rows.start : rows.stop]), how.codec)
        latents = invert(
            model, states, self.grid, self.record, self.solver, how.network, how.shown, residuals, rows.start
        )
        facts: dict[str, Any] = {"evaluations": model.evaluations - before, "batch_size": how.network.size}
        if residuals:
            facts["largest_residual"] = max(residuals) if all(map(math.isfinite, residuals)) else None
        return {f"t{t:g}": latents[t] for t in self.record}, facts

    def finish(self, tensors: Tensors, parts: Sequence[Facts]) -> Facts:
        geometry = {f"{t:g}": _geometry(tensors[f"t{t:g}"]) for t in self.record}
        nodes = [node.t for node in self.grid.up]
        facts = {**super().finish(tensors, parts), "nodes": nodes, "geometry": geometry}
        if residuals := [part["largest_residual"] for part in parts if "largest_residual" in part]:
            facts["largest_residual"] = None if None in residuals else max(residuals)
        return facts


@dataclass(frozen=True, kw_only=True)
class RealImages(WholeStage):
    """Real images as if they had been generated."""

    stage: ClassVar[str] = "real"
    images: Tensor

    def make(self, how: How) -> StageOutput:
        return {"images": self.images}, {}


@dataclass(frozen=True, kw_only=True)
class BaseLatents(RowStage):
    """The model's own domain at ``t``: pure noise at the schedule's end, denoised deterministically to ``t``."""

    stage: ClassVar[str] = "base_latents"
    version: ClassVar[int] = 2
    batched: ClassVar[bool] = True
    label: ClassVar[str] = "denoise"
    model: DiffusionModel
    solver: SolverSettings
    t: float
    count: int
    seed: int

    @property
    def rows(self) -> int:
        return self.count

    @property
    def steps(self) -> int:
        return sum(node.t >= self.t for node in self.grid.down) - 1

    @cached_property
    def grid(self) -> Grid:
        """The nodes from the schedule's end, ``t`` among them."""
        return self.solver.make_grid(self.model.schedule, self.model.schedule.timesteps - 1, [self.t])

    def make_rows(self, rows: range, how: How) -> StageOutput:
        model, seed, before = self.model, self.seed, self.model.evaluations
        top = model.schedule.timesteps - 1
        noise = normal_rows(model.shape, seed, "base", rows) * model.schedule.state_std(top)
        states = denoise(model, noise, self.grid, 0.0, seed, rows, self.solver, how.network, self.t, how.shown)
        return {"latents": states}, {"evaluations": model.evaluations - before, "batch_size": how.network.size}


@dataclass(frozen=True, kw_only=True)
class FineTuning(WholeStage):
    """Images (n, C, H, W) uint8 -> weights and facts of ``tune``."""

    stage: ClassVar[str] = "tune"
    model: DiffusersModel
    references: Tensor
    validation: Tensor
    tuning: Identified[Tuning]
    seed: int

    def make(self, how: How) -> StageOutput:
        return tune(self.model, self.references, self.validation, self.tuning.value, self.seed, how.progress)


@dataclass(frozen=True, kw_only=True)
class PriorFit(WholeStage):
    """Reference latents -> the fitted prior's parameters."""

    stage: ClassVar[str] = "prior"
    prior: Identified[Prior]
    latents: LatentSet
    own: LatentSet | None
    """latents of the model's own domain, for priors that use them"""

    def make(self, how: How) -> StageOutput:
        prior = self.prior.value
        fitted = prior.fit(self.latents.latents, self.own.latents if self.own else None)
        require_fitted(prior.name, fitted)
        return fitted.tensors(), {"kind": type(fitted).__name__}


@dataclass(frozen=True, kw_only=True)
class Selection(WholeStage):
    """Prior -> accepted latents; facts: bands, proposals, passes, acceptance with its interval, seconds."""

    stage: ClassVar[str] = "select"
    prior: StoredPrior
    references: LatentSet
    tolerances: Identified[Tolerances]
    count: int
    seed: int
    max_proposals: int
    allow_fewer: bool
    route: Annotated[RouteName, OmittedIf("direct")]

    @property
    def key_version(self) -> int:
        return 1 if self.route == "direct" else 2

    def make(self, how: How) -> StageOutput:
        rejection = Rejection(max_proposals=self.max_proposals, allow_fewer=self.allow_fewer, route=self.route)
        latents, tolerances = self.references.latents, self.tolerances.value
        chosen = select_latents(
            self.prior.restored, latents, tolerances, self.count, self.seed, rejection, progress=how.progress
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


@dataclass(frozen=True, kw_only=True)
class Denoising(RowStage):
    """Latents -> images (n, C, H, W) uint8, as they are saved and scored."""

    stage: ClassVar[str] = "denoise"
    version: ClassVar[int] = 2
    batched: ClassVar[bool] = True
    label: ClassVar[str] = "denoise"
    model: DiffusionModel
    latents: LatentSet
    solver: SolverSettings
    eta: float
    seed: int | None
    """of the added noise; None at eta 0, where there is none"""

    @property
    def rows(self) -> int:
        return len(self.latents.indices)

    @property
    def steps(self) -> int:
        return len(self.grid.down) - 1

    @cached_property
    def grid(self) -> Grid:
        """The nodes from the latents' step."""
        return self.solver.make_grid(self.model.schedule, self.latents.t)

    def make_rows(self, rows: range, how: How) -> StageOutput:
        model, before, part = self.model, self.model.evaluations, slice(rows.start, rows.stop)
        x, indices = self.latents.latents[part], self.latents.indices[part]
        states = denoise(
            model, x, self.grid, self.eta, self.seed or 0, indices, self.solver, how.network, progress=how.shown
        )
        images = quantise(model.decode(states, how.codec))
        return {"images": images}, {"evaluations": model.evaluations - before, "batch_size": how.network.size}


def _geometry(latents: Tensor) -> dict[str, dict[str, float]]:
    """Geometric summary of a set of latents as JSON values; empty for fewer than 4."""
    if len(latents) < 4:
        return {}
    return {name: asdict(value) for name, value in summarise(latents, seed=0).items()}
