"""Colour profiles: real conversions against the definitions of the spaces, without an ICC library."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from support import icc
from support.encoded import encoded, rotated, upright
from unseen_diffusion.utils import image_files, images

COLOURS = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16)


def decoded(data: bytes, channels: int = 3) -> np.ndarray:
    return images.decode(data, 16, channels).permute(1, 2, 0).numpy().astype(float)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_display_p3_becomes_srgb(form: str) -> None:
    found = decoded(encoded(COLOURS, form, icc_profile=icc.rgb_profile()))
    assert np.abs(found - icc.rgb_in_srgb(COLOURS)).max() <= 1.5
    assert np.abs(found - COLOURS).max() > 20  # it is no small change
    profile = ImageCms.ImageCmsProfile(io.BytesIO(icc.rgb_profile()))
    direct = ImageCms.profileToProfile(Image.fromarray(COLOURS), profile, ImageCms.createProfile("sRGB"))
    assert np.array_equal(found, np.asarray(direct))


def test_the_srgb_primaries_with_a_gamma_leave_hues_as_they_are() -> None:
    data = encoded(COLOURS, icc_profile=icc.rgb_profile(icc.SRGB))
    assert np.abs(decoded(data) - icc.rgb_in_srgb(COLOURS, icc.SRGB)).max() <= 1.5


@pytest.mark.parametrize("array", [RAMP.astype(np.uint8), RAMP * 257], ids=["8 bits", "16 bits"])
def test_a_grey_profile_changes_the_curve(array: np.ndarray) -> None:
    found = decoded(encoded(array, icc_profile=icc.grey_profile()), 1)[..., 0]
    assert np.abs(found - icc.grey_in_srgb(RAMP)).max() <= 2


def test_cmyk_takes_the_profile_s_table() -> None:
    inks = np.array(list(np.ndindex(2, 2, 2, 2))).reshape(4, 4, 4).repeat(4, 0).repeat(4, 1)
    lab = np.array([[icc.corner_lab(tuple(one)) for one in row] for row in inks])
    data = encoded((255 * inks).astype(np.uint8), "TIFF", mode="CMYK", icc_profile=icc.cmyk_profile())
    assert np.abs(decoded(data) - icc.lab_in_srgb(lab)).max() <= 2


def test_alpha_is_no_colour() -> None:
    """The profile changes what is opaque; what is transparent is black."""
    opaque = RAMP % 2 == 0
    data = encoded(np.dstack([COLOURS, np.where(opaque, 255, 0).astype(np.uint8)]), icc_profile=icc.rgb_profile())
    expected = np.where(opaque[..., None], icc.rgb_in_srgb(COLOURS), 0)
    assert np.abs(decoded(data) - expected).max() <= 1.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_a_file_on_its_side_is_turned(
    orientation: int, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from disk, where Pillow maps raw TIFF into memory; as it is, and on the path of large images."""
    tall = (np.add.outer(np.arange(96) * 1.5, np.arange(64)) + 5).astype(np.uint8)
    path = tmp_path / f"x.{form.lower()}"
    path.write_bytes(rotated(tall, orientation, form))
    whole = image_files.read_pixels(path, None, "x")[..., 0]
    assert np.array_equal(whole, upright(tall, orientation))
    monkeypatch.setattr(image_files, "LARGE", 100)
    reduced = image_files.read_pixels(path, 4, "x")[..., 0]
    means = upright(tall, orientation).astype(float)
    height, width = (side // 4 for side in means.shape)
    assert np.abs(reduced - means.reshape(height, 4, width, 4).mean((1, 3))).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1"])
def test_strips_of_a_large_image_join_without_a_seam(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (203, 50, 4)).astype(np.uint8)).convert("RGB")
    image = image.convert("RGBA").convert(mode) if mode != "LA" else image.convert("L").convert("LA")
    whole = image_files._reduced(image, 3)
    monkeypatch.setattr(image_files, "STRIP", 5)
    assert np.array_equal(np.asarray(image_files._reduced(image, 3)), np.asarray(whole))
