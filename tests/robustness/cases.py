"""Odd folders of images: a case has its files, the domain's settings, and what must become of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.encoded import encoded, pgm
from unseen_diffusion.domains import load_split
from unseen_diffusion.domains.folder import Folder
from unseen_diffusion.domains.parquet import Parquet

Array = NDArray[Any]
SIZE, COUNT = 16, 9
SPLIT = {"references": 4, "validation": 1, "heldout": 4}  # all of ``COUNT`` images
TABLE = "images.parquet"
ODD = "odd"  # the stem of the file whose pixels are compared


@dataclass(frozen=True)
class Must:
    """What has to become of a case.

    Attributes:
        end: ``refused`` in one line, or ``used``.
        words: of that line, or of one warning; empty: no warning at all.
        pixels: (H, W) or (H, W, 3) in 0..255 that the odd image must have.
        near: largest difference to ``pixels`` that rounding explains.
        names: names of the pool's images.
    """

    end: str
    words: str = ""
    pixels: Array | None = None
    near: float = 1.0
    names: tuple[str, ...] = ()


def refused(words: str) -> Must:
    return Must("refused", words)


def warned(words: str, pixels: Array | None = None, near: float = 1.0) -> Must:
    return Must("used", words, pixels, near)


def right(pixels: Array, near: float = 1.0, words: str = "") -> Must:
    return Must("used", words, pixels, near)


@dataclass(frozen=True)
class Case:
    """Files of a folder, settings of the domain, and what must become of them.

    Attributes:
        large: whether its images count as large, so that they are reduced while they are decoded.
    """

    name: str
    files: Mapping[str, bytes]
    must: Must
    options: Mapping[str, Any] = field(default_factory=dict)
    channels: int = 3
    large: bool = False

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    def use(self, folder: Path) -> None:
        """Reads the folder as a run does; wrong pixels are an AssertionError."""
        kind = Parquet if TABLE in self.files else Folder
        domain = kind(path=str(folder), **(SPLIT if len(self.files) == COUNT else {}) | dict(self.options))
        load_split(domain, SIZE, self.channels)
        pool = domain.pool(SIZE, self.channels)
        assert not self.must.names or pool.names == self.must.names, pool.names
        if self.must.pixels is not None:
            index = next(i for i, name in enumerate(pool.names) if Path(name).stem == ODD)
            found = pool.load([index])[0].permute(1, 2, 0).numpy()
            wanted = self.must.pixels if self.must.pixels.ndim == 3 else self.must.pixels[..., None]
            assert np.abs(found - wanted).max() <= self.must.near, f"pixels off by {np.abs(found - wanted).max()}"


def noise(seed: int, *shape: int, top: int = 256) -> Array:
    return np.random.default_rng(seed).integers(0, top, shape or (SIZE, SIZE, 3)).astype(np.uint8)


GOOD = {f"{i}.png": encoded(noise(i)) for i in range(COUNT - 1)}
RAMP = np.arange(256, dtype=np.uint16).reshape(SIZE, SIZE)
GREY = RAMP.astype(np.uint8)
COLOURS = noise(99)
TALL = np.add.outer(np.arange(320) * 0.25, np.arange(256) * 0.5) + 10  # smooth, and different at each corner


def among_good(name: str, file: str, data: bytes, must: Must, **more: Any) -> Case:
    """One odd file among ordinary ones."""
    options = more.pop("options", {})
    return Case(name, GOOD | {f"{ODD}.{file}": data}, must, options, **more)


def deep(top: int, form: str, seed: int = 0) -> bytes:
    """Counts from 0 to ``top``, both reached, in 16 bits; seed 0 has steps of ``top`` / 255."""
    counts = np.rint(RAMP * (top / 255)) if seed == 0 else np.random.default_rng(seed).integers(0, top + 1, (16, 16))
    counts = counts.astype(np.uint16)
    counts[0, 0], counts[-1, -1] = 0, top
    return pgm(counts, 65535) if form == "PGM" else encoded(counts, form)
