"""Faces: the 100 small grey photographs of scikit-image's ``lfw_subset``."""

from skimage.data import lfw_subset

from unseen_diffusion.domains.base import Domain, Pool, array_pool
from unseen_diffusion.utils.checked import settings

FACES = 100  # the data set's first half; the other half are non-faces


@settings("domain")
class Faces(Domain):
    """100 grey faces of 25x25 pixels."""

    name: str = "faces"
    source: str = "Labeled Faces in the Wild, 100 faces of 25x25 pixels, scikit-image's data.lfw_subset()"
    licence: str = "LFW, for research (University of Massachusetts, Amherst)"

    def pool(self, size: int, channels: int) -> Pool:
        """The 100 faces."""
        faces = lfw_subset()[:FACES, :, :, None] * 255  # published as floats in [0, 1]
        return array_pool([f"face-{index:03d}" for index in range(FACES)], list(faces), size, channels)
