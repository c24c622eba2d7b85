"""Checked settings: the dataclasses that configs build, each field with its type, range and meaning.

A field declares all of it in one place::

    @settings("solver")
    class SolverSettings:
        steps: Annotated[int, Field(ge=2)]
        '''network evaluations per direction, at most'''

pydantic checks the values strictly (2.0 and true are no whole numbers, NaN is no number, an unknown key is an error),
and every refusal becomes one line: the key, the value, and what to give instead. ``unseen --help GROUP`` prints the
same declarations.
"""

import ast
import inspect
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from difflib import get_close_matches
from functools import wraps
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import ConfigDict, Field, ValidationError, validate_call
from pydantic.dataclasses import dataclass as pydantic_dataclass

from unseen_diffusion.utils.errors import InputError

Class = TypeVar("Class")
Function = TypeVar("Function", bound=Callable[..., Any])

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(group: str) -> Callable[[type[Class]], type[Class]]:
    """Makes a class a frozen, keyword-only dataclass whose values are checked.

    Args:
        group: the config group that it belongs to; error messages name a value by ``group.field``.
    """

    def decorate(cls: type[Class]) -> type[Class]:
        checked: Any = pydantic_dataclass(cls, kw_only=True, frozen=True, config=CONFIG)
        validate = checked.__init__

        @wraps(validate)
        def __init__(self: Class, *arguments: Any, **values: Any) -> None:
            if arguments:
                raise TypeError(f"{cls.__name__}: give every setting by name, {cls.__name__}(name=value)")
            try:
                validate(self, **values)
            except ValidationError as error:
                raise InputError(_one_line(error, checked, group, values)) from None

        checked.__init__ = __init__
        checked.settings_group = group
        return checked

    return decorate


def checked_arguments(group: str) -> Callable[[Function], Function]:
    """Checks the arguments of a function (or of a heavy class's ``__init__``) that a config calls, in the same way.

    Args:
        group: the config group that its arguments belong to.
    """

    def decorate(function: Function) -> Function:
        validated: Any = validate_call(config=CONFIG)(function)
        names = list(inspect.signature(function).parameters)

        @wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            given = dict(zip(names, arguments, strict=False)) | values
            try:
                return validated(**given)
            except ValidationError as error:
                raise InputError(_one_line(error, function, group, given)) from None

        return cast(Function, call)

    return decorate


def _one_line(error: ValidationError, target: Any, group: str, values: Mapping[str, Any]) -> str:
    """The first refusal of pydantic as ``key=value: what to give``."""
    first, known = error.errors()[0], hints(target)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # of __post_init__
        return str(cause)
    name, *below = map(str, first["loc"])
    if first["type"].startswith("missing"):
        return f"{group}.{name}: required; give {described(known[name])}"
    if first["type"] == "unexpected_keyword_argument":
        close = get_close_matches(name, known, n=1, cutoff=0.6)
        hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}"
        return f"{group}.{name}: nothing reads this key; {hint}"
    key, value, annotation = f"{group}.{name}", values[name], known[name]
    for part in below:
        if not isinstance(value, Mapping) or part not in value:
            break
        key, value, annotation = f"{key}.{part}", value[part], _values_of(annotation)
    return f"{key}={_shown(value)}: {_asked(annotation)}"


def _values_of(annotation: Any) -> Any:
    """What a mapping's annotation says of its values."""
    return get_args(annotation)[1]


def _shown(value: Any) -> str:
    """A value as it stands in a config."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _asked(annotation: Any) -> str:
    text = described(annotation)
    return f"choose {text}" if text.startswith("one of") else f"give {text}"


def hints(target: Any) -> dict[str, Any]:
    """The annotations of a settings class's fields, or of a function's arguments, by name."""
    found = get_type_hints(target, include_extras=True)
    names = (
        [one.name for one in fields(target) if one.init]
        if is_dataclass(target)
        else inspect.signature(target).parameters
    )
    return {name: found[name] for name in names if name in found}


def described(annotation: Any) -> str:
    """What values an annotation admits, in words: "a whole number of 1 or more", "one of full, half"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = {key: value for one in inner[1:] for key, value in _limits(one).items()}
        return f"{described(inner[0])}{_range(limits)}"
    if origin is Literal:
        return f"one of {', '.join(map(_shown, inner))}" if len(inner) > 1 else _shown(inner[0])
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(described, inner)))
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping whose values are each {described(inner[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list whose entries are each {described(inner[0])}"
    return WORDS.get(annotation) or f"a config of a {getattr(annotation, '__name__', annotation)}"


def _limits(one: Any) -> dict[str, float]:
    """The bounds in a ``Field`` or another piece of metadata."""
    parts = [one, *getattr(one, "metadata", ())]
    names = ("ge", "gt", "le", "lt")
    return {name: getattr(part, name) for part in parts for name in names if getattr(part, name, None) is not None}


def _range(limits: Mapping[str, float]) -> str:
    """Bounds in words, with a space before them."""
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is None and high is None:
        return ""
    if low is not None and high is not None:
        if "ge" in limits and "le" in limits:
            return f" between {low:g} and {high:g}"
        start, end = "of at least" if "ge" in limits else "above", "up to" if "le" in limits else "below"
        return f" {start} {low:g} and {end} {high:g}"
    if low is not None:
        return f" of {low:g} or more" if "ge" in limits else f" above {low:g}"
    return f" of at most {high:g}" if "le" in limits else f" below {high:g}"


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as help and documentation show it.

    Attributes:
        name: the key.
        values: what it admits, in words.
        meaning: the text below the field.
        default: as a config writes it; None where a value is required.
    """

    name: str
    values: str
    meaning: str
    default: str | None


def declared(cls: type) -> list[Setting]:
    """The settings of a class, in order, with the texts that stand below its fields and those of its bases."""
    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("unseen_diffusion") or hasattr(base, "settings_group"):
            meanings |= _meanings(base)
    found = []
    for field in (one for one in fields(cls) if one.init):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        shown = None if default is MISSING else _shown(default)
        found.append(Setting(field.name, described(hints(cls)[field.name]), meanings.get(field.name, ""), shown))
    return found


def _meanings(cls: type) -> dict[str, str]:
    """The string below each field of a class's source."""
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    except (OSError, TypeError, ValueError):
        return {}
    if not isinstance(body, ast.ClassDef):
        return {}
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            text = below.value.value if isinstance(below.value, ast.Constant) else None
            if isinstance(text, str):
                found[field.target.id] = " ".join(text.split())
    return found


def is_number(value: object) -> bool:
    """Whether a value is a finite number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
