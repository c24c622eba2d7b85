"""How well a round trip (inversion, then denoising) restores an image: one number per image."""

import torch
from jaxtyping import Float64
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from unseen_diffusion.utils.errors import InputError

PSNR_CAP = 100.0  # dB, of equal images: infinity would break means and JSON files
_BORDER = 5  # half the 11 x 11 Gaussian window of SSIM (sigma 1.5): pixels reflected at each edge


def psnr(a: Tensor, b: Tensor) -> Float64[Tensor, "n"]:
    """Peak signal-to-noise ratio in dB of uint8 images a, b (N, C, H, W), peak 255: (N,) float64.

    Values are capped at ``PSNR_CAP``, which equal images reach; one grey level in one value of a 3x32x32
    image already costs 17 dB of it.

    Raises:
        InputError: no images, differing shapes, or values that are not uint8.
    """
    a, b = _as_images(a, b)
    ratio = peak_signal_noise_ratio(a, b, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return ratio.clamp(max=PSNR_CAP)


def ssim(a: Tensor, b: Tensor) -> Float64[Tensor, "n"]:
    """Structural similarity (Wang et al. 2004) of uint8 images a, b (N, C, H, W): (N,) float64, 1 if equal.

    The Gaussian window is 11 x 11 with sigma 1.5. Every pixel counts; the image is reflected at its edges. The usual
    cropping would leave less than half of a 32 x 32 image.

    Raises:
        InputError: as ``psnr``, or images that are smaller than their reflected border.
    """
    a, b = _as_images(a, b)
    if min(a.shape[-2:]) <= _BORDER:
        raise InputError(f"images of {a.shape[-2]}x{a.shape[-1]}: SSIM needs {_BORDER + 1} pixels a side or more")
    similarity = structural_similarity_index_measure(a, b, data_range=255.0, reduction="none")
    if not isinstance(similarity, Tensor):
        raise TypeError("torchmetrics returned more than the similarity")
    return similarity.reshape(len(a))


def _as_images(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Checks two batches of uint8 images and returns them as float64 on the CPU, in 0..255."""
    if a.ndim != 4 or a.shape != b.shape or len(a) == 0:
        raise InputError(f"images of shapes {tuple(a.shape)} and {tuple(b.shape)}; give two equal batches (N, C, H, W)")
    if a.dtype != torch.uint8 or b.dtype != torch.uint8:
        raise InputError(f"images of {a.dtype} and {b.dtype}; quantise to uint8 first, as they are saved")
    return a.to("cpu", torch.float64), b.to("cpu", torch.float64)
