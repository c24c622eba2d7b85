"""Geometric tolerances: the accepted interval of each statistic, and how candidates are selected by it.

A new kind of tolerances is one class with ``bands``::

    @settings("tolerances")
    class Narrow(Tolerances):
        def bands(self, references, seed): return {"pair_angle": Band(59.0, 61.0)}
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from statistics import NormalDist
from typing import Annotated, Any, ClassVar, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from unseen_diffusion.rejection.geometry import CRITERIA, Criterion, References, leave_one_out
from unseen_diffusion.rejection.reduced import ExactStatistics
from unseen_diffusion.rejection.routes import Direct, Route, Task
from unseen_diffusion.rejection.settings import ROUTES
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

log = logging.getLogger(__name__)

HALVINGS = 20  # of the interval of levels: to a millionth
NonNegative = Annotated[float, Field(ge=0)]


class Band(NamedTuple):
    """An accepted interval of one statistic, ends included."""

    low: float
    high: float


@settings("tolerances")
class Tolerances(ABC):
    """The base class of tolerances; a config of the ``tolerances`` group builds one."""

    name: str
    """label in tables and messages"""
    k: Count = 10
    """references drawn per candidate"""

    judges: ClassVar[bool] = True
    """whether candidates are compared with references at all"""
    control: ClassVar[bool] = False
    """whether the accepted latents are other draws of the prior than the judged ones"""
    moves_candidates: ClassVar[bool] = False
    """whether a candidate is changed to fit the bands, instead of being rejected"""
    widened_by: ClassVar[str] = "tolerances=calibrated"
    """the setting that an error suggests where too few candidates are accepted"""
    routes: ClassVar[tuple[str, ...]] = ROUTES
    """the values of rejection.route that these tolerances work with"""

    @abstractmethod
    def bands(self, references: References, seed: int) -> dict[str, Band]:
        """Accepted interval per criterion; a criterion left out is not applied."""

    def route(self, name: str, task: Task, bands: Mapping[str, Band]) -> Route:
        """How candidates are drawn and judged, by the value of rejection.route."""
        if name == "exact_statistics":
            return ExactStatistics(task.prior, task.references, self.k, task.seed, task.shape)
        return Direct(task.prior, task.references, self.k, task.seed, task.chunk)

    def drawing(self, k: int) -> "Tolerances":
        """The same tolerances with another number of references per candidate."""
        return replace(self, k=k)

    def half_widths(self, deviations: Mapping[str, float]) -> dict[str, float] | None:
        """Half the width of each band, for statistics of these standard deviations; None where it is unknown."""
        return None

    def fixed(self, references: References, seed: int) -> "Tolerances":
        """The same tolerances with their bands measured now: later draws of any seed use these bands."""
        return FixedBands(intervals=self.bands(references, seed), name=self.name, k=self.k)

    def stored(self) -> dict[str, Any] | None:
        """Fixed bands as JSON values; None where nothing is rejected.

        Raises:
            InputError: bands that are not fixed.
        """
        raise InputError(f"tolerances={self.name}: their bands are not fixed, so they cannot be saved; call fit again")


@dataclass(frozen=True, kw_only=True)
class FixedBands(Tolerances):
    """Bands that were measured before: draws of any seed use the same intervals.

    Attributes:
        intervals: accepted interval per criterion.
    """

    intervals: Mapping[str, Band]

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return dict(self.intervals)

    def stored(self) -> dict[str, Any] | None:
        bands = {name: list(band) for name, band in self.intervals.items()}
        return {"name": self.name, "k": self.k, "control": False, "bands": bands}


@settings("tolerances")
class NoTolerances(Tolerances):
    """Every candidate is accepted."""

    name: str = "none"

    judges: ClassVar = False

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return {}

    def fixed(self, references: References, seed: int) -> Tolerances:
        return self

    def stored(self) -> dict[str, Any] | None:
        return None


@settings("tolerances")
class AbsoluteTolerances(Tolerances):
    """target +- tolerance per criterion, as released: 0.3 (L2), 0.1 and 0.1 degrees at d = 196608."""

    tolerance: Mapping[str, NonNegative | None]
    """half-width per criterion; null leaves the criterion out"""
    target: Mapping[str, NonNegative | None]
    """centre per criterion; null takes the references' own mean (leave one out)"""
    name: str = "paper"
    repeats: Count = 8
    """leave-one-out draws per reference, from which a target is measured"""

    def __post_init__(self) -> None:
        for name in (*self.tolerance, *self.target):
            if name not in CRITERIA:
                raise InputError(f"tolerances: unknown criterion {name}; choose among {', '.join(CRITERIA)}")

    def half_widths(self, deviations: Mapping[str, float]) -> dict[str, float]:
        return {name: width for name, width in self.tolerance.items() if width is not None}

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


@settings("tolerances")
class CalibratedTolerances(Tolerances):
    """Central quantiles of the references' own leave-one-out statistics.

    Each band alone holds ``coverage`` of them. All three bands together hold fewer: 75 to 78 % at 0.9 on the bundled
    domains. With ``joint`` they hold ``coverage`` together, and each alone holds more.
    """

    coverage: Annotated[float, Field(gt=0, le=1)] = 0.9
    """share of the references within each band, or with joint within all of them"""
    joint: bool = False
    """true: coverage is the share of the references within all bands together (tolerances=calibrated_joint)"""
    criteria: Sequence[Criterion] = get_args(Criterion)
    """statistics that are applied"""
    name: str = "calibrated"
    repeats: Count = 8
    """leave-one-out draws per reference"""

    widened_by: ClassVar[str] = "tolerances.coverage"

    def half_widths(self, deviations: Mapping[str, float]) -> dict[str, float]:
        quantile = NormalDist().inv_cdf((1 + self.coverage) / 2) if self.coverage < 1 else inf
        return {name: quantile * deviations[name] for name in self.criteria}

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        measured = leave_one_out(references, self.k, seed, self.repeats)
        bands = self._central(measured, self.coverage)
        if self.joint:
            low, high = self.coverage, 1.0  # each band alone holds at least as many as all together
            for _ in range(HALVINGS):
                middle = (low + high) / 2
                bands = self._central(measured, middle)
                low, high = (middle, high) if jointly(measured, bands) < self.coverage else (low, middle)
            bands = self._central(measured, high)
        message = "tolerances=%s: %.0f %% of the references lie within all bands"
        log.info(message, self.name, 100 * jointly(measured, bands))
        return bands

    def _central(self, measured: Tensor, coverage: float) -> dict[str, Band]:
        """Bands that each hold the central share ``coverage`` of the measured statistics (n, 3)."""
        tail = (1 - coverage) / 2
        ends = torch.quantile(measured, torch.tensor([tail, 1 - tail], dtype=measured.dtype), dim=0)
        index = {name: CRITERIA.index(name) for name in self.criteria}
        return {name: Band(float(ends[0, i]), float(ends[1, i])) for name, i in index.items()}


@settings("tolerances")
class Matched(Tolerances):
    """Base class of tolerances that use the bands of other tolerances."""

    match: Tolerances
    """the tolerances whose bands are used"""
    k: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", self.match.k)

    def drawing(self, k: int) -> Tolerances:
        return replace(self, match=self.match.drawing(k))

    def half_widths(self, deviations: Mapping[str, float]) -> dict[str, float] | None:
        return self.match.half_widths(deviations)

    def bands(self, references: References, seed: int) -> dict[str, Band]:
        return self.match.bands(references, seed)

    def fixed(self, references: References, seed: int) -> Tolerances:
        bands = FixedBands(intervals=self.bands(references, seed), name=self.match.name, k=self.k)
        return replace(self, match=bands)


@settings("tolerances")
class RandomControl(Matched):
    """The control: as many rejections as ``match``, decided by the geometry of *other* draws of the prior.

    Candidate i is kept where an independent candidate satisfies the criteria: the acceptance is the same, but the
    samples do not depend on the geometry.
    """

    name: str = "random"

    control: ClassVar = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.match.moves_candidates:
            raise InputError(
                f"tolerances={self.match.name} rejects hardly anything: there is no random control for it; "
                "match calibrated or paper"
            )

    def stored(self) -> dict[str, Any] | None:
        return (self.match.stored() or {}) | {"name": self.name, "control": True}


def jointly(judged: Tensor, bands: Mapping[str, Band]) -> float:
    """Share of statistics (n, 3) that lie within all bands."""
    return float(within(judged, bands).all(1).double().mean())


def within(judged: Float[Tensor, "b 3"], bands: Mapping[str, Band]) -> Bool[Tensor, "b criteria"]:
    """Whether each candidate lies inside the band of each criterion in use."""
    passes = torch.ones(len(judged), len(bands), dtype=torch.bool)
    for column, (name, band) in enumerate(bands.items()):
        value = judged[:, CRITERIA.index(name)]
        passes[:, column] = (value >= band.low) & (value <= band.high)
    return passes


__getattr__ = new_names(__name__)
