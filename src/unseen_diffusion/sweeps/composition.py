"""Composes the configs of all runs of a command line, before the first one starts."""

import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Glob, Override, QuotedString
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseen_diffusion.runs.keys import run_keys
from unseen_diffusion.sweeps.explanations import explain
from unseen_diffusion.sweeps.options import GROUPS, config_folder, own_folder
from unseen_diffusion.sweeps.overrides import each_once, parse, read_arguments, values_of
from unseen_diffusion.utils.checked import as_written
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

SOBOL_COLUMNS = 10  # keys that one joint sweep can vary
TRAINING_GROUPS = ("training", "data")  # of unseen train
JOINT = "+"  # between keys that are swept together, and between their values
WRITTEN = ("paths.outputs", "paths.store", "training.folder", "tracking.folder")  # folders that are written to


class OwnConfigs(SearchPathPlugin):
    """Adds the user's config folder to Hydra's search path, before conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if folder := own_folder():
            search_path.prepend("unseen-own", f"file://{folder}")


Plugins.instance().register(OwnConfigs)


def sobol(index: int, column: int, low: float, high: float) -> float | int:
    """Coordinate ``column`` of point ``index`` of a scrambled Sobol sequence (Sobol 1967; Owen 1998), scaled.

    For configs such as ``${sobol:${seed},0,25,200}``: a sweep over the seed then varies all keys that use it jointly.

    Args:
        index: of the point.
        column: of the coordinate, below ``SOBOL_COLUMNS``.
        low: lower end of the range.
        high: upper end. If both ends are whole numbers the result is one too; else it has 3 digits.
    """
    from scipy.stats import qmc  # takes a second to import, and few configs ask for it

    sequence = qmc.Sobol(SOBOL_COLUMNS, seed=0)
    if index:  # SciPy cannot skip zero points
        sequence.fast_forward(index)
    value = low + (high - low) * float(sequence.random()[0, column])
    return round(value) if isinstance(low, int) and isinstance(high, int) else round(value, 3)


OmegaConf.register_new_resolver("sobol", sobol)


def hydra_task(name: str, job: Callable[[DictConfig], Any]) -> Callable[[], Any]:
    """``job`` as a Hydra application on conf/``name``.yaml."""
    return hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(job)


@dataclass(frozen=True)
class Sweep:
    """The runs of a sweep: their configs, overrides and output folder.

    Attributes:
        points: the composed config of every run. A search chooses its runs while it runs: then one config for each
            value or end of a range.
        overrides: of each run, without those of Hydra.
        folder: where results go.
        multirun: False for a single run.
        trials: runs of a search; 0 for a sweep.
    """

    points: list[DictConfig]
    overrides: list[list[str]]
    folder: Path
    multirun: bool
    trials: int


def expand(name: str, arguments: Sequence[str]) -> Sweep:
    """Composes the config of every run of a command line.

    Raises:
        InputError: an override that does not parse, an unknown key, group or option.
    """
    args = read_arguments(arguments)
    _check_flags(args, name)
    try:
        parsed = parse(args.overrides)
        _check_choices(parsed)
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        swept = [values_of(o) for o in parsed if o.is_sweep_override()]
        first = [values[0] for values in swept]
        base = _compose(name, fixed + first, args.config_dir)
        multirun = bool(args.multirun) or base.hydra.mode == RunMode.MULTIRUN
        if swept and not multirun:
            raise InputError(f"{swept[0][0]},...: several values need a sweep; write unseen {name} -m ...")
        if multirun:
            swept = _configured(base, parsed) + swept
        trials = int(base.hydra.sweeper.get("n_trials", 0)) if multirun else 0
        if ranges := [o for o in parsed if o.is_interval_sweep() and not trials]:
            raise InputError(
                f"{ranges[0].input_line}: a range needs a search; write unseen {name} -m hydra/sweeper=optuna"
            )
        swept = _split(base, args.overrides, multirun, trials) + swept
        combine = each_once if trials else itertools.product
        combinations = [_words(point) for point in combine(*swept)] if multirun else [[]]
        if multirun and any(o.key_or_group == "hydra.sweep.subdir" for o in parsed):
            raise InputError("hydra.sweep.subdir: the folders of a sweep's runs are named by number; leave it out")
        points = [base if point == first else _compose(name, fixed + point, args.config_dir) for point in combinations]
        for point in points:
            check_folders_are_text(point)
        where = output_folder(base, multirun)
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises plain ones for group=null
        raise InputError(explain(str(error), name)) from error
    of_run = [o.input_line or "" for o in parsed if not o.is_sweep_override() and not o.is_hydra_override()]
    return Sweep(points, [of_run + point for point in combinations], where, multirun, trials)


def check_folders_are_text(config: DictConfig) -> None:
    """Refuses numbers, null, ``~`` and empty text for the folders that are written to.

    On the command line ``escape_values`` turns numbers and ``~`` into the path that users mean; a config is taken
    literally.

    Raises:
        InputError: the first such folder.
    """
    for key in WRITTEN:
        parent, _, name = key.rpartition(".")
        if name in (OmegaConf.select(config, parent) or {}):
            check_folder(key, OmegaConf.select(config, key))


def check_folder(key: str, folder: object) -> str:
    """The folder, if it is text that names one.

    Raises:
        InputError: it is not.
    """
    if not isinstance(folder, str):
        raise InputError(f"{key}={as_written(folder)}: give a folder as text; in a config write '{folder}' in quotes")
    if not folder.strip():
        raise InputError(f"{key}={folder}: empty, perhaps from a variable that is not set; give a folder")
    if folder.startswith("~"):
        full = os.path.expanduser(folder)  # noqa: PTH111 - which fails for unknown users
        raise InputError(f"{key}={folder}: ~ would be a folder of that name; write {key}={full}")
    return folder


def output_folder(config: DictConfig, multirun: bool) -> Path:
    """Where Hydra writes a run or sweep.

    Raises:
        InputError: empty, no text, or an interpolation that cannot be resolved.
    """
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    try:
        folder = OmegaConf.select(config, key)
    except (OmegaConfBaseException, ValueError) as error:
        raise InputError(f"{key}: {' '.join(str(error).split())}; give a folder") from error
    return Path(check_folder(key, folder))


def _check_flags(args: Any, name: str) -> None:
    """Refuses flags of Hydra that would change nothing here.

    Raises:
        InputError: the first of them.
    """
    if args.config_dir is not None and not Path(args.config_dir).is_dir():
        raise InputError(f"--config-dir {args.config_dir}: no such folder")
    for flag in ("config_name", "config_path"):
        if (value := getattr(args, flag)) is not None:
            written = flag.replace("_", "-")
            raise InputError(
                f"--{written} {value}: unseen {name} reads conf/{name}.yaml; use UNSEEN_CONF or --config-dir"
            )


def _check_choices(overrides: Sequence[Override]) -> None:
    """Groups are given by the names of their options, and no sweep needs Hydra's own files.

    Raises:
        InputError: another value.
    """
    for one in overrides:
        word = one.input_line or one.key_or_group
        if isinstance(one.value(), Glob):
            raise InputError(f"{word}: list the values instead, separated by commas")
        plain = one.is_sweep_override() or isinstance(one.value(), str | QuotedString) or one.is_delete()
        if one.key_or_group in (*GROUPS, *TRAINING_GROUPS) and not plain:
            raise InputError(f"{word}: choose an option by its name; unseen --help {one.key_or_group} lists them")


def _split(base: DictConfig, overrides: Sequence[str], multirun: bool, trials: int) -> list[list[str]]:
    """``workers=N`` as a sweep over ``worker``, outermost: the jobs of worker 0 come first and keep the runs' numbers.

    Raises:
        InputError: ``workers`` is not one number, or this is a single run or a search.
    """
    if "workers" not in base:  # of unseen train
        return []
    given = {o.key_or_group: o for o in parse(overrides)}
    if "worker" in given:
        raise InputError(f"{given['worker'].input_line}: workers=N numbers its jobs automatically; leave worker out")
    if "workers" in given and given["workers"].is_sweep_override():
        raise InputError(f"{given['workers'].input_line}: give one number for the whole sweep")
    plain = {key: value for key, value in run_config(base).items() if not isinstance(value, dict)}
    workers = run_keys(plain | {"worker": 0}).workers
    if workers == 1:
        return []
    if not multirun:
        raise InputError(f"workers={workers}: several jobs need a launcher; write unseen run -m (docs/clusters.md)")
    if trials:
        raise InputError(f"workers={workers}: the runs of a search are not split; leave it out")
    return [[f"worker={number}" for number in range(workers)]]


def run_config(config: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's part, as JSON values; interpolations stay as they were written."""
    without_hydra = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return json.loads(json.dumps(OmegaConf.to_container(without_hydra, resolve=False)))


def _compose(name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    """One composed config, Hydra's own part included."""
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(name, overrides=overrides + extra, return_hydra_config=True)


def _configured(base: DictConfig, given: Sequence[Override]) -> list[list[str]]:
    """Sweeps that the config itself asks for (hydra.sweeper.params), unless the command line sets their keys.

    A key such as ``model+domain`` sweeps both together: each of its values has one value of each key, joined by +.
    """
    params = OmegaConf.select(base, "hydra.sweeper.params") or {}
    known = [override.key_or_group for override in given]
    lines = [f"{key}={value}" for key, value in params.items() if key not in known and JOINT not in key]
    found = [values_of(o) if o.is_sweep_override() else [o.input_line or ""] for o in parse(lines)]
    joint = {key: value for key, value in params.items() if JOINT in key}
    return found + [values for key, value in joint.items() if (values := _joint(key, value, given))]


def _joint(key: str, value: str, given: Sequence[Override]) -> list[str]:
    """The values of a joint sweep as words, without the keys that the command line sets.

    A value on the command line that occurs in the sweep leaves its own values only; any other one leaves all.
    """
    keys = key.split(JOINT)
    rows = [dict(zip(keys, one.strip().split(JOINT), strict=True)) for one in value.split(",")]
    for override in given:
        name = override.key_or_group
        if name in keys:
            rows = [row for row in rows if row[name] == str(override.value())] or rows
            rows = [{other: row[other] for other in row if other != name} for row in rows]
    return list(dict.fromkeys("\n".join(f"{name}={one}" for name, one in row.items()) for row in rows if row))


def _words(point: Sequence[str]) -> list[str]:
    """The overrides of a point; those of a joint sweep one by one."""
    return [word for one in point for word in one.split("\n")]


__getattr__ = new_names(__name__)
