"""The counts that become black and white: ``domain.range``, as two numbers, as percentiles, or as the files' own."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from unseen_diffusion.utils.checked import as_written
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.image_files import Header, Interval, read_counts

log = logging.getLogger(__name__)

FILES = "files"
Range = Literal["files"] | Sequence[float | str]
Cell = bytes | Path | InputError  # an encoded image, or why there is none
REMEDY = "two counts such as [0, 4095], two percentiles such as [0.5%, 99.5%], or files"
NOMINAL = {
    "8-bit values": "0 to 255",
    "12-bit counts": "0 to 4095",
    "16-bit counts": "0 to 65535",
    "16-bit colours": "0 to 65535, upper 8 bits",
}
SAMPLED = 2**24  # pixels of the pool that percentiles are computed from, at most (and at least 64 of each image)


def check_range(value: Range | None) -> None:
    """Refuses a range that is none: not two entries, not increasing, or a share beside a count.

    Raises:
        InputError: the value and what to give.
    """
    if value is None or value == FILES:
        return
    refused = InputError(f"domain.range={as_written(value)}: give {REMEDY}, the lower one first")
    if isinstance(value, str) or len(value) != 2:
        raise refused
    numbers = [percentile(one) if isinstance(one, str) else float(one) for one in value]
    low, high = numbers
    if isinstance(value[0], str) != isinstance(value[1], str) or not low < high:  # NaN too, a text that is no share
        raise refused


def percentile(text: str) -> float:
    """The number of "0.5%"; NaN where the text is no percentage between 0 and 100."""
    try:
        number = float(text.removesuffix("%")) if text.endswith("%") else math.nan
    except ValueError:
        return math.nan
    return number if 0 <= number <= 100 else math.nan


class Levels:
    """The counts of a pool's files that become black and white, measured when they are first needed.

    Args:
        setting: ``domain.range``; None takes the whole range of the files' bits.
        headers: of the files; None for one that cannot be opened.
        read: index -> the encoded image.
    """

    def __init__(self, setting: Range | None, headers: Sequence[Header | None], read: Callable[[int], Cell]) -> None:
        self.setting, self.count, self._read = setting, len(headers), read
        self.kinds = Counter(header.kind for header in headers if header is not None)
        self._lock = Lock()
        self._measured: Interval | None = None

    @property
    def interval(self) -> Interval | None:
        """The two counts; None takes the whole range of the files' bits.

        Raises:
            InputError: all pixels of the files are equal.
        """
        if self.setting is None:
            return None
        first, second = self.setting if not isinstance(self.setting, str) else (0, 0)
        if not isinstance(self.setting, str) and not isinstance(first, str) and not isinstance(second, str):
            return float(first), float(second)
        with self._lock:  # training decodes in several threads
            if self._measured is None:
                self._measured = self._measure()
            return self._measured

    def _measure(self) -> Interval:
        if self.setting == FILES:
            ends = [(float(pixels.min()), float(pixels.max())) for pixels in self._pixels()]
            low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
        else:
            shares = [percentile(str(one)) for one in self.setting or ()]
            each = max(64, SAMPLED // max(1, self.count))
            samples = [pixels[:: math.ceil(len(pixels) / each)] for pixels in self._pixels()]
            low, high = np.percentile(np.concatenate(samples), shares).tolist() if samples else (0.0, 1.0)
        if not low < high:
            raise InputError(
                f"domain.range={as_written(self.setting)}: the files' pixels all are {low:g} there; "
                "give other images or two counts such as [0, 4095]"
            )
        log.info("domain.range=%s: counts %g to %g become black to white", as_written(self.setting), low, high)
        return low, high

    def _pixels(self) -> Iterator[NDArray[np.generic]]:
        """The flat counts of each readable image."""
        for index in range(self.count):
            cell = self._read(index)
            if not isinstance(cell, InputError):
                try:
                    yield read_counts(cell, str(index)).reshape(-1)
                except InputError:  # decoding reports what is wrong with the file
                    continue

    def described(self) -> str:
        """The range in use, in words: "16-bit counts 0 to 65535 become black to white (domain.range=null)"."""
        kinds = " and ".join(kind for kind, _ in self.kinds.most_common())
        if (interval := self.interval) is not None:
            span = f"{kinds} {interval[0]:g} to {interval[1]:g}"
        else:
            span = " and ".join(f"{kind} {NOMINAL.get(kind, '')}".strip() for kind, _ in self.kinds.most_common())
        return f"{span} become black to white (domain.range={as_written(self.setting)})"

    def remedy(self) -> str:
        """What to change where the pixels are too dark, too bright or too alike."""
        if set(self.kinds) == {"16-bit colours"}:
            return "save the images in 16-bit grey, or scaled to 8 bits"
        return f"set domain.range to {REMEDY}"
