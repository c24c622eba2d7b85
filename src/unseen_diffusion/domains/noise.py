"""Noise: independent pixels, the domain with the widest gap to any photograph."""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.images import quantise
from unseen_diffusion.utils.seeds import normal_rows

RECIPE = "normal-1"  # part of the fingerprint; raise it when the simulation changes


@settings("domain")
class Noise(Domain):
    """Independent normal pixels around mid-grey, one random stream per image."""

    name: str = "noise"
    source: str = "simulated here: independent normal pixels"
    licence: str = "as this package"
    count: Count = 1000
    """number of images"""
    contrast: Annotated[float, Field(ge=0)] = 0.5
    """standard deviation of a pixel, as a share of half the range; values are clipped to 0..255"""
    seed: int = 0
    """seed of the simulation"""

    def pool(self, size: int, channels: int) -> Pool:
        """The images, simulated on demand at the size and channels of the model."""

        def load(indices: Sequence[int]) -> torch.Tensor:
            pixels = normal_rows((channels, size, size), self.seed, "noise domain", list(indices))
            return quantise(self.contrast * pixels)

        digest = fingerprint(recipe=RECIPE, size=size, channels=channels, **self.of_pixels())
        return Pool(tuple(f"noise-{index:05d}" for index in range(self.count)), load, digest)
