"""From configs to objects: Hydra's instantiate with one clear line for a value that does not fit."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseen_diffusion.utils.errors import InputError


def build(config: Any, group: str = "", /, **arguments: Any) -> Any:
    """Hydra's instantiate, with the cause of a failure as one line that names a value of the wrong type.

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
            raise cause from None
        name = group or str(config.get("_target_", "config")).rsplit(".", 1)[-1]
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise InputError(mistyped(config, name) or f"{name}: {reason}") from error


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


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Sequence: "a list"}


def mistyped(config: Any, group: str) -> str | None:
    """One line on the first value of a config with ``_target_`` that its target's annotations rule out, or None."""
    try:
        values: Any = OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config
        target: Any = get_object(values["_target_"])
        plain_class = isinstance(target, type) and not is_dataclass(target)
        hints = get_type_hints(vars(target)["__init__"] if plain_class else target)
    except (ImportError, KeyError, NameError, TypeError, OmegaConfBaseException):
        return None  # cannot be resolved, or annotations that only a type checker understands
    misfits = (_misfit(f"{group}.{key}", values.get(key), hint) for key, hint in hints.items())
    return next(filter(None, misfits), None)


def _misfit(key: str, value: Any, hint: Any) -> str | None:
    """What is wrong with a value for an annotation of plain types; others pass, and None, which stands for absent."""
    if isinstance(value, Mapping) and "_target_" in value:
        return mistyped(value, key)
    if isinstance(value, Mapping) and get_origin(hint) is Mapping:
        inner = get_args(hint)[1]
        return next(filter(None, (_misfit(f"{key}.{name}", one, inner) for name, one in value.items())), None)
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None or any(_fits(value, kind) for kind in kinds):
        return None
    wanted = [WORDS[kind] for kind in (get_origin(kind) or kind for kind in kinds) if kind in WORDS]
    return f"{key}={value}: give {' or '.join(wanted)}"


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type; True for types that are not plain."""
    if get_origin(kind) is Sequence:
        return isinstance(value, list) and not any(_misfit("", one, get_args(kind)[0]) for one in value)
    if kind not in WORDS:
        return kind is not NoneType
    return isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))


def number(plain: dict[str, Any], key: str, low: float, high: float, whole: bool = False) -> float:
    """A checked number of the config, by its dotted key.

    Raises:
        InputError: not a number, or outside [low, high].
    """
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value):
        raise InputError(f"{key}={value}: give a {'whole ' if whole else ''}number")
    if not low <= value <= high:
        raise InputError(f"{key}={value}: give a number {_range(low, high)}")
    return value


def truth(plain: dict[str, Any], key: str) -> bool:
    """A checked true or false of the config, by its dotted key.

    Raises:
        InputError: anything else.
    """
    value: Any = plain
    for part in key.split("."):
        value = value[part]
    if not isinstance(value, bool):
        raise InputError(f"{key}={value}: give true or false")
    return value


def _range(low: float, high: float) -> str:
    return f"of {low:g} or more" if math.isinf(high) else f"between {low:g} and {high:g}"


def resolve_plain(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, ``hydra`` left out.

    Raises:
        InputError: a required value (???) was not given.
    """
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    unset = OmegaConf.to_container(own, resolve=False)
    if missing := _required(unset, ""):
        raise InputError(f"{missing[0]}: required; give it on the command line, e.g. {missing[0]}=VALUE")
    plain = OmegaConf.to_container(own, resolve=True)
    if not isinstance(plain, dict):
        raise InputError("the config is not a mapping")
    return {str(key): value for key, value in plain.items()}


def _required(value: Any, key: str) -> list[str]:
    """Dotted keys whose value is ???."""
    if isinstance(value, dict):
        return [found for name, inner in value.items() for found in _required(inner, f"{key}.{name}".lstrip("."))]
    return [key] if value == "???" else []
