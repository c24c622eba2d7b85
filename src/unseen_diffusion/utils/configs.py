"""Builds objects from configs by Hydra's instantiate; a value that does not fit gives one clear line."""

import re
from collections.abc import Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from unseen_diffusion.utils.errors import InputError


def build(config: Any, group: str = "", /, **arguments: Any) -> Any:
    """Builds the object that a config describes (Hydra's instantiate); a failure becomes one line with its cause.

    Args:
        config: with ``_target_``.
        group: where the config is, for messages; empty takes its class.
        arguments: more than the config has.

    Raises:
        InputError: the object refused its arguments.
    """
    try:
        return instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        cause: BaseException = error
        while cause.__cause__ is not None and not isinstance(cause, InputError):
            cause = cause.__cause__
        if isinstance(cause, InputError):
            raise InputError(_full_path(str(cause), group, str(error))) from None
        name = group or str(config.get("_target_", "config")).rsplit(".", 1)[-1]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise InputError(f"{name}: {reason}") from error


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
    values = {key: value for key, value in config.items() if key != "_target_"}
    try:
        target: Any = get_object(str(config["_target_"]))
    except Exception as error:
        raise InputError(f"{group}._target_={config.get('_target_')}: cannot be imported ({error})") from error
    checks = getattr(vars(target).get("__init__") if isinstance(target, type) else target, "check_arguments", None)
    if checks is not None:
        checks(**values)


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
