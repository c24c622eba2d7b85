"""Image files and tensors: decoding, antialiased resizing, conversion to uint8 and back, and grids of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from unseen_diffusion.utils.checks import require_finite
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path
from unseen_diffusion.utils.image_files import Interval, read_pixels

PREPROCESSING = "lanczos-1"  # part of every artefact key that depends on how images are converted
STRIP = 256  # rows that are converted to floats at a time


def quantise(x: Tensor) -> Tensor:
    """[-1, 1] floats (n, ...) -> uint8 0..255, rounded to nearest and clamped: how samples are saved and scored.

    Raises:
        InputError: a pixel is NaN or infinite.
    """
    require_finite("images", x, "a network's output overflowed or its weights are damaged; choose model.dtype=float32")
    return (x * 127.5 + 128).clamp(0, 255).to(torch.uint8)


def dequantise(images: Tensor) -> Tensor:
    """uint8 0..255 -> float32 in [-1, 1]; ``quantise`` inverts it exactly."""
    return images.to(torch.float32) / 127.5 - 1


def decode(
    data: bytes | Path,
    size: int | None,
    channels: int,
    name: str | None = None,
    interval: Interval | None = None,
    crop: bool = True,
) -> Tensor:
    """Reads one image file: (channels, size, size) uint8.

    EXIF rotation is applied, colour profiles are converted to sRGB, transparency is laid on black, the largest centred
    square is kept and resized with an antialiased Lanczos filter. 16-bit greys are divided by 257, unless ``interval``
    has the counts that become black and white. Of animated files the first frame is read. ``size`` None keeps height
    and width; without ``crop`` the whole image is resized. ``name`` names the image in errors (None: its path).

    Raises:
        InputError: Pillow cannot read the file, its counts have no known range, or it is FITS, which Pillow misreads
            (16 bits, upside down).
    """
    name = name or ("image bytes" if isinstance(data, bytes) else str(data))
    return fit(read_pixels(data, size, name, interval), size, channels, crop)


def fit(array: NDArray[Any], size: int | None, channels: int, crop: bool = True) -> Tensor:
    """(H, W, 1 or 3) values in 0..255 -> (channels, size, size) uint8: centred square (or all of it), Lanczos filter.

    The planes are converted to float32 one after the other, because large images would need several GB otherwise.
    """
    if channels not in (1, 3):
        raise InputError(f"channels={channels}: images have 1 (grey) or 3 (RGB) channels")
    array = np.asarray(array)
    if channels == 1 and array.shape[-1] == 3:
        array = _luminance(array)
    planes = [_fit_plane(array[..., plane], size, crop) for plane in range(array.shape[-1])]
    return torch.from_numpy(np.stack(planes * (channels if len(planes) == 1 else 1)))


def _fit_plane(plane: NDArray[Any], size: int | None, crop: bool) -> NDArray[np.uint8]:
    """(H, W) -> (size, size), or (H, W) where ``size`` is None."""
    if size is not None and crop:
        side = min(plane.shape)
        top, left = (plane.shape[0] - side) // 2, (plane.shape[1] - side) // 2
        plane = plane[top : top + side, left : left + side]
    plane = np.ascontiguousarray(plane, dtype=np.float32)
    if size is not None and plane.shape != (size, size):
        plane = np.asarray(Image.fromarray(plane).resize((size, size), Image.Resampling.LANCZOS))
    return np.clip(np.rint(plane), 0, 255).astype(np.uint8)


def _luminance(array: NDArray[Any]) -> NDArray[np.float32]:
    """RGB -> grey by ITU-R 601: (H, W, 1) float32, computed a few rows at a time."""
    weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    grey = np.empty((*array.shape[:2], 1), dtype=np.float32)
    for start in range(0, len(array), STRIP):
        strip = slice(start, start + STRIP)
        grey[strip, :, 0] = np.asarray(array[strip], dtype=np.float32) @ weights
    return grey


def fit_batch(images: Tensor, size: int, channels: int) -> Tensor:
    """(N, C, H, W) uint8 -> (N, channels, size, size) uint8 by ``fit``; the same tensor if nothing changes."""
    if tuple(images.shape[1:]) == (channels, size, size):
        return images
    return torch.stack([fit(image.permute(1, 2, 0).numpy(), size, channels) for image in images])


def grid(images: Tensor, columns: int, scale: int = 1, gap: int = 2, background: int = 255) -> Image.Image:
    """(N, C, H, W) uint8 -> one RGB picture, filled row by row; each pixel is repeated ``scale`` times (no blur)."""
    images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    images = images.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    count, _, height, width = images.shape
    rows = -(-count // columns)
    shape = (3, rows * (height + gap) + gap, columns * (width + gap) + gap)
    canvas = torch.full(shape, background, dtype=torch.uint8)
    for index, image in enumerate(images):
        top = gap + (index // columns) * (height + gap)
        left = gap + (index % columns) * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def save_png(picture: Image.Image, path: Path | str) -> None:
    """Writes a PNG atomically."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def stack(images: Sequence[Tensor]) -> Tensor:
    """A list of equal (C, H, W) uint8 images -> (N, C, H, W)."""
    return torch.stack(list(images))
