"""Loads weights into frozen networks, and checks that every tensor fits. Never runs code from a file."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unseen_diffusion.models.folders import read_config, variant_of
from unseen_diffusion.utils.checks import is_finite
from unseen_diffusion.utils.digests import raw_digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.seeds import generator

SAVED_TWICE = ("time_proj.W",)  # beside time_proj.weight, in files of 2022


def load_checked(kind: Any, folder: Path, part: str, weights: Sequence[Path]) -> nn.Module:
    """A network of class ``kind`` in float32 with the weights of ``folder``/``part``; half precision is widened.

    Reads safetensors directly, and .bin files by torch.load with ``weights_only``, which runs no code.

    Raises:
        InputError: the weights cannot be read or do not fit the config.
    """
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    place, safe = weights[0].parent, ".safetensors" in weights[0].name
    variant = variant_of(weights[0].name, part)
    options = {"use_safetensors": safe, "variant": variant, "local_files_only": True, "output_loading_info": True}
    # transformers renamed the argument that diffusers still calls torch_dtype.
    precision = {"dtype" if kind.__module__.startswith("transformers") else "torch_dtype": torch.float32}
    try:
        network, loading = kind.from_pretrained(place, **options, **precision)
    except Exception as error:  # both libraries and pickle raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{folder}: {part}'s weights cannot be read ({reason[:200]}); download them again") from error
    # Both libraries would silently fill missing tensors with random numbers, and leave unexpected ones out.
    wrong = [*loading["missing_keys"], *(entry[0] for entry in loading["mismatched_keys"])]
    if wrong:
        raise InputError(
            f"{folder}: {part}'s weights do not fit its config ({len(wrong)} tensors, such as {sorted(wrong)[0]}); "
            "download both again"
        )
    # Older versions also saved what now follows from the config.
    derived = {*dict(network.named_buffers()), *SAVED_TWICE}
    if unexpected := sorted({*loading["unexpected_keys"]} - derived):
        raise InputError(
            f"{folder}: {part}'s config has no place for {len(unexpected)} tensors of its weights, such as "
            f"{unexpected[0]}; download both again"
        )
    for name, parameter in network.named_parameters():
        if not is_finite(parameter):
            raise InputError(f"{folder}: {part}'s tensor {name} is not finite; download its weights again")
    return network.requires_grad_(False).eval()


def initialise(kind: Any, config: Path, seed: int) -> nn.Module:
    """The network of a config at initialisation, float32; reads no weights, leaves other random numbers unchanged."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "untrained").initial_seed())
        try:
            network = kind.from_config(read_config(config))
        except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, ZeroDivisionError) as error:
            raise InputError(
                f"{config}: describes no {kind.__name__} ({first_line(error)}); download it again"
            ) from error
    return network.requires_grad_(False).eval()


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers by name."""
    named = sorted(network.state_dict().items())
    return raw_digest(
        part for name, tensor in named for part in (name, tensor.detach().cpu().contiguous().numpy().tobytes())
    ).hex()
