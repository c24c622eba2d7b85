"""Galaxies: colour cut-outs around the sources of the Hubble eXtreme Deep Field that scikit-image carries."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.data import hubble_deep_field
from skimage.feature import peak_local_max
from skimage.measure import regionprops
from skimage.segmentation import watershed
from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.utils import images
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601
SMOOTHING = 1.5  # pixels; about the width of the picture's own blur
PEAK = 0.09  # luminance above the sky, of 1: a source's brightest smoothed pixel
EDGE = 0.06  # luminance above the sky at which a source ends
PEAK_DISTANCE = 5  # pixels between two sources
CORE = 0.75  # of a cut-out's half-width: a fainter peak within is part of the brighter source


@dataclass(frozen=True)
class Source:
    """A detected source, in pixels of the picture and luminance above the sky (0..1) times pixels."""

    row: float
    column: float
    extent: float  # from the centre to the farther side of its bounding box
    flux: float


@dataclass(frozen=True, kw_only=True)
class Hubble(Domain):
    """Square cut-outs around galaxies (and a few stars), each scaled to its source, brightest first.

    Attributes:
        sources: how many of the brightest sources are used; fainter ones are specks without a shape.
        margin: half-width of a cut-out, in extents of its source.
        smallest, largest: limits of a cut-out's width, in pixels of the picture.
    """

    name: str = "hubble"
    source: str = "Hubble eXtreme Deep Field (872x1000 RGB), scikit-image's data.hubble_deep_field()"
    licence: str = "public domain (NASA, ESA; STScI)"
    sources: int = 520
    margin: float = 1.3
    smallest: int = 14
    largest: int = 80

    def pool(self, size: int, channels: int) -> Pool:
        """The cut-outs, their boxes in the picture, and how to resize them."""
        if not 4 <= self.smallest <= self.largest:
            raise InputError(
                f"domain.smallest={self.smallest}, domain.largest={self.largest}: "
                "widths of cut-outs need 4 <= smallest <= largest"
            )
        picture = hubble_deep_field()
        boxes = self._boxes(picture.shape[:2])

        def load(indices: Sequence[int]) -> Tensor:
            crops = [picture[t:b, left:r] for t, left, b, r in boxes[np.asarray(indices, dtype=np.int64)]]
            return images.stack([images.fit(crop, size, channels) for crop in crops])

        digest = fingerprint(picture=array_digest(picture), boxes=boxes.tolist(), size=size, channels=channels)
        names = tuple(f"hubble-{top:03d}-{left:03d}-{b - top:02d}" for top, left, b, _ in boxes)
        return Pool(names, load, digest, boxes)

    def _boxes(self, shape: tuple[int, int]) -> NDArray[np.int64]:
        """(n, 4) boxes of the brightest sources that lie inside the picture and in no brighter one's core."""
        boxes: list[tuple[int, int, int, int]] = []
        sources = detect()
        centres, cores = np.empty((len(sources), 2)), np.empty(len(sources))
        kept = 0
        for found in sources:
            half = float(np.clip(self.margin * found.extent + 1, self.smallest / 2, self.largest / 2))
            away = np.abs(centres[:kept] - (found.row, found.column)).max(axis=1, initial=0)
            if (away < cores[:kept]).any():
                continue
            centres[kept], cores[kept] = (found.row, found.column), CORE * half
            kept += 1
            width = round(2 * half)
            top, left = round(found.row - width / 2), round(found.column - width / 2)
            if top >= 0 and left >= 0 and top + width <= shape[0] and left + width <= shape[1]:
                boxes.append((top, left, top + width, left + width))
        if self.sources > len(boxes):
            raise InputError(
                f"domain.sources={self.sources}: the picture has {len(boxes)} separate sources; "
                f"set domain.sources={len(boxes)} or less"
            )
        return np.array(boxes[: self.sources], dtype=np.int64).reshape(-1, 4)


@lru_cache(maxsize=1)
def detect() -> tuple[Source, ...]:
    """All sources of the picture, brightest first: peaks of the smoothed luminance, and their watersheds."""
    luminance = hubble_deep_field() @ LUMINANCE / 255
    luminance -= np.median(luminance)  # most pixels are sky
    smooth = gaussian_filter(luminance, SMOOTHING)
    peaks = peak_local_max(smooth, min_distance=PEAK_DISTANCE, threshold_abs=PEAK)
    markers = np.zeros(luminance.shape, dtype=np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    segments = watershed(-smooth, markers, mask=smooth > EDGE)
    found = []
    for region in regionprops(segments, intensity_image=np.clip(luminance, 0, None)):
        row, column = region.centroid_weighted
        top, left, bottom, right = region.bbox
        extent = max(row - top, bottom - row, column - left, right - column)
        found.append(Source(row, column, extent, float(region.intensity_mean * region.area)))
    return tuple(sorted(found, key=lambda source: -source.flux))
