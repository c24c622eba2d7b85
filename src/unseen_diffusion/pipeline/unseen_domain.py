"""A fitted unseen domain: everything that a frozen model needs to draw from it, and the method's steps in memory."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

from unseen_diffusion.models import DiffusionModel
from unseen_diffusion.pipeline.steps import DrawSteps, FitSteps, LatentSet
from unseen_diffusion.priors import FittedPrior, Prior, require
from unseen_diffusion.rejection import Rejection, Selection, Tolerances, select_latents
from unseen_diffusion.rejection.geometry import References, check_left_out
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import dequantise, quantise


@dataclass(frozen=True)
class ImageFacts:
    """Facts about the images that a domain was fitted to.

    Attributes:
        count, channels, size: of the images as the model saw them.
        digest: SHA-256 of their values.
        licence: one line about their terms, given when the domain was fitted.
    """

    count: int
    channels: int
    size: int
    digest: str
    licence: str


@dataclass(frozen=True)
class UnseenDomain:
    """A prior over latents at a mixing step, with the criteria that its draws must satisfy.

    Attributes:
        t: the mixing step.
        solver: for both directions.
        prior: fitted to the references' latents.
        prior_name: of the config that fitted it.
        tolerances: with fixed bands, or none.
        references: (N, C, H, W) float32 latents that the criteria compare with; None where they were not saved.
        images: facts about the images.
    """

    t: float
    solver: SolverSettings
    prior: FittedPrior
    prior_name: str
    tolerances: Tolerances
    references: Tensor | None
    images: ImageFacts


@dataclass(frozen=True)
class Evaluation:
    """A frozen model, and how its network is evaluated.

    Attributes:
        model: the frozen model.
        solver: for both directions.
        batch_size: images per network call.
        progress: show progress bars.
    """

    model: DiffusionModel
    solver: SolverSettings
    batch_size: int
    progress: bool


@dataclass(frozen=True)
class FitInMemory(FitSteps[FittedPrior]):
    """Fits to images (N, C, H, W) uint8, and stores nothing."""

    evaluation: Evaluation
    images: Tensor
    t: float

    def invert(self) -> LatentSet:
        e = self.evaluation
        grid = e.solver.make_grid(e.model.schedule, self.t)
        states = e.model.encode(dequantise(self.images), e.batch_size)
        latents = invert(e.model, states, grid, [self.t], e.solver, e.batch_size, e.progress)[self.t]
        return LatentSet(self.t, latents, list(range(len(latents))))

    def id_latents(self, count: int) -> LatentSet:
        raise InputError("prior: a pipeline does not make latents of the base model's own domain; use `unseen run`")

    def fit(self, prior: Prior, references: LatentSet, id_latents: LatentSet | None) -> FittedPrior:
        return prior.fit(references.latents, id_latents.latents if id_latents else None)


@dataclass(frozen=True)
class DrawInMemory(DrawSteps[FittedPrior, Selection, Tensor]):
    """Draws ``count`` images, and stores nothing."""

    evaluation: Evaluation
    tolerances: Tolerances
    count: int
    rejection: Rejection

    def select(self, fitted: FittedPrior, references: LatentSet, seed: int) -> tuple[Selection, LatentSet]:
        progress = self.evaluation.progress
        chosen = select_latents(
            fitted, references.latents, self.tolerances, self.count, seed, self.rejection, progress=progress
        )
        return chosen, LatentSet(references.t, chosen.latents, chosen.indices)

    def denoise(self, latents: LatentSet, eta: float, seed: int) -> Tensor:
        e = self.evaluation
        model, grid = e.model.for_denoising(), e.solver.make_grid(e.model.schedule, latents.t)
        indices, x = latents.indices, latents.latents
        states = denoise(model, x, grid, eta, seed, indices, e.solver, e.batch_size, progress=e.progress)
        return quantise(e.model.decode(states, e.batch_size))


class Drawn(NamedTuple):
    """Images (n, C, H, W) uint8, and the record of how their latents were selected."""

    images: Tensor
    selection: Selection


def fit_domain(
    evaluation: Evaluation,
    images: UInt8[Tensor, "n c h w"],
    t: float,
    prior: Prior,
    tolerances: Tolerances,
    seed: int,
    licence: str,
) -> UnseenDomain:
    """Fits a domain: images -> latents -> prior and bands.

    Raises:
        InputError: too few images, a mixing step outside the schedule, or a prior that needs other latents.
    """
    require(prior.name, len(images), prior.minimum_references)
    if prior.id_latents:
        raise InputError(
            f"prior={prior.name}: needs latents of the model's own domain, which a pipeline does not make; choose "
            "another prior, or `unseen run`"
        )
    if tolerances.judges:
        check_left_out(len(images), tolerances.k)
    references, fitted = FitInMemory(evaluation, images, t).run(prior, evaluation.model.schedule)
    fixed = tolerances.fixed(References.of(references.latents), seed)
    channels, size = images.shape[1:3]
    facts = ImageFacts(len(images), channels, size, array_digest(images.numpy()), licence)
    return UnseenDomain(t, evaluation.solver, fitted, prior.name, fixed, references.latents, facts)


def draw(
    evaluation: Evaluation,
    domain: UnseenDomain,
    tolerances: Tolerances,
    count: int,
    eta: float,
    seed: int,
    rejection: Rejection,
) -> Drawn:
    """Draws images: prior -> candidates within ``tolerances`` -> images, denoised with bandwidth ``eta``.

    Raises:
        InputError: too few candidates were accepted, or the references that would judge them are missing.
    """
    references = domain.references
    if references is None:
        if tolerances.judges:
            raise InputError(
                f"tolerances={tolerances.name}: this domain was saved without its references, so nothing can be "
                "judged; call with tolerances=NoTolerances()"
            )
        references = torch.empty(0, *evaluation.model.shape)
    latents = LatentSet(domain.t, references, list(range(len(references))))
    steps = DrawInMemory(evaluation, tolerances, count, rejection)
    selection, _, images = steps.run(domain.prior, latents, eta, seed)
    return Drawn(images, selection)
