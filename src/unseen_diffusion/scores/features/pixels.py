"""Pixels as features: no network; distances are those between the images themselves."""

from typing import Annotated

import torch
from jaxtyping import Float32
from pydantic import Field
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unseen_diffusion.scores.features.base import check_images
from unseen_diffusion.utils.checked import Count, checked_arguments
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.images import dequantise

_VERSION = "pixels-1"


class Pixels:
    """Flattened pixels in [-1, 1] of images averaged down to ``side``; grey is repeated to RGB."""

    name = "pixels"

    @checked_arguments("features")
    def __init__(self, side: Annotated[int, Field(ge=1, le=4096)] = 32, batch_size: Count = 1024) -> None:
        """Sets the side; features then have dimension 3 * side^2.

        Args:
            side: height and width in pixels that images are average-pooled to.
            batch_size: images at a time.

        Raises:
            InputError: a value of the wrong type, or below 1.
        """
        self.side = side
        self.batch_size = batch_size
        self.dimension = 3 * side**2
        self.fingerprint = digest(f"{_VERSION}/{side}")

    def to(self, device: torch.device | str) -> None:
        """Does nothing: features are computed on the images' device."""

    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, 3 * side^2) in [-1, 1]."""
        check_images(images)
        pooled = adaptive_avg_pool2d(dequantise(images), self.side)
        return pooled.expand(-1, 3, -1, -1).flatten(1)
