"""Which fields of an object identify it in fingerprints and keys: all of them, except those marked here.

A mark stands in the annotation of a field, so that a field that somebody adds is named unless its line says otherwise::

    compile: Annotated[bool, Unnamed("changes the speed")] = False
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, get_origin, get_type_hints


@dataclass(frozen=True)
class Unnamed:
    """Marks a field that no fingerprint names.

    Attributes:
        why: the reason.
    """

    why: str


@dataclass(frozen=True)
class OmittedIf:
    """Marks a field that is not named if it has this value: it came later than the first results without it."""

    value: Any


def named(owner: Any) -> dict[str, Any]:
    """The fields of a dataclass that identify it, by name."""
    given = {name: (getattr(owner, name), marks) for name, marks in marks_of(type(owner)).items()}
    return {name: value for name, (value, marks) in given.items() if not any(_leaves_out(one, value) for one in marks)}


def _leaves_out(mark: Any, value: Any) -> bool:
    return isinstance(mark, Unnamed) or (isinstance(mark, OmittedIf) and mark.value == value)


def marks_of(owner: type) -> dict[str, tuple[Any, ...]]:
    """The marks of each field of a dataclass, by its name; a subclass that declares a field again keeps them."""
    marks: dict[str, tuple[Any, ...]] = {field.name: () for field in fields(owner)}
    for kind in reversed(owner.__mro__):
        for name, annotation in get_type_hints(kind, include_extras=True).items():
            if name in marks and get_origin(annotation) is Annotated:
                own = tuple(one for one in annotation.__metadata__ if isinstance(one, Unnamed | OmittedIf))
                marks[name] = own or marks[name]
    return marks
