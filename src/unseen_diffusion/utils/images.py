"""Image files and tensors: decoding, antialiased resizing, conversion to uint8 and back, and grids of images."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from unseen_diffusion.utils.checks import require_finite
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path

PREPROCESSING = "lanczos-1"  # part of every artefact key that depends on how images are converted


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


def decode(data: bytes | Path, size: int | None, channels: int, name: str | None = None) -> Tensor:
    """Reads one image file: (channels, size, size) uint8.

    EXIF rotation is applied, transparency is laid on black, the largest centred square is kept and resized
    with an antialiased Lanczos filter; 16-bit greys are divided by 257. ``size`` None keeps height and width.
    ``name`` names the image in errors (None: its path).

    Raises:
        InputError: Pillow cannot read the file, or it is FITS, which Pillow misreads (16 bits, upside down).
    """
    name = name or ("image bytes" if isinstance(data, bytes) else str(data))
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as opened:
            kind = opened.format
            image = ImageOps.exif_transpose(opened)
            image.load()
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: not a readable image ({error}); remove it or re-save it as PNG") from error
    if kind == "FITS":
        raise InputError(f"{name}: FITS has no range of brightness; convert it to PNG first (README, Your images)")
    return fit(_to_array(image, name), size, channels)


def _to_array(image: Image.Image, name: str) -> np.ndarray:
    """Pillow image -> (H, W, 1 or 3) float32 in 0..255."""
    if image.mode.startswith("I;16"):
        return np.asarray(image, dtype=np.float32)[..., None] / 257
    if image.mode in ("I", "F"):
        raise InputError(
            f"{name}: pixels of 32 bits (mode {image.mode}) have no known range; save it with 8 or 16 bits"
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    return np.asarray(image.convert("RGB"), dtype=np.float32)


def fit(array: np.ndarray, size: int | None, channels: int) -> Tensor:
    """(H, W, 1 or 3) values in 0..255 -> (channels, size, size) uint8: centred square, Lanczos filter."""
    array = _convert_channels(np.asarray(array, dtype=np.float32), channels)
    if size is not None:
        side = min(array.shape[:2])
        top, left = (array.shape[0] - side) // 2, (array.shape[1] - side) // 2
        array = array[top : top + side, left : left + side]
        if side != size:
            planes = [Image.fromarray(np.ascontiguousarray(array[..., c])) for c in range(channels)]
            planes = [plane.resize((size, size), Image.Resampling.LANCZOS) for plane in planes]
            array = np.stack([np.asarray(plane) for plane in planes], axis=-1)
    rounded = np.clip(np.rint(array), 0, 255).astype(np.uint8)
    return torch.from_numpy(rounded.transpose(2, 0, 1).copy())


def _convert_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """Grey -> RGB by repetition; RGB -> grey by ITU-R 601 luminance."""
    if channels not in (1, 3):
        raise InputError(f"channels={channels}: images have 1 (grey) or 3 (RGB) channels")
    if array.shape[-1] == channels:
        return array
    if channels == 3:
        return np.repeat(array, 3, axis=-1)
    return (array @ np.array([0.299, 0.587, 0.114], dtype=np.float32))[..., None]


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
