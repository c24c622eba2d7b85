"""Checked settings: what is refused, the one line that says so, and the declarations that help prints."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, asdict, replace
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import pytest
from pydantic import Field

from unseen_diffusion.utils.checked import Count, Positive, Share, WholeNumber, checked_arguments, described, settings
from unseen_diffusion.utils.declarations import declared
from unseen_diffusion.utils.errors import InputError


@runtime_checkable
class Shape(Protocol):
    """Something with a name."""

    name: str


@settings("part")
class Part:
    """A part."""

    eta: Share
    """how much noise is added"""
    count: Count = 2
    """images"""
    size: Annotated[int, Field(ge=1)] | Literal["auto"] | None = None
    end: Literal["full", "half"] = "full"
    channels: Annotated[Literal[1, 3], WholeNumber] = 3
    steps: Sequence[Positive] = (1.0,)
    widths: Mapping[str, float | None] = Field(default_factory=dict)
    shape: Shape | None = None
    quick: bool = False
    name: str = "part"

    def __post_init__(self) -> None:
        if self.count == 13:
            raise InputError("part.count=13: choose a luckier number")


@settings("part")
class Longer(Part):
    """A part with one more field."""

    length: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """of the part"""


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"eta": 1.5}, "part.eta=1.5: give a number between 0 and 1"),
        ({"eta": True}, "part.eta=true: give a number between 0 and 1"),
        ({"eta": math.nan}, "part.eta=nan: give a number between 0 and 1"),
        ({"eta": "0.5"}, "part.eta=0.5: give a number between 0 and 1"),
        ({"eta": None}, "part.eta=null: give a number between 0 and 1"),
        ({"count": 2.0}, "part.count=2.0: give a whole number of 1 or more"),
        ({"count": True}, "part.count=true: give a whole number of 1 or more"),
        ({"count": 0}, "part.count=0: give a whole number of 1 or more"),
        ({"count": 13}, "part.count=13: choose a luckier number"),
        ({"size": 0}, "part.size=0: give a whole number of 1 or more or auto or null"),
        ({"size": "all"}, "part.size=all: give a whole number of 1 or more or auto or null"),
        ({"end": "none"}, "part.end=none: choose one of full, half"),
        ({"channels": 2}, "part.channels=2: choose one of 1, 3"),
        ({"channels": True}, "part.channels=true: choose one of 1, 3"),
        ({"channels": 1.0}, "part.channels=1.0: choose one of 1, 3"),
        ({"steps": [1, -2]}, "part.steps=[1, -2]: give a list whose entries are each a number above 0"),
        ({"steps": 3}, "part.steps=3: give a list whose entries are each a number above 0"),
        ({"widths": {"a": "b"}}, "part.widths.a=b: give a number or null"),
        ({"shape": 3}, "part.shape=3: give a config of a Shape or null"),
        ({"quick": 1}, "part.quick=1: give true or false"),
        ({"cuont": 3}, "part.cuont: nothing reads this key; did you mean count?"),
        ({"zzzzz": 3}, "part.zzzzz: nothing reads this key; choose among eta, count, size"),
    ],
)
def test_every_refusal_is_one_line(values: dict[str, Any], line: str) -> None:
    for kind in (Part, Longer):
        with pytest.raises(InputError) as refused:
            kind(**{"eta": 0.5, **values})
        assert str(refused.value).startswith(line)
        assert "\n" not in str(refused.value)


def test_required_settings_and_names() -> None:
    with pytest.raises(InputError, match=r"^part.eta: required; give a number between 0 and 1$"):
        Part()
    with pytest.raises(TypeError, match="by name"):
        Part(0.5)


def test_a_whole_number_is_a_number_and_copies_are_checked() -> None:
    part = Part(eta=1, steps=[1, 2], widths={"a": None, "b": 2})
    assert asdict(part) | {"eta": 1.0} == asdict(part)
    assert type(part.eta) is float
    with pytest.raises(InputError, match=r"part\.eta=3"):
        replace(part, eta=3)
    with pytest.raises(FrozenInstanceError):
        part.eta = 0.5


def test_declarations_carry_type_range_default_and_meaning() -> None:
    found = {setting.name: setting for setting in declared(Longer)}
    assert (found["eta"].values, found["eta"].meaning, found["eta"].default) == (
        "a number between 0 and 1",
        "how much noise is added",
        None,
    )
    assert (found["count"].meaning, found["count"].default) == ("images", "2")
    assert (found["length"].values, found["length"].meaning) == ("a number above 0, below 1", "of the part")
    assert found["quick"].default == "false"


@checked_arguments("model")
def build(size: Count, std: Positive = 1.0, device: str = "cpu") -> tuple[int, float, str]:
    """What a config may call."""
    return size, std, device


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"size": 0}, "model.size=0: give a whole number of 1 or more"),
        ({"size": 8, "std": "1"}, "model.std=1: give a number above 0"),
        ({}, "model.size: required; give a whole number of 1 or more"),
        ({"size": 8, "sdt": 1.0}, "model.sdt: nothing reads this key; did you mean std?"),
    ],
)
def test_arguments_of_functions_are_checked_alike(values: dict[str, Any], line: str) -> None:
    assert build(8, std=2) == (8, 2.0, "cpu")
    with pytest.raises(InputError) as refused:
        build(**values)
    assert str(refused.value) == line
    with pytest.raises(InputError, match=r"^model.size=0: give a whole"):
        build(0)


@checked_arguments("model", Longer)
def build_longer(path: str, **options: Any) -> tuple[str, Longer]:
    """What a config may call, with the fields of a settings class beside its arguments."""
    return path, Longer(**options)


def test_options_of_a_settings_class_are_checked_with_the_arguments() -> None:
    """By the function, and before it is called; help shows them behind the arguments."""
    path, longer = build_longer("a", eta=0.5, length=0.5)
    assert (path, longer.eta) == ("a", 0.5)
    assert [one.name for one in declared(build_longer)] == ["path", *(one.name for one in declared(Longer))]
    for values, line in (
        ({"eta": 2.0}, "model.eta=2.0: give a number between 0 and 1"),
        ({"lenght": 0.5}, "model.lenght: nothing reads this key; did you mean length?"),
    ):
        with pytest.raises(InputError) as refused:
            build_longer.check_arguments(path="a", **values)
        assert str(refused.value) == line


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Annotated[float, Field(le=3)], "a number of at most 3"),
        (Annotated[float, Field(lt=3)], "a number below 3"),
        (Annotated[float, Field(gt=0, le=0.5)], "a number above 0, up to 0.5"),
        (Annotated[int, Field(ge=2, lt=9)], "a whole number of at least 2, below 9"),
        (Literal["id"], "id"),
        (bool | None, "true or false or null"),
        (Annotated[int | float, Field(ge=1)] | None, "a number of 1 or more or null"),
    ],
)
def test_annotations_in_words(annotation: Any, text: str) -> None:
    assert described(annotation) == text
