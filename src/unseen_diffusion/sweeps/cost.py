"""The cost of runs before they start: network evaluations (NFE) by stage, and hours at a given speed.

Builds the light objects of a config only: neither the weights nor the images need to be here.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from typing import Any

from omegaconf import DictConfig

from unseen_diffusion.domains.base import Domain, pool_of
from unseen_diffusion.domains.split import split_pool
from unseen_diffusion.priors import Prior
from unseen_diffusion.runs.bandwidth import BandwidthSearch
from unseen_diffusion.runs.details import PATH_STEPS
from unseen_diffusion.runs.methods.base import Method
from unseen_diffusion.runs.mixing import MixingSearch
from unseen_diffusion.runs.settings import spec_of
from unseen_diffusion.scores.suite import ScoreSettings
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.sweeps.catalogue import entry
from unseen_diffusion.training.finetuning import TRAINING_COST, VALIDATION_DRAWS
from unseen_diffusion.utils.configs import build, resolve_plain

TFLOPS = 10.0  # TFLOP/s that a GPU sustains, where nothing else is known
SHOWN_ABOVE = 0.1  # hours above which a command prints its cost before it starts


@dataclass(frozen=True)
class Part:
    """One stage's network evaluations.

    Attributes:
        stage: in words.
        nfe: network evaluations; those of guidance count twice.
        key: equal for parts that two runs share, which are computed once.
    """

    stage: str
    nfe: int
    key: str


@dataclass(frozen=True)
class Cost:
    """The cost of several runs.

    Attributes:
        runs: how many.
        stages: NFE by stage, shared stages once.
        models: NFE by base model.
        gmac: 10^9 multiply-adds per evaluation and image by base model; None where it is unknown.
    """

    runs: int
    stages: dict[str, int]
    models: dict[str, int]
    gmac: dict[str, float | None]

    @property
    def nfe(self) -> int:
        """Network evaluations of all runs."""
        return sum(self.stages.values())

    def hours(self, tflops: float, model: str | None = None) -> float:
        """Hours of network evaluations at a speed in TFLOP/s; models of unknown cost count as 0."""
        names = self.models if model is None else [model]
        return sum(self.models[name] * 2e9 * (self.gmac[name] or 0) for name in names) / (tflops * 1e12) / 3600

    def lines(self, tflops: float) -> list[str]:
        """The cost as text: the total, then each stage and each model."""
        found = [f"{self.runs} run{'s' * (self.runs != 1)}, about {self.nfe:,} NFE"]
        found += [f"  {nfe:>14,}  {stage}" for stage, nfe in self.stages.items()]
        for model, nfe in self.models.items():
            gmac = self.gmac[model]
            time = f"{self.hours(tflops, model):,.1f} h" if gmac else "time unknown: its config states no GMAC"
            found.append(f"  {nfe:>14,}  by {model}: {time}")
        known = f"about {self.hours(tflops):,.1f} h at {tflops:g} TFLOP/s sustained"
        return [*found, f"{known}: an estimate of network evaluations alone (--tflops=N for your device)"]


def cost_of(points: Sequence[DictConfig]) -> Cost:
    """The cost of composed runs; stages that several runs share count once.

    Raises:
        InputError: a setting that does not fit.
    """
    stages: dict[str, int] = {}
    models: dict[str, int] = {}
    gmac: dict[str, float | None] = {}
    seen: set[str] = set()
    for point in points:
        plain = resolve_plain(point)
        name = str(plain["model"].get("name") or plain["model"].get("path"))
        gmac[name] = gmac_of(point)
        for part in parts(plain, point):
            if part.nfe and part.key not in seen:
                seen.add(part.key)
                stages[part.stage] = stages.get(part.stage, 0) + part.nfe
                models[name] = models.get(name, 0) + part.nfe
    return Cost(len(points), stages, models, gmac)


def gmac_of(point: DictConfig) -> float | None:
    """10^9 multiply-adds per evaluation and image, as the config of a run's base model states; None without."""
    option = entry("model", str(point.hydra.runtime.choices["model"]))
    return option.number(r"([\d.]+) GMAC per evaluation") if option else None


def parts(plain: Mapping[str, Any], config: DictConfig) -> Iterator[Part]:
    """The stages of one run and their NFE."""
    solver: SolverSettings = build(config.solver, "solver", kind=SolverSettings)
    domain: Domain = build(config.domain, "domain", kind=Domain)
    scores: ScoreSettings = build(config.scores, "scores", kind=ScoreSettings)
    method: Method = build(config.method, "method", kind=Method)
    prior: Prior = method.prior or build(config.prior, "prior", kind=Prior)
    references, heldout = _sizes(domain, scores.target, plain)
    up, down = solver.nfe_by_direction
    down *= 1 + (plain["model"].get("guidance", 1) > 1)
    samples, eta = plain["samples"], plain["bandwidth"].get("eta")
    shared = {key: plain[key] for key in ("model", "solver", "mixing")}
    images = {key: plain["domain"].get(key) for key in plain["domain"] if key != "name"}

    def part(stage: str, nfe: int, **by: Any) -> Part:
        return Part(stage, nfe, json.dumps([stage, shared, by or plain], sort_keys=True, default=str))

    own = part("the model's own samples", 2 * samples * down, count=samples, seed=plain["seed"])
    needs_latents = method.draws_from_prior or method.name == "noised_reference"
    if needs_latents or scores.reconstructions or scores.geometry or scores.paths or "replay" in scores.rows:
        yield part("inversion of references", references * up, images=images)
    if prior.id_latents and method.draws_from_prior:
        yield part("latents of the model's own domain", prior.id_latents * down, count=prior.id_latents)
    if isinstance(plain["mixing"], dict) and "_target_" in plain["mixing"]:
        search: MixingSearch = build(config.mixing, "mixing", kind=MixingSearch)
        yield part("search of the mixing step", len(search.steps) * search.samples * down)
    if "_target_" in plain["bandwidth"]:
        bandwidth: BandwidthSearch = build(config.bandwidth, "bandwidth", kind=BandwidthSearch)
        tried = ceil(log2(bandwidth.intervals)) + 2
        yield part("search of the bandwidth", tried * min(bandwidth.references, references) * down)
    if tuning := method.tuning:
        checks = tuning.max_steps // tuning.check_every + 1
        yield part("tuning, at most", TRAINING_COST * tuning.max_steps * tuning.batch_size + checks * VALIDATION_DRAWS)
    if method.own_domain:
        yield own
    elif method.generates:
        yield part("samples", samples * down * (2 if method.fine_tunes else 1))
    rows = scores.rows
    yield part(
        "comparison rows", ("replay" in rows) * min(references, samples) * down + ("standard" in rows) * samples * down
    )
    if scores.membership or scores.geometry or scores.latents or "base_samples" in rows:
        yield own
    yield part("reconstructions", min(scores.reconstructions, references) * down * (1 if eta == 0 else 2))
    yield part("paths between references", 2 * PATH_STEPS * min(scores.paths, references // 2) * down)
    measured = min(scores.geometry, heldout) + min(scores.geometry, samples) + scores.latents
    yield part("inversion of other images", measured * up)


def _sizes(domain: Domain, target: str, plain: Mapping[str, Any]) -> tuple[int, int]:
    """Numbers of references and of images to compare with; counts the images only where a size is a share of them."""
    sizes = (domain.references, domain.validation, domain.heldout)
    of_target = domain.validation if target == "validation" else domain.heldout
    if domain.references is not None and of_target is not None:
        return domain.references, of_target
    spec = spec_of(plain["model"])
    pool = pool_of(domain, spec.size, spec.channels)
    references, validation, heldout = split_pool(pool, *sizes, domain.split_seed, domain.draw, name=domain.name)
    return len(references), len(validation if target == "validation" else heldout)
