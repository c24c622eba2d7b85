"""Values a little different from a given one: what a property over all inputs, or over all fields, changes."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import singledispatch
from types import NoneType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import torch
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.runs.stages import StoredPrior
from unseen_diffusion.scores.features.base import FeatureExtractor
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.utils.checked import hints
from unseen_diffusion.utils.errors import InputError

Change = tuple[str, Any]  # what is different, in words, and the other value


@singledispatch
def changed(value: Any) -> Iterator[Change]:
    """Each way to change one thing about a value; settings change field by field."""
    if isinstance(value, DiffusionModel | FeatureExtractor):
        other = copy.copy(value)
        other.fingerprint = f"not {value.fingerprint}"
        yield "fingerprint", other
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.init:
                yield from changed_field(value, field.name)
    else:
        raise NotImplementedError(f"tests/support/changes.py: say how a {type(value).__name__} is changed")


def changed_field(owner: Any, name: str) -> Iterator[Change]:
    """The first change of a field that its class accepts; nothing where there is none (a field with one choice)."""
    for _, other in _candidates(getattr(owner, name), hints(type(owner)).get(name)):
        try:
            yield name, replace(owner, **{name: other})
            return
        except InputError:
            continue


def _candidates(value: Any, annotation: Any) -> Iterator[Change]:
    """Other values that a field may have, by its annotation where that lists them."""
    yield from ((str(one), one) for one in choices(annotation) if type(one) is not type(value) or one != value)
    if value is None:
        yield from (("a value", one) for one in (1, 0.5, "x", ["x"]))
    else:
        yield from changed(value)


def choices(annotation: Any) -> list[Any]:
    """The values that a type lists: of ``Literal``, and None of an optional type."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return choices(inner[0])
    if origin is Literal:
        return list(inner)
    if origin is Union or (inner and NoneType in inner and origin is not None and not issubclass(origin, Mapping)):
        return [one for part in inner for one in choices(part)] + [None] * (NoneType in inner)
    return []


@changed.register
def _(value: bool) -> Iterator[Change]:
    yield "flipped", not value


@changed.register
def _(value: int) -> Iterator[Change]:
    yield "one more", value + 1
    yield "one less", value - 1


@changed.register
def _(value: float) -> Iterator[Change]:
    yield "more", value + 0.125
    yield "less", value - 0.125


@changed.register
def _(value: str) -> Iterator[Change]:
    yield "text", f"{value}x"


@changed.register
def _(value: Tensor) -> Iterator[Change]:
    other = value.clone()
    other.view(-1)[-1] += 1
    yield "one value", other
    yield "one row fewer", value[:-1]
    yield "order", value.flip(0)
    yield "shape", value.reshape(len(value), -1)
    yield "type", value.double()


@changed.register
def _(value: dict) -> Iterator[Change]:
    for name, one in value.items():
        for label, other in changed(one):
            yield f"{name}: {label}", {**value, name: other}
        yield f"{name} renamed", {f"{key}s" if key == name else key: kept for key, kept in value.items()}
        yield f"without {name}", {key: kept for key, kept in value.items() if key != name}


@changed.register(list)
@changed.register(tuple)
def _(value: Sequence[Any]) -> Iterator[Change]:
    yield "without the last", value[:-1]
    for index, one in enumerate(value):
        label, other = next(changed(one))
        yield f"{index}: {label}", type(value)([*value[:index], other, *value[index + 1 :]])


@changed.register
def _(value: LatentSet) -> Iterator[Change]:
    yield "t", LatentSet(value.t + 1, value.latents, value.indices)
    for label, latents in changed(value.latents):
        if len(latents) == len(value.latents) and latents.dtype == value.latents.dtype:
            yield f"latents: {label}", LatentSet(value.t, latents, value.indices)
    yield "fewer", value.first(len(value.indices) - 1)
    yield "indices", LatentSet(value.t, value.latents, [*value.indices[:-1], value.indices[-1] + 1])


@changed.register
def _(value: Artefact) -> Iterator[Change]:
    yield "key", replace(value, key=f"not {value.key}")


@changed.register
def _(value: StoredPrior) -> Iterator[Change]:
    yield from ((label, replace(value, artefact=other)) for label, other in changed(value.artefact))


@changed.register
def _(value: torch.device) -> Iterator[Change]:
    yield "device", torch.device("meta")
