"""Why an image file cannot be decoded, and what to do about it."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from unseen_diffusion.utils.errors import InputError, first_line

HEAD = 512  # bytes at the beginning of a file that identify its format
RESAVE = "remove it or re-save it as PNG"
# How files that Pillow does not read begin (after white space, in lower case) -> what they are, and the remedy.
BEGINNINGS: dict[bytes, tuple[str, str]] = {
    b"version https://git-lfs": ("a pointer of Git LFS, not the image itself", "run git lfs pull"),
    b"<!doctype html": ("a web page", "download the image again"),
    b"<html": ("a web page", "download the image again"),
    b"<svg": ("an SVG drawing", "export it as PNG"),
    b"%pdf": ("a PDF document", "export its pages as PNG"),
    b"\x93numpy": ("a NumPy array", "save it as a 16-bit grey PNG or TIFF"),
    b"\x89hdf": ("an HDF5 file", "save its images as PNG or 16-bit TIFF"),
    b"pk\x03\x04": ("a zip archive", "unpack it"),
    b"\x1f\x8b": ("a gzip archive", "unpack it"),
    b"{": ("JSON text", "give the image files themselves"),
}
BRANDS = {b"heic", b"heix", b"hevc", b"mif1", b"msf1"}  # of HEIF containers, at byte 8
IMAGES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
AGAIN = "copy or download it again, or remove it"
CUT_SHORT = (
    "truncated",
    "not enough image data",
    "unrecognized data stream",
    "unexpected end",
    "buffer too small",
    "could not create decoder object",  # of WebP
)


def unreadable(name: str, data: bytes | Path, error: Exception) -> InputError:
    """The error for a file that Pillow refused: its name, the reason and the remedy for this kind of failure."""
    reason, remedy = _reason_and_remedy(data, error)
    return InputError(f"{name}: not a readable image ({reason}); {remedy}")


def _reason_and_remedy(data: bytes | Path, error: Exception) -> tuple[str, str]:
    if isinstance(error, FileNotFoundError):
        return f"no such file: {error.filename or data!r}", "restore the file or remove its entry"
    if isinstance(error, PermissionError):
        return "no permission to read it", "change the file's permissions (chmod u+r) or remove it"
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"more than {limit / 1e6:.0f} million pixels", "scale it down before use"
    if isinstance(error, MemoryError):
        return "too large for the memory", "scale it down before use"
    try:
        head = _head(data)
    except OSError as failure:
        return first_line(failure), "check the disk, or remove the file"
    if not head:
        return "the file is empty", AGAIN
    if isinstance(error, UnidentifiedImageError):
        return _foreign(head)
    reason = first_line(error)
    if isinstance(error, EOFError) or any(words in reason.lower() for words in CUT_SHORT):
        return reason, f"the file ends too early or is damaged: {AGAIN}"
    if "decoder" in reason.lower() and "not available" in reason.lower():
        return reason, "this Pillow has no decoder for it: re-save it as PNG"
    return reason, RESAVE


def _head(data: bytes | Path) -> bytes:
    if isinstance(data, bytes):
        return data[:HEAD]
    with data.open("rb") as file:
        return file.read(HEAD)


def _foreign(head: bytes) -> tuple[str, str]:
    """What a file is that no decoder of Pillow recognises."""
    if head[4:8] == b"ftyp" and head[8:12] in BRANDS:
        return "HEIC, which Pillow does not read", "re-save it as JPEG or PNG"
    beginning = head.lstrip().lower()
    for start, kind in BEGINNINGS.items():
        if beginning.startswith(start):
            return kind[0], f"{kind[1]}, or remove it"
    if b"<svg" in beginning:
        return BEGINNINGS[b"<svg"]
    if not any(head):
        return "it starts with zeros only", AGAIN
    for start, form in IMAGES.items():
        if head.startswith(start):
            return f"it begins as {form} but is damaged", AGAIN
    return "in no image format that Pillow knows", RESAVE
