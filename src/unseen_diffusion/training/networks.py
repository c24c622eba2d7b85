"""U-Nets for images of any size: larger images get more levels, and small maps get attention."""

from typing import Annotated, Literal

from diffusers import UNet2DModel
from pydantic import Field

from unseen_diffusion.models.unet import build_unet
from unseen_diffusion.utils.checked import Count, WholeNumber, checked_arguments
from unseen_diffusion.utils.errors import InputError

# Channels of the levels, in units of the width, by the size that the network sees: after Ho et al. 2020
# (arXiv 2006.11239) and Dhariwal and Nichol 2021 (arXiv 2105.05233, table 4).
MULTIPLES = {
    8: (1, 2),
    16: (1, 2, 2),
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
}
ATTENTION = 16  # greatest size of a level with self-attention
GROUPS = 16  # of the group normalisation, which divide the width


@checked_arguments("training.network")
def scaled_unet(
    image_size: Annotated[int, Field(ge=16)],
    image_channels: Annotated[Literal[1, 3], WholeNumber],
    pixel_unshuffle: Annotated[Literal[1, 2], WholeNumber],
    width: Annotated[int, Field(ge=GROUPS)],
    layers_per_block: Count,
) -> UNet2DModel:
    """A U-Net whose levels follow from the image size.

    Args:
        image_size: height and width of the images; a multiple of 8, 16 or more.
        image_channels: 1 or 3.
        pixel_unshuffle: 2 gives the network half the size with four times the channels, at about a third of the
            cost; 1 leaves the images as they are.
        width: channels of the first level, a multiple of 16.
        layers_per_block: residual blocks per level.

    Raises:
        InputError: a number that does not fit.
    """
    for name, value, step in (("data.size", image_size, 8), ("training.network.width", width, GROUPS)):
        if value % step:
            raise InputError(f"{name}={value}: give a multiple of {step}, {GROUPS} or more")
    channels, attention = levels(image_size // pixel_unshuffle, width)
    return build_unet(
        image_size, image_channels, pixel_unshuffle, channels, attention, layers_per_block, min(32, width), GROUPS
    )


def levels(size: int, width: int) -> tuple[list[int], list[bool]]:
    """Channels and attention of every level of a network on ``size`` x ``size`` inputs.

    A level halves the size, and odd sizes are not halved; the last level always has attention.
    """
    multiples = MULTIPLES[max(known for known in MULTIPLES if known <= size)]
    sizes = [size]
    while len(sizes) < len(multiples) and sizes[-1] % 2 == 0:
        sizes.append(sizes[-1] // 2)
    channels = [width * multiple for multiple in multiples[: len(sizes)]]
    return channels, [*(side <= ATTENTION for side in sizes[:-1]), True]
