"""Finds the state dict of a network in a checkpoint file, however nested. Never runs code from the file."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from unseen_diffusion.models.conversion.architecture import Naming
from unseen_diffusion.models.conversion.families import MARKERS
from unseen_diffusion.utils.errors import InputError

ROOT = "."  # the name of a network that is stored without nesting or prefix


class Checkpoint(NamedTuple):
    """One network of a file.

    Attributes:
        name: nesting and prefix, joined by dots; ``ROOT`` for neither.
        names: its family.
        state: its tensors under the family's own keys.
        reason: why this network was chosen, in words.
    """

    name: str
    names: Naming
    state: dict[str, Tensor]
    reason: str


def read_checkpoint(path: Path, weights: str | None = None) -> Checkpoint:
    """The network in a .safetensors file or a pickle of plain tensors.

    Of several networks, an exponential average ("ema" in its name) is preferred: published samples were drawn with it.

    Args:
        path: the file.
        weights: the ``Checkpoint.name`` of the network; None for the rule above.

    Raises:
        InputError: no such file, one that needs code to be read, an unknown layout, or several networks of equal rank.
    """
    content = _load(path)
    found = {name: (names, state) for name, names, state in _networks(content)}
    if not found:
        raise InputError(
            f"{path}: unknown layout ({_glimpse(content)}); known: ADM (time_embed.0), DDPM (temb.dense.0)"
        )
    choices = [name for name in found if "ema" in name.lower()] or list(found)
    if weights is not None:
        if weights not in found:
            raise InputError(f"--weights {weights}: no such network in {path}; there are {', '.join(found)}")
        chosen, reason = weights, "chosen by --weights"
    elif len(choices) > 1:
        raise InputError(f"{path}: holds several networks; choose one with --weights: {', '.join(choices)}")
    else:
        chosen = choices[0]
        reason = "the only network" if len(found) == 1 else f"the exponential average among {', '.join(found)}"
    names, state = found[chosen]
    return Checkpoint(chosen, names, state, reason)


def _load(path: Path) -> Any:
    """The content of the file; pickles are read with ``weights_only``, which creates plain data only."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; give a checkpoint (.pt, .pth, .ckpt or .safetensors)")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; unreadable files are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a dozen unrelated types, by format and damage
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        reason = next((line for line in lines if "nsupported" in line), lines[0])
        raise InputError(
            f"{path}: not a file of plain tensors, and code in it is never run ({reason[:120]}); "
            "save the state dict alone, where you trust the file"
        ) from error


def _networks(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Naming, dict[str, Tensor]]]:
    """Every (name, family, state dict) in nested dicts and lists, recognised by ``MARKERS``."""
    if isinstance(content, list | tuple):
        content = {str(i): value for i, value in enumerate(content)}
    if not isinstance(content, Mapping):
        return
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    for key in tensors:
        for marker, names in MARKERS.items():
            if key == marker or key.endswith(f".{marker}"):
                prefix = key.removesuffix(marker)
                state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                yield ".".join([*path, *filter(None, prefix.split("."))]) or ROOT, names, state
    for key, value in content.items():
        if isinstance(value, Mapping | list | tuple):
            yield from _networks(value, (*path, str(key)))


def _glimpse(content: Any) -> str:
    """The first keys of the content, or its type."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    keys = [str(key) for key in content]
    return f"keys {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}" if keys else "empty"
