"""What a settings class declares, for help and documentation: each key with its range, meaning and default."""

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, cast

from unseen_diffusion.utils.checked import as_written, described, hints, named_parameters


@dataclass(frozen=True)
class Setting:
    """One field of a settings class, as help and documentation show it.

    Attributes:
        name: the key.
        values: the admitted values, in words.
        meaning: the text below the field.
        default: as a config writes it; None where a value is required.
    """

    name: str
    values: str
    meaning: str
    default: str | None


def declared(target: Any) -> list[Setting]:
    """The settings of a class, or the arguments of a function or class that configs call, in order.

    Meanings are the texts below the fields, or the ``Args`` of the docstring.
    """
    if is_dataclass(target):
        meanings = {
            name: text
            for base in reversed(inspect.getmro(cast(type, target)))
            for name, text in _meanings(base).items()
        }
        known, found = hints(target), []
        for field in (one for one in fields(target) if one.init):
            default = field.default if field.default_factory is MISSING else field.default_factory()
            shown = None if default is MISSING else as_written(default)
            found.append(Setting(field.name, described(known[field.name]), meanings.get(field.name, ""), shown))
        return found
    function = vars(target)["__init__"] if isinstance(target, type) else target
    meanings, known = _arguments(target) | _arguments(function), hints(function)
    arguments = [one for one in named_parameters(function) if one.name in known]
    options = getattr(function, "settings_options", None)
    own = [
        Setting(
            one.name,
            described(known[one.name]),
            meanings.get(one.name, ""),
            None if one.default is one.empty else as_written(one.default),
        )
        for one in arguments
    ]
    return own + (declared(options) if options else [])


def _arguments(target: Any) -> dict[str, str]:
    """The meanings in the ``Args`` or ``Attributes`` of a docstring (Google style)."""
    found: dict[str, str] = {}
    section = re.search(r"^(?:Args|Attributes):\n((?:    .*\n?|\n)+)", inspect.getdoc(target) or "", re.MULTILINE)
    for one in re.finditer(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE):
        found[one[1]] = " ".join(one[2].split())
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
