"""Textures: crops of scikit-image's brick, grass and gravel photographs."""

from typing import Annotated

from pydantic import Field
from skimage import data

from unseen_diffusion.domains.base import Domain, Pool, array_pool
from unseen_diffusion.domains.pools import tiles
from unseen_diffusion.utils.checked import settings

WIDTH = 512  # of each photograph, which is square


@settings("domain")
class Textures(Domain):
    """Crops that lie side by side and therefore share no pixel."""

    name: str = "textures"
    source: str = "brick, grass and gravel, 512x512 grey photographs in scikit-image's data"
    licence: str = "CC0"
    crop: Annotated[int, Field(ge=8, le=WIDTH)] = 40
    """width of a crop, in pixels of the photograph; the rest at the right and bottom edge is unused"""

    def pool(self, size: int, channels: int) -> Pool:
        """(512 // crop) ** 2 crops of each of the three photographs."""
        photographs = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
        named = [tile for name, grey in photographs.items() for tile in tiles(name, grey[:, :, None], self.crop)]
        return array_pool([name for name, _ in named], [crop for _, crop in named], size, channels)
