"""Pixels that would collapse in silence: ranges of counts, the check of decoded images, profiles, failures."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from unseen_diffusion.domains import load_split
from unseen_diffusion.domains.folder import Folder
from unseen_diffusion.domains.parquet import Parquet
from unseen_diffusion.utils import image_files, images
from unseen_diffusion.utils.errors import InputError

COUNTS = (np.arange(64).reshape(8, 8) * 65).astype(np.uint16)  # 0 to 4095


def saved(array: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, tag: int, value: int) -> bytes:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag] = value
    return saved(array, "TIFF", tiffinfo=tags)


def folder(root: Path, top: int, count: int = 20) -> Folder:
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, top + 1, (16, 16)).astype(np.uint16)
        pixels[0, :2] = 0, top
        Image.fromarray(pixels).save(root / f"{index:02d}.png")
    return Folder(path=str(root))


@pytest.mark.parametrize("value", [[0, 4095], "files", ["0%", "100%"]])
def test_a_range_restores_the_grey_levels(tmp_path: Path, value: object, caplog: pytest.LogCaptureFixture) -> None:
    domain = folder(tmp_path, 4095)
    load_split(domain, 16, 1)
    assert "only 17 grey levels" in caplog.text
    assert "16-bit counts 0 to 65535" in caplog.text
    assert "set domain.range" in caplog.text
    caplog.clear()
    ranged = Folder(path=str(tmp_path), range=value)
    split = load_split(ranged, 16, 1)
    assert split.references.unique().numel() > 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert ranged.pool(16, 1).fingerprint != domain.pool(16, 1).fingerprint


def test_equal_images_stop(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"all 20 images are equal once decoded .*domain\.range=null.*set domain\.range"
    ):
        load_split(folder(tmp_path, 100), 16, 1)


@pytest.mark.parametrize(
    "value", [[5, 2], [1, 1], [1], [1, 2, 3], ["1%", 5], ["1", "2"], ["-1%", "5%"], ["0%", "101%"], "min", []]
)
def test_ranges_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"^domain\.range=.*: give [^\n]*$"):
        Folder(path=".", range=value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (tiff(COUNTS, 262, 0), 255 - COUNTS / 257),
        (b"P5 8 8 65535\n" + COUNTS.astype(">u2").tobytes(), COUNTS / 257),
        (b"P5 8 8 4095\n" + COUNTS.astype(">u2").tobytes(), COUNTS / 4095 * 255),
        (saved(COUNTS, transparency=int(COUNTS[7, 7])), np.where(COUNTS[7, 7] == COUNTS, 0, COUNTS / 257)),
    ],
)
def test_sixteen_bits_mean_what_their_files_say(data: bytes, expected: np.ndarray) -> None:
    assert np.abs(images.decode(data, 8, 1)[0].numpy() - expected).max() <= 0.51


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.uint16])
def test_counts_without_a_range_need_one(kind: type) -> None:
    data = tiff(COUNTS, 339, 2) if kind is np.uint16 else saved(COUNTS.astype(kind), "TIFF")
    with pytest.raises(InputError, match=r"^x: (signed )?pixels of (16|32) bits.* set domain.range"):
        images.decode(data, 8, 1, name="x")
    decoded = images.decode(data, 8, 1, interval=(0, 4095))[0].numpy()
    assert np.abs(decoded - COUNTS / 4095 * 255).max() <= 0.51


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"<?xml?><svg ", "export it as PNG"),
        (b"%PDF-1.4", "a PDF"),
        (b"\x93NUMPY\x01", "a NumPy array"),
        (b"PK\x03\x04", "unpack it"),
        (bytes(600), "zeros only"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"nothing", "re-save it as PNG"),
        (saved(np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))[:900], "copy or download it again"),
    ],
)
def test_each_failure_has_its_remedy(data: bytes, words: str) -> None:
    with pytest.raises(InputError, match=rf"^x: not a readable image \([^\n]*{words}|^x: [^\n]*\); [^\n]*{words}"):
        images.decode(data, 8, 3, name="x")


def test_srgb_and_broken_profiles_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    plain = images.decode(saved(pixels), 8, 3)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for _ in range(2):
        for profile in (srgb, b"broken profile"):
            assert images.decode(saved(pixels, icc_profile=profile), 8, 3).equal(plain)
    assert len(caplog.messages) == 1


def test_large_images_are_reduced_to_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = np.add.outer(np.arange(400), np.arange(400)) * 0.3
    arrays = {"PNG": smooth.astype(np.uint8), "JPEG": smooth.astype(np.uint8), "TIFF": (smooth * 257).astype(np.uint16)}
    for form, array in arrays.items():
        data = saved(array, form)
        before = images.decode(data, 16, 1).float()
        monkeypatch.setattr(image_files, "LARGE", 1000)
        assert image_files.read_header(data).conversions == ("large",)
        assert (images.decode(data, 16, 1).float() - before).abs().max() <= 3
        monkeypatch.undo()


def test_patterns_narrow_a_folder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name in ("train/a.png", "train/a_mask.png", "test/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(saved(COUNTS))
    pool = Folder(path=str(tmp_path), include="train/*", exclude=["*mask*"]).pool(8, 1)
    assert pool.names == ("train/a.png",)
    assert "1 by domain.exclude, 1 by domain.include" in caplog.text
    with pytest.raises(InputError, match=r"^domain\.include=val/\*.*no image is left"):
        Folder(path=str(tmp_path), include="val/*").pool(8, 1)


def test_null_cells_and_unreadable_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = [{"bytes": saved(COUNTS * (i + 1)), "path": None} for i in range(10)]
    table = tmp_path / "tables" / "x.parquet"
    table.parent.mkdir()
    pq.write_table(pa.table({"image": [*cells[:3], None, *cells[3:]]}), table)
    with pytest.raises(InputError, match=r"x\.parquet:3: .*null.*or set domain\.on_unreadable=skip$"):
        load_split(Parquet(path=str(table)), 8, 1)
    assert load_split(Parquet(path=str(table), on_unreadable="skip"), 8, 1).skipped == 1
    pq.write_table(pa.table({"image": [{"bytes": None, "path": "x.png"}]}), table)
    (tmp_path / "x.png").write_bytes(saved(COUNTS))
    monkeypatch.chdir(tmp_path)
    assert Parquet(path=str(table)).pool(8, 1).load([0]).shape == (1, 1, 8, 8)
    for index in range(20):
        (tmp_path / f"{index}.png").write_bytes(f"broken {index}".encode())
    (tmp_path / "x.png").unlink()
    with pytest.raises(InputError, match=r"none of 20 images could be read; the first: "):
        load_split(Folder(path=str(tmp_path), on_unreadable="skip"), 8, 1)
