"""The order of the images and the averaged weights, for training and fine-tuning alike."""

import torch
from torch import Tensor, nn

from unseen_diffusion.utils.seeds import generator


def epoch_rows(count: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Image indices of one step, (batch_size,) int64; epochs are seeded permutations, one after the other."""
    rows: list[Tensor] = []
    position, needed = step * batch_size, batch_size
    while needed:
        epoch, start = divmod(position, count)
        order = torch.randperm(count, generator=generator(seed, "epoch", epoch))
        rows.append(order[start : start + needed])
        position += len(rows[-1])
        needed -= len(rows[-1])
    return torch.cat(rows)


def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, shorter in the first steps: min(decay, (1+s)/(10+s))."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        averaged: list[Tensor] = list(ema.parameters())
        current: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(ema.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)
