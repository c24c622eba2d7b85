"""Noise: independent pixels, the domain that is farthest from any photograph."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import quantise
from unseen_diffusion.utils.seeds import normal_rows

RECIPE = "normal-1"  # enters the fingerprint: changes with the simulation


@dataclass(frozen=True, kw_only=True)
class Noise(Domain):
    """Independent normal pixels around mid-grey, one random stream per image.

    Attributes:
        count: how many images there are.
        contrast: standard deviation of a pixel, as a share of half the range; values are clipped to 0..255.
        seed: of the simulation.
    """

    name: str = "noise"
    source: str = "simulated here: independent normal pixels"
    licence: str = "as this package"
    count: int = 1000
    contrast: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, least in {"count": 1, "contrast": 0.0}.items():
            if getattr(self, key) < least:
                raise InputError(f"domain.{key}={getattr(self, key)}: needs to be at least {least:g}")

    def pool(self, size: int, channels: int) -> Pool:
        """The images, made on demand at the size and channels that the model wants."""

        def load(indices: Sequence[int]) -> torch.Tensor:
            pixels = normal_rows((channels, size, size), self.seed, "noise domain", list(indices))
            return quantise(self.contrast * pixels)

        parameters = {"contrast": self.contrast, "seed": self.seed}
        digest = fingerprint(recipe=RECIPE, count=self.count, size=size, channels=channels, **parameters)
        return Pool(tuple(f"noise-{index:05d}" for index in range(self.count)), load, digest)
