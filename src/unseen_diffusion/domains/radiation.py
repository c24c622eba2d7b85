"""Radiation fields of molecular clouds, simulated in two dimensions: stars behind dust, seen in three bands."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import map_coordinates
from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.domains.turbulence import gaussian_field
from unseen_diffusion.utils import images
from unseen_diffusion.utils.checked import Count, Positive, settings
from unseen_diffusion.utils.seeds import generator

RECIPE = "stars-in-dust-1"  # part of the fingerprint; raise it when the simulation changes
BANDS = (0.2, 0.5, 1.0)  # opacity of red, green and blue light, in units of the strongest: dust reddens
DECADES = 3.0  # of intensity between black and white


@settings("domain")
class Radiation(Domain):
    """The radiation of a few stars in a turbulent cloud: I(x) = sum of L / (r^2 + r_0^2) exp(-kappa column to x)."""

    name: str = "radiation"
    source: str = "simulated here: stars in log-normal dust, a stand-in for simulations of molecular clouds"
    licence: str = "as this package"
    count: Count = 1000
    """number of images"""
    stars: Count = 4
    """mean number of stars in an image; each image has at least one"""
    opacity: Positive = 6.0
    """optical depth in blue light across the image at the mean density"""
    sigma: Annotated[float, Field(ge=0)] = 1.2
    """standard deviation of the log density"""
    slope: Annotated[float, Field(ge=0)] = 3.2
    """the power spectrum of the log density is k ** -slope"""
    resolution: Annotated[int, Field(ge=8)] = 64
    """width of the simulated field before it is resized, in pixels"""
    seed: int = 0
    """seed of the simulation"""

    def pool(self, size: int, channels: int) -> Pool:
        """The fields, simulated on demand."""

        def load(indices: Sequence[int]) -> Tensor:
            return images.stack([images.fit(self.picture(i), size, channels) for i in indices])

        digest = fingerprint(recipe=RECIPE, size=size, channels=channels, **self.of_pixels())
        return Pool(tuple(f"radiation-{index:05d}" for index in range(self.count)), load, digest)

    def picture(self, index: int) -> NDArray[np.float64]:
        """One field as RGB: (resolution, resolution, 3) in 0..255, logarithmic.

        White is the 99th percentile of the red band, which dust dims least; black is ``DECADES`` below.
        """
        bands = np.stack([self.intensity(index, self.opacity * share) for share in BANDS], axis=-1)
        levels = np.log10(bands / np.percentile(bands[..., 0], 99)) / DECADES + 1
        return np.asarray(255 * np.clip(levels, 0, 1))

    def intensity(self, index: int, opacity: float) -> NDArray[np.float64]:
        """Intensity of all stars at every pixel: (resolution, resolution) float64, above 0; lengths in image widths."""
        rng = generator(self.seed, "radiation", index)
        density = np.exp(self.sigma * gaussian_field(self.resolution, self.slope, rng) - self.sigma**2 / 2)
        number = max(1, int(torch.poisson(torch.tensor(float(self.stars)), generator=rng)))
        places = torch.rand((number, 2), generator=rng).numpy()
        powers = (10 ** torch.rand(number, generator=rng)).numpy()  # a decade of luminosities
        total = np.zeros_like(density)
        for place, power in zip(places, powers, strict=True):
            distance, column = columns(density, place)
            total += power / (distance**2 + (1 / self.resolution) ** 2) * np.exp(-opacity * column)
        return total


def columns(
    density: NDArray[np.float64], place: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distance from a place to every pixel, and the dust between them, both in image widths.

    The dust is the trapezoid rule along rays from the place, interpolated to the pixels.

    Args:
        density: (n, n), of mean about 1.
        place: (2,) in [0, 1]: row and column, in image widths.
    """
    n = len(density)
    centre = np.asarray(place, dtype=np.float64) * (n - 1)
    rays, steps = 4 * n, 2 * n
    angles = np.linspace(0, 2 * np.pi, rays, endpoint=False)
    radii = np.linspace(0, np.sqrt(2) * (n - 1), steps)
    points = centre[:, None, None] + radii * np.stack([np.sin(angles), np.cos(angles)])[:, :, None]
    along = map_coordinates(density, points, order=1, mode="nearest")
    step = radii[1] / (n - 1)
    dust = np.zeros_like(along)
    dust[:, 1:] = np.cumsum((along[:, 1:] + along[:, :-1]) / 2, axis=1) * step
    rows, cols = np.mgrid[:n, :n] - centre[:, None, None]
    distance = np.hypot(rows, cols)
    where = np.stack([np.mod(np.arctan2(rows, cols), 2 * np.pi) / (2 * np.pi) * rays, distance / radii[1]])
    wrapped = np.concatenate([dust, dust[:1]])  # the last ray neighbours the first
    return distance / (n - 1), np.asarray(map_coordinates(wrapped, where, order=1, mode="nearest"))
