"""Features of an image from inside a denoising network: mean and deviation of the outputs of its blocks."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unseen_diffusion.utils.errors import InputError

READ_AT = 0.06  # of the schedule's timesteps: little noise, so that the network sees details (60 of 1000)
UP = 3  # blocks of a U-Net's way up that are read; later ones are close to the image itself
LAYERS = 5  # of a transformer, evenly spaced


def readable_blocks(network: nn.Module, name: str) -> list[nn.Module]:
    """The blocks that are read: of a U-Net the second on its way down, the middle, the first three on its way up.

    Of a transformer five of its layers, evenly spaced, the last one included.

    Raises:
        InputError: a network without such blocks; ``name`` is that of its model.
    """
    layers = getattr(network, "transformer_blocks", None)
    if isinstance(layers, nn.ModuleList) and len(layers):
        places = sorted({(len(layers) * (i + 1)) // LAYERS - 1 for i in range(LAYERS)} - {-1})
        return [layers[place] for place in places]
    down, middle, up = (getattr(network, part, None) for part in ("down_blocks", "mid_block", "up_blocks"))
    if not isinstance(down, nn.ModuleList) or not isinstance(up, nn.ModuleList):
        raise without_blocks(name)
    return [down[min(1, len(down) - 1)], *([middle] if isinstance(middle, nn.Module) else []), *up[:UP]]


def without_blocks(name: str) -> InputError:
    """The refusal of a model that has no network to read features from."""
    return InputError(
        f"model={name}: has no network whose blocks give features; choose selection=copies, or another model"
    )


def block_features(blocks: list[nn.Module], evaluate: Callable[[], Any]) -> Float[Tensor, "b d"]:
    """Evaluates the network once and returns the mean and deviation over places of each block's channels, float32."""
    outputs: dict[int, Tensor] = {}

    def reads(place: int) -> Callable[..., None]:
        def read(module: nn.Module, arguments: Any, output: Any) -> None:
            outputs[place] = statistics_of(output)

        return read

    hooks = [block.register_forward_hook(reads(place)) for place, block in enumerate(blocks)]
    try:
        evaluate()
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat([outputs[place] for place in sorted(outputs)], dim=1)


def statistics_of(output: Any) -> Float[Tensor, "b c2"]:
    """Mean and deviation over the places of a block's output: a map (B, C, H, W), or tokens (B, N, C).

    Blocks of U-Nets return the map first; those of transformers with text return the image's tokens last.
    """
    if isinstance(output, tuple | list):
        maps = [one for one in output if isinstance(one, Tensor)]
        output = maps[0] if maps[0].ndim == 4 else maps[-1]
    values = output.float()
    values = values.flatten(2) if values.ndim == 4 else values.transpose(1, 2)
    return torch.cat([values.mean(2), values.std(2, unbiased=False)], dim=1).cpu()
