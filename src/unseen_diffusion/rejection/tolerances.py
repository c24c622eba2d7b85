"""Geometric tolerances: which interval of each statistic is accepted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unseen_diffusion.rejection.geometry import CRITERIA, References, leave_one_out
from unseen_diffusion.utils.errors import InputError


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

    def __post_init__(self) -> None:
        if isinstance(self.match, Projection):
            raise InputError("tolerances=projection rejects hardly anything: there is no random control for it")

    @property
    def k(self) -> int:
        return self.match.k

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return self.match.bands(references, seed)


@dataclass(frozen=True)
class Projection:
    """The bands of ``match``, reached by moving each candidate to the nearest point within them.

    Only what does not converge is rejected: candidates whose drawn references are so unusual that no point near by
    satisfies the bands. The move lies in the span of the candidate and those references.

    Attributes:
        match: the tolerances whose bands they are.
        iterations: most linearisations per candidate.
    """

    match: Tolerances
    iterations: int = 40
    name: str = "projection"
    control: bool = False

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"tolerances.iterations={self.iterations}: give 1 or more")
        if self.match.control or isinstance(self.match, NoTolerances | Projection):
            raise InputError(f"tolerances.match={self.match.name}: a projection needs bands; match calibrated or paper")

    @property
    def k(self) -> int:
        return self.match.k

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return self.match.bands(references, seed)


def within(judged: Float[Tensor, "b 3"], bands: Mapping[str, Band]) -> Bool[Tensor, "b criteria"]:
    """By candidate and criterion in use: inside its band."""
    passes = torch.ones(len(judged), len(bands), dtype=torch.bool)
    for column, (name, band) in enumerate(bands.items()):
        value = judged[:, CRITERIA.index(name)]
        passes[:, column] = (value >= band.low) & (value <= band.high)
    return passes
