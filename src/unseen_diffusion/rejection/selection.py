"""The bounded loop that keeps the candidates within the tolerances, with its account."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.priors import SPHERICAL, FittedPrior, Prior
from unseen_diffusion.rejection.geometry import CRITERIA, References
from unseen_diffusion.rejection.projection import Projected
from unseen_diffusion.rejection.reduced import ExactStatistics
from unseen_diffusion.rejection.routes import Direct, Route
from unseen_diffusion.rejection.tolerances import Band, NoTolerances, Projection, Tolerances, within
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

ROUTES = ("direct", "exact_statistics")


@dataclass(frozen=True)
class Selection:
    """Accepted latents with the full account of how they were found.

    Attributes:
        latents: (n, C, H, W) float32.
        indices: candidate index of each; its draw and its denoising noise depend on (seed, index) alone.
        statistics: (proposals, 3) float64 of every candidate judged; empty where no criterion applies.
        bands: accepted interval per criterion.
        proposals: candidates drawn up to the last one accepted.
        passes: how many of them satisfied each criterion, after a projection if there is one.
        seconds: wall time.
        moved: (n,) L2 distance of each latent from its draw; empty without a projection.
        drawn_statistics: (proposals, 3) before the projection; empty without one.
    """

    latents: Tensor
    indices: list[int]
    statistics: Tensor
    bands: dict[str, Band] = field(default_factory=dict)
    proposals: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    moved: Tensor = field(default_factory=lambda: torch.empty(0))
    drawn_statistics: Tensor = field(default_factory=lambda: torch.empty(0, 3))


def check_route(route: str, prior: Prior, tolerances: Tolerances) -> None:
    """Whether a route can serve a prior and tolerances, before anything is fitted.

    Raises:
        InputError: it cannot.
    """
    if route not in ROUTES:
        raise InputError(f"rejection.route={route}: choose {' or '.join(ROUTES)}")
    if route == "direct" or isinstance(tolerances, NoTolerances):
        return
    if isinstance(tolerances, Projection):
        raise InputError(f"rejection.route={route}: a projection rejects nothing; set rejection.route=direct")
    if not isinstance(prior, SPHERICAL):
        raise InputError(
            f"rejection.route={route}: prior={prior.name} has no spherical rest; set rejection.route=direct"
        )


def select(
    prior: FittedPrior,
    references: Float[Tensor, "n c h w"],
    tolerances: Tolerances,
    count: int,
    seed: int,
    max_proposals: int,
    allow_fewer: bool = False,
    chunk: int = 256,
    progress: bool = False,
    route: str = "direct",
) -> Selection:
    """Draws candidates 0, 1, 2, ... and keeps the first ``count`` within the tolerances.

    The result does not depend on ``chunk``. The route changes which candidates a seed draws, not their distribution.

    Args:
        prior: the fitted prior.
        references: latents that the criteria compare with.
        tolerances: the criteria.
        count: latents wanted.
        seed: of candidates, drawn references and control.
        max_proposals: the bound on candidates.
        allow_fewer: return what was found when the bound is reached, if it is anything at all.
        chunk: candidates per matrix product.
        progress: show a progress bar.
        route: ``direct``: every candidate is drawn in full. ``exact_statistics``: only what decides, and the rest of
            those accepted; for priors with a spherical rest.

    Raises:
        InputError: the bound was reached (the message compares the measured statistics with the tolerances), or the
            route cannot serve the prior.
    """
    started = time.monotonic()
    if isinstance(tolerances, NoTolerances):
        starts = range(0, max(count, 1), chunk)
        parts = [prior.sample(range(start, min(start + chunk, count)), seed) for start in starts]
        return Selection(torch.cat(parts), list(range(count)), torch.empty(0, 3), proposals=count)
    if max_proposals < 1:
        raise InputError(f"max_proposals={max_proposals}: give 1 or more")
    prepared = References.of(references)
    bands = tolerances.bands(prepared, seed)
    way = _route(route, prior, prepared, tolerances, bands, seed, chunk, tuple(references.shape[1:]))
    kept, judged = _loop(way, bands, count, max_proposals, progress)
    if len(kept) < count and not (allow_fewer and kept):
        raise InputError(_shortfall(judged, bands, len(kept), count, tolerances.name, allow_fewer))
    kept = kept[:count]
    proposals = kept[-1] + 1 if len(kept) == count else len(judged)
    judged = judged[:proposals]
    passes = dict(zip(bands, within(judged, bands).sum(0).tolist(), strict=True))
    # The judged draws keep the seed, so that a control meets exactly the decisions of what it controls.
    kept_seed = generator(seed, "control").initial_seed() if tolerances.control else seed
    latents = way.latents(kept, kept_seed)
    moved, before = _moves(way, kept, proposals)
    return Selection(latents, kept, judged, bands, proposals, passes, time.monotonic() - started, moved, before)


def _route(
    route: str,
    prior: FittedPrior,
    references: References,
    tolerances: Tolerances,
    bands: Mapping[str, Band],
    seed: int,
    chunk: int,
    shape: tuple[int, ...],
) -> Route:
    """The way that candidates take.

    Raises:
        InputError: an unknown route, or none for this prior or these tolerances.
    """
    k = tolerances.k
    if isinstance(tolerances, Projection) and route == "direct":
        return Projected(prior, references, bands, k, tolerances.iterations, seed, chunk)
    if route == "direct":
        return Direct(prior, references, k, seed, chunk)
    if route == "exact_statistics" and not isinstance(tolerances, Projection):
        return ExactStatistics(prior, references, k, seed, shape)
    wanted = "direct" if isinstance(tolerances, Projection) else " or ".join(ROUTES)
    raise InputError(f"rejection.route={route}: choose {wanted} with tolerances={tolerances.name}")


def _loop(
    way: Route, bands: Mapping[str, Band], count: int, max_proposals: int, progress: bool
) -> tuple[list[int], Float[Tensor, "b 3"]]:
    """Indices within the bands, in order, and the statistics of all that were judged."""
    kept: list[int] = []
    parts: list[Tensor] = []
    with tqdm(total=count, desc="select", disable=not progress, dynamic_ncols=True, leave=False) as bar:
        for start in range(0, max_proposals, way.group):
            parts.append(way.judge(start, min(start + way.group, max_proposals)))
            accepted = torch.nonzero(within(parts[-1], bands).all(1)).flatten().tolist()
            for row in accepted[: count - len(kept)]:
                way.keep(start + row)
                kept.append(start + row)
            bar.update(len(accepted))
            if len(kept) >= count:
                break
    return kept, torch.cat(parts)


def _moves(way: Route, kept: list[int], proposals: int) -> tuple[Tensor, Tensor]:
    """Distances moved and statistics before the move; empty unless candidates are moved."""
    if not isinstance(way, Projected):
        return torch.empty(0), torch.empty(0, 3)
    moved = torch.tensor([way.accepted[index].distance for index in kept], dtype=torch.float64)
    return moved, torch.cat(way.drawn_statistics)[:proposals]


def _shortfall(judged: Tensor, bands: Mapping[str, Band], found: int, wanted: int, name: str, allow_fewer: bool) -> str:
    """One line: what the candidates measured, beside what was asked."""
    shares = within(judged, bands).double().mean(0).tolist()
    parts = []
    for (criterion, band), share in zip(bands.items(), shares, strict=True):
        value = judged[:, CRITERIA.index(criterion)]
        parts.append(
            f"{criterion} {float(value.mean()):.2f} +- {float(value.std()):.2f} against "
            f"[{band.low:.2f}, {band.high:.2f}] ({share:.1%} pass)"
        )
    return (
        f"tolerances={name}: {found} of {wanted} latents accepted after {len(judged)} proposals: {'; '.join(parts)}; "
        + advice(name, fewer=bool(found) and not allow_fewer)
    )


def advice(name: str, fewer: bool) -> str:
    """What to do where tolerances of this name accept too few; ``fewer``: what there is could do."""
    wider = "tolerances.coverage" if name == "calibrated" else "tolerances=calibrated"
    more = ", raise rejection.max_proposals, or set rejection.allow_fewer=true"
    return f"widen the tolerances ({wider})" + (more if fewer else " or raise rejection.max_proposals")
