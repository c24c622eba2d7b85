"""Overrides on a command line: how Hydra reads them, quoting, and the values of a sweep."""

import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

GRAMMAR = set("[]{},'\"")  # characters of lists, mappings, sweeps and quotes in Hydra's grammar
PATHS = ("path", "test_path", "folder", "start", "outputs", "store", "dir")  # last part of keys whose values are paths


def read_arguments(arguments: Sequence[str]) -> Any:
    """A command line as Hydra reads it: its flags, and its overrides as a list.

    Raises:
        InputError: a flag that Hydra does not know.
    """
    parser = get_args_parser()

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; unseen run --help lists what can be given")

    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args(list(arguments))


def is_information(arguments: Sequence[str]) -> bool:
    """True for calls that only print: --help, --cfg, --info and their like."""
    args = read_arguments(arguments)
    return bool(args.help or args.hydra_help or args.cfg or args.info or args.shell_completion)


def parse(words: Sequence[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        InputError: one that does not parse.
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(words))
    except HydraException as error:
        raise InputError(" ".join(str(error).split())) from error
    if nameless := [one.input_line for one in parsed if not one.key_or_group]:
        raise InputError(f"{nameless[0]}: no key before the =")
    return parsed


def keys_of(overrides: Sequence[str]) -> list[str]:
    """Key or group of each override.

    Raises:
        InputError: one that does not parse.
    """
    return [override.key_or_group for override in parse(overrides)]


def replace_overrides(arguments: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """A command line with some overrides in place of earlier ones; another launcher drops the settings of the first."""
    old, new = read_arguments(arguments).overrides, keys_of(overrides)
    dropped = {
        word
        for word, key in zip(old, keys_of(old), strict=True)
        if key in new or ("hydra/launcher" in new and key.startswith("hydra.launcher."))
    }
    return [word for word in arguments if word not in dropped] + list(overrides)


def quoted(value: str) -> str:
    """A string in quotes, so that Hydra reads it as one string; backslashes before a quote are doubled."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + found[2].replace("'", "\\'"), value) + "'"


def escape_values(arguments: Sequence[str]) -> list[str]:
    """Makes the paths of a command line readable for Hydra: expands ``~``, quotes commas and numbers in paths.

    Raises:
        InputError: a value that Hydra cannot read, with how to quote it.
    """
    overrides = read_arguments(arguments).overrides
    return [_escape(word) if word in overrides else word for word in arguments]


def _escape(word: str) -> str:
    """One override, quoted if Hydra cannot read it, or would read an existing path as several values or a number."""
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
    """Whether Hydra reads a value as a number, true or false."""
    try:
        return isinstance(OverridesParser.create().parse_override(f"key={value}").value(), int | float)
    except HydraException:
        return False


def values_of(override: Override) -> list[str]:
    """The single-valued overrides of a sweep override; of a range, its two ends."""
    key = override.get_key_element()
    value = override.value()
    if isinstance(value, IntervalSweep):
        return [f"{key}={value.start}", f"{key}={value.end}"]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def each_once(*swept: list[str]) -> list[list[str]]:
    """Combinations in which every value of every key occurs, the other keys at their first values."""
    first = [values[0] for values in swept]
    return [first] + [[*first[:at], v, *first[at + 1 :]] for at, values in enumerate(swept) for v in values[1:]]


__getattr__ = new_names(__name__)
