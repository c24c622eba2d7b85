"""Domain: the class that every source of images extends, and its pool and split."""

import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from unseen_diffusion.domains.pixel_check import check_contents, check_pixels
from unseen_diffusion.domains.pools import Pool, array_pool, fingerprint, stack
from unseen_diffusion.domains.split import LABELS, SHARES, Split, check_counts, split_pool
from unseen_diffusion.domains.symmetries import Symmetries
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.identity import Unnamed, marks_of, named
from unseen_diffusion.utils.renamed import new_names

__all__ = [
    "LABELS",
    "SHARES",
    "Domain",
    "Pool",
    "Split",
    "array_pool",
    "check_pixels",
    "check_sizes",
    "fingerprint",
    "load_split",
    "parts_of",
    "pool_of",
    "read_split",
    "split_pool",
]

log = logging.getLogger(__name__)

PER_LINE = 5  # unreadable images that one message names
KEPT = 2  # pools in memory, which may hold the encoded images
# Marks of the fields that a pool's fingerprint does not name; any other field of a domain is one that it names.
SHOWN = Unnamed("people read it, no pixel depends on it")
READING = Unnamed("how the images are read, not which")
SPLITS = Unnamed("divides the pool, and is named by the key of the split")
JUDGED = Unnamed("for scores and selections, no pixel depends on it")
LEADS = Unnamed("leads to the images, whose content the fingerprint names")
Size = Annotated[int, Field(ge=0)] | None
Resize = Literal["crop", "stretch"]


@settings("domain")
class Domain(ABC):
    """A source of images and how it is split; Hydra builds it from ``conf/domain/NAME.yaml``.

    A subclass is decorated with ``@settings("domain")``, declares its own fields, and defines ``pool``.
    """

    name: Annotated[str, SHOWN]
    """what reports and error messages call the domain"""
    source: Annotated[str, SHOWN]
    """one line: where the images come from"""
    licence: Annotated[str, SHOWN]
    """one line: the terms of use"""
    references: Annotated[Size, SPLITS] = None
    """number of reference images R; null takes 50 % of the pool"""
    validation: Annotated[Size, SPLITS] = None
    """number of validation images V; null takes 15 % of the pool"""
    heldout: Annotated[Size, SPLITS] = None
    """number of held-out images H; null takes 35 % of the pool"""
    split_seed: Annotated[int, SPLITS] = 0
    """seed that decides which images are held out"""
    draw: Annotated[int, SPLITS] = 0
    """seed that decides which of the other images are references; several draws share the held-out images"""
    symmetries: Annotated[Symmetries, JUDGED] = "none"
    """turned or mirrored images that are as likely: none, mirror (left to right) or all 8; for finding copies"""
    resize: Annotated[Resize, READING] = "crop"
    """of images that are not square, which arrays are not: crop keeps the centred square; stretch squeezes the image"""
    redraw_heldout: Annotated[bool, SPLITS] = False
    """true: the draw decides which images are held out too, and draws share no image as long as the pool lasts; then
    intervals over draws contain the choice of the held-out images"""

    @abstractmethod
    def pool(self, size: int, channels: int) -> Pool:
        """The domain's images at (channels, size, size); cheap, because nothing is decoded yet.

        Raises:
            InputError: the source is missing, unreachable or empty.
        """

    def of_pixels(self) -> dict[str, Any]:
        """The fields that decide pixels, by name, for the pool's fingerprint: all but those marked (``SHOWN``...)."""
        return named(self)

    def state(self) -> Hashable:
        """A value that changes when the source changes, cheap to compute; with None, the source is read every time.

        Raises:
            InputError: the source is missing or empty.
        """
        return None


# Fields of a domain that its pool does not depend on.
SPLITTING = tuple(name for name, marks in marks_of(Domain).items() if SPLITS in marks)

_pools: OrderedDict[Hashable, Pool] = OrderedDict()  # of this process; the most recently used is last


def pool_of(domain: Domain, size: int, channels: int) -> Pool:
    """The domain's pool; the last used pools stay in memory until their source changes, because reading may be slow.

    Raises:
        InputError: the source is missing, unreachable or empty.
    """
    state = domain.state()
    if state is None:
        return domain.pool(size, channels)
    fields = {key: value for key, value in vars(domain).items() if key not in SPLITTING}
    key = (type(domain), repr(fields), state, size, channels)
    if key not in _pools:
        while len(_pools) >= KEPT:  # before the new one takes memory
            _pools.popitem(last=False)
        _pools[key] = domain.pool(size, channels)
    _pools.move_to_end(key)
    return _pools[key]


def load_split(domain: Domain, size: int, channels: int) -> Split:
    """Loads the images of a domain's split, decodes no others, and checks that their pixels make sense.

    Args:
        domain: the source and the sizes of its parts.
        size: height and width of the images, in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        InputError: the source is missing or has too few images, one of them is unreadable, or all are equal.
    """
    split = read_split(domain, size, channels)
    parts = (split.references, split.validation, split.heldout)
    check_pixels(domain.name, parts, pool_of(domain, size, channels))
    return split


def read_split(domain: Domain, size: int, channels: int) -> Split:
    """``load_split`` without the check of the pixels, for callers that check them later (``check_pixels``)."""
    pool = pool_of(domain, size, channels)
    check_sizes(domain, len(pool.names))
    check_contents(domain.name, pool)
    decoded: dict[int, Tensor] = {}
    unreadable: dict[int, str] = {}
    while True:
        try:
            parts = parts_of(domain, pool, unreadable.keys())
        except InputError as error:
            _require_readable(domain.name, decoded, unreadable)
            copies = f" (of {len(pool.names)} files {len(set(pool.contents or ()))} differ, and copies stay together)"
            raise InputError(f"{error}{copies if pool.repeated else ''}") from None
        missing = [index for part in parts for index in part if index not in decoded]
        failed = _decode(pool, missing, decoded)
        if not failed:
            break
        unreadable |= failed
    _require_readable(domain.name, decoded, unreadable)
    _report_skipped(domain.name, list(unreadable.values()))
    if pool.repeated:
        message = "domain=%s: %d images appear more than once: kept on the same side of the split"
        log.warning(message, domain.name, pool.repeated)
    r, v, h = (stack([decoded[i] for i in part], size, channels) for part in parts)
    r_names, v_names, h_names = (tuple(pool.names[i] for i in part) for part in parts)
    return Split(r, v, h, r_names, v_names, h_names, pool.fingerprint, len(unreadable))


def parts_of(domain: Domain, pool: Pool, exclude: Collection[int] = ()) -> tuple[list[int], list[int], list[int]]:
    """Indices of the domain's references, validation and held-out images in its pool (``split_pool``)."""
    sizes = (domain.references, domain.validation, domain.heldout)
    seeds, redraw = (domain.split_seed, domain.draw), domain.redraw_heldout
    return split_pool(pool, *sizes, *seeds, redraw=redraw, name=domain.name, exclude=exclude)


def check_sizes(domain: Domain, available: int) -> None:
    """Checks that ``available`` images are enough for the domain's split, before anything is decoded.

    Raises:
        InputError: too few images; the message has the numbers and the remedy.
    """
    check_counts(domain.name, available, domain.references, domain.validation, domain.heldout)


def _decode(pool: Pool, indices: Sequence[int], decoded: dict[int, Tensor]) -> dict[int, str]:
    """Decodes into ``decoded``; returns the indices of unreadable images that may be skipped, with the reasons."""
    if not pool.skip_unreadable:
        decoded.update(zip(indices, pool.load(indices), strict=True))
        return {}
    unreadable = {}
    for index in indices:
        try:
            decoded[index] = pool.load([index])[0]
        except InputError as error:
            unreadable[index] = str(error)
    return unreadable


def _require_readable(name: str, decoded: Mapping[int, Tensor], unreadable: Mapping[int, str]) -> None:
    """Refuses a domain of which images are unreadable and none could be decoded."""
    if unreadable and not decoded:
        first = next(iter(unreadable.values()))
        raise InputError(f"domain={name}: none of {len(unreadable)} images could be read; the first: {first}")


def _report_skipped(name: str, reasons: Sequence[str]) -> None:
    """Logs how many unreadable images were skipped, and names the first ones."""
    if reasons:
        more = f" and {len(reasons) - PER_LINE} more" if len(reasons) > PER_LINE else ""
        log.warning("domain=%s: %d unreadable skipped: %s%s", name, len(reasons), "; ".join(reasons[:PER_LINE]), more)


__getattr__ = new_names(__name__)
