"""Verifies that a converted network computes the outputs of the original."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.precision import full_float32
from unseen_diffusion.utils.seeds import normal_rows

TIMESTEPS = (0.0, 500.0, 999.0)
TOLERANCE = 1e-5  # largest difference relative to the largest output, float32

Network = Callable[[Tensor, Tensor], Tensor]


class Comparison(NamedTuple):
    """The largest difference of two outputs: at which input, absolute, and relative to the largest original output."""

    where: str
    error: float
    relative: float


def difference(output: Float[Tensor, "*shape"], original: Float[Tensor, "*shape"], where: str) -> Comparison:
    """Largest absolute difference, also relative to max |original|.

    Raises:
        InputError: the original is zero everywhere, or not finite, so that nothing can be compared.
    """
    scale, error = float(original.abs().max()), float((output - original).abs().max())
    if not 0 < scale < float("inf"):
        raise InputError(f"verification at {where}: the original's largest output is {scale}; give a trained network")
    return Comparison(where, error, error / scale)


@torch.inference_mode()
def compare_networks(
    network: Network, original: Network, shape: tuple[int, int, int], timesteps: Sequence[float] = TIMESTEPS
) -> list[Comparison]:
    """Compares both networks on the same standard normal state (C, H, W) at each of ``timesteps``."""
    found = []
    with full_float32():
        for index, timestep in enumerate(timesteps):
            x, t = normal_rows(shape, 0, "conversion", [index]), torch.full((1,), timestep)
            found.append(difference(network(x, t), original(x, t), f"t = {timestep:g}"))
    return found


@torch.inference_mode()
def compare_activations(network: Network, activations: "Activations") -> list[Comparison]:
    """Compares the network with saved outputs of the original code, row by row."""
    found = []
    with full_float32():
        for i, t in enumerate(activations.t):
            output = network(activations.x[i : i + 1], t.reshape(1))
            if output[0].shape != activations.output[i].shape:
                raise InputError(
                    f"activations: outputs {tuple(activations.output[i].shape)}, network {tuple(output[0].shape)}; "
                    "save the whole output of the network"
                )
            found.append(difference(output[0], activations.output[i], f"row {i}, t = {float(t):g}"))
    return found


class Activations(NamedTuple):
    """Saved states x (B, C, H, W), timesteps t (B,) and outputs (B, C', H, W), float32."""

    x: Tensor
    t: Tensor
    output: Tensor


def read_activations(path: Path, in_channels: int) -> Activations:
    """Reads a .safetensors file with the tensors x, t and output.

    Raises:
        InputError: it is not such a file, or shapes do not fit.
    """
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # missing, or not safetensors: unrelated types
        raise InputError(f"--activations {path}: not a readable safetensors file ({error})".splitlines()[0]) from error
    if not tensors.keys() >= {"x", "t", "output"}:
        raise InputError(f"--activations {path}: tensors {', '.join(sorted(tensors))}; give x, t and output")
    x, t, output = (tensors[key].float() for key in ("x", "t", "output"))
    if x.ndim != 4 or x.shape[1] != in_channels or t.shape != (len(x),) or output.ndim != 4 or len(output) != len(x):
        raise InputError(
            f"--activations {path}: x {tuple(x.shape)}, t {tuple(t.shape)}, output {tuple(output.shape)}; expected "
            f"(B, {in_channels}, H, W), (B,) and (B, C, H, W)"
        )
    return Activations(x, t, output)


def check(comparisons: Sequence[Comparison], tolerance: float, remedy: str) -> None:
    """Refuses a conversion whose outputs differ from those of the original.

    Raises:
        InputError: a relative error above the tolerance, or not a number.
    """
    for found in comparisons:
        if not found.relative <= tolerance:
            raise InputError(
                f"verification failed at {found.where}: difference {found.error:.2g}, {found.relative:.2g} of the "
                f"largest output ({tolerance:g} allowed); nothing was written; {remedy}"
            )
