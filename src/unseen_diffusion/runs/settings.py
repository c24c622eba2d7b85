"""From a composed config to checked objects, before any model is loaded or anything is written."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseen_diffusion.domains.base import Domain, check_sizes, pool_of, split_pool
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.base import ModelSpec
from unseen_diffusion.models.pipeline import inspect_model
from unseen_diffusion.models.schedules import CLEAN
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Tolerances, check_route
from unseen_diffusion.rejection.geometry import check_left_out
from unseen_diffusion.reports.tracking import Tracker
from unseen_diffusion.runs.bandwidth import BandwidthSearch
from unseen_diffusion.runs.methods.base import Method
from unseen_diffusion.runs.mixing import MINIMUM, MixingSearch
from unseen_diffusion.scores.suite import ScoreSettings
from unseen_diffusion.solvers.grids import WHOLE as WHOLE_STEPS
from unseen_diffusion.solvers.sampling import SolverSettings
from unseen_diffusion.store.bucket import check_address
from unseen_diffusion.utils.batching import start_size
from unseen_diffusion.utils.configs import build, mistyped, number, resolve_plain, truth
from unseen_diffusion.utils.devices import choose_device
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import check_writable


@dataclass(frozen=True)
class RunSettings:
    """A checked run: light objects built, heavy ones (model, features) still as their configs.

    ``plain`` is the whole resolved config as plain Python values; ``prior`` and ``tolerances`` are those in
    use, which a method may bring itself. Where there is a search, ``t`` is the highest of its candidates, ``record``
    all of them, and ``eta`` 0, until the run has found its own.
    """

    plain: dict[str, Any]
    spec: ModelSpec
    domain: Domain
    method: Method
    prior: Prior
    prior_config: dict[str, Any]
    tolerances: Tolerances
    tolerances_config: dict[str, Any]
    solver: SolverSettings
    scores: ScoreSettings
    tracker: Tracker
    t: float
    record: tuple[float, ...]
    mixing_search: MixingSearch | None
    eta: float
    bandwidth_search: BandwidthSearch | None
    samples: int
    seed: int
    batch_size: int
    max_proposals: int
    allow_fewer: bool
    route: str
    progress: bool
    device: torch.device


def check_workers(plain: dict[str, Any]) -> int:
    """How many workers one run has.

    Raises:
        InputError: no such number, or not this worker's among them.
    """
    workers = int(number(plain, "workers", 1, math.inf, whole=True))
    number(plain, "worker", 0, workers - 1, whole=True)
    return workers


def local_artefacts(plain: dict[str, Any]) -> Path:
    """Where artefacts lie on this machine if the store is a bucket."""
    return Path(plain["paths"]["outputs"]) / "artefacts"


WRITTEN = ("paths.outputs", "paths.store", "training.folder", "tracking.folder")


def check_folders(config: DictConfig) -> None:
    """Refuses numbers and ``~`` for the folders that are written to.

    On the command line both are read as they are meant; in a config nothing makes text of the one or expands the other.

    Raises:
        InputError: the first of them.
    """
    for key in WRITTEN:
        folder = OmegaConf.select(config, key)
        if folder is not None and not isinstance(folder, str):
            raise InputError(f"{key}={folder}: give a folder as text; in a config write '{folder}' in quotes")
        if folder is not None and folder.startswith("~"):
            full = os.path.expanduser(folder)  # noqa: PTH111 - which fails for unknown users
            raise InputError(f"{key}={folder}: ~ would be a folder of that name; write {key}={full}")


def check_store(plain: dict[str, Any]) -> None:
    """What can be known of ``paths.store`` without a connection.

    Raises:
        InputError: a folder that cannot be written to, or an address that cannot be used.
    """
    store = str(plain["paths"]["store"])
    if "://" in store:
        check_address(store)
    else:
        check_writable("paths.store", Path(store))


def spec_of(model: dict[str, Any]) -> ModelSpec:
    """Image shape and schedule of a model config, without its weights."""
    if "path" in model:
        return inspect_model(**{key: value for key, value in model.items() if key not in ("_target_", "name")})
    for key in ("channels", "size"):
        number({"model": model}, f"model.{key}", 1, math.inf, whole=True)
    return ModelSpec(model["channels"], model["size"], linear_schedule())


# Groups whose keys no constructor checks, and keys that must be whole numbers where they occur.
KEYS = {
    "mixing": {"t", "record"},
    "bandwidth": {"eta"},
    "rejection": {"max_proposals", "allow_fewer", "route"},
}
TOP = {*KEYS, "model", "domain", "method", "solver", "prior", "tolerances", "scores", "features", "tracking", "paths"}
TOP |= {"samples", "seed", "batch_size", "device", "progress", "workers", "worker"}
WHOLE = {"references", "validation", "heldout", "split_seed", "draw", "steps", "k", "rank", "id_count"}
WHOLE |= {"components", "iterations", "samples"}
FILES = ("path", "folder")  # of features: a given file must exist


def check_keys(plain: dict[str, Any]) -> None:
    """Refuses keys that nothing reads (added with + or in own configs), fractions and absent feature files.

    Raises:
        InputError: the first of them.
    """
    unknown = [key for key in plain if key not in TOP]
    for group, known in KEYS.items():
        if "_target_" not in plain[group]:
            unknown += [f"{group}.{key}" for key in plain[group] if key not in known]
    if unknown:
        raise InputError(f"{unknown[0]}: nothing reads this key; see unseen run --cfg job")
    for group in ("domain", "solver", "tolerances", "prior", "mixing", "bandwidth"):
        for key, value in plain[group].items():
            chosen = value is None or (key == "rank" and value == "auto")
            if key in WHOLE and not chosen and (isinstance(value, bool) or not isinstance(value, int)):
                raise InputError(f"{group}.{key}={value}: give a whole number")
    for key in FILES:
        value = plain["features"].get(key)
        if value is not None and not Path(value).expanduser().exists():
            raise InputError(f"features.{key}={value}: no such file or folder")


def check(config: DictConfig) -> RunSettings:
    """Builds and checks all that is cheap.

    Raises:
        InputError: one line naming the value and the remedy.
    """
    try:
        return _check(config)
    except (TypeError, KeyError, OmegaConfBaseException) as error:
        groups = [str(key) for key, group in config.items() if isinstance(group, DictConfig) and "_target_" in group]
        line = next(filter(None, (mistyped(config[group], group) for group in groups)), None)
        if line and isinstance(error, TypeError):
            raise InputError(line) from error
        reason = " ".join(str(error).split())
        raise InputError(f"a setting is missing or of the wrong type ({reason}); see unseen run --cfg job") from error


def _check(config: DictConfig) -> RunSettings:
    plain = resolve_plain(config)
    check_keys(plain)
    _check_plain(plain)
    device = choose_device(plain["device"])
    batch_size = start_size(plain["batch_size"], device)
    domain: Domain = build(config.domain, "domain")
    method: Method = build(config.method, "method")
    prior: Prior = method.prior or build(config.prior, "prior")
    tolerances: Tolerances = method.tolerances or build(config.tolerances, "tolerances")
    rejection = plain["rejection"]
    check_route(str(rejection["route"]), prior, tolerances)
    solver: SolverSettings = build(config.solver, "solver")
    scores: ScoreSettings = build(config.scores, "scores")
    samples = int(number(plain, "samples", scores.minimum, math.inf, whole=True))
    if rejection["max_proposals"] < samples:
        raise InputError(f"rejection.max_proposals={rejection['max_proposals']}: give samples={samples} or more")
    tracker: Tracker = build(config.tracking, "tracking")
    tracker.check()
    spec = spec_of(plain["model"])
    bandwidth_search, eta = _bandwidth(plain)
    mixing_search, t, record = _mixing(plain, spec, solver)
    if mixing_search:
        check_mixing(mixing_search, method, rejection["max_proposals"])
    validation = check_references(domain, prior, tolerances, scores, spec, mixing_search)
    if method.tuning:
        method.tuning.check(plain["model"], validation)
    return RunSettings(
        plain=plain,
        spec=spec,
        domain=domain,
        method=method,
        prior=prior,
        prior_config=plain["method"].get("prior") or plain["prior"],
        tolerances=tolerances,
        tolerances_config=plain["method"].get("tolerances") or plain["tolerances"],
        solver=solver,
        scores=scores,
        tracker=tracker,
        t=t,
        record=record,
        mixing_search=mixing_search,
        eta=eta,
        bandwidth_search=bandwidth_search,
        samples=samples,
        seed=plain["seed"],
        batch_size=batch_size,
        max_proposals=rejection["max_proposals"],
        allow_fewer=rejection["allow_fewer"],
        route=str(rejection["route"]),
        progress=plain["progress"],
        device=device,
    )


def _check_plain(plain: dict[str, Any]) -> None:
    """Keys that stand alone, and that the run can write where it is to."""
    number(plain, "seed", 0, 2**62, whole=True)
    for key in ("features.batch_size", "rejection.max_proposals"):
        number(plain, key, 1, math.inf, whole=True)
    for key in ("rejection.allow_fewer", "progress"):
        truth(plain, key)
    check_workers(plain)
    check_writable("paths.outputs", Path(plain["paths"]["outputs"]))
    check_store(plain)


def _bandwidth(plain: dict[str, Any]) -> tuple[BandwidthSearch | None, float]:
    """A search of eta, and the eta until it has found its own."""
    if "_target_" in plain["bandwidth"]:
        return build(plain["bandwidth"], "bandwidth"), 0.0
    return None, float(number(plain, "bandwidth.eta", 0, 1))


def _mixing(
    plain: dict[str, Any], spec: ModelSpec, solver: SolverSettings
) -> tuple[MixingSearch | None, float, tuple[float, ...]]:
    """A search of the mixing step, the step (its highest candidate), and the steps that the inversion records."""
    top = spec.schedule.timesteps - 1
    search: MixingSearch | None = None
    if "_target_" in plain["mixing"]:
        _timesteps(plain, "candidates", top)
        found: MixingSearch = build(plain["mixing"], "mixing")
        search, t, record = found, found.steps[-1], found.steps
    else:
        t, record = number(plain, "mixing.t", 0, top), tuple(_timesteps(plain, "record", top))
    steps = (t, *record)
    if len({f"{step:g}" for step in steps}) < len({float(step) for step in steps}):
        raise InputError(f"mixing.record={list(record)}: steps that agree in 6 digits; leave one of them out")
    if t == 0 or min(record, default=1) <= CLEAN + 1:
        raise InputError("mixing: t=0 is the image itself; choose a mixing step above 0")
    fractions = [step for step in steps if step != int(step)]
    if solver.grid in WHOLE_STEPS and fractions:
        raise InputError(
            f"mixing.t={fractions[0]}: solver.grid={solver.grid} knows whole timesteps only; choose another grid or t"
        )
    return search, float(t), record


def check_mixing(search: MixingSearch, method: Method, max_proposals: int) -> None:
    """A search of the mixing step fits the method.

    Raises:
        InputError: it does not.
    """
    if search.criterion != "validation":
        return
    if not method.generates:
        raise InputError(
            f"mixing.criterion=validation: method={method.name} generates nothing; choose another criterion"
        )
    if search.samples > max_proposals:
        raise InputError(f"rejection.max_proposals={max_proposals}: give mixing.samples={search.samples} or more")


def _timesteps(plain: dict[str, Any], key: str, top: int) -> list[float]:
    """``mixing.record`` or ``mixing.candidates`` as numbers within the schedule."""
    steps = plain["mixing"][key] or []
    if not isinstance(steps, list):
        raise InputError(f"mixing.{key}={steps}: give a list of timesteps, e.g. mixing.{key}=[250,500,750]")
    return [number({"mixing": {key: value}}, f"mixing.{key}", 0, top) for value in steps]


def check_references(
    domain: Domain,
    prior: Prior,
    tolerances: Tolerances,
    scores: ScoreSettings,
    spec: ModelSpec,
    mixing: MixingSearch | None,
) -> int:
    """Enough images for the split and what ``check_counts`` asks for; returns how many are validation images.

    Raises:
        InputError: too few.
    """
    pool = pool_of(domain, spec.size, spec.channels)
    check_sizes(domain, len(pool.names))
    sizes = (domain.references, domain.validation, domain.heldout)
    parts = split_pool(pool, *sizes, domain.split_seed, domain.draw, name=domain.name)
    counts = dict(zip(("references", "validation", "heldout"), map(len, parts), strict=True))
    check_counts(counts, prior, tolerances, scores, mixing)
    return counts["validation"]


def check_counts(
    counts: Mapping[str, int],
    prior: Prior,
    tolerances: Tolerances,
    scores: ScoreSettings,
    mixing: MixingSearch | None,
) -> None:
    """Enough references, validation and held-out images for the prior, the criteria and the scores.

    Raises:
        InputError: too few.
    """
    references = counts["references"]
    if references < prior.minimum_references:
        raise InputError(
            f"domain.references={references}: prior={prior.name} needs {prior.minimum_references} or more; "
            "raise domain.references or choose another prior"
        )
    if references < scores.minimum:
        raise InputError(f"domain.references={references}: the scores need {scores.minimum} or more")
    if counts[scores.target] < scores.minimum:
        raise InputError(f"domain.{scores.target}={counts[scores.target]}: the scores need {scores.minimum} or more")
    if mixing:
        part = "validation" if mixing.criterion == "validation" else "references"
        found, least = counts[part], MINIMUM[mixing.criterion]
        if found < least:
            raise InputError(f"domain.{part}={found}: mixing.criterion={mixing.criterion} needs {least} or more")
    if tolerances.control and not prior.random:
        raise InputError(
            f"tolerances={tolerances.name} needs a prior that samples, and prior={prior.name} does not; choose another "
            "prior or other tolerances"
        )
    if tolerances.judges:
        check_left_out(references, tolerances.k)
