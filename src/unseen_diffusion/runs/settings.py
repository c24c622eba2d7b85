"""From a composed config to checked objects, before any model is loaded or anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from unseen_diffusion.domains.base import Domain, check_sizes, parts_of, pool_of
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.base import ModelSpec
from unseen_diffusion.models.blocks import without_blocks
from unseen_diffusion.models.options import inspect_model
from unseen_diffusion.models.schedules import CLEAN
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Rejection, Tolerances, check_route
from unseen_diffusion.rejection.geometry import check_left_out
from unseen_diffusion.rejection.images.base import ImageSelection, NoSelection
from unseen_diffusion.reports.tracking import Tracker
from unseen_diffusion.runs.bandwidth import BandwidthSearch
from unseen_diffusion.runs.fewshots import follow_references
from unseen_diffusion.runs.keys import FixedMixing, Paths, run_keys, section
from unseen_diffusion.runs.methods.base import Method
from unseen_diffusion.runs.mixing import MINIMUM, MixingSearch
from unseen_diffusion.scores.suite import ScoreSettings
from unseen_diffusion.solvers.grids import WHOLE_TIMESTEPS as WHOLE_STEPS
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.bucket import check_address
from unseen_diffusion.utils.batching import start_size
from unseen_diffusion.utils.configs import build, check_arguments, resolve_plain
from unseen_diffusion.utils.devices import choose_device
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import check_writable


@dataclass(frozen=True)
class RunSettings:
    """A checked run: light objects built, heavy ones (model, features) still as their configs.

    ``plain`` is the whole resolved config as plain Python values; ``prior`` and ``tolerances`` are those in
    use, which a method may define itself. Where there is a search, ``t`` is the highest of its candidates, ``record``
    all of them, and ``eta`` 0, until the run's search has chosen its value.
    """

    plain: dict[str, Any]
    spec: ModelSpec
    domain: Domain
    method: Method
    prior: Prior
    prior_config: dict[str, Any]
    tolerances: Tolerances
    tolerances_config: dict[str, Any]
    selection: ImageSelection
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
    deterministic: bool
    rejection: Rejection
    progress: bool
    device: torch.device


def check_folders(paths: Paths) -> None:
    """Checks that results can be written to their folders; of a bucket, only its address is checked.

    Raises:
        InputError: a folder that cannot be written to, or an address that cannot be used.
    """
    check_writable("paths.outputs", Path(paths.outputs))
    if "://" in paths.store:
        check_address(paths.store)
    else:
        check_writable("paths.store", Path(paths.store))


def spec_of(model: dict[str, Any]) -> ModelSpec:
    """Image shape and schedule of a model config, without its weights."""
    if "path" in model:
        return inspect_model(**{key: value for key, value in model.items() if key not in ("_target_", "name")})
    return ModelSpec(model["channels"], model["size"], linear_schedule())


def check(config: DictConfig) -> RunSettings:
    """Builds and checks everything that is cheap.

    Raises:
        InputError: one line naming the value and the remedy.
    """
    try:
        return _check(config)
    except (TypeError, KeyError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"a setting is missing or of the wrong type ({reason}); see unseen run --cfg job") from error


def _check(config: DictConfig) -> RunSettings:
    plain = resolve_plain(config)
    keys = run_keys(plain)
    rejection: Rejection = section(plain, "rejection")
    check_folders(section(plain, "paths"))
    for group in ("model", "features"):  # which are built when a run starts: they read weights
        check_arguments(plain[group], group)
    _check_files(plain["features"])
    device = choose_device(keys.device)
    domain: Domain = build(config.domain, "domain", kind=Domain)
    method: Method = build(config.method, "method", kind=Method)
    prior: Prior = method.prior or build(config.prior, "prior", kind=Prior)
    tolerances: Tolerances = method.tolerances or build(config.tolerances, "tolerances", kind=Tolerances)
    selection = NoSelection()  # that of configs written before version 0.4
    if "selection" in plain:
        selection = build(config.selection, "selection", kind=ImageSelection)
    solver: SolverSettings = build(config.solver, "solver", kind=SolverSettings)
    spec = spec_of(plain["model"])
    bandwidth_search, eta = _bandwidth(plain)
    mixing_search, t, record = _mixing(plain, spec, solver)
    settings = RunSettings(
        plain=plain,
        spec=spec,
        domain=domain,
        method=method,
        prior=prior,
        prior_config=plain["method"].get("prior") or plain["prior"],
        tolerances=tolerances,
        tolerances_config=plain["method"].get("tolerances") or plain["tolerances"],
        selection=selection,
        solver=solver,
        scores=build(config.scores, "scores", kind=ScoreSettings),
        tracker=build(config.tracking, "tracking", kind=Tracker),
        t=t,
        record=record,
        mixing_search=mixing_search,
        eta=eta,
        bandwidth_search=bandwidth_search,
        samples=keys.samples,
        seed=keys.seed,
        batch_size=start_size(keys.batch_size, device),
        deterministic=keys.deterministic,
        rejection=rejection,
        progress=keys.progress,
        device=device,
    )
    return _checked_together(settings)


def _checked_together(s: RunSettings) -> RunSettings:
    """Checks that settings of different groups fit each other, and that the domain has enough images for them.

    Returns them; some follow a small number of references (``fewshots``).

    Raises:
        InputError: the first that does not fit.
    """
    check_route(s.rejection.route, s.prior, s.tolerances)
    if s.samples < s.scores.minimum:
        raise InputError(f"samples={s.samples}: give {s.scores.minimum} or more, which the scores need")
    if s.rejection.max_proposals < s.samples:
        raise InputError(f"rejection.max_proposals={s.rejection.max_proposals}: give samples={s.samples} or more")
    check_selection(s)
    s.tracker.check()
    if s.mixing_search:
        check_mixing(s.mixing_search, s.method, s.rejection.max_proposals)
    s = follow_references(s)
    validation = check_references(s.domain, s.prior, s.tolerances, s.scores, s.spec, s.mixing_search)
    if s.method.tuning:
        s.method.tuning.check(s.plain["model"], validation)
    return s


def check_selection(s: RunSettings) -> None:
    """Checks that a selection by images has candidates enough, and a model that has features if it needs them.

    Raises:
        InputError: it does not fit the run.
    """
    if not s.selection.judges or not s.method.draws_from_prior:
        return
    for one in s.selection.every():
        if not one.judges:
            raise InputError(f"selection={s.selection.name}: contains selection={one.name}, which keeps every image")
    if s.rejection.max_images < s.samples:
        raise InputError(f"rejection.max_images={s.rejection.max_images}: give samples={s.samples} or more")
    if not s.prior.random:
        raise InputError(f"selection={s.selection.name}: prior={s.prior.name} draws nothing; set selection=none")
    if s.selection.needs_features and "path" not in s.plain["model"]:
        raise without_blocks(s.plain["model"].get("name") or "analytic")


def _check_files(features: dict[str, Any]) -> None:
    """Checks that the files and folders exist that a feature extractor will read.

    Raises:
        InputError: the first that does not.
    """
    for key, kind in (("path", "file"), ("folder", "folder")):
        value = features.get(key)
        if value is None:
            continue
        place = Path(value).expanduser()
        if not place.exists():
            raise InputError(f"features.{key}={value}: no such file or folder")
        if place.is_dir() != (kind == "folder"):
            raise InputError(f"features.{key}={value}: give a {kind}")
    target = get_object(features["_target_"])
    if check_files := getattr(target, "check_files", None):
        values = {key: value for key, value in features.items() if key != "_target_"}
        check_files(**values)


def _bandwidth(plain: dict[str, Any]) -> tuple[BandwidthSearch | None, float]:
    """(search, 0) if eta is searched; (None, eta) if it is given."""
    if "_target_" in plain["bandwidth"]:
        return build(plain["bandwidth"], "bandwidth", kind=BandwidthSearch), 0.0
    return None, section(plain, "bandwidth").eta


def _mixing(
    plain: dict[str, Any], spec: ModelSpec, solver: SolverSettings
) -> tuple[MixingSearch | None, float, tuple[float, ...]]:
    """The search or None, the mixing step (of a search, its highest candidate), and the steps to record."""
    search: MixingSearch | None = None
    if "_target_" in plain["mixing"]:
        search = build(plain["mixing"], "mixing", kind=MixingSearch)
        _check_timesteps("mixing.candidates", search.steps, spec)
        t, record = search.steps[-1], search.steps
    else:
        given: FixedMixing = section(plain, "mixing")
        t, record = given.t, tuple(given.record or ())
        _check_timesteps("mixing.t", [t], spec)
        _check_timesteps("mixing.record", record, spec)
    steps = (t, *record)
    if len({f"{step:g}" for step in steps}) < len(set(steps)):
        raise InputError(f"mixing.record={list(record)}: two steps that are equal to 6 digits; leave one of them out")
    if t == 0 or min(record, default=1) <= CLEAN + 1:
        raise InputError("mixing: t=0 is the image itself; choose a mixing step above 0")
    fractions = [step for step in steps if step != int(step)]
    if solver.grid in WHOLE_STEPS and fractions:
        raise InputError(
            f"mixing.t={fractions[0]}: solver.grid={solver.grid} has whole timesteps only; choose another grid or t"
        )
    return search, t, record


def _check_timesteps(key: str, steps: Sequence[float], spec: ModelSpec) -> None:
    """Checks that every timestep lies in the model's schedule.

    Raises:
        InputError: the first that is not.
    """
    top = spec.schedule.timesteps - 1
    for step in steps:
        if step > top:
            raise InputError(f"{key}={step:g}: give a number between 0 and {top}")


def check_mixing(search: MixingSearch, method: Method, max_proposals: int) -> None:
    """Checks that a search of the mixing step fits the method.

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


def check_references(
    domain: Domain,
    prior: Prior,
    tolerances: Tolerances,
    scores: ScoreSettings,
    spec: ModelSpec,
    mixing: MixingSearch | None,
) -> int:
    """Checks that there are enough images for the split and ``check_counts``; returns the number of validation images.

    Raises:
        InputError: too few.
    """
    pool = pool_of(domain, spec.size, spec.channels)
    check_sizes(domain, len(pool.names))
    parts = parts_of(domain, pool)
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
    """Checks that there are enough references, validation and held-out images for prior, criteria and scores.

    Raises:
        InputError: too few.
    """
    references = counts["references"]
    if references < prior.minimum_references:
        raise InputError(
            f"domain.references={references}: prior={prior.name} needs {prior.minimum_references} or more; "
            "raise domain.references or choose another prior"
            + (", such as slerp_id or replay" if references == 1 else "")
        )
    if references < scores.minimum and {"held_out", "replay"} & set(scores.rows):
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
