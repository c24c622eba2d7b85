"""The groups, options and keys that conf/ offers, with their explanations.

Reads YAML as text and imports neither Hydra nor torch, so that ``unseen --help`` answers at once; only the keys of a
group's options (``group_keys``) import the classes that declare them.
"""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from unseen_diffusion.runs.keys import GROUPS as KEYED
from unseen_diffusion.runs.keys import SECTIONS, RunKeys
from unseen_diffusion.utils.checked import as_written
from unseen_diffusion.utils.declarations import Setting, declared
from unseen_diffusion.utils.errors import InputError

GROUPS = (*KEYED, "experiment")


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


def options(groups: Sequence[str] = GROUPS) -> dict[str, list[tuple[str, str]]]:
    """Every option of the groups with the first comment line of its file.

    Raises:
        InputError: a group that does not exist.
    """
    return {group: [(name, _first_comment(path)) for name, path in files(group).items()] for group in groups}


def files(group: str) -> dict[str, Path]:
    """The YAML file of every option of a group, by name; the user's own before conf/'s.

    Raises:
        InputError: a group that does not exist.
    """
    folders = [folder for folder in (own_folder(), config_folder()) if folder]
    found = {path.stem: path for folder in reversed(folders) for path in (folder / group).glob("*.yaml")}
    if not found:
        close = get_close_matches(group, GROUPS, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(GROUPS)}"
        raise InputError(f"{group}: no such group; {hint}")
    return dict(sorted(found.items()))


def key_lines() -> list[tuple[str, str]]:
    """Every key of a run outside the groups to choose from, as ``key=default``, with its meaning and range."""
    top = _values(config_folder() / "run.yaml")
    found = [_line(top[one.name], one, "") for one in declared(RunKeys)]
    for name, kind in SECTIONS.items():
        path = config_folder() / name / "default.yaml"
        values = _values(path) if path.is_file() else top.get(name)
        if isinstance(values, dict):
            found += [_line(values[one.name], one, f"{name}.") for one in declared(kind)]
    return found


def group_keys(group: str) -> list[tuple[str, list[tuple[str, str]]]]:
    """The keys of a group's options with meanings and ranges: those that all options have, then each class's own.

    Raises:
        InputError: a group that does not exist.
    """
    builders: dict[str, list[str]] = {}
    for name, path in files(group).items():
        target = _values(path).get("_target_")
        if target or group in SECTIONS:
            builders.setdefault(target or "", []).append(name)
    kinds = {target: _imported(target) if target else SECTIONS[group] for target in builders}
    keys = {target: [(one.name, _text(one)) for one in declared(kind)] for target, kind in kinds.items()}
    shared = [entry for entry in next(iter(keys.values()), []) if all(entry in found for found in keys.values())]
    found = [("...", shared)] if shared else []
    for target, names in builders.items():
        if own := [entry for entry in keys[target] if entry not in shared]:
            found.append((", ".join(names), own))
    return found


def _imported(target: str) -> Any:
    """The class or function of a ``_target_``."""
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def _values(path: Path) -> dict[str, Any]:
    """The content of a YAML file; interpolations as they are written."""
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _line(value: Any, one: Setting, prefix: str) -> tuple[str, str]:
    return f"{prefix}{one.name}={as_written(value)}", _text(one)


def _text(one: Setting) -> str:
    """Meaning and range of a setting; without the range where the type is text, true or false."""
    if one.meaning and one.values.startswith(("text", "true or false")):
        return one.meaning
    return f"{one.meaning} ({one.values})" if one.meaning else one.values


def _first_comment(path: Path) -> str:
    """The first comment that is not a package directive."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#") and not line.startswith("# @package"):
            return line.removeprefix("#").strip()
    return ""
