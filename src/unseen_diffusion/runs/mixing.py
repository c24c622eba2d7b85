"""The search for the mixing step: the candidate timestep that is best by a stated criterion.

It uses only what the stages store, so a repeated or resumed search evaluates no network again.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field

from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.runs.stage import How, WholeStage
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.latents.gaussianity import gaussianity
from unseen_diffusion.scores.latents.separability import distance_separation, separability
from unseen_diffusion.store.shards import StageOutput
from unseen_diffusion.utils.checked import hints, settings
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

# Criterion -> which value is the best.
CRITERIA: dict[str, Callable[..., float]] = {"gaussianity": min, "separability": max, "validation": min}
PERMUTATIONS = 999  # and simulations, for the p-values of ``latent_findings``: enough for Holm over 20 sets
SIMULATIONS = 99  # draws of a null, enough for its central 95% range; no p-value is computed
MINIMUM = {"gaussianity": 8, "separability": 3, "validation": 3}  # references; of validation its own images


@settings("mixing")
class MixingSearch:
    """The best mixing step by a criterion, among timesteps that one inversion records.

    The criteria: ``gaussianity``, smallest ``departure`` of the reference latents; ``separability``, largest
    ``separation`` from samples of the base model, inverted in the same way; ``validation``, smallest KID of the run's
    method to the validation images.
    """

    candidates: Sequence[Annotated[float, Field(ge=0)]]
    """timesteps to choose from, at least 2 different ones"""
    criterion: Literal["gaussianity", "separability", "validation"]
    """gaussianity and separability use latents only; validation generates images at every candidate"""
    statistic: Literal[
        "radius",
        "whitened_radius",
        "components",
        "projections",
        "kurtosis",
        "isotropic_radius",
        "largest_eigenvalue",
        "sphericity",
    ]
    """statistic of criterion=gaussianity"""
    samples: Annotated[int, Field(ge=3)]
    """images per candidate for criterion=validation, samples of the base model for separability"""

    def __post_init__(self) -> None:
        if not 2 <= len(self.candidates) == len(set(self.candidates)):
            raise InputError(f"mixing.candidates=[{_listed(self.candidates)}]: give 2 or more different timesteps")

    @property
    def steps(self) -> tuple[float, ...]:
        """The candidates, ascending."""
        return tuple(sorted(float(t) for t in self.candidates))

    @property
    def meaning(self) -> str:
        """The criterion in words."""
        return {
            "gaussianity": f"smallest departure of the reference latents by {self.statistic}",
            "separability": "largest separation of the reference latents from the model's own",
            "validation": "smallest KID of the method's samples to the validation images",
        }[self.criterion]


# Statistics that can be a criterion: outside_edges is not one, its null may be a single number.
STATISTICS: tuple[str, ...] = get_args(hints(MixingSearch)["statistic"])


@dataclass(frozen=True)
class Candidate:
    """A mixing step, its value by the criterion (None: could not be judged), and the jackknife error of a KID."""

    t: float
    value: float | None
    standard_error: float | None = None


@dataclass(frozen=True)
class MixingStep:
    """The result of a search for the mixing step.

    Attributes:
        t: the best candidate; the lowest where several tie.
        criterion: in words.
        candidates: all of them, ascending.
        tied: the steps that share the best value, where there are several.
        at_end: the best is the lowest or highest candidate, so that a better one may lie beyond.
    """

    t: float
    criterion: str
    candidates: list[Candidate]
    tied: list[float]
    at_end: bool


def find_step(search: MixingSearch, judge: Callable[[float], Candidate]) -> MixingStep:
    """Returns the best candidate; skips those that cannot be judged, and logs each of them.

    Args:
        search: the candidates and their criterion.
        judge: t -> its value.

    Raises:
        InputError: none could be judged.
    """
    judged, failures = [], []
    for t in search.steps:
        try:
            found, reason = judge(t), "its value is not finite"
        except InputError as error:
            found, reason = Candidate(t, None), str(error)
        if found.value is None or not math.isfinite(found.value):
            found = Candidate(t, None)
            failures.append(f"t={t:g}: {reason}")
            log.warning("mixing.candidates: skipped %s", failures[-1])
        judged.append(found)
    values = {one.t: one.value for one in judged if one.value is not None}
    if not values:
        raise InputError(f"mixing.criterion={search.criterion}: no candidate could be judged ({failures[0]})")
    best = CRITERIA[search.criterion](values.values())
    tied = [t for t, value in values.items() if value == best]
    if len(tied) > 1:
        log.warning("mixing.criterion=%s: t = %s are equally good; the lowest is used", search.criterion, _listed(tied))
    at_end = tied[0] in (search.steps[0], search.steps[-1])
    if at_end:
        log.warning(
            "mixing.candidates: the best, t = %g, is the lowest or highest of them; a better one may lie beyond",
            tied[0],
        )
    return MixingStep(tied[0], search.meaning, judged, tied if len(tied) > 1 else [], at_end)


@dataclass(frozen=True, kw_only=True)
class Gaussianity(WholeStage):
    """Latents -> every test of ``scores.latents.gaussianity``."""

    stage: ClassVar[str] = "gaussianity"
    latents: LatentSet
    seed: int
    simulations: int

    def make(self, how: How) -> StageOutput:
        found = gaussianity(self.latents.latents, self.seed, self.simulations)
        return {"spectrum": found.spectrum}, {name: asdict(finding) for name, finding in found.findings.items()}


@dataclass(frozen=True, kw_only=True)
class LatentFindings(WholeStage):
    """Two sets of latents -> tests that separate them, and of the Gaussianity of each."""

    stage: ClassVar[str] = "latent_findings"
    latents: LatentSet
    own: LatentSet
    seed: int
    permutations: int

    def make(self, how: How) -> StageOutput:
        sets = {"gaussianity": self.latents.latents, "own_gaussianity": self.own.latents}
        found = {name: gaussianity(one, self.seed, self.permutations) for name, one in sets.items()}
        facts: dict[str, Any] = {
            name: {one: asdict(finding) for one, finding in result.findings.items()} for name, result in found.items()
        }
        separated = separability(self.latents.latents, self.own.latents, self.seed, self.permutations)
        facts["separability"] = asdict(separated)
        return {f"{name}_spectrum": result.spectrum for name, result in found.items()}, facts


def departure(stages: Stages, latents: LatentSet, statistic: str, seed: int) -> float:
    """How far latents (n >= 8) are from Gaussian by one statistic of ``latents.gaussianity``.

    |value - middle| / half-width of the statistic's central 95% range under its null: of the order of 1 or less for
    Gaussian latents. The null is drawn with the same random numbers at every step.
    """
    artefact = stages.run(Gaussianity(latents=latents, seed=seed, simulations=SIMULATIONS))
    finding = artefact.facts[statistic]
    middle, half = (finding["low"] + finding["high"]) / 2, (finding["high"] - finding["low"]) / 2
    return abs(finding["value"] - middle) / half if half > 0 else math.inf


def latent_findings(stages: Stages, latents: LatentSet, own: LatentSet, seed: int) -> dict[str, Any]:
    """Every test of ``latents.separability`` against the model's own, and of ``latents.gaussianity``, as JSON values.

    Keys ``separability`` (both sets), ``gaussianity`` (``latents``) and ``own_gaussianity``; 8 latents or more each.
    """
    return stages.run(LatentFindings(latents=latents, own=own, seed=seed, permutations=PERMUTATIONS)).facts


def separation(latents: LatentSet, own: LatentSet, seed: int) -> float:
    """Distance of the centres, its noise removed, over the scale at which distances separate two sets.

    That scale is (tr S^2)^(1/4), the greater of both sets': for spherical Gaussians d^(1/4) times the spread
    (Vempala and Wang 2004), so that a value above 1 is separable by distances alone.
    """
    found = distance_separation(latents.latents, own.latents, seed, permutations=1)  # its p-value is not used
    return found.distance / found.effective_threshold if found.effective_threshold > 0 else math.inf


def _listed(steps: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in steps)
