"""Turbulence: simulated column densities of molecular clouds, log-normal with a power-law spectrum."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.utils import images
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.seeds import generator

RECIPE = "lognormal-1"  # part of the fingerprint; raise it when the simulation changes


@settings("domain")
class Turbulence(Domain):
    """Opacity maps of log-normal random fields, one random stream per image."""

    name: str = "turbulence"
    source: str = "simulated here: log-normal random fields with a power-law spectrum, after molecular clouds"
    licence: str = "as this package"
    count: Count = 1000
    """number of images"""
    slope: Annotated[float, Field(ge=0)] = 3.2
    """the power spectrum of the log density is k ** -slope"""
    sigma: Annotated[float, Field(ge=0)] = 1.2
    """standard deviation of the log density"""
    depth: Annotated[float, Field(ge=0.01)] = 0.7
    """optical depth at the mean density; a pixel is 255 (1 - exp(-depth density))"""
    resolution: Annotated[int, Field(ge=8)] = 64
    """width of the simulated field before it is resized, in pixels"""
    seed: int = 0
    """seed of the simulation"""

    def pool(self, size: int, channels: int) -> Pool:
        """The fields, simulated on demand."""

        def load(indices: Sequence[int]) -> Tensor:
            return images.stack([images.fit(self.opacity(i)[..., None], size, channels) for i in indices])

        digest = fingerprint(recipe=RECIPE, size=size, channels=channels, **self.of_pixels())
        return Pool(tuple(f"turbulence-{index:05d}" for index in range(self.count)), load, digest)

    def opacity(self, index: int) -> NDArray[np.float64]:
        """One map: (resolution, resolution) float64 in 0..255."""
        density = np.exp(self.sigma * self.log_density(index) - self.sigma**2 / 2)  # its mean is 1
        return np.asarray(255 * (1 - np.exp(-self.depth * density)))

    def log_density(self, index: int) -> NDArray[np.float64]:
        """A Gaussian field: (resolution, resolution) float64, a quarter of a box of unit variance."""
        return gaussian_field(self.resolution, self.slope, generator(self.seed, "turbulence", index))


def gaussian_field(width: int, slope: float, rng: torch.Generator) -> NDArray[np.float64]:
    """A Gaussian random field with power spectrum k^-slope: (width, width) float64.

    It is a quarter of a box of unit variance. The box is periodic, and a quarter of it is not.
    """
    side = 2 * width
    noise = torch.randn((side, side), generator=rng).numpy()
    k = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :])
    amplitude = np.zeros_like(k)
    amplitude[k > 0] = k[k > 0] ** (-slope / 2)  # no constant: the mean is zero
    box = np.fft.irfft2(np.fft.rfft2(noise.astype(np.float64)) * amplitude, s=(side, side))
    return np.asarray(box / box.std())[:width, :width]
