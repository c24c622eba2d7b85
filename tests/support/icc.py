"""Small colour profiles (ICC version 2), and what their colours are in sRGB by the definitions alone.

A matrix profile for RGB, a curve for grey, and a table of the 16 corners for CMYK; the expectations use no ICC library.
"""

import struct

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
D50 = np.array([0.9642, 1.0, 0.8249])  # white of the profile connection space
# Linear RGB -> XYZ adapted to D50: sRGB as its standard profile has it, and Display P3.
SRGB = np.array(
    [[0.4360747, 0.3850649, 0.1430804], [0.2225045, 0.7168786, 0.0606169], [0.0139322, 0.0971045, 0.7141733]]
)
P3 = np.array([[0.515102, 0.291965, 0.157153], [0.241182, 0.692236, 0.0665819], [-0.00104941, 0.0418818, 0.784378]])
GAMMA = 1.8  # of the RGB and grey profiles here; sRGB is close to 2.2


def _fixed(values: Array) -> bytes:
    """s15Fixed16 numbers."""
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def _xyz(values: Array) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(words: bytes) -> bytes:
    return b"desc\0\0\0\0" + struct.pack(">I", len(words) + 1) + words + bytes(1 + 4 + 4 + 2 + 1 + 67)


def _profile(space: bytes, kind: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _text(b"test"), b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(D50), **tags}
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"\0\0\0\0", 0x02400000, kind, space, connection)
    header += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + _fixed(D50)
    return header + bytes(128 - len(header)) + table + body


def rgb_profile(matrix: Array = P3, gamma: float = GAMMA) -> bytes:
    """An RGB space with the primaries of ``matrix`` (columns) and one exponent."""
    names = (b"r", b"g", b"b")
    tags = {name + b"XYZ": _xyz(matrix[:, i]) for i, name in enumerate(names)}
    return _profile(b"RGB ", b"mntr", b"XYZ ", tags | {name + b"TRC": _curve(gamma) for name in names})


def grey_profile(gamma: float = GAMMA) -> bytes:
    """A grey space with one exponent."""
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """A CMYK space whose 16 corners are ``corner_lab``; a table of 2 grid points for each ink."""
    head = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(np.eye(3).reshape(-1))
    ramps = bytes(range(256))
    corners = b"".join(bytes(_lab_bytes(corner_lab(inks))) for inks in np.ndindex(2, 2, 2, 2))
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"A2B0": head + 4 * ramps + corners + 3 * ramps})


def corner_lab(inks: tuple[int, ...]) -> Array:
    """L*, a*, b* of full inks (cyan, magenta, yellow, black: 0 or 1), whole numbers that 8 bits hold."""
    c, m, y, k = inks
    light = (100 - 30 * c - 40 * m - 8 * y) * (1 - k)
    return np.array([light, (1 - k) * (-25 * c + 50 * m - 4 * y), (1 - k) * (-30 * c + 5 * m + 60 * y)], dtype=float)


def _lab_bytes(lab: Array) -> list[int]:
    return [round(lab[0] * 2.55), round(lab[1] + 128), round(lab[2] + 128)]


def _encoded(linear: Array) -> Array:
    """Linear sRGB -> 0..255 by the sRGB curve (IEC 61966-2-1), clipped."""
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def rgb_in_srgb(pixels: Array, matrix: Array = P3, gamma: float = GAMMA) -> Array:
    """Pixels (..., 3) in 0..255 of ``rgb_profile`` -> sRGB in 0..255."""
    return _encoded((np.asarray(pixels) / 255) ** gamma @ matrix.T @ np.linalg.inv(SRGB).T)


def grey_in_srgb(pixels: Array, gamma: float = GAMMA) -> Array:
    """Greys in 0..255 of ``grey_profile`` -> sRGB in 0..255."""
    return _encoded((np.asarray(pixels) / 255) ** gamma)


def lab_in_srgb(lab: Array) -> Array:
    """L*, a*, b* (D50) (..., 3) -> sRGB in 0..255 (CIE 15)."""
    f = np.stack([(lab[..., 0] + 16) / 116] * 3, axis=-1)
    f[..., 0] += lab[..., 1] / 500
    f[..., 2] -= lab[..., 2] / 200
    xyz = D50 * np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29))
    return _encoded(xyz @ np.linalg.inv(SRGB).T)
