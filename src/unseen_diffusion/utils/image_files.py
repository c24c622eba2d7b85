"""Image files: what their headers say, and their pixels as an upright array in sRGB or in counts."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.profiles import grey_curve, profile_mode, to_srgb
from unseen_diffusion.utils.unreadable import unreadable

Interval = tuple[float, float]  # the counts that become black and white
Pixels = NDArray[np.uint8] | NDArray[np.float32]

LARGE = 2**25  # pixels; larger images are reduced before they become floats, so that they fit into memory
MARGIN = 4  # reduced images stay at least so many times larger than what they are resized to
DEPTH, DEPTH_12 = 65535, 4095  # white of greys of 16 and of 12 bits
STRIP = 64  # rows of a reduced image that are converted at a time
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a TIFF tag and the value that makes the largest count black
ORIENTATION, SIDEWAYS = 274, (5, 6, 7, 8)  # a TIFF tag and its values that exchange width and height
FAILURES = (
    OSError,
    ValueError,
    SyntaxError,
    RuntimeError,
    EOFError,
    MemoryError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class Header:
    """What a file says of its image before it is decoded.

    Attributes:
        side: smaller of width and height, in pixels.
        kind: how its pixels are stored, e.g. "8-bit values" or "16-bit counts".
        frames: whether it has several frames or pages, of which the first is read.
        conversions: what is done to its pixels beyond the conversion that all images share.
    """

    side: int
    kind: str
    frames: bool
    conversions: tuple[str, ...]


def _open(data: bytes | Path) -> Image.Image:
    """Opens an image. Up to twice Pillow's limit it is reduced, and needs no warning; above, Pillow refuses it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)
    if _is_mapped_askew(image):
        image.filename = ""  # reads the pixels instead of mapping the file
    return image


def _is_mapped_askew(image: Image.Image) -> bool:
    """Whether Pillow would map a file into memory with width and height exchanged: a TIFF that lies on its side."""
    tags, tiles = getattr(image, "tag_v2", {}), getattr(image, "tile", [])
    sideways = tags.get(ORIENTATION) in SIDEWAYS and image.width != image.height
    return sideways and len(tiles) == 1 and tiles[0][0] == "raw"


def read_header(data: bytes | Path) -> Header | None:
    """The header of an image file; None where Pillow cannot open it, which decoding reports."""
    try:
        with _open(data) as image:
            kind, conversions = _kind(image), _conversions(image)
            frames = bool(getattr(image, "is_animated", False)) and image.format != "MPO"
            return Header(min(image.size), kind, frames, conversions)
    except Exception:  # decoding reports what is wrong with the file
        return None


def _kind(image: Image.Image) -> str:
    """How the pixels of an opened, not yet decoded image are stored."""
    if _raw_mode(image) == "I;12":
        return "12-bit counts"
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        return "16-bit counts"
    if image.mode == "I":
        return "signed 16-bit counts" if "I;16S" in _raw_mode(image) else "32-bit counts"
    if image.mode == "F":
        return "32-bit floats"
    wide = ";16" in _raw_mode(image) or (image.format == "PPM" and _maximum(image) > 255)
    return "16-bit colours" if wide else "8-bit values"


def _raw_mode(image: Image.Image) -> str:
    """How the file stores a pixel, in Pillow's notation; empty where it does not tell."""
    for tile in getattr(image, "tile", [])[:1]:
        arguments = tile[3]
        first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
        return first if isinstance(first, str) else ""
    return ""


def _maximum(image: Image.Image) -> int:
    """The count that a PGM or PPM file declares as its largest."""
    for tile in getattr(image, "tile", [])[:1]:
        arguments = tile[3]
        if tile[0] in ("ppm", "ppm_plain") and isinstance(arguments, tuple) and isinstance(arguments[-1], int):
            return arguments[-1]
        return DEPTH if _raw_mode(image).startswith("I;16") else 255
    return 255


def _whites(image: Image.Image) -> tuple[int, int]:
    """White of a grey image of more than 8 bits: as Pillow decodes it, and as the file counts."""
    if _raw_mode(image) == "I;12":
        return DEPTH_12, DEPTH_12
    return DEPTH, _maximum(image) if image.mode == "I" and image.format == "PPM" else DEPTH


def _white_is_zero(image: Image.Image) -> bool:
    """Whether the largest count means black, which Pillow honours at 8 bits but not above."""
    tags = getattr(image, "tag_v2", {})
    return image.mode in ("I;16", "I;16B", "I", "F") and tags.get(PHOTOMETRIC) == WHITE_IS_ZERO


def _conversions(image: Image.Image) -> tuple[str, ...]:
    deep = image.mode.startswith("I;16")
    steps = {
        "large": image.width * image.height > LARGE,
        "profile": profile_mode(image) is not None,
        "transparent-16": deep and "transparency" in image.info,
        "white-is-zero-16": deep and _white_is_zero(image),
        "pgm-16": image.mode == "I" and image.format == "PPM",
        "tiff-12": _raw_mode(image) == "I;12",
        "sideways": _is_mapped_askew(image),
    }
    return tuple(name for name, applies in steps.items() if applies)


@contextmanager
def _opened(data: bytes | Path, name: str) -> Iterator[Image.Image]:
    """An opened image; whatever Pillow raises becomes one line with the remedy."""
    try:
        with _open(data) as image:
            yield image
    except InputError:
        raise
    except FAILURES as error:
        raise unreadable(name, data, error) from error


def read_pixels(data: bytes | Path, size: int | None, name: str, interval: Interval | None = None) -> Pixels:
    """The upright image: (height, width, 1 or 3), uint8, or float32 in 0..255.

    Args:
        data: the bytes of a file, or its path.
        size: what the image will be resized to; images of more than ``LARGE`` pixels are reduced towards it first.
        name: of the image, for messages.
        interval: the counts that become 0 and 255; None takes the whole range of 8 or 16 bits.

    Raises:
        InputError: not a readable image, or pixels without a known range.
    """
    counts, inverted = _counts(data, size, name, known=interval is None)
    if interval is None:
        return counts
    low, high = interval
    scaled = np.asarray(counts, dtype=np.float32)
    scaled = np.clip((scaled - np.float32(low)) * np.float32(255 / (high - low)), 0, 255)
    return 255 - scaled if inverted else scaled


def read_counts(data: bytes | Path, name: str) -> Pixels:
    """The pixels as the file stores them, upright: (height, width, 1 or 3)."""
    return _counts(data, 1024, name, known=False)[0]


def _counts(data: bytes | Path, size: int | None, name: str, known: bool) -> tuple[Pixels, bool]:
    """Pixels, in 0..255 where ``known`` is true and else as stored, and whether the largest of them means black."""
    with _opened(data, name) as opened:
        kind, inverted, whites = _kind(opened), _white_is_zero(opened), _whites(opened)
        _refuse(opened.format, kind, known, name)
        factor = 1
        if size is not None and opened.width * opened.height > LARGE:
            opened.draft(opened.mode, (MARGIN * size, MARGIN * size))
            factor = max(1, min(opened.size) // (MARGIN * size))
        if factor == 1:
            image = ImageOps.exif_transpose(opened)
            image.load()
        elif kind in ("8-bit values", "16-bit colours"):
            opened.load()  # a TIFF is turned here, other formats by exif_transpose
            image = ImageOps.exif_transpose(_reduced(opened, factor))
        else:
            image = ImageOps.exif_transpose(opened)
            image.load()
        if image.mode.startswith("I;16") or image.mode in ("I", "F"):
            return _deep(image, name, factor, whites, inverted, known), inverted
        return _eight_bits(image), False


def _refuse(form: str | None, kind: str, known: bool, name: str) -> None:
    """Refuses what has no range of brightness, or has lost it in Pillow."""
    if form == "FITS":
        raise InputError(f"{name}: FITS has no range of brightness; convert it to PNG first (README, Your images)")
    if known and kind in ("signed 16-bit counts", "32-bit counts", "32-bit floats"):
        bits = "signed pixels of 16 bits" if kind.startswith("signed") else f"pixels of 32 bits ({kind[7:]})"
        raise InputError(
            f"{name}: {bits} have no known range; set domain.range (two counts, percentiles or files), "
            "or save it with 8 or 16 bits"
        )
    if not known and kind == "16-bit colours":
        raise InputError(
            f"{name}: domain.range needs the counts, but of 16-bit colours only the upper 8 bits are read; "
            "save it in 16-bit grey, or scaled to 8 bits with domain.range=null"
        )


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """A large 8-bit image whose pixels are the means of squares of ``factor`` pixels, converted in strips of rows."""
    clear = image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info
    mode = "RGBA" if clear else {"1": "L", "P": "RGB"}.get(image.mode, image.mode)
    if mode == image.mode and not clear:
        small = image.reduce(factor)
    else:
        small = Image.new(mode, (-(-image.width // factor), -(-image.height // factor)))
        for top in range(0, small.height, STRIP):
            box = (0, top * factor, image.width, min(image.height, (top + STRIP) * factor))
            strip = image.crop(box).convert(mode)
            means = strip.convert("RGBa").reduce(factor).convert("RGBA") if clear else strip.reduce(factor)
            small.paste(means, (0, top))
    small.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return small


def _deep(
    image: Image.Image, name: str, factor: int, whites: tuple[int, int], inverted: bool, known: bool
) -> NDArray[np.float32]:
    """Greys of more than 8 bits, in 0..255 or as counts: (height, width, 1) float32."""
    pixels: NDArray[Any] = _means(image, factor) if factor > 1 else np.asarray(image, dtype=np.float32)
    if not np.isfinite(pixels).all():
        raise InputError(f"{name}: has pixels that are NaN or infinite; replace them by finite numbers")
    transparent = image.info.get("transparency")
    clear = pixels == transparent if isinstance(transparent, int) and factor == 1 else None
    decoded, stored = whites
    if not known:
        pixels = pixels if stored == decoded else pixels * np.float32(stored / decoded)
    else:
        pixels = pixels / 257 if decoded == DEPTH else pixels * np.float32(255 / decoded)
        pixels = 255 - pixels if inverted else pixels
        if (curve := grey_curve(image)) is not None:
            pixels = np.interp(pixels, np.arange(256), curve).astype(np.float32)
    if clear is not None:
        pixels[clear] = 0
    return np.asarray(pixels, dtype=np.float32)[..., None]


def _means(image: Image.Image, factor: int) -> NDArray[np.float32]:
    """Means of squares of ``factor`` pixels, a strip of rows at a time."""
    width, height = (side // factor for side in image.size)
    rows = np.empty((height, width), dtype=np.float32)
    for row in range(height):
        strip = image.crop((0, row * factor, width * factor, (row + 1) * factor))
        rows[row] = np.asarray(strip, dtype=np.float32).reshape(factor, width, factor).mean(axis=(0, 2))
    return rows


def _eight_bits(image: Image.Image) -> NDArray[np.uint8]:
    """An image of 8 bits a channel in sRGB, transparency laid on black: (height, width, 1 or 3) uint8."""
    image = to_srgb(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba).convert("RGB")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[..., None]
    return np.asarray(image.convert("RGB"))
