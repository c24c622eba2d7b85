"""Builds objects from configs by Hydra's instantiate; a value that does not fit gives one clear line."""

import re
from collections.abc import Mapping
from typing import Any

from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from unseen_diffusion.utils.checked import as_written
from unseen_diffusion.utils.errors import InputError, first_line

HYDRA_WORDS = ("_args_", "_convert_", "_partial_", "_recursive_")  # of Hydra's instantiate


def build(config: Any, group: str = "", /, *, kind: Any = object, **arguments: Any) -> Any:
    """Builds the object that a config describes (Hydra's instantiate); a failure becomes one line with its cause.

    Args:
        config: with ``_target_``.
        group: where the config is, for messages; empty takes its class.
        kind: the class or protocol of what is built.
        arguments: more than the config has.

    Raises:
        InputError: the object refused its arguments, or is of another kind.
    """
    _target(config, group or "config")
    name = group or config["_target_"].rsplit(".", 1)[-1]
    try:
        built = instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise InputError(_full_path(str(cause), group, str(error))) from None
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise InputError(f"{name}: {reason} (_target_={config.get('_target_')})") from error
    if not isinstance(built, kind):
        raise InputError(f"{name}._target_={config['_target_']}: builds a {type(built).__name__}, no {kind.__name__}")
    return built


def _full_path(line: str, group: str, error: str) -> str:
    """A refusal by an object inside another (``tolerances.match``), with the whole path of its key."""
    nested = re.search(r"full_key: (\S+)", error)
    path = nested[1] if nested else group
    path = path if path.startswith(group) else f"{group}.{path}"
    if not group or line.startswith(f"{path}.") or not line.startswith(f"{group}."):
        return line
    return path + line.removeprefix(group)


def check_arguments(config: Mapping[str, Any], group: str) -> None:
    """Checks a config's values against its target without building it, where the target declares them.

    Raises:
        InputError: no such target, or a value that does not fit.
    """
    target = _target(config, group)
    values = {key: value for key, value in config.items() if key != "_target_"}
    checks = getattr(vars(target).get("__init__") if isinstance(target, type) else target, "check_arguments", None)
    if checks is not None:
        checks(**values)


def _target(config: Any, group: str) -> Any:
    """The class or function that a config names.

    Raises:
        InputError: there is none, or the config has words of Hydra that are not supported here.
    """
    if not isinstance(config, Mapping | DictConfig):
        raise InputError(f"{group}={as_written(config)}: give a config with _target_, such as an option of this group")
    for word in HYDRA_WORDS:
        if word in config:
            raise InputError(f"{group}.{word}: not supported; leave it out")
    path = config.get("_target_")
    try:
        if not isinstance(path, str):
            raise TypeError("not text")
        target = _locate(path)
    except Exception as error:
        raise InputError(
            f"{group}._target_={as_written(path)}: cannot be imported ({_root_cause(error)}); give module.name"
        ) from error
    if not callable(target):
        raise InputError(f"{group}._target_={path}: a {type(target).__name__}; give a class or function")
    return target


def _root_cause(error: BaseException) -> str:
    """The first line of the error that led to this one."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def resolve_plain(config: DictConfig) -> dict[str, Any]:
    """The resolved config as plain Python values, without its ``hydra`` part.

    Raises:
        InputError: a required value (???) was not given.
    """
    without_hydra = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    unset = OmegaConf.to_container(without_hydra, resolve=False)
    if missing := _required(unset, ""):
        raise InputError(f"{missing[0]}: required; give it on the command line, e.g. {missing[0]}=VALUE")
    plain = OmegaConf.to_container(without_hydra, resolve=True)
    if not isinstance(plain, dict):
        raise InputError("the config is not a mapping")
    return {str(key): value for key, value in plain.items()}


def _required(value: Any, key: str) -> list[str]:
    """Dotted keys whose value is ???."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in _required(inner, f"{key}.{name}".lstrip("."))]
    return [key] if value == "???" else []
