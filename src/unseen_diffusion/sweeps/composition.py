"""Where conf/ is, what it offers, and every point of a sweep composed before the first one runs."""

import itertools
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from scipy.stats import qmc

from unseen_diffusion.runs.settings import check_folders, check_workers
from unseen_diffusion.utils.errors import InputError

PLUGINS = {  # what pip installs, by option
    "launcher/joblib": "joblib",
    "launcher/ray": "ray",
    "launcher/submitit_local": "slurm",
    "launcher/submitit_slurm": "slurm",
    "sweeper/optuna": "optuna",
}
GRAMMAR = set("[]{},'\"")  # of lists, mappings, sweeps and quotes: what has these may be meant as one
PATHS = ("path", "test_path", "folder", "start", "outputs", "store", "dir")  # what a path's key ends in
SOBOL_COLUMNS = 10  # keys that one joint sweep can vary
GROUPS = (
    "model",
    "domain",
    "method",
    "mixing",
    "bandwidth",
    "tolerances",
    "prior",
    "solver",
    "scores",
    "features",
    "tracking",
    "paths",
    "experiment",
)


def config_folder() -> Path:
    """conf/: inside the package in an installed wheel, else at the root of the checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "conf", package.parents[1] / "conf"):
        if (folder / "run.yaml").is_file():
            return folder
    raise InputError(f"{package}: no conf/ beside the package or at the checkout's root; reinstall unseen-diffusion")


def own_folder() -> Path | None:
    """The user's folder of configs, from $UNSEEN_CONF; its files win over those of the same name.

    Raises:
        InputError: the variable names no folder.
    """
    value = os.environ.get("UNSEEN_CONF")
    if not value:
        return None
    if not Path(value).expanduser().is_dir():
        raise InputError(f"UNSEEN_CONF={value}: no such folder")
    return Path(value).expanduser().resolve()


class OwnConfigs(SearchPathPlugin):
    """Puts the user's folder before conf/."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if own := own_folder():
            search_path.prepend("unseen-own", f"file://{own}")


Plugins.instance().register(OwnConfigs)


def sobol(index: int, column: int, low: float, high: float) -> float | int:
    """Coordinate ``column`` of point ``index`` of a scrambled Sobol sequence, between ``low`` and ``high``.

    In configs ``${sobol:${seed},0,25,200}``: a sweep over the seed is then a joint sweep over all keys that use it
    (Sobol 1967; Owen 1998). A whole number where both ends are; else rounded to 3 digits.
    """
    sequence = qmc.Sobol(SOBOL_COLUMNS, seed=0)
    if index:  # SciPy cannot go forward by nothing
        sequence.fast_forward(index)
    value = low + (high - low) * float(sequence.random()[0, column])
    return round(value) if isinstance(low, int) and isinstance(high, int) else round(value, 3)


OmegaConf.register_new_resolver("sobol", sobol)


def options() -> dict[str, list[tuple[str, str]]]:
    """Every option of every group with its first comment line."""
    folders = [folder for folder in (own_folder(), config_folder()) if folder]
    found: dict[str, list[tuple[str, str]]] = {}
    for group in GROUPS:
        files = {path.stem: path for folder in reversed(folders) for path in sorted((folder / group).glob("*.yaml"))}
        found[group] = [(name, _describe(path)) for name, path in sorted(files.items())]
    return found


def run_keys() -> list[tuple[str, str]]:
    """Every key of a run outside the groups to choose from, as ``key=default``, with the comment beside it."""
    found = _commented(config_folder() / "run.yaml", "")
    # A group of one option is not chosen from: its keys are a run's own.
    single = [files[0] for group in GROUPS if len(files := sorted((config_folder() / group).glob("*.yaml"))) == 1]
    for path in single:
        found += _commented(path, f"{path.parent.name}.")
    return [(key, comment) for key, comment in found if not key.startswith("hydra.")]


def _commented(path: Path, prefix: str) -> list[tuple[str, str]]:
    """``key=value`` and comment of every line of a YAML file that sets a value, its keys dotted."""
    found: list[tuple[str, str]] = []
    above: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not (parts := re.fullmatch(r"((?:  )*)(\w+):(?: ([^#]*[^# ]))?(?: *# (.*))?", line)):
            continue
        indent, key, value, comment = parts.groups()
        above[len(indent) // 2 :] = [key]
        if value:
            found.append((f"{prefix}{'.'.join(above)}={value}", comment or ""))
    return found


def _describe(path: Path) -> str:
    """The first comment that is not a package directive."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""


def hydra_task(name: str, job: Callable[[DictConfig], Any]) -> Callable[[], Any]:
    """``job`` as a Hydra application on conf/``name``.yaml."""
    return hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=name)(job)


def is_information(arguments: Sequence[str]) -> bool:
    """True for calls that only print: --help, --cfg, --info and their like."""
    args = get_args_parser().parse_args(list(arguments))
    return bool(args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)


@dataclass(frozen=True)
class Sweep:
    """All points of a command, composed; each one's overrides of the run itself; the folder that gets their results.

    A search (``trials`` above 0) chooses its points as it goes: these are then one for each value or end of a range.
    """

    points: list[DictConfig]
    overrides: list[list[str]]
    folder: Path
    multirun: bool
    trials: int


def expand(name: str, arguments: Sequence[str]) -> Sweep:
    """Composes every point that a command line stands for.

    Raises:
        InputError: an override that does not parse, an unknown key, group or option.
    """
    args = get_args_parser().parse_args(list(arguments))
    try:
        parsed = OverridesParser.create().parse_overrides(args.overrides)
        fixed = [o.input_line or "" for o in parsed if not o.is_sweep_override()]
        swept = [_choices(o) for o in parsed if o.is_sweep_override()]
        base = _compose(name, fixed + [values[0] for values in swept], args.config_dir)
        multirun = bool(args.multirun) or base.hydra.mode == RunMode.MULTIRUN
        if swept and not multirun:
            raise InputError(f"{swept[0][0]},...: several values need a sweep; write unseen {name} -m ...")
        if multirun:
            swept = _configured(base, args.overrides) + swept
        trials = int(base.hydra.sweeper.get("n_trials", 0)) if multirun else 0
        if ranges := [o for o in parsed if o.is_interval_sweep() and not trials]:
            raise InputError(
                f"{ranges[0].input_line}: a range needs a search; write unseen {name} -m hydra/sweeper=optuna"
            )
        swept = _split(base, args.overrides, multirun, trials) + swept
        combine = _each_once if trials else itertools.product
        combinations = [list(point) for point in combine(*swept)] if multirun else [[]]
        if multirun and any(o.key_or_group == "hydra.sweep.subdir" for o in parsed):
            raise InputError("hydra.sweep.subdir: the folders of a sweep's runs are their numbers; leave it out")
        # The base is composed as a command line without any sweep means it.
        points = [_compose(name, fixed + point, args.config_dir) for point in combinations] if multirun else [base]
        for point in points:
            check_folders(point)
    except InputError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # Hydra raises plain ones for group=null
        raise InputError(one_line(str(error), name)) from error
    where = base.hydra.sweep.dir if multirun else base.hydra.run.dir
    of_run = [o.input_line or "" for o in parsed if not o.is_sweep_override() and not o.is_hydra_override()]
    return Sweep(points, [of_run + point for point in combinations], Path(where), multirun, trials)


def _split(base: DictConfig, overrides: Sequence[str], multirun: bool, trials: int) -> list[list[str]]:
    """``workers=N`` as a sweep of ``worker``, which comes first: runs keep their numbers, and the helpers follow.

    Raises:
        InputError: ``workers`` is no such number or several, or there is no sweep to split, or a search.
    """
    if "workers" not in base:  # of unseen train
        return []
    given = {o.key_or_group: o for o in OverridesParser.create().parse_overrides(list(overrides))}
    if "worker" in given:
        raise InputError(f"{given['worker'].input_line}: the jobs of workers=N get their numbers by themselves")
    if "workers" in given and given["workers"].is_sweep_override():
        raise InputError(f"{given['workers'].input_line}: give one number for the whole sweep")
    workers = check_workers({"workers": base.workers, "worker": 0})
    if workers == 1:
        return []
    if not multirun:
        raise InputError(f"workers={workers}: several jobs need a launcher; write unseen run -m (docs/clusters.md)")
    if trials:
        raise InputError(f"workers={workers}: the runs of a search are not split; leave it out")
    return [[f"worker={number}" for number in range(workers)]]


def own_config(config: DictConfig) -> dict[str, Any]:
    """A composed config without Hydra's part, interpolations as they were written, as JSON values."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    return json.loads(json.dumps(OmegaConf.to_container(own, resolve=False)))


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Key or group of each override.

    Raises:
        InputError: one that does not parse.
    """
    try:
        return [o.key_or_group for o in OverridesParser.create().parse_overrides(list(overrides))]
    except HydraException as error:
        raise InputError(" ".join(str(error).split())) from error


def replaced(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """A command line with some overrides in place of earlier ones; another launcher drops the settings of the first."""
    old, new = get_args_parser().parse_args(list(arguments)).overrides, keys_of(overrides)
    dropped = {
        word
        for word, key in zip(old, keys_of(old), strict=True)
        if key in new or ("hydra/launcher" in new and key.startswith("hydra.launcher."))
    }
    return [word for word in arguments if word not in dropped] + list(overrides)


def quoted(value: str) -> str:
    """A string as Hydra reads it back whole."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'"


def as_meant(arguments: Sequence[str]) -> list[str]:
    """A command line whose values are what people mean by them: ``~/x``, and paths that Hydra's grammar would break.

    Raises:
        InputError: a value that Hydra cannot read, with how to quote it.
    """
    overrides = get_args_parser().parse_args(list(arguments)).overrides
    return [_as_meant(word) if word in overrides else word for word in arguments]


def _as_meant(word: str) -> str:
    """One override: in quotes if Hydra refuses it, or takes a path that exists for several values, or for a number."""
    key, equals, value = word.partition("=")
    value = re.sub(r"(?<![^,])~(?=/|$)", lambda _: os.path.expanduser("~"), value)  # noqa: PTH111 - fails where HOME is
    exists = bool(value) and os.path.exists(value)  # noqa: PTH110 - which fails for long names
    whole = f"{key}={quoted(value)}"
    try:
        parsed = OverridesParser.create().parse_override(f"{key}{equals}{value}")
    except HydraException as error:
        if equals and (exists or not GRAMMAR & set(value)):
            return whole
        raise InputError(
            f"{word}: Hydra cannot read this ({' '.join(str(error).split())}); text with special characters needs "
            "quotes inside quotes, such as 'domain.path=\"a, b\"'"
        ) from error
    if exists and (parsed.is_sweep_override() or isinstance(parsed.value(), list | dict)):
        return whole
    if key.rpartition(".")[2] in PATHS and not set("[{('\"") & set(value):
        value = ",".join(quoted(part) if _is_number(part) else part for part in value.split(","))
    return f"{key}{equals}{value}"


def _is_number(value: str) -> bool:
    """Whether Hydra takes a value for a number, true or false."""
    try:
        return isinstance(OverridesParser.create().parse_override(f"key={value}").value(), int | float)
    except HydraException:
        return False


def _configured(base: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Sweeps that the config itself asks for (hydra.sweeper.params), unless the command line sets their keys."""
    params = OmegaConf.select(base, "hydra.sweeper.params") or {}
    given = {o.key_or_group for o in OverridesParser.create().parse_overrides(list(overrides))}
    lines = [f"{key}={value}" for key, value in params.items() if key not in given]
    return [
        _choices(o) if o.is_sweep_override() else [o.input_line or ""]
        for o in OverridesParser.create().parse_overrides(lines)
    ]


def _choices(override: Override) -> list[str]:
    """The single-valued overrides that a sweep override stands for."""
    key = override.get_key_element()
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _each_once(*swept: list[str]) -> list[list[str]]:
    """Every value of every key at least once, the others at their first."""
    first = [values[0] for values in swept]
    return [first] + [[*first[:at], v, *first[at + 1 :]] for at, values in enumerate(swept) for v in values[1:]]


def _compose(name: str, overrides: list[str], config_dir: str | None) -> DictConfig:
    """One composed config, Hydra's own part included."""
    GlobalHydra.instance().clear()
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(name, overrides=overrides + extra, return_hydra_config=True)


def one_line(message: str, name: str) -> str:
    """Hydra's several lines about a bad override as one, with the nearest known name."""
    text = " ".join(message.split())
    if key := re.search(r"Could not override '([^']+)'", text):
        return f"{key[1]}: no such key{_nearest(key[1], name)}; unseen {name} --cfg job prints them all"
    if option := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        if extra := PLUGINS.get(f"{option[1].removeprefix('hydra/')}/{option[2]}"):
            return f"{option[1]}={option[2]}: not installed; pip install 'unseen-diffusion[{extra}]'"
        folders = [folder / option[1] for folder in (own_folder(), config_folder()) if folder]
        known = sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})
        return f"{option[1]}={option[2]}: no such option; choose one of {', '.join(known)}"
    if group := re.search(r"Could not override '?(\S+?)'?\. No match in the defaults list", text):
        return f"{group[1]}: no such group{_nearest(group[1], name)}; unseen {name} --help lists them"
    return text


def _nearest(key: str, name: str) -> str:
    """A suggestion among group names and the keys of the default config of conf/``name``.yaml."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = OmegaConf.to_container(compose(name), resolve=False)
    names = [*GROUPS, *_keys(plain, "")]
    close = get_close_matches(key, names, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _keys(value: Any, prefix: str) -> list[str]:
    """Dotted keys of nested mappings."""
    if not isinstance(value, dict):
        return []
    here = [f"{prefix}{key}" for key in value]
    return here + [name for key, inner in value.items() for name in _keys(inner, f"{prefix}{key}.")]
