"""Pixels as features: no network, no opinion; distances are those of the images themselves."""

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unseen_diffusion.scores.features.base import check_images
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import dequantise

_VERSION = "pixels-1"


class Pixels:
    """Flattened pixels in [-1, 1] of images averaged down to ``side``; grey is repeated to RGB."""

    name = "pixels"

    def __init__(self, side: int = 32, batch_size: int = 1024) -> None:
        """Features of dimension 3 * side^2; images of another side are average-pooled to it.

        Raises:
            InputError: ``side`` is not positive.
        """
        if side < 1:
            raise InputError(f"features.side={side}: give 1 or more pixels")
        self.side = side
        self.batch_size = batch_size
        self.dimension = 3 * side**2
        self.fingerprint = digest(f"{_VERSION}/{side}")

    def to(self, device: torch.device | str) -> None:
        """Nothing to move: the work is done where the images are."""

    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, 3 * side^2) in [-1, 1]."""
        check_images(images)
        pooled = adaptive_avg_pool2d(dequantise(images), self.side)
        return pooled.expand(-1, 3, -1, -1).flatten(1)
