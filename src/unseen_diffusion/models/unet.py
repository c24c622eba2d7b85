"""Small U-Nets for 32x32 images: diffusers' UNet2DModel on pixel-unshuffled input."""

from collections.abc import Sequence

from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from unseen_diffusion.utils.checked import Count, checked_arguments


@checked_arguments("training.network")
def build_unet(
    image_size: Count,
    image_channels: Count,
    pixel_unshuffle: Count,
    block_out_channels: Sequence[Count],
    attention: Sequence[bool],
    layers_per_block: Count,
    attention_head_dim: Count,
    norm_num_groups: Count,
) -> UNet2DModel:
    """A UNet2DModel on (C f^2, size / f, size / f) tensors, f = ``pixel_unshuffle``.

    Pixel-unshuffling permutes the coordinates: the diffusion and the distances and angles of latents
    are those of the plain image, and the network is several times cheaper.
    """
    coordinates = image_channels * pixel_unshuffle**2
    down = tuple("AttnDownBlock2D" if wanted else "DownBlock2D" for wanted in attention)
    up = tuple("AttnUpBlock2D" if wanted else "UpBlock2D" for wanted in reversed(attention))
    return UNet2DModel(
        sample_size=image_size // pixel_unshuffle,
        in_channels=coordinates,
        out_channels=coordinates,
        block_out_channels=tuple(block_out_channels),
        down_block_types=down,
        up_block_types=up,
        layers_per_block=layers_per_block,
        attention_head_dim=attention_head_dim,
        norm_num_groups=norm_num_groups,
    )


def unet_forward(unet: nn.Module, x: Tensor, t: Tensor, factor: int, **condition: Tensor) -> Tensor:
    """Network output in image layout: x (B, C, H, W), t (B,) fractional timesteps -> (B, C', H, W).

    ``condition`` holds further inputs by their names, such as class_labels (B,).
    """
    if factor == 1:
        return unet(x, timestep=t, return_dict=False, **condition)[0]
    return pixel_shuffle(unet(pixel_unshuffle(x, factor), timestep=t, return_dict=False, **condition)[0], factor)
