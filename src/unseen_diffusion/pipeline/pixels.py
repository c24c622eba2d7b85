"""Converts images between the forms that diffusers uses and the library's uint8 (N, C, H, W)."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps
from torch import Tensor

from unseen_diffusion.domains.folder import list_images
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import decode, fit_batch

OUTPUT_TYPES = ("pil", "pt", "np")


def to_pixels(images: Any, size: int, channels: int) -> UInt8[Tensor, "n c h w"]:
    """Images of any size -> (N, channels, size, size) uint8: centred square, Lanczos filter (``images.fit``).

    Args:
        images: a tensor (N, C, H, W) or an array (N, H, W, C), uint8 or floats in [0, 1] as pipelines return them;
            one Pillow image, or a list of Pillow images and paths; or a folder, read with its subfolders.
        size: height and width of the result.
        channels: 1 or 3.

    Raises:
        InputError: another type, no images, or floats outside [0, 1].
    """
    if isinstance(images, str | Path):
        images = list_images(Path(images).expanduser().absolute())
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.moveaxis(images, -1, 1) if images.ndim == 4 else images)
    if isinstance(images, Tensor):
        return fit_batch(_to_uint8(images), size, channels)
    if not isinstance(images, Sequence):
        raise InputError(
            f"images: a {type(images).__name__}; give a tensor (N, C, H, W), an array (N, H, W, C), a list of Pillow "
            "images, or a folder"
        )
    if not images:
        raise InputError("images: an empty list; give two or more")
    return torch.stack([_one(image, f"images[{i}]", size, channels) for i, image in enumerate(images)])


def _to_uint8(images: Tensor) -> UInt8[Tensor, "n c h w"]:
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        raise InputError(
            f"images: shape {tuple(images.shape)}; give a tensor (N, C, H, W) or an array (N, H, W, C), C 1 or 3"
        )
    images = images.detach().cpu()
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise InputError(f"images: {images.dtype}; give uint8, or floats in [0, 1]")
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):  # also where NaN
        raise InputError(f"images: floats from {low:g} to {high:g}; give them in [0, 1], or as uint8")
    return (images.float() * 255).round().to(torch.uint8)


def _one(image: Any, name: str, size: int, channels: int) -> Tensor:
    """One Pillow image or path -> uint8; the same decoder reads both, so that their pixels are equal."""
    if isinstance(image, str | Path):
        return decode(Path(image).expanduser(), size, channels)
    if not isinstance(image, Image.Image):
        raise InputError(f"{name}: a {type(image).__name__}; give Pillow images or paths")
    stream = io.BytesIO()
    try:
        ImageOps.exif_transpose(image).save(stream, format="PNG", compress_level=1)
    except OSError as error:
        raise InputError(f"{name}: mode {image.mode} has no PNG; give image.convert('RGB')") from error
    return decode(stream.getvalue(), size, channels, name)


def from_pixels(images: UInt8[Tensor, "n c h w"], output_type: str) -> Any:
    """uint8 -> a list of Pillow images (``pil``), (N, C, H, W) (``pt``) or (N, H, W, C) (``np``) float32 in [0, 1]."""
    rows = images.permute(0, 2, 3, 1).numpy()
    if output_type == "pil":
        return [Image.fromarray(row[..., 0] if row.shape[-1] == 1 else row) for row in rows]
    return images.float() / 255 if output_type == "pt" else rows.astype(np.float32) / 255
