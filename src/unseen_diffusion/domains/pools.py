"""Pools: the ordered images of a domain, decoded on demand, and the fingerprints that identify them."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unseen_diffusion.domains.levels import Levels
from unseen_diffusion.utils import images
from unseen_diffusion.utils.digests import array_digest, digest


@dataclass(frozen=True)
class Pool:
    """Ordered images of a domain, decoded on demand.

    Attributes:
        names: stable and unique, one per image.
        load: indices -> (n, channels, size, size) uint8, in the order of the indices.
        fingerprint: SHA-256, hexadecimal, of everything that determines the images.
        boxes: (n, 4) int64, top, left, bottom and right (exclusive) in source pixels, where the images are
            cut-outs of one picture; a split keeps images with overlapping boxes together.
        skip_unreadable: whether the next image replaces one that ``load`` cannot read; otherwise that is an error.
        contents: a digest of each image's encoded bytes, where they are known before decoding; a split keeps equal
            images together.
        clusters: a name per image of what it belongs to, such as one picture of several frames; images of one name
            depend on each other, so a split keeps them together and tests permute them together.
        load_uncropped: indices -> images (channels, height, width) uint8 in their original sizes; None where the pool
            has one size only.
        levels: the counts that become black and white; None where the images are not files.
        sides: smaller side of each readable file, in pixels; None where the images are not files.
    """

    names: tuple[str, ...]
    load: Callable[[Sequence[int]], Tensor]
    fingerprint: str
    boxes: NDArray[np.int64] | None = None
    skip_unreadable: bool = False
    contents: tuple[str, ...] | None = None
    load_uncropped: Callable[[Sequence[int]], list[Tensor]] | None = None
    levels: Levels | None = None
    sides: tuple[int, ...] | None = None
    clusters: tuple[str, ...] | None = None

    @property
    def repeated(self) -> int:
        """Number of different images that occur more than once."""
        return sum(count > 1 for count in Counter(self.contents or ()).values())


def fingerprint(**parts: Any) -> str:
    """SHA-256, hexadecimal, of JSON values in canonical form and of the version of the image conversion."""
    text = json.dumps({"preprocessing": images.PREPROCESSING, **parts}, sort_keys=True, allow_nan=False)
    return digest(text)


def array_pool(names: Sequence[str], arrays: Sequence[NDArray[Any]], size: int, channels: int, **parts: Any) -> Pool:
    """A pool of arrays in memory: (H, W, 1 or 3) each, values in 0..255, fitted to ``size`` on demand.

    Args:
        names: one per array.
        arrays: the images.
        size: height and width of the pool's images.
        channels: 1 or 3.
        parts: further JSON values for the fingerprint, beside names, values, size and channels.
    """

    def load(indices: Sequence[int]) -> Tensor:
        return stack([images.fit(arrays[i], size, channels) for i in indices], size, channels)

    digests = [array_digest(array) for array in arrays]
    return Pool(
        tuple(names),
        load,
        fingerprint(names=list(names), arrays=digests, size=size, channels=channels, **parts),
    )


def tiles(name: str, picture: NDArray[Any], width: int) -> list[tuple[str, NDArray[Any]]]:
    """Square crops of (H, W, C) that lie side by side and share no pixel, in reading order, each with its name."""
    rows, columns = (range(0, side - width + 1, width) for side in picture.shape[:2])
    corners = [(top, left) for top in rows for left in columns]
    return [(f"{name}-{top:03d}-{left:03d}", picture[top : top + width, left : left + width]) for top, left in corners]


def stack(tensors: Sequence[Tensor], size: int, channels: int) -> Tensor:
    """Like ``images.stack``, but an empty list gives (0, channels, size, size)."""
    return images.stack(tensors) if tensors else torch.empty((0, channels, size, size), dtype=torch.uint8)
