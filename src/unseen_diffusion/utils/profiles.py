"""Colour profiles (ICC) of images, converted to sRGB, the space in which pixels are compared and models are trained."""

import io
import logging
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

log = logging.getLogger(__name__)

NEAR = 1  # grey levels by which a profile may differ from sRGB and still count as sRGB
PROFILES = 64  # profiles whose conversions stay in memory
SPACES = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}  # mode -> colour space in the header of a profile


def profile_mode(image: Image.Image) -> str | None:
    """The mode (RGB, L or CMYK) in which the image's profile changes its colours; None where it changes nothing.

    None too where the profile is broken or belongs to another colour space: a warning says so once.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    mode = "L" if image.mode in ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I;16N") else "RGB"
    mode = "CMYK" if image.mode == "CMYK" else mode
    space = bytes(profile)[16:20]
    if mode == "L" and space == SPACES["RGB"]:
        mode = "RGB"  # a grey image in an RGB space: its greys are equal amounts of the three colours
    return mode if _conversion(bytes(profile), mode) is not None else None


def to_srgb(image: Image.Image) -> Image.Image:
    """The image in sRGB, mode RGB, L or RGBA; the image itself where its profile changes nothing."""
    mode = profile_mode(image)
    transform = None if mode is None else _conversion(bytes(image.info["icc_profile"]), mode)
    if mode is None or transform is None:
        return image
    alpha = None
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        alpha = image.convert("RGBA").getchannel("A")
    grey = image.mode in ("1", "L", "LA")
    converted = ImageCms.applyTransform(image.convert(mode), transform)
    if converted is None:  # never, because the transform is not in place
        return image
    if alpha is not None:
        converted.putalpha(alpha)
        converted.info.pop("transparency", None)
        return converted
    return converted.getchannel("G") if grey else converted


def grey_curve(image: Image.Image) -> NDArray[np.float64] | None:
    """The sRGB values (0..255) of 256 equally spaced greys of a 16-bit image; None without a profile that matters."""
    mode = profile_mode(image)
    transform = None if mode is None else _conversion(bytes(image.info["icc_profile"]), mode)
    if mode is None or transform is None:
        return None
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None]).convert(mode)
    converted = ImageCms.applyTransform(ramp, transform)
    return None if converted is None else np.asarray(converted.getchannel("G"), dtype=np.float64)[0]


@lru_cache(maxsize=PROFILES)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None where it changes nothing, or where the profile is unusable."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError) as error:
        space = profile[16:20].decode("ascii", "replace").strip()
        log.warning("colour profile (%d bytes, %r) does not fit %s images and is ignored: %s",
                    len(profile), space, mode, str(error).strip() or type(error).__name__)  # fmt: skip
        return None
    return None if mode != "CMYK" and _is_srgb(transform, mode) else transform


def _is_srgb(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves all greys, and a grid of colours, as they are."""
    levels = np.linspace(0, 255, 18).round().astype(np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    greys = np.arange(256, dtype=np.uint8)[None]
    probe = Image.fromarray(greys) if mode == "L" else Image.fromarray(colours)
    converted = ImageCms.applyTransform(probe, transform)
    before = np.asarray(probe.convert("RGB"), dtype=np.int16)
    return bool(np.abs(np.asarray(converted, dtype=np.int16) - before).max() <= NEAR)
