"""Geometric tolerances and the bounded loop that keeps the candidates within them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.errors import InputError
from unseen_diffusion.geometry import CRITERIA, References, draw_references, leave_one_out, statistics
from unseen_diffusion.priors import FittedPrior
from unseen_diffusion.seeds import generator


class Band(NamedTuple):
    """An accepted interval of one statistic, ends included."""

    low: float
    high: float


@runtime_checkable
class Tolerances(Protocol):
    """What a config of the ``tolerances`` group builds."""

    name: str
    k: int

    @property
    def control(self) -> bool:
        """True if the decisions are to be made without looking at the candidate."""
        ...

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        """Accepted interval per criterion; a criterion left out is not applied."""
        ...


@dataclass(frozen=True)
class NoTolerances:
    """Every candidate is accepted."""

    name: str = "none"
    k: int = 10
    control: bool = False

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return {}


@dataclass(frozen=True)
class AbsoluteTolerances:
    """target +- tolerance per criterion, as released: 0.3 (L2), 0.1 and 0.1 degrees at d = 196608.

    Attributes:
        tolerance: half-width per criterion; None leaves the criterion out.
        target: centre per criterion; None takes the references' own mean (leave one out).
        k: references drawn per candidate.
        repeats: leave-one-out draws per reference behind a measured target.
    """

    tolerance: Mapping[str, float | None]
    target: Mapping[str, float | None]
    name: str = "paper"
    k: int = 10
    repeats: int = 8
    control: bool = False

    def __post_init__(self) -> None:
        for name, value in (*self.tolerance.items(), *self.target.items()):
            if name not in CRITERIA:
                raise InputError(f"tolerances: unknown criterion {name}; choose among {', '.join(CRITERIA)}")
            if value is not None and value < 0:
                raise InputError(f"tolerances: {name}={value}; give 0 or more, or null")

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        used = [name for name in CRITERIA if self.tolerance.get(name) is not None]
        measured = None
        bands = {}
        for name in used:
            centre, width = self.target.get(name), self.tolerance[name]
            if centre is None:
                if measured is None:
                    measured = leave_one_out(references, self.k, seed, self.repeats).mean(0)
                centre = float(measured[CRITERIA.index(name)])
            bands[name] = Band(centre - (width or 0.0), centre + (width or 0.0))
        return bands


@dataclass(frozen=True)
class CalibratedTolerances:
    """Central quantiles of the references' own leave-one-out statistics.

    Attributes:
        coverage: share of the references within each band, in (0, 1].
        criteria: those applied.
        k: references drawn per candidate.
        repeats: leave-one-out draws per reference.
    """

    coverage: float = 0.9
    criteria: Sequence[str] = CRITERIA
    name: str = "calibrated"
    k: int = 10
    repeats: int = 8
    control: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.coverage <= 1:
            raise InputError(f"tolerances.coverage={self.coverage}: give a number above 0, up to 1")
        if unknown := [name for name in self.criteria if name not in CRITERIA]:
            raise InputError(f"tolerances.criteria={unknown}: choose among {', '.join(CRITERIA)}")

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        own = leave_one_out(references, self.k, seed, self.repeats)
        tail = (1 - self.coverage) / 2
        ends = torch.quantile(own, torch.tensor([tail, 1 - tail], dtype=own.dtype), dim=0)
        index = {name: CRITERIA.index(name) for name in self.criteria}
        return {name: Band(float(ends[0, i]), float(ends[1, i])) for name, i in index.items()}


@dataclass(frozen=True)
class RandomControl:
    """The control: as many rejections as ``match``, decided by the geometry of *other* draws of the prior.

    Candidate i is kept where an independent candidate satisfies the criteria: the same acceptance, and samples
    that owe nothing to the geometry.
    """

    match: Tolerances
    name: str = "random"
    control: bool = True

    @property
    def k(self) -> int:
        return self.match.k

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return self.match.bands(references, seed)


@dataclass(frozen=True)
class Selection:
    """Accepted latents with the full account of how they were found.

    Attributes:
        latents: (n, C, H, W) float32.
        indices: candidate index of each; its draw and its denoising noise depend on (seed, index) alone.
        statistics: (proposals, 3) float64 of every candidate judged; empty where no criterion applies.
        bands: accepted interval per criterion.
        proposals: candidates drawn up to the last one accepted.
        passes: how many of them satisfied each criterion.
        seconds: wall time.
    """

    latents: Tensor
    indices: list[int]
    statistics: Tensor
    bands: dict[str, Band] = field(default_factory=dict)
    proposals: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


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
) -> Selection:
    """Draws candidates 0, 1, 2, ... and keeps the first ``count`` within the tolerances.

    The result does not depend on ``chunk``.

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

    Raises:
        InputError: the bound was reached; the message compares the measured statistics with the tolerances.
    """
    started = time.monotonic()
    if isinstance(tolerances, NoTolerances):
        indices = list(range(count))
        return Selection(prior.sample(indices, seed), indices, torch.empty(0, 3), proposals=count)
    prepared = References.of(references)
    bands = tolerances.bands(prepared, seed)
    # The judged draws keep the seed, so that a control meets exactly the decisions of what it controls.
    judged_seed = seed
    kept_seed = generator(seed, "control").initial_seed() if tolerances.control else seed
    kept: list[int] = []
    parts: list[Tensor] = []
    with tqdm(total=count, desc="select", disable=not progress, dynamic_ncols=True, leave=False) as bar:
        for start in range(0, max_proposals, chunk):
            indices = list(range(start, min(start + chunk, max_proposals)))
            drawn = draw_references(len(prepared), tolerances.k, seed, indices)
            parts.append(statistics(prior.sample(indices, judged_seed), prepared, drawn))
            accepted = torch.nonzero(_passes(parts[-1], bands).all(1)).flatten().tolist()
            kept += [start + i for i in accepted]
            bar.update(len(accepted))
            if len(kept) >= count:
                break
    judged = torch.cat(parts)
    if len(kept) < count and not (allow_fewer and kept):
        raise InputError(_shortfall(judged, bands, len(kept), count, tolerances.name))
    kept = kept[:count]
    proposals = kept[-1] + 1 if len(kept) == count else len(judged)
    judged = judged[:proposals]
    each = _passes(judged, bands).sum(0).tolist()
    latents = torch.cat([prior.sample(kept[i : i + chunk], kept_seed) for i in range(0, len(kept), chunk)])
    passes = dict(zip(bands, each, strict=True))
    return Selection(latents, kept, judged, bands, proposals, passes, time.monotonic() - started)


def _passes(judged: Float[Tensor, "b 3"], bands: Mapping[str, Band]) -> Tensor:
    """(B, criteria in use) boolean: within each band."""
    passes = torch.ones(len(judged), len(bands), dtype=torch.bool)
    for column, (name, band) in enumerate(bands.items()):
        value = judged[:, CRITERIA.index(name)]
        passes[:, column] = (value >= band.low) & (value <= band.high)
    return passes


def _shortfall(judged: Tensor, bands: Mapping[str, Band], found: int, wanted: int, name: str) -> str:
    """One line: what the candidates measured, beside what was asked."""
    shares = _passes(judged, bands).double().mean(0).tolist()
    parts = []
    for (criterion, band), share in zip(bands.items(), shares, strict=True):
        value = judged[:, CRITERIA.index(criterion)]
        parts.append(
            f"{criterion} {float(value.mean()):.2f} +- {float(value.std()):.2f} against "
            f"[{band.low:.2f}, {band.high:.2f}] ({share:.1%} pass)"
        )
    return (
        f"tolerances={name}: {found} of {wanted} latents accepted after {len(judged)} proposals: {'; '.join(parts)}; "
        "widen the tolerances (tolerances=calibrated), raise max_proposals, or set allow_fewer=true"
    )
