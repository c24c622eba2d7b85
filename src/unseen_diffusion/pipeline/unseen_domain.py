"""A fitted unseen domain: all that a frozen model needs to draw from it, and how that comes about."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from unseen_diffusion.models import DiffusionModel
from unseen_diffusion.priors import FittedPrior, Prior, prior_at, require
from unseen_diffusion.rejection import Band, NoTolerances, Projection, Selection, Tolerances, select
from unseen_diffusion.rejection.geometry import References, check_left_out
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import dequantise, quantise


@dataclass(frozen=True)
class FixedBands:
    """Tolerances measured once, at the fit: draws of every seed meet the same bands.

    Attributes:
        intervals: accepted interval per criterion.
        name: of the tolerances that measured them.
        k: references drawn per candidate.
        control: True if the decisions are made without looking at the candidate.
    """

    intervals: Mapping[str, Band]
    name: str
    k: int
    control: bool = False

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return dict(self.intervals)


def as_tolerances(value: Any) -> Tolerances:
    """For the type checker, which takes the protocol's attributes for settable ones."""
    return value


def projection(match: FixedBands, iterations: int, name: str) -> Tolerances:
    """``Projection`` onto fixed bands."""
    return as_tolerances(Projection(match=as_tolerances(match), iterations=iterations, name=name))


def fix(tolerances: Tolerances, references: Float[Tensor, "n c h w"], seed: int) -> Tolerances:
    """The same tolerances with their bands measured now."""
    if isinstance(tolerances, NoTolerances):
        return tolerances
    bands = tolerances.bands(References.of(references), seed)
    if isinstance(tolerances, Projection):
        return projection(
            FixedBands(bands, tolerances.match.name, tolerances.k), tolerances.iterations, tolerances.name
        )
    return as_tolerances(FixedBands(bands, tolerances.name, tolerances.k, tolerances.control))


@dataclass(frozen=True)
class ImageFacts:
    """What is known of the images that a domain was fitted to.

    Attributes:
        count, channels, size: of the images as the model saw them.
        digest: SHA-256 of their values.
        licence: one line, from whoever fitted.
    """

    count: int
    channels: int
    size: int
    digest: str
    licence: str


@dataclass(frozen=True)
class UnseenDomain:
    """A prior over latents at a mixing step, with the criteria that its draws have to meet.

    Attributes:
        t: the mixing step.
        solver: for both directions.
        prior: fitted to the references' latents.
        prior_name: of the config that fitted it.
        tolerances: their bands fixed, or none.
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


class Drawn(NamedTuple):
    """Images (n, C, H, W) uint8, and the account of their latents."""

    images: Tensor
    selection: Selection


def fit_domain(
    model: DiffusionModel,
    images: UInt8[Tensor, "n c h w"],
    t: float,
    prior: Prior,
    tolerances: Tolerances,
    solver: SolverSettings,
    seed: int,
    licence: str,
    batch_size: int,
    progress: bool,
) -> UnseenDomain:
    """images -> latents -> prior and bands (arXiv 2310.09213, section 4.1).

    Raises:
        InputError: too few images, a mixing step outside the schedule, or a prior that needs other latents.
    """
    require(prior.name, len(images), prior.minimum_references)
    if prior.id_latents:
        raise InputError(
            f"prior={prior.name}: needs latents of the model's own domain, which a pipeline does not make; choose "
            "another prior, or `unseen run`"
        )
    if not isinstance(tolerances, NoTolerances):
        check_left_out(len(images), tolerances.k)
    grid = solver.make_grid(model.schedule, t)
    states = model.encode(dequantise(images), batch_size)
    latents = invert(model, states, grid, [t], solver, batch_size, progress)[t]
    channels, size = images.shape[1:3]
    facts = ImageFacts(len(images), channels, size, array_digest(images.numpy()), licence)
    fitted, fixed = prior_at(prior, model.schedule, t).fit(latents), fix(tolerances, latents, seed)
    return UnseenDomain(t, solver, fitted, prior.name, fixed, latents, facts)


def draw(
    model: DiffusionModel,
    domain: UnseenDomain,
    tolerances: Tolerances,
    count: int,
    eta: float,
    seed: int,
    max_proposals: int,
    allow_fewer: bool,
    batch_size: int,
    progress: bool,
) -> Drawn:
    """prior -> candidates within ``tolerances`` -> images, denoised with bandwidth ``eta``.

    Raises:
        InputError: too few candidates were accepted, or the references that would judge them are missing.
    """
    references = domain.references
    if references is None:
        if not isinstance(tolerances, NoTolerances):
            raise InputError(
                f"tolerances={tolerances.name}: this domain was saved without its references, so nothing can be "
                "judged; call with tolerances=NoTolerances()"
            )
        references = torch.empty(0, *model.shape)
    chosen = select(domain.prior, references, tolerances, count, seed, max_proposals, allow_fewer, progress=progress)
    grid = domain.solver.make_grid(model.schedule, domain.t)
    states = denoise(
        model.for_denoising(),
        chosen.latents,
        grid,
        eta,
        seed,
        chosen.indices,
        domain.solver,
        batch_size,
        progress=progress,
    )
    return Drawn(quantise(model.decode(states, batch_size)), chosen)
