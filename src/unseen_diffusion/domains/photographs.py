"""Photographs: crops of the colour photographs inside scikit-image and scikit-learn."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from skimage import data
from sklearn.datasets import load_sample_image

from unseen_diffusion.domains.base import Domain, Pool, array_pool
from unseen_diffusion.domains.pools import tiles
from unseen_diffusion.utils.checked import settings

SMALLEST = 300  # height of the smallest photograph, in pixels


@settings("domain")
class Photographs(Domain):
    """Crops that lie side by side: an astronaut, a cat, a cup of coffee, a rocket, a Chinese temple, a flower."""

    name: str = "photographs"
    source: str = "astronaut, chelsea, coffee and rocket of scikit-image, china and flower of scikit-learn"
    licence: str = (
        "public domain (astronaut: NASA; rocket: SpaceX), CC0 (chelsea, coffee), "
        "CC BY 2.0 (china: danielbuechele, flower: vultilion, both on Flickr)"
    )
    crop: Annotated[int, Field(ge=8, le=SMALLEST)] = 48
    """width of a crop, in pixels of the photograph; the rest at the right and bottom edge is unused"""

    def pool(self, size: int, channels: int) -> Pool:
        """All crops of the six photographs, in reading order."""
        named = [tile for name, photograph in _photographs().items() for tile in tiles(name, photograph, self.crop)]
        return array_pool([name for name, _ in named], [crop for _, crop in named], size, channels)


def _photographs() -> dict[str, NDArray[np.uint8]]:
    """(H, W, 3) by name; all of them files of the two packages, so nothing is downloaded."""
    return {
        "astronaut": data.astronaut(),
        "chelsea": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "china": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
