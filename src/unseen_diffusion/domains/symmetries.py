"""The symmetries of a domain: turned and mirrored images that are as likely as the image itself."""

from collections.abc import Iterator
from typing import Literal

from jaxtyping import Shaped
from torch import Tensor

Symmetries = Literal["none", "mirror", "all"]


def under_symmetries(images: Shaped[Tensor, "n c h w"], symmetries: Symmetries) -> Iterator[Shaped[Tensor, "n c h w"]]:
    """Yields the images, then their mirror images (left to right), then all turned by 90, 180 and 270 degrees.

    Args:
        images: square.
        symmetries: ``none``: the images alone; ``mirror``: 2 sets; ``all``: 8 sets.
    """
    for turns in range(4 if symmetries == "all" else 1):
        turned = images.rot90(turns, (2, 3))
        yield turned
        if symmetries != "none":
            yield turned.flip(3)
