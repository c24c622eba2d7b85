"""Image files as bytes, among them kinds that Pillow writes for nobody: 16-bit colours, 12-bit TIFF, huge headers."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

Array = NDArray[Any]
PHOTOMETRIC, SAMPLE_FORMAT = 262, 339  # TIFF tags
ORIENTATION = 0x0112  # an EXIF tag


def encoded(array: Array, form: str = "PNG", mode: str | None = None, **options: Any) -> bytes:
    """The array as a file; ``mode`` where its shape and type do not tell it."""
    return saved(Image.fromarray(array, mode), form, **options)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def tiff(array: Array, tags: dict[int, int]) -> bytes:
    """A TIFF with tags of one's own."""
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        directory[tag] = value
    return encoded(array, "TIFF", tiffinfo=directory)


def pgm(counts: Array, maximum: int) -> bytes:
    """A 16-bit PGM (P5), or PPM (P6) of an array with three channels."""
    kind = "P5" if counts.ndim == 2 else "P6"
    return f"{kind} {counts.shape[1]} {counts.shape[0]} {maximum}\n".encode() + counts.astype(">u2").tobytes()


def png16(counts: Array) -> bytes:
    """(H, W, 3) or (H, W, 4) uint16 as a PNG of 16 bits a channel."""
    height, width, channels = counts.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in counts)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    return png_of(header, rows)


def png_of(header: bytes, rows: bytes) -> bytes:
    """A PNG of an IHDR chunk and uncompressed rows."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def huge_png(side: int) -> bytes:
    """A PNG whose header promises ``side`` x ``side`` pixels that the file does not have."""
    return png_of(struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), bytes(10))


def tiff12(counts: Array) -> bytes:
    """(H, W) counts of 0 to 4095, W even, as an uncompressed TIFF of 12 bits a pixel."""
    height, width = counts.shape
    pairs = counts.reshape(-1, 2).astype(np.uint32)
    packed = (pairs[:, 0] << 12 | pairs[:, 1]).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
    tags = [(256, width), (257, height), (258, 12), (259, 1), (PHOTOMETRIC, 1), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(packed)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)


def rotated(array: Array, orientation: int, form: str) -> bytes:
    """A file that asks its viewer to turn it (EXIF orientation 1 to 8)."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    lossless: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}
    if form == "TIFF":
        return tiff(array, {274: orientation})
    return encoded(array, form, exif=exif, **lossless.get(form, {}))


def upright(array: Array, orientation: int) -> Array:
    """What a viewer shows of ``array`` stored with this orientation (EXIF 2.32, table 6)."""
    turn = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: np.swapaxes(a, 0, 1),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.swapaxes(a[::-1, ::-1], 0, 1),
        8: lambda a: np.rot90(a),
    }
    return np.ascontiguousarray(turn[orientation](array))


def animated(arrays: list[Array], form: str) -> bytes:
    """Several frames, or pages, in one file."""
    images = [Image.fromarray(array) for array in arrays]
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    return saved(images[0], form, save_all=True, append_images=images[1:], **options)
