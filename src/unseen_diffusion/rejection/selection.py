"""The bounded loop that keeps only candidates within the tolerances, and counts proposals and passes."""

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.priors import FittedPrior, Prior
from unseen_diffusion.rejection.geometry import CRITERIA, References
from unseen_diffusion.rejection.routes import Route, Task
from unseen_diffusion.rejection.settings import Rejection, RouteName
from unseen_diffusion.rejection.tolerances import Band, Tolerances, within
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


@dataclass(frozen=True)
class Selection:
    """Accepted latents, with all counts and statistics of their selection.

    Attributes:
        latents: (n, C, H, W) float32.
        indices: candidate index of each; its draw and its denoising noise depend on (seed, index) alone.
        statistics: (proposals, 3) float64 of every candidate judged; empty where no criterion applies.
        bands: accepted interval per criterion.
        proposals: candidates drawn up to the last one accepted.
        passes: how many of them satisfied each criterion, after a projection if there is one.
        seconds: wall time.
        distances: (n,) L2 distance of each latent from its draw; empty without a projection.
        drawn_statistics: (proposals, 3) before the projection; empty without one.
    """

    latents: Tensor
    indices: list[int]
    statistics: Tensor
    bands: dict[str, Band] = field(default_factory=dict)
    proposals: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    distances: Tensor = field(default_factory=lambda: torch.empty(0))
    drawn_statistics: Tensor = field(default_factory=lambda: torch.empty(0, 3))

    @property
    def moved(self) -> Tensor:
        """The old name of ``distances``; will be removed in version 0.5."""
        warnings.warn("Selection.moved is now Selection.distances", FutureWarning, stacklevel=2)
        return self.distances


def check_route(route: str, prior: Prior, tolerances: Tolerances) -> None:
    """Checks that a route can serve a prior and tolerances, before anything is fitted.

    Raises:
        InputError: it cannot.
    """
    _check_name(route, tolerances)
    if route == "exact_statistics" and tolerances.judges and not prior.spherical:
        raise InputError(
            f"rejection.route={route}: prior={prior.name} has no spherical rest; set rejection.route=direct"
        )


def _check_name(route: str, tolerances: Tolerances) -> None:
    if route not in tolerances.routes:
        raise InputError(
            f"rejection.route={route}: choose {' or '.join(tolerances.routes)} with tolerances={tolerances.name}"
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
    """Calls ``select_latents`` with the fields of ``Rejection`` given one by one; see there."""
    _check_name(route, tolerances)
    rejection = Rejection(max_proposals=max_proposals, allow_fewer=allow_fewer, route=cast(RouteName, route))
    return select_latents(prior, references, tolerances, count, seed, rejection, chunk, progress)


def select_latents(
    prior: FittedPrior,
    references: Float[Tensor, "n c h w"],
    tolerances: Tolerances,
    count: int,
    seed: int,
    rejection: Rejection,
    chunk: int = 256,
    progress: bool = False,
) -> Selection:
    """Draws candidates 0, 1, 2, ... and keeps the first ``count`` within the tolerances.

    The result does not depend on ``chunk``. The route changes which candidates a seed draws, not their distribution.

    Args:
        prior: the fitted prior.
        references: latents that the criteria compare with.
        tolerances: the criteria.
        count: latents wanted.
        seed: of candidates, drawn references and control.
        rejection: the bound on candidates, and how they are judged.
        chunk: candidates per matrix product.
        progress: show a progress bar.

    Raises:
        InputError: the bound was reached (the message compares the measured statistics with the tolerances), or the
            route cannot serve the prior or the tolerances.
    """
    started = time.monotonic()
    if not tolerances.judges:
        starts = range(0, max(count, 1), chunk)
        parts = [prior.sample(range(start, min(start + chunk, count)), seed) for start in starts]
        return Selection(torch.cat(parts), list(range(count)), torch.empty(0, 3), proposals=count)
    _check_name(rejection.route, tolerances)
    prepared = References.of(references)
    bands = tolerances.bands(prepared, seed)
    route = tolerances.route(rejection.route, Task(prior, prepared, tuple(references.shape[1:]), seed, chunk), bands)
    kept, judged = _loop(route, bands, count, rejection.max_proposals, progress)
    if len(kept) < count and not (rejection.allow_fewer and kept):
        raise InputError(_shortfall(judged, bands, len(kept), count, tolerances, rejection.allow_fewer))
    kept = kept[:count]
    proposals = kept[-1] + 1 if len(kept) == count else len(judged)
    judged = judged[:proposals]
    passes = dict(zip(bands, within(judged, bands).sum(0).tolist(), strict=True))
    # The judged draws use the same seed, so that a control repeats the decisions of the tolerances that it matches.
    kept_seed = generator(seed, "control").initial_seed() if tolerances.control else seed
    latents = route.latents(kept, kept_seed)
    distances, before = route.distances(kept), route.drawn_statistics()[:proposals]
    return Selection(latents, kept, judged, bands, proposals, passes, time.monotonic() - started, distances, before)


def _loop(
    route: Route, bands: Mapping[str, Band], count: int, max_proposals: int, progress: bool
) -> tuple[list[int], Float[Tensor, "b 3"]]:
    """Indices within the bands, in order, and the statistics of all judged candidates."""
    kept: list[int] = []
    parts: list[Tensor] = []
    with tqdm(total=count, desc="select", disable=not progress, dynamic_ncols=True, leave=False) as bar:
        for start in range(0, max_proposals, route.group):
            parts.append(route.judge(start, min(start + route.group, max_proposals)))
            accepted = torch.nonzero(within(parts[-1], bands).all(1)).flatten().tolist()
            for row in accepted[: count - len(kept)]:
                route.keep(start + row)
                kept.append(start + row)
            bar.update(len(accepted))
            if len(kept) >= count:
                break
    return kept, torch.cat(parts)


def _shortfall(
    judged: Tensor, bands: Mapping[str, Band], kept: int, count: int, tolerances: Tolerances, allow_fewer: bool
) -> str:
    """One line: the candidates' measured statistics beside the bands, and the remedy."""
    shares = within(judged, bands).double().mean(0).tolist()
    parts = []
    for (criterion, band), share in zip(bands.items(), shares, strict=True):
        value = judged[:, CRITERIA.index(criterion)]
        parts.append(
            f"{criterion} {float(value.mean()):.2f} +- {float(value.std()):.2f} against "
            f"[{band.low:.2f}, {band.high:.2f}] ({share:.1%} pass)"
        )
    return (
        f"tolerances={tolerances.name}: {kept} of {count} latents accepted after {len(judged)} proposals: "
        f"{'; '.join(parts)}; " + advice(tolerances, fewer=bool(kept) and not allow_fewer)
    )


def advice(tolerances: Tolerances, fewer: bool) -> str:
    """The remedy where tolerances accept too few; ``fewer``: whether to suggest allow_fewer."""
    more = ", raise rejection.max_proposals, or set rejection.allow_fewer=true"
    return f"widen the tolerances ({tolerances.widened_by})" + (more if fewer else " or raise rejection.max_proposals")
