"""Galaxies: colour cut-outs around the sources of scikit-image's Hubble eXtreme Deep Field."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter
from skimage.data import hubble_deep_field
from skimage.feature import peak_local_max
from skimage.measure import regionprops
from skimage.segmentation import watershed
from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.utils import images
from unseen_diffusion.utils.checked import Count, Positive, settings
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError

LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R 601
SMOOTHING = 1.5  # standard deviation in pixels; about the blur of the picture itself
PEAK = 0.09  # least luminance (0..1) above the sky of a source's brightest smoothed pixel
EDGE = 0.06  # luminance above the sky at which a source ends
PEAK_DISTANCE = 5  # least distance of two sources, in pixels
CORE = 0.75  # share of a cut-out's half-width; a fainter peak inside it belongs to the brighter source


@dataclass(frozen=True)
class Source:
    """A light source that was detected in the picture.

    Attributes:
        row, column: its centre, in pixels of the picture.
        extent: from the centre to the farthest side of its bounding box, in pixels.
        flux: luminance above the sky (0..1), summed over its pixels.
    """

    row: float
    column: float
    extent: float
    flux: float


@settings("domain")
class Hubble(Domain):
    """Square cut-outs around galaxies (and a few stars), each scaled to its source, brightest first."""

    name: str = "hubble"
    source: str = "Hubble eXtreme Deep Field (872x1000 RGB), scikit-image's data.hubble_deep_field()"
    licence: str = "public domain (NASA, ESA; STScI)"
    sources: Count = 520
    """number of sources, the brightest first; fainter ones are specks without a shape"""
    margin: Positive = 1.3
    """half-width of a cut-out, in extents of its source"""
    smallest: Annotated[int, Field(ge=4)] = 14
    """least width of a cut-out, in pixels of the picture"""
    largest: Annotated[int, Field(ge=4)] = 80
    """greatest width of a cut-out, in pixels of the picture"""

    def __post_init__(self) -> None:
        if self.smallest > self.largest:
            raise InputError(
                f"domain.smallest={self.smallest}, domain.largest={self.largest}: give smallest <= largest"
            )

    def pool(self, size: int, channels: int) -> Pool:
        """The cut-outs and their boxes in the picture."""
        picture = hubble_deep_field()
        boxes = self._boxes(picture.shape[:2])

        def load(indices: Sequence[int]) -> Tensor:
            crops = [picture[t:b, left:r] for t, left, b, r in boxes[np.asarray(indices, dtype=np.int64)]]
            return images.stack([images.fit(crop, size, channels) for crop in crops])

        digest = fingerprint(picture=array_digest(picture), boxes=boxes.tolist(), size=size, channels=channels)
        names = tuple(f"hubble-{top:03d}-{left:03d}-{b - top:02d}" for top, left, b, _ in boxes)
        return Pool(names, load, digest, boxes)

    def _boxes(self, shape: tuple[int, int]) -> NDArray[np.int64]:
        """(n, 4) boxes of the brightest sources that lie inside the picture and outside the core of brighter ones."""
        boxes: list[tuple[int, int, int, int]] = []
        detected = detect()
        centres, cores = np.empty((len(detected), 2)), np.empty(len(detected))
        kept = 0
        for source in detected:
            half = float(np.clip(self.margin * source.extent + 1, self.smallest / 2, self.largest / 2))
            distances = np.abs(centres[:kept] - (source.row, source.column)).max(axis=1, initial=0)
            if (distances < cores[:kept]).any():
                continue
            centres[kept], cores[kept] = (source.row, source.column), CORE * half
            kept += 1
            width = round(2 * half)
            top, left = round(source.row - width / 2), round(source.column - width / 2)
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
    """All sources of the picture, brightest first: peaks of the smoothed luminance and their watersheds."""
    luminance = hubble_deep_field() @ LUMINANCE / 255
    luminance -= np.median(luminance)  # most pixels are sky
    smooth = gaussian_filter(luminance, SMOOTHING)
    peaks = peak_local_max(smooth, min_distance=PEAK_DISTANCE, threshold_abs=PEAK)
    markers = np.zeros(luminance.shape, dtype=np.int64)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    segments = watershed(-smooth, markers, mask=smooth > EDGE)
    sources = []
    for region in regionprops(segments, intensity_image=np.clip(luminance, 0, None)):
        row, column = region.centroid_weighted
        top, left, bottom, right = region.bbox
        extent = max(row - top, bottom - row, column - left, right - column)
        sources.append(Source(row, column, extent, float(region.intensity_mean * region.area)))
    return tuple(sorted(sources, key=lambda source: -source.flux))
