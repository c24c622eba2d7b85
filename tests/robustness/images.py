"""Odd images: each case states whether it is refused, used with a warning, or read with the right pixels."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from robustness.cases import (
    COLOURS,
    COUNT,
    GOOD,
    GREY,
    ODD,
    RAMP,
    SPLIT,
    TABLE,
    TALL,
    Case,
    Must,
    among_good,
    deep,
    noise,
    refused,
    right,
    warned,
)
from support import icc
from support.encoded import (
    ORIENTATION,
    PHOTOMETRIC,
    SAMPLE_FORMAT,
    animated,
    encoded,
    huge_png,
    pgm,
    png16,
    rotated,
    saved,
    tiff,
    tiff12,
    upright,
)

SUFFIX = {"PNG": "png", "PGM": "pgm", "TIFF": "tif", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp"}


def counts_folder(top: int, form: str) -> dict[str, bytes]:
    files = {f"{i}.{SUFFIX[form]}": deep(top, form, i) for i in range(1, COUNT)}
    return files | {f"{ODD}.{SUFFIX[form]}": deep(top, form)}


def sixteen_bits() -> Iterator[Case]:
    for form in ("PNG", "PGM", "TIFF"):
        for top in (510, 4095):
            files = counts_folder(top, form)
            yield Case(f"{form} 0 to {top}", files, warned("set domain.range"))
            yield Case(f"{form} 0 to {top} in 16 bits, grey", files, warned("grey levels"), channels=1)
            yield Case(f"{form} 0 to {top}, range", files, right(RAMP), {"range": [0, top]})
            yield Case(f"{form} 0 to {top}, files", files, right(RAMP), {"range": "files"})
            yield Case(f"{form} 0 to {top}, percentiles", files, right(RAMP), {"range": ["0%", "100%"]})
        yield Case(f"{form} 0 to 100", counts_folder(100, form), refused("set domain.range"))
        yield Case(f"{form} 0 to 65535", counts_folder(65535, form), right(RAMP))
    for top in (1023, 4095):
        counts = np.rint(RAMP * (top / 255)).astype(np.uint16)
        yield among_good(f"PGM whose header says {top}", "pgm", pgm(counts, top), right(RAMP))
    yield among_good("12-bit TIFF", "tif", tiff12(np.rint(RAMP * (4095 / 255))), right(RAMP))
    wide = COLOURS.astype(np.uint16) * 257
    notice = right(COLOURS, words="upper 8 bits")
    yield among_good("PNG of 16-bit colours", "png", png16(wide), notice)
    yield among_good("PPM of 16-bit colours", "ppm", pgm(wide, 65535), notice)
    yield among_good("16-bit colours, range", "png", png16(wide), refused("domain.range"), options={"range": [0, 4095]})
    dark = {f"{i}.png": png16(noise(i).astype(np.uint16) * 16) for i in range(COUNT)}
    yield Case("16-bit colours 0 to 4095", dark, warned("save the images in 16-bit grey"))
    inverse, black = tiff(65535 - RAMP * 257, {PHOTOMETRIC: 0}), np.where(RAMP == 255, 0, RAMP)
    yield among_good("white is zero, 16 bits", "tif", inverse, right(RAMP))
    small = {f"{i}.tif": tiff(np.asarray(noise(i, 16, 16), np.uint16) * 16, {PHOTOMETRIC: 0}) for i in range(8)}
    small["odd.tif"] = tiff(np.rint(4095 - RAMP * (4095 / 255)).astype(np.uint16), {PHOTOMETRIC: 0})
    yield Case("white is zero, range", small, right(RAMP), {"range": [0, 4095]})
    yield among_good("transparent count", "png", encoded(RAMP * 257, transparency=65535), right(black))
    numbers = {"int16": (RAMP * 64, "signed pixels"), "int32": (RAMP.astype(np.int32), "pixels of 32 bits")}
    numbers["float32"] = (RAMP.astype(np.float32) / 255, "pixels of 32 bits")
    for kind, (array, words) in numbers.items():
        data = tiff(array, {SAMPLE_FORMAT: 2}) if kind == "int16" else encoded(array, "TIFF")
        yield among_good(f"{kind} TIFF", "tif", data, refused(f"{words}"))
        ends = {"range": [0, float(array.max())]}
        yield Case(f"{kind} TIFF, range", {f"{i}.png": deep(255, "PNG", i) for i in range(1, 9)} | {"odd.tif": data},
                   right(RAMP), ends)  # fmt: skip
    for name, value in (("NaN", np.nan), ("infinite", np.inf)):
        broken = (RAMP / 255).astype(np.float32)
        broken[3, 3] = value
        case = refused("replace them by finite numbers")
        yield among_good(f"{name} in a TIFF", "tif", encoded(broken, "TIFF"), case, options={"range": [0, 1]})


def profiles() -> Iterator[Case]:
    note = "colour profiles to sRGB"
    p3, grey = icc.rgb_profile(), icc.grey_profile()
    for form, near in (("PNG", 1.5), ("TIFF", 1.5), ("WEBP", 1.5)):
        options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
        data = encoded(COLOURS, form, icc_profile=p3, **options)
        yield among_good(f"Display P3 in {form}", SUFFIX[form], data, right(icc.rgb_in_srgb(COLOURS), near, note))
    smooth = np.stack([TALL[:256, :256]] * 3, -1)[8::16, 8::16].astype(np.uint8)
    data = encoded(smooth, "JPEG", quality=100, subsampling=0, icc_profile=p3)
    yield among_good("Display P3 in JPEG", "jpg", data, right(icc.rgb_in_srgb(smooth), 5, note))
    for name, array in (("8 bits", GREY), ("16 bits", RAMP * 257)):
        expected = right(icc.grey_in_srgb(RAMP), 2, note)
        yield among_good(f"grey profile, {name}", "png", encoded(array, icc_profile=grey), expected)
    data = encoded(GREY, icc_profile=icc.rgb_profile(icc.SRGB))
    yield among_good("grey in an RGB space", "png", data, right(icc.grey_in_srgb(RAMP), 2, note))
    inks = np.array(list(np.ndindex(2, 2, 2, 2))).reshape(4, 4, 4).repeat(4, 0).repeat(4, 1)
    lab = np.array([[icc.corner_lab(tuple(one)) for one in row] for row in inks])
    data = encoded((255 * inks).astype(np.uint8), "TIFF", mode="CMYK", icc_profile=icc.cmyk_profile())
    yield among_good("CMYK with a profile", "tif", data, right(icc.lab_in_srgb(lab), 2, note))
    plain = (255 * (1 - inks[..., :3]) * (1 - inks[..., 3:])).astype(np.uint8)
    data = encoded((255 * inks).astype(np.uint8), "TIFF", mode="CMYK")
    yield among_good("CMYK without a profile", "tif", data, right(plain))
    clear = noise(98, 16, 16, 4)
    clear[..., 3] = np.where(clear[..., 3] > 127, 255, 0)
    shown = np.where(clear[..., 3:] == 255, icc.rgb_in_srgb(clear[..., :3]), 0)
    yield among_good("Display P3 with alpha", "png", encoded(clear, icc_profile=p3), right(shown, 1.5, note))
    for name, profile in (("broken", b"broken" * 40), ("of another space", icc.cmyk_profile())):
        data = encoded(noise(97), icc_profile=profile)
        yield among_good(f"a profile {name}", "png", data, right(noise(97), words="ignored"))


def orientations() -> Iterator[Case]:
    for way in range(2, 9):
        for form in ("PNG", "TIFF", "WEBP"):
            data = rotated(COLOURS, way, form)
            yield among_good(f"{form} orientation {way}", SUFFIX[form], data, right(upright(COLOURS, way)))
        turned = upright(TALL, way)
        top, left = (np.array(turned.shape) - 256) // 2
        small = turned[top : top + 256, left : left + 256].reshape(16, 16, 16, 16).mean((1, 3))
        for form in ("JPEG", "PNG", "TIFF"):
            for name, scale, kind in (("", 1, np.uint8), ("16-bit ", 257, np.uint16)):
                if (form, scale) == ("JPEG", 257):
                    continue
                data = rotated(np.rint(TALL * scale).astype(kind), way, form)
                expected = right(small, 4, "reduced while they are decoded")
                yield among_good(f"large {name}{form} orientation {way}", SUFFIX[form], data, expected, large=True)
    yield among_good("orientation 9, which does not exist", "png", encoded(COLOURS, exif=_exif(9)), right(COLOURS))


def _exif(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = value
    return exif


def frames() -> Iterator[Case]:
    greys = [GREY, 255 - GREY, GREY // 2]
    for form, first in (("GIF", GREY), ("PNG", GREY), ("WEBP", GREY), ("TIFF", GREY)):
        expected = right(first, 1, "the first is read")
        yield among_good(f"{form} of three frames", SUFFIX[form], animated(greys, form), expected)


def broken_files() -> Iterator[Case]:
    for form in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP"):
        whole = encoded(noise(5, 64, 64, 3), form)
        for share in (0.1, 0.5, 0.9):
            words = refused("copy or download it again")
            yield among_good(f"{form} cut to {share:.0%}", SUFFIX[form], whole[: int(share * len(whole))], words)
    flipped = bytearray(encoded(noise(5, 64, 64, 3)))
    flipped[len(flipped) // 2] ^= 255
    yield among_good("PNG with one wrong byte", "png", bytes(flipped), refused("not a readable image"))
    foreign = {
        "text": (b"hello, this is no image\n", "re-save it as PNG"),
        "nothing": (b"", "the file is empty"),
        "a web page": (b"<!DOCTYPE html><html></html>", "download the image again"),
        "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
        "PDF": (b"%PDF-1.7 ...", "export its pages"),
        "NumPy": (b"\x93NUMPY\x01\0" + bytes(100), "save it as"),
        "zip": (b"PK\x03\x04" + bytes(100), "unpack it"),
        "gzip": (b"\x1f\x8b" + bytes(100), "unpack it"),
        "SVG": (b"<?xml version='1.0'?><svg></svg>", "export it as PNG"),
        "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), "re-save it as JPEG"),
        "JSON": (b'{"image": 1}', "give the image files"),
        "zeros": (bytes(4096), "zeros only"),
        "too many pixels": (huge_png(60_000), "scale it down"),
        "no pixels": (huge_png(0), "not a readable image"),
    }
    for name, (data, words) in foreign.items():
        yield among_good(f"{name} called .png", "png", data, refused(words))
    skip = {"on_unreadable": "skip", "references": 4, "validation": 1, "heldout": 3}
    yield among_good("one unreadable, skipped", "png", b"text", warned("1 unreadable skipped"), options=skip)
    none = {f"{i}.png": f"text {i}".encode() for i in range(COUNT)}
    yield Case("all unreadable, skipped", none, refused("none of 9 images could be read"), {"on_unreadable": "skip"})


def collapsed() -> Iterator[Case]:
    def folder(make: Any) -> dict[str, bytes]:
        """Files that differ, if only by the resolution that they name."""
        return {f"{i}.png": encoded(make(i), dpi=(i + 1, i + 1)) for i in range(COUNT)}

    yield Case("copies of one file", dict.fromkeys(GOOD, GOOD["0.png"]), refused("all 8 images are equal; give"))
    yield Case("all equal", folder(lambda i: noise(0)), refused("all 9 images are equal"))
    yield Case("all black", folder(lambda i: np.zeros((16, 16), np.uint8)), refused("every pixel is 0"))
    yield Case("all white", folder(lambda i: np.full((16, 16), 255, np.uint8)), refused("every pixel is 255"))
    flat = folder(lambda i: np.full((16, 16, 3), 25 * i, np.uint8))
    yield Case("constant images", flat, warned("9 of 9 images have one value only"))
    yield among_good("one constant image", "png", encoded(np.full((16, 16, 3), 9, np.uint8)), warned("1 of 9 images"))
    yield Case("nearly black", folder(lambda i: noise(i, 16, 16, 3, top=30)), warned("nearly black"))
    yield Case("nearly white", folder(lambda i: 255 - noise(i, 16, 16, 3, top=30)), warned("nearly white"))
    yield Case("two levels", folder(lambda i: 255 * noise(i, 16, 16, top=2)), warned("only 2 grey levels"))
    yield Case("1 bit", {f"{i}.png": saved(Image.fromarray(noise(i, 16, 16) > 99)) for i in range(COUNT)},
               warned("only 2 grey levels"))  # fmt: skip
    yield Case("17 levels", folder(lambda i: 15 * noise(i, 16, 16, top=17)), warned("only 17 grey levels"))
    yield Case("8 bits that hold 0 or 1", folder(lambda i: noise(i, 16, 16, top=2)), warned("nearly black"))
    yield Case("8 x 8 pixels", folder(lambda i: noise(i, 8, 8, 3)), warned("9 of 9 files are enlarged to 16 pixels"))
    yield Case("1 x 1 pixels", folder(lambda i: noise(i, 1, 1, 3)), warned("enlarged"))
    yield among_good("one of 8 x 8 pixels", "png", encoded(noise(9, 8, 8, 3)), warned("1 of 9 files are enlarged"))
    twice = folder(lambda i: noise(i, 8, 8, 3).repeat(2, 0).repeat(2, 1))
    yield Case("enlarged before", twice, warned("every pixel is repeated 2 by 2"))
    copies = {f"{i}.png": encoded(noise(i % 3)) for i in range(COUNT)}
    yield Case("three images, copied", copies, refused("of 9 files 3 differ, and copies stay together"))
    yield Case("three images, saved again", folder(lambda i: noise(i % 3)), warned("only 3 of 9 images differ"))
    copies = {f"{i}.png": encoded(noise(min(i, 7))) for i in range(COUNT)}
    yield Case("one image twice", copies, warned("appear more than once"), {"references": 2})
    yield Case("nearly alike", folder(lambda i: noise(0) // 2 + (np.arange(16) == i)[:, None].astype(np.uint8)),
               warned("nearly alike"))  # fmt: skip
    masks = {f"{i}.png": saved(Image.fromarray(noise(i, 16, 16, top=5)).convert("P")) for i in range(COUNT)}
    yield Case("masks of class numbers", masks, warned("grey levels"))


def transparent() -> Iterator[Case]:
    alpha = noise(1, 16, 16, 4)
    shown = alpha[..., :3] * (alpha[..., 3:] / 255)
    yield among_good("RGBA", "png", encoded(alpha), right(shown, 1.5))
    yield among_good("RGBA in WebP", "webp", encoded(alpha, "WEBP", lossless=True, exact=True), right(shown, 1.5))
    yield among_good("large RGBA", "png", saved(Image.fromarray(np.dstack([TALL, TALL, TALL, TALL]).astype(np.uint8))),
                     warned("reduced while they are decoded"), large=True)  # fmt: skip
    pair = noise(2, 16, 16, 2)
    yield among_good(
        "grey with alpha", "png", encoded(pair, mode="LA"), right(pair[..., 0] * (pair[..., 1] / 255), 1.5)
    )
    yield among_good("RGBA of 16 bits", "png", png16(alpha.astype(np.uint16) * 257), right(shown, 1.5, "upper 8 bits"))
    palette = Image.fromarray(GREY, "P")
    colours = noise(3, 256, 3)
    palette.putpalette(colours.tobytes())
    yield among_good("a palette", "png", saved(palette), right(colours[GREY]))
    yield among_good("a palette in GIF", "gif", saved(palette, "GIF"), right(colours[GREY]))
    yield among_good("a palette in BMP", "bmp", saved(palette, "BMP"), right(colours[GREY]))
    clear = np.where((GREY == 7)[..., None], 0, colours[GREY])
    yield among_good("a transparent colour of a palette", "png", saved(palette, transparency=7), right(clear))
    key = encoded(COLOURS, transparency=tuple(int(one) for one in COLOURS[0, 0]))
    keyed = COLOURS.copy()
    keyed[0, 0] = 0
    yield among_good("a transparent colour", "png", key, right(keyed))


def trees() -> Iterator[Case]:
    names = [f"{part}/{kind}{i}.png" for part in ("train", "test") for kind in ("a", "mask") for i in range(3)]
    files = {name: encoded(noise(i)) for i, name in enumerate(names)}
    for name, options, kept in (
        ("only train", {"include": "train/*"}, names[:6]),
        ("no masks", {"exclude": "*mask*"}, names[:3] + names[6:9]),
        ("train without masks", {"include": ["train/*"], "exclude": ["*/mask*"]}, names[:3]),
    ):
        must = Must("used", f"{len(names) - len(kept)} by domain.", names=tuple(sorted(kept)))
        if len(options) == 2:
            must = Must("used", "3 by domain.exclude, 6 by domain.include", names=tuple(sorted(kept)))
        yield Case(f"tree: {name}", files, must, options | {"references": 1, "validation": 1, "heldout": 1})
    yield Case("tree: all", files, Must("used", names=tuple(sorted(names))))
    for pattern in ("val/*", "TRAIN/*", "", "train", "*.jpg"):
        yield Case(f"include={pattern!r}", files, refused("give patterns that match"), {"include": pattern})
    yield Case("exclude everything", files, refused("no image is left"), {"exclude": ["*"]})
    others = {".hidden/1.png": b"", "__MACOSX/1.png": b"", "notes.txt": b"", "._1.png": b"", "README": b""}
    kept = Must("used", "left out: ", names=tuple(sorted(GOOD)))
    yield Case("files that are no images", GOOD | others, kept)
    yield Case("no images", {"notes.txt": b"x"}, refused("no image there"))
    yield Case("an empty folder", {}, refused("folder"))
    yield Case("too few images", dict(list(GOOD.items())[:2]), refused("left"), SPLIT)


def tables() -> Iterator[Case]:
    """Parquet files with cells that hold no image."""
    rows: list[Any] = [{"bytes": encoded(noise(i)), "path": None} for i in range(12)]

    def table(name: str, cells: list[Any], must: Must, column: str = "image", **options: Any) -> Case:
        buffer = io.BytesIO()
        pq.write_table(pa.table({column: cells}), buffer)
        return Case(f"Parquet: {name}", {TABLE: buffer.getvalue()}, must, options)

    counts = {"references": 4, "validation": 2, "heldout": 4}
    nothing = {"bytes": None, "path": None}
    for name, cell in (("null", None), ("neither bytes nor path", nothing), ("empty bytes", nothing | {"bytes": b""})):
        where = refused(f"{TABLE}:3: column 'image'")
        yield table(f"{name} in row 3", [*rows[:3], cell, *rows[4:]], where, references=6, validation=2, heldout=4)
        skip = {"on_unreadable": "skip", "references": 5, "validation": 2, "heldout": 4}
        yield table(f"{name}, skipped", [*rows[:3], cell, *rows[4:]], warned("1 unreadable skipped"), **skip)
    yield table("all null", [None] * 12, refused("null"), **counts)
    yield table("all null, skipped", [None] * 12, refused("could be read"), on_unreadable="skip", **counts)
    gone = {"bytes": None, "path": "gone.png"}
    yield table("a path to nothing", [gone, *rows[1:]], refused("no such file"), references=6, validation=2, heldout=4)
    yield table("numbers", list(range(12)), refused("set domain.column"), **counts)
    yield table("paths that are text", [f"{i}.png" for i in range(12)], refused("domain.column"), **counts)
    yield table("another column", rows, refused("no column 'image'"), column="picture", **counts)
    yield table("no rows", [], refused("no rows; give"), **counts)
    half = [*rows[:3], {"bytes": rows[0]["bytes"][:300], "path": None}, *rows[4:]]
    yield table("a truncated cell", half, refused("copy or download"), references=6, validation=2, heldout=4)
    whole = table("whole", rows, Must("used"), **counts)
    yield whole
    for share in (0.3, 0.99):
        cut = {TABLE: whole.files[TABLE][: int(share * len(whole.files[TABLE]))]}
        yield Case(f"Parquet cut to {share:.0%}", cut, refused(TABLE), counts)
    yield Case("Parquet that is text", {TABLE: b"a,b\n1,2\n"}, refused(TABLE), counts)


def cases() -> Iterator[Case]:
    """All of them; each is independent of the others."""
    for family in (sixteen_bits, profiles, orientations, frames, broken_files, collapsed, transparent, trees, tables):
        yield from family()
