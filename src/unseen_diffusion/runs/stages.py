"""The stages of a run over one store; each artefact is computed once and kept there.

images -> latents -> prior -> selected latents -> images. An artefact's key names everything that determines it and
nothing else: neither batch size nor device, which change its last bits alone (its facts name the batch sizes). The
classes in ``generation`` and ``measurements`` see to that; the methods here build them. Stages whose rows are
independent (inversion, denoising, base latents) are computed in shards of one batch, which several workers share; one
worker computes the others.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.domains.base import SPLITTING, Domain, check_pixels, pool_of
from unseen_diffusion.models.base import DiffusionModel, ModelSpec
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Rejection, Tolerances
from unseen_diffusion.runs.generation import (
    BaseLatents,
    Denoising,
    FineTuning,
    Inversion,
    PriorFit,
    RealImages,
    Selection,
    SplitDomain,
    StoredPrior,
)
from unseen_diffusion.runs.measurements import Measurements
from unseen_diffusion.runs.stage import Identified
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.training.finetuning import Tuning, describe
from unseen_diffusion.utils.digests import json_digest
from unseen_diffusion.utils.identity import named
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.precision import reproducible
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import normal_rows

__all__ = ["Stages", "StoredPrior"]


class Stages(Measurements):
    """The stages of the method, over one store."""

    def split(self, domain: Domain, spec: ModelSpec) -> Artefact:
        """Domain -> tensors references, validation, heldout (n, C, H, W) uint8; facts: their names."""
        pool = pool_of(domain, spec.size, spec.channels)
        source = Identified(pool.fingerprint, (domain, spec))
        repeated = "together" if pool.repeated else None
        parts = {name: getattr(domain, name) for name in SPLITTING}
        clusters = None if pool.clusters is None else json_digest(pool.clusters)
        artefact = self.run(SplitDomain(pool=source, repeated=repeated, clusters=clusters, **parts))
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
        artefact = self.run(Inversion(model=model, images=images, solver=solver, record=times))
        latents = artefact.tensors[f"t{float(t):g}"]
        return artefact, LatentSet(float(t), latents, list(range(len(latents))))

    def noised(self, model: DiffusionModel, images: Tensor, t: float, count: int, seed: int) -> LatentSet:
        """The forward process: adds the noise of ``t`` to ``count`` images, in order, repeated as needed."""
        node = model.schedule.node(t)
        with reproducible(self.deterministic):
            x0 = model.encode(dequantise(images), self.how().codec)[torch.arange(count) % len(images)]
        eps = normal_rows(model.shape, seed, "noised", range(count))
        return LatentSet(float(t), node.alpha * x0 + node.sigma * eps, list(range(count)))

    def real(self, images: Tensor) -> Artefact:
        """Real images as if they had been generated."""
        return self.run(RealImages(images=images))

    def base_latents(self, model: DiffusionModel, solver: SolverSettings, t: float, count: int, seed: int) -> LatentSet:
        """The model's own domain at ``t``: pure noise at the schedule's end, denoised deterministically to ``t``."""
        stage = BaseLatents(model=model.for_denoising(), solver=solver, t=float(t), count=count, seed=seed)
        return LatentSet(float(t), self.run(stage).tensors["latents"], list(range(count)))

    def tuned(
        self, model: DiffusersModel, references: Tensor, validation: Tensor, settings: Tuning, seed: int
    ) -> tuple[Artefact, DiffusersModel]:
        """Images (n, C, H, W) uint8 -> weights and facts of ``tune``, and the model that they make."""
        tuning = Identified(describe(settings), settings)
        stage = FineTuning(model=model, references=references, validation=validation, tuning=tuning, seed=seed)
        artefact = self.run(stage)
        return artefact, model.with_network(settings.tuned(model.network, artefact.tensors), artefact.key)

    def prior(
        self, prior: Prior, settings: dict[str, Any], references: LatentSet, own: LatentSet | None
    ) -> StoredPrior:
        """Reference latents -> the fitted prior's parameters; ``settings`` is the config that built the prior."""
        return StoredPrior(prior, self.run(PriorFit(prior=Identified(settings, prior), latents=references, own=own)))

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
        """Prior -> accepted latents; facts: bands, proposals, passes, acceptance with its interval, seconds.

        ``settings`` is the config that built the tolerances.
        """
        artefact = self.run(
            Selection(
                prior=prior,
                references=references,
                tolerances=Identified(settings, tolerances),
                count=count,
                seed=seed,
                **named(rejection),
            )
        )
        indices = artefact.tensors["indices"].tolist()
        return artefact, LatentSet(references.t, artefact.tensors["latents"], indices)

    def denoising(
        self, model: DiffusionModel, latents: LatentSet, solver: SolverSettings, eta: float, seed: int
    ) -> Artefact:
        """Latents -> images (n, C, H, W) uint8, as they are saved and scored."""
        drawn = seed if eta else None  # without noise the seed changes nothing
        return self.run(
            Denoising(model=model.for_denoising(), latents=latents, solver=solver, eta=float(eta), seed=drawn)
        )


__getattr__ = new_names(__name__)
