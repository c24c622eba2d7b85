"""Textures: crops of scikit-image's brick, grass and gravel photographs."""

from dataclasses import dataclass

from skimage import data

from unseen_diffusion.domains.base import Domain, Pool, array_pool
from unseen_diffusion.utils.errors import InputError

WIDTH = 512  # of each photograph, which is square


@dataclass(frozen=True, kw_only=True)
class Textures(Domain):
    """Crops side by side, which therefore share no pixel.

    Attributes:
        crop: width of a crop in pixels of the photograph; what remains at the right and bottom is unused.
    """

    name: str = "textures"
    source: str = "brick, grass and gravel, 512x512 grey photographs in scikit-image's data"
    licence: str = "CC0"
    crop: int = 40

    def pool(self, size: int, channels: int) -> Pool:
        """(512 // crop) ** 2 crops of each of the three photographs."""
        if not 8 <= self.crop <= WIDTH:
            raise InputError(f"domain.crop={self.crop}: crops are 8 to {WIDTH} pixels wide")
        photographs = {"brick": data.brick(), "grass": data.grass(), "gravel": data.gravel()}
        starts = range(0, WIDTH - self.crop + 1, self.crop)
        names, crops = [], []
        for texture, photograph in photographs.items():
            for top in starts:
                for left in starts:
                    names.append(f"{texture}-{top:03d}-{left:03d}")
                    crops.append(photograph[top : top + self.crop, left : left + self.crop, None])
        return array_pool(names, crops, size, channels)
