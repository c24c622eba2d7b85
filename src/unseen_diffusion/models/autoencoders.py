"""Converts images to the states that a model diffuses (range [0, 1], or latents of an autoencoder), and back."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.utils.batching import Size, in_batches
from unseen_diffusion.utils.devices import to_device
from unseen_diffusion.utils.precision import full_float32


class Codec(ABC):
    """Converts images in [-1, 1] to clean states and back, deterministically and in float32."""

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> states."""

    @abstractmethod
    def decode(self, states: Tensor) -> Tensor:
        """States -> images (B, C, H, W)."""


class UnitRange(Codec):
    """States are images in [0, 1], the range that NCSN++ was trained on."""

    def encode(self, images: Tensor) -> Tensor:
        return (images + 1) / 2

    def decode(self, states: Tensor) -> Tensor:
        return 2 * states - 1


class VariationalCodec(Codec):
    """AutoencoderKL: z = (posterior mean - shift) scale (Rombach et al. 2022, arXiv 2112.10752, section 4.3)."""

    def __init__(self, network: Any, scale: float, shift: float):
        self.network, self.scale, self.shift = network, scale, shift

    def encode(self, images: Tensor) -> Tensor:
        return (self.network.encode(images).latent_dist.mode() - self.shift) * self.scale

    def decode(self, states: Tensor) -> Tensor:
        return self.network.decode(states / self.scale + self.shift, return_dict=False)[0]


class QuantisedCodec(Codec):
    """VQModel: the state is the output of the encoder; ``decode`` quantises it (Rombach et al.)."""

    def __init__(self, network: Any, scale: float):
        self.network, self.scale = network, scale

    def encode(self, images: Tensor) -> Tensor:
        return self.network.encode(images, return_dict=False)[0] * self.scale

    def decode(self, states: Tensor) -> Tensor:
        return self.network.decode(states / self.scale, return_dict=False)[0]


@torch.inference_mode()
def convert_all(convert: Callable[[Tensor], Tensor], rows: Tensor, batch_size: Size, device: torch.device) -> Tensor:
    """Applies ``convert`` to float32 batches on ``device``, halved where memory runs out; the result is on the CPU."""

    def job(part: slice) -> Tensor:
        return convert(to_device(rows[part].float(), device)).cpu()

    with full_float32():
        return torch.cat(list(in_batches(job, len(rows), batch_size)) or [job(slice(0))])
