"""uint8 images as PNG data URIs for the page, every pixel as saved."""

import base64
import io
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from unseen_diffusion.utils.images import fit_batch, grid

LARGEST = 96  # pixels; larger images are reduced to this size
OVERHEAD = 250  # bytes of a PNG file's headers and of the HTML around it


@dataclass(frozen=True)
class Picture:
    """A picture for the page: PNG data URI, displayed size in CSS pixels, and alternative text."""

    uri: str
    width: int
    height: int
    alt: str


def reduced(images: Tensor) -> Tensor:
    """(n, C, H, W) uint8, at most ``LARGEST`` pixels wide; smaller images unchanged."""
    return fit_batch(images, LARGEST, images.shape[1]) if images.shape[-1] > LARGEST else images


def cost(images: Tensor) -> int:
    """Upper estimate of the bytes that one of these images takes in the page (base64 of raw pixels)."""
    _, channels, height, width = images.shape
    side = min(LARGEST, width)
    return OVERHEAD + channels * min(LARGEST, height) * side * 4 // 3


def picture(image: Tensor, alt: str, shown: int = 64) -> Picture:
    """One (C, H, W) uint8 image, magnified by the largest whole number that keeps it within ``shown`` pixels."""
    small = reduced(image[None])
    return _encode(grid(small, 1, gap=0), alt, max(1, shown // small.shape[-1]))


def strip(images: Tensor, alt: str, shown: int = 64) -> Picture:
    """(n, C, H, W) uint8 side by side, one pixel apart."""
    small = reduced(images)
    return _encode(grid(small, len(small), gap=1), alt, max(1, shown // small.shape[-1]))


def _encode(image: Image.Image, alt: str, scale: int) -> Picture:
    red, green, blue = image.split()
    grey = red.tobytes() == green.tobytes() == blue.tobytes()
    buffer = io.BytesIO()
    (red if grey else image).save(buffer, format="PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(uri, image.width * scale, image.height * scale, alt)
