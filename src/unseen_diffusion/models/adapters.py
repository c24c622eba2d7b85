"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on attention and convolution layers, by peft."""

import copy
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def check_peft() -> None:
    """Checks that peft is installed.

    Raises:
        InputError: peft is not installed.
    """
    if find_spec("peft") is None:
        raise InputError("method.tuning: adapters need the package peft; pip install 'unseen-diffusion[tuning]'")


def with_adapters(network: nn.Module, rank: int, seed: int, layers: Sequence[str] | None = None) -> Any:
    """A copy of ``network`` with B A added to every layer; B is zero, so its output is exactly the same.

    Only A and B are trainable; A depends on ``seed`` alone. ``layers`` are those adapted; None: ``target_layers``.

    Raises:
        InputError: peft is not installed.
    """
    check_peft()
    peft = import_module("peft")
    names = list(target_layers(network) if layers is None else layers)
    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=names, lora_dropout=0.0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "adapters").initial_seed())
        return peft.get_peft_model(copy.deepcopy(network).cpu(), config).to(next(network.parameters()).device).eval()


def target_layers(network: nn.Module) -> list[str]:
    """Names of all convolutions, and of the linear layers of attention."""
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and "attentions." in name)
    ]


def attention_layers(network: nn.Module) -> list[str]:
    """Names of the projections of attention to queries, keys, values and outputs."""
    projections = (".to_q", ".to_k", ".to_v", ".to_out.0")
    return [
        name for name, module in network.named_modules() if name.endswith(projections) and hasattr(module, "weight")
    ]


def adapter_weights(network: nn.Module) -> dict[str, Tensor]:
    """A and B of every adapted layer, by name."""
    return import_module("peft").get_peft_model_state_dict(network)


def merged(network: nn.Module, rank: int, weights: dict[str, Tensor], layers: Sequence[str] | None = None) -> nn.Module:
    """A copy of ``network`` with B A of ``weights`` added to its weights: without adapter layers, at the original cost.

    Raises:
        InputError: peft is not installed.
    """
    adapted = with_adapters(network, rank, 0, layers)
    import_module("peft").set_peft_model_state_dict(adapted, weights)
    return adapted.merge_and_unload()
