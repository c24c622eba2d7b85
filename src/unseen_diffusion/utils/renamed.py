"""Keeps old module paths working for one release, by one table; a warning names the new path.

Imports (``from unseen_diffusion.scoring import METRICS``) and the ``_target_`` of configs go through it alike.
To be deleted with version 0.5, together with the ``__getattr__`` of the packages that took an old module's name.
"""

import sys
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

ROOT = "unseen_diffusion"
# Old module -> the modules that now hold its names. Both are relative to the package.
RENAMED: dict[str, tuple[str, ...]] = {
    "batching": ("utils.batching", "utils.devices"),
    "bucket": ("store.bucket",),
    "claims": ("store.claims",),
    "comparison": ("reports.comparison", "reports.rows"),
    "composition": ("sweeps.composition", "sweeps.options", "sweeps.overrides", "sweeps.explanations"),
    "dashboard": ("reports.dashboard",),
    "errors": ("utils.errors",),
    "features": ("scores.features",),
    "figures": ("reports.figures", "reports.sheets"),
    "files": ("utils.files",),
    "forgetting": ("runs.forgetting",),
    "geometry": ("rejection.geometry",),
    "grids": ("solvers.grids",),
    "images": ("utils.images",),
    "implicit": ("solvers.fixed_point", "solvers.methods.ddim_implicit"),
    "jobs": ("sweeps.jobs",),
    "latents": ("scores.latents",),
    "latents.resampling": ("scores.intervals", "scores.kernel"),
    "launches": ("sweeps.launch",),
    "methods": ("runs.methods",),
    "objects": ("store.objects",),
    "optimisation": ("training.optimisation",),
    "precision": ("utils.precision",),
    "report": ("reports.html",),
    "results": ("runs.results", "runs.scoring", "runs.details"),
    "runs": ("runs.run",),
    "schedules": ("models.schedules",),
    "scoring": ("scores.suite", "scores.metrics"),
    "searches": ("runs.bandwidth", "runs.mixing"),
    "seeds": ("utils.seeds",),
    "settings": ("runs.settings", "utils.configs", "utils.devices"),
    "shards": ("store.shards",),
    "solvers": (
        "solvers.grids",
        "solvers.settings",
        "solvers.methods.ddim_implicit",
        "solvers.sampling",
        "utils.progress",
    ),
    "stages": ("runs.stages", "runs.measurements", "runs.stage_store"),
    "statuses": ("sweeps.status",),
    "steppers": (
        "solvers.base",
        "solvers.clean_end",
        *(f"solvers.methods.{name}" for name in ("ddim", "dpmpp_2m", "trapezoid", "heun", "rk4")),
    ),
    "store": ("store.artefacts",),
    "sweeps": ("sweeps.manifest", "sweeps.states"),
    "tables": ("reports.tables", "reports.rows", "reports.result"),
    "tensors": ("utils.tensors",),
    "tracking": ("reports.tracking",),
    "tuning": ("training.finetuning",),
    "work_precision": ("solvers.work_precision",),
    "workers": ("runs.workers",),
}
# Names that changed: module (relative to the package) -> old name -> new name, with its module if that changed too.
# The module itself says
# ``__getattr__ = new_names(__name__)``.
NAMES: dict[str, dict[str, str]] = {
    "domains.base": {"array_digest": "utils.digests.array_digest"},
    "models.pipeline": {"check_tunable": "models.options.check_tunable"},
    "pipeline.unseen_domain": {"FixedBands": "rejection.tolerances.FixedBands"},
    "rejection.tolerances": {"Projection": "rejection.projection.Projection"},
    "scores.metrics": {"agreed": "reports.rows.merge_same_images"},
    "training.loop": {
        "check_resumable": "training.resume.check_resumable",
        "settle_precision": "training.resume.resolve_precision",
    },
    "runs.stages": {"digest": "utils.digests.tensor_digest"},
    "store.bucket": {"own_folder": "local_folder"},
    "store.claims": {"BEAT": "HEARTBEAT", "STALE": "SILENCE"},
    "store.shards": {
        "Made": "StageOutput",
        "Spent": "Cost",
        "agree": "shared_boundaries",
    },
    "solvers.base": {
        "Known": "Evaluated",
        "Stepper": "Solver",
        "advance": "euler_step",
        "move": "to_node",
        "read": "predict_at",
        "touches_end": "is_boundary",
    },
    "solvers.grids": {"WHOLE": "WHOLE_TIMESTEPS"},
    "solvers.methods.dpmpp_2m": {"multistep": "dpmpp_2m_step"},
    "solvers.sampling": {"walk": "trajectory"},
    "solvers.settings": {"make_stepper": "make_solver"},
    "priors": {"GaussianBase": "Prior"},
    "priors.base": {"GaussianBase": "Prior"},
    "runs.methods": {"Method": "by_source"},
    "sweeps.composition": {"own_config": "run_config"},
    "sweeps.overrides": {"as_meant": "escape_values", "replaced": "replace_overrides"},
    "sweeps.status": {
        "BEAT": "HEARTBEAT",
        "STALE": "SILENCE_BY_STAMP",
        "alive": "is_alive",
        "here": "is_local",
        "own": "is_this_process",
    },
    "training.data": {"digest": "images_digest"},
    "utils.files": {"sha256": "file_digest"},
}
PACKAGES = {new[0].partition(".")[0] for new in RENAMED.values()}


def same_path(old: str, new: str) -> bool:
    """Whether two dotted paths, such as ``_target_``s of configs, name the same thing before and after a renaming."""
    _, _, path = old.partition(".")
    first, _, rest = path.partition(".")
    return old == new or new in {f"{ROOT}.{home}.{rest}" for home in RENAMED.get(first, ())}


def _successor(home: str, name: str) -> tuple[str, Any] | None:
    """The full path and the object of a name that module ``home`` (relative to the package) has or had; or None."""
    new = NAMES.get(home, {}).get(name, name)
    module, _, last = (new if "." in new else f"{home}.{new}").rpartition(".")
    found = vars(import_module(f"{ROOT}.{module}")).get(last)
    return None if found is None else (f"{ROOT}.{module}.{last}", found)


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name will be removed in version 0.5", FutureWarning, stacklevel=3)


def old_names(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` for old module ``module``: finds a name where it is now, and warns.

    Args:
        module: a key of ``RENAMED``.
    """

    def find(name: str) -> Any:
        below = f"{ROOT}.{module}.{name}" in sys.modules or (
            module in PACKAGES and find_spec(f".{name}", f"{ROOT}.{module}")
        )
        if not (name.startswith("__") or below):
            found = [one for home in RENAMED[module] if (one := _successor(home, name))]
            # The module that defines the name comes before one that imports it.
            found.sort(key=lambda one: getattr(one[1], "__module__", "") != one[0].rpartition(".")[0])
            if found:
                _warn(f"{ROOT}.{module}.{name}", found[0][0])
                return found[0][1]
        raise AttributeError(f"module {ROOT}.{module!r} has no attribute {name!r}")

    return find


def new_names(module: str) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module some of whose names changed: finds an old name's successor, and warns.

    Args:
        module: its full name, with the old and new names in ``NAMES``.
    """

    def find(name: str) -> Any:
        home = module.removeprefix(f"{ROOT}.")
        found = _successor(home, name) if name in NAMES.get(home, {}) else None
        if found is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", found[0])
        return found[1]

    return find


class _OldModule(Loader):
    """Creates a module that only forwards names to their new modules."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = old_names(module.__name__.removeprefix(f"{ROOT}."))  # type: ignore[method-assign]


class _OldModules(MetaPathFinder):
    """Finds old modules, and the modules below the packages that moved (``unseen_diffusion.features.base``)."""

    def find_spec(
        self, fullname: str, path: Iterable[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        root, _, old = fullname.partition(".")
        first, _, below = old.partition(".")
        if root != ROOT or first in PACKAGES or first not in RENAMED:
            return None
        if below:
            RENAMED.setdefault(old, tuple(f"{home}.{below}" for home in RENAMED[first]))
        return ModuleSpec(fullname, _OldModule(), is_package=True)


def install() -> None:
    """Lets old module paths be imported; called once, when the package is imported."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())
