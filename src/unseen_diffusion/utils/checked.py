"""Checked settings: the dataclasses that configs build, each field with its type, range and meaning.

A field declares all of it in one place::

    @settings("solver")
    class SolverSettings:
        steps: Annotated[int, Field(ge=2)]
        '''network evaluations per direction, at most'''

pydantic checks the values strictly: 2.0 and true are not whole numbers, NaN is not a number, an unknown key is an
error. Every refusal becomes one line: the key, the value, and what to give instead. ``unseen --help GROUP`` prints the
same declarations.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from functools import wraps
from pathlib import Path
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

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from unseen_diffusion.utils.errors import InputError

Class = TypeVar("Class")
Function = TypeVar("Function", bound=Callable[..., Any])

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


def _same_type(value: object) -> object:
    """Refuses true, false and 1.0, which equal a number of a ``Literal``."""
    if type(value) is not int:
        raise ValueError("no whole number")
    return value


WholeNumber = BeforeValidator(_same_type)  # for Annotated[Literal[1, 2], WholeNumber]
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path", NoneType: "null"}


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(Field,))
def settings(group: str) -> Callable[[type[Class]], type[Class]]:
    """Makes a class a frozen, keyword-only dataclass whose values are checked.

    Args:
        group: the config group that it belongs to; error messages name a value by ``group.field``. Empty for keys at
            the top of a config.
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


def checked_arguments(group: str, options: type | None = None) -> Callable[[Function], Function]:
    """Checks the arguments of a function (or of a heavy class's ``__init__``) that a config calls, in the same way.

    Args:
        group: the config group that its arguments belong to.
        options: the settings class whose fields the function takes as ``**options``.
    """

    def decorate(function: Function) -> Function:
        parameters = named_parameters(function)

        def check(**values: Any) -> dict[str, Any]:
            """Returns the arguments as the function receives them; raises InputError where one does not fit."""
            known = _known_arguments(call)
            for one in parameters:
                if one.name in known and one.default is one.empty and one.name not in values:
                    raise InputError(_missing(group, one.name, known))
            for name in values:
                if name not in {one.name for one in parameters} | known.keys():
                    raise InputError(_unknown(group, name, known))
            return {  # ``self`` has no annotation and passes
                name: checked_value(_key(group, name), value, known[name]) if name in known else value
                for name, value in values.items()
            }

        @wraps(function)
        def call(*arguments: Any, **values: Any) -> Any:
            if len(arguments) > len(parameters):
                raise TypeError(f"{function.__qualname__}: {len(arguments)} arguments, but it takes {len(parameters)}")
            given = {one.name: value for one, value in zip(parameters, arguments, strict=False)} | values
            return function(**check(**given))

        call.check_arguments = check  # type: ignore[attr-defined]
        call.settings_options = options  # type: ignore[attr-defined]
        return cast(Function, call)

    return decorate


def named_parameters(function: Any) -> list[inspect.Parameter]:
    """The parameters of a function, without ``**options``."""
    return [one for one in inspect.signature(function).parameters.values() if one.kind is not one.VAR_KEYWORD]


def _known_arguments(function: Any) -> dict[str, Any]:
    """The annotations of a function's arguments, by name, with those of the class of its ``**options``."""
    own, options = hints(function), getattr(function, "settings_options", None)
    own = {one.name: own[one.name] for one in named_parameters(function) if one.name in own}
    return own | (hints(options) if options else {})


def checked_value(key: str, value: Any, annotation: Any) -> Any:
    """The value, checked and converted by its annotation.

    Raises:
        InputError: the value does not fit; the message names it by ``key``.
    """
    try:
        return TypeAdapter(annotation, config=CONFIG).validate_python(value)
    except ValidationError as error:
        below = [str(part) for part in error.errors()[0]["loc"]]
        raise InputError(_misfit(key, value, annotation, below)) from None


def _one_line(error: ValidationError, cls: type, group: str, values: Mapping[str, Any]) -> str:
    """The first refusal of pydantic as ``key=value: what to give``."""
    first, known = error.errors()[0], hints(cls)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, InputError):  # of __post_init__
        return str(cause)
    name, *below = map(str, first["loc"])
    if first["type"] == "missing":
        return _missing(group, name, known)
    if first["type"] == "unexpected_keyword_argument":
        return _unknown(group, name, known)
    return _misfit(_key(group, name), values[name], known[name], below)


def _key(group: str, name: str) -> str:
    return f"{group}.{name}" if group else name


def _missing(group: str, name: str, known: Mapping[str, Any]) -> str:
    return f"{_key(group, name)}: required; give {described(known[name])}"


def _unknown(group: str, name: str, known: Mapping[str, Any]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"choose among {', '.join(known)}"
    return f"{_key(group, name)}: nothing reads this key; {hint}"


def _misfit(key: str, value: Any, annotation: Any, below: Sequence[str]) -> str:
    """One line about a value that does not fit; ``below`` is the path to the part at fault."""
    for part in below:
        if not isinstance(value, Mapping) or part not in value:
            break
        key, value, annotation = f"{key}.{part}", value[part], _values_of(annotation)
    return f"{key}={as_written(value)}: {_asked(annotation)}"


def _values_of(annotation: Any) -> Any:
    """The annotation of a mapping's values."""
    return get_args(annotation)[1]


def as_written(value: Any) -> str:
    """A value as text, as a config file writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    return f"[{', '.join(map(as_written, value))}]" if isinstance(value, list | tuple) else str(value)


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
    """The values that an annotation admits, in words: "a whole number of 1 or more", "one of full, half"."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits = {key: value for one in inner[1:] for key, value in _limits(one).items()}
        return f"{described(inner[0])}{_range(limits)}"
    if origin is Literal:
        return f"one of {', '.join(map(as_written, inner))}" if len(inner) > 1 else as_written(inner[0])
    if origin in (Union, UnionType):
        wider = {int: float, str: Path}  # what a number or a path may also be given as
        texts = dict.fromkeys(described(one) for one in inner if wider.get(one) not in inner)
        return " or ".join(text for text in texts if not (text.startswith("text") and "a path" in texts))
    if origin is not None and issubclass(origin, Mapping):
        return f"a mapping whose values are each {described(inner[1])}"
    if origin is not None and issubclass(origin, Sequence):
        return f"a list whose entries are each {described(inner[0])}"
    return WORDS.get(annotation) or f"a config of a {getattr(annotation, '__name__', annotation)}"


def _limits(one: Any) -> dict[str, float]:
    """The bounds in a ``Field`` or another piece of metadata."""
    parts = [one, *getattr(one, "metadata", ())]
    names = ("ge", "gt", "le", "lt", "min_length")
    return {name: getattr(part, name) for part in parts for name in names if getattr(part, name, None) is not None}


def _range(limits: Mapping[str, float]) -> str:
    """Bounds in words, with a space before them."""
    if limits.get("min_length") == 1:
        return " that is not empty"
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is None and high is None:
        return ""
    if low is not None and high is not None:
        if "ge" in limits and "le" in limits:
            return f" between {low:g} and {_power(high)}"
        start, end = "of at least" if "ge" in limits else "above", "up to" if "le" in limits else "below"
        return f" {start} {low:g}, {end} {high:g}"
    if low is not None:
        return f" of {low:g} or more" if "ge" in limits else f" above {low:g}"
    return f" of at most {high:g}" if "le" in limits else f" below {high:g}"


def _power(bound: float) -> str:
    """A bound as text; a large power of two as 2^62 instead of all its digits."""
    whole = int(bound)
    return f"2^{whole.bit_length() - 1}" if whole > 2**32 and whole.bit_count() == 1 else f"{bound:g}"


def is_number(value: object) -> bool:
    """Whether a value is a finite number (true and false are not numbers)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
