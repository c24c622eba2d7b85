"""What every domain shares: an ordered pool of images and its seeded split into R, V and H."""

import json
import logging
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unseen_diffusion.utils import images
from unseen_diffusion.utils.digests import array_digest, digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

log = logging.getLogger(__name__)

SHARES = {"references": 0.5, "validation": 0.15, "heldout": 0.35}  # of the pool, where a size is None
LABELS = {"references": "references", "validation": "validation images", "heldout": "held-out images"}
SPLITTING = (*SHARES, "split_seed", "draw")  # fields of a domain that its pool does not depend on
PER_LINE = 5  # unreadable images that one message names
KEPT = 2  # pools in memory, which may hold the encoded images


@dataclass(frozen=True)
class Pool:
    """Ordered images of a domain, decoded on demand.

    Attributes:
        names: stable and unique, one per image.
        load: indices -> (n, channels, size, size) uint8, in the order of the indices.
        fingerprint: SHA-256, hexadecimal, of all that determines the images.
        boxes: (n, 4) int64, top, left, bottom and right (exclusive) in source pixels, where the images are
            cut-outs of one picture; images with overlapping boxes never land in different parts of a split.
        skip_unreadable: an image that ``load`` refuses is replaced by the next one instead of being an error.
        contents: a digest per image of what it is encoded in, where that is known before decoding; equal images never
            land in different parts of a split.
    """

    names: tuple[str, ...]
    load: Callable[[Sequence[int]], Tensor]
    fingerprint: str
    boxes: NDArray[np.int64] | None = None
    skip_unreadable: bool = False
    contents: tuple[str, ...] | None = None

    @property
    def repeated(self) -> int:
        """How many images the pool has more than once."""
        return sum(count > 1 for count in Counter(self.contents or ()).values())


@dataclass(frozen=True)
class Split:
    """References R, validation V and held-out H: they never share an image, nor pixels of one picture.

    Attributes:
        references, validation, heldout: (n, channels, size, size) uint8, 0..255.
        reference_names, validation_names, heldout_names: the pool's names of the same images.
        fingerprint: the pool's, so that results can be traced to the images.
        skipped: unreadable images that were met and replaced (0 where they are errors).
    """

    references: UInt8[Tensor, "r channels size size"]
    validation: UInt8[Tensor, "v channels size size"]
    heldout: UInt8[Tensor, "h channels size size"]
    reference_names: tuple[str, ...]
    validation_names: tuple[str, ...]
    heldout_names: tuple[str, ...]
    fingerprint: str
    skipped: int = 0


@dataclass(frozen=True, kw_only=True)
class Domain(ABC):
    """A source of images and how it is split; instantiated by Hydra from ``conf/domain/NAME.yaml``.

    Attributes:
        name: what reports and error messages call it.
        source: one line: where the images come from.
        licence: one line: under which terms.
        references, validation, heldout: sizes of R, V and H; None takes 50, 15 and 35 % of what there is.
        split_seed: decides H.
        draw: decides which of the remaining images are R and which V: several draws share one H.
    """

    name: str
    source: str
    licence: str
    references: int | None = None
    validation: int | None = None
    heldout: int | None = None
    split_seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        for part in SHARES:
            value = getattr(self, part)
            if value is not None and value < 0:
                raise InputError(f"domain.{part}={value}: give 0 or more images (null: a share of all)")

    @abstractmethod
    def pool(self, size: int, channels: int) -> Pool:
        """The domain's images at (channels, size, size); cheap, for nothing is decoded yet.

        Raises:
            InputError: the source is missing, unreachable or empty.
        """

    def state(self) -> Hashable:
        """What would differ if the source had changed since it was read, cheap to find out; None: read it anew.

        Raises:
            InputError: the source is missing or empty.
        """
        return None


_pools: OrderedDict[Hashable, Pool] = OrderedDict()  # of this process, the last used at the end


def pool_of(domain: Domain, size: int, channels: int) -> Pool:
    """The domain's pool; those last used are kept while their sources are as they were, for reading may be slow.

    Raises:
        InputError: the source is missing, unreachable or empty.
    """
    state = domain.state()
    if state is None:
        return domain.pool(size, channels)
    fields = {key: value for key, value in vars(domain).items() if key not in SPLITTING}
    key = (type(domain), repr(fields), state, size, channels)
    if key not in _pools:
        while len(_pools) >= KEPT:  # before the new one takes its memory
            _pools.popitem(last=False)
        _pools[key] = domain.pool(size, channels)
    _pools.move_to_end(key)
    return _pools[key]


def load_split(domain: Domain, size: int, channels: int) -> Split:
    """The split's images, decoding no others.

    Args:
        domain: the source and the sizes of its parts.
        size: height and width of the images, in pixels.
        channels: 1 (grey) or 3 (RGB).

    Raises:
        InputError: the source is missing or has too few images, or one of them is unreadable.
    """
    pool = pool_of(domain, size, channels)
    check_sizes(domain, len(pool.names))
    decoded: dict[int, Tensor] = {}
    unreadable: dict[int, str] = {}
    while True:
        parts = split_pool(
            pool,
            domain.references,
            domain.validation,
            domain.heldout,
            domain.split_seed,
            domain.draw,
            name=domain.name,
            exclude=unreadable.keys(),
        )
        missing = [index for part in parts for index in part if index not in decoded]
        found = _decode(pool, missing, decoded)
        if not found:
            break
        unreadable |= found
    _report_skipped(domain.name, list(unreadable.values()))
    if pool.repeated:
        message = "domain=%s: %d images appear more than once: kept on the same side of the split"
        log.warning(message, domain.name, pool.repeated)
    r, v, h = (_stack([decoded[i] for i in part], size, channels) for part in parts)
    r_names, v_names, h_names = (tuple(pool.names[i] for i in part) for part in parts)
    return Split(r, v, h, r_names, v_names, h_names, pool.fingerprint, len(unreadable))


def check_sizes(domain: Domain, available: int) -> None:
    """Checks the sizes asked against a number of images, before anything is decoded.

    Raises:
        InputError: too few images; the message has the numbers and the remedy.
    """
    heldout, validation, references = _sizes(available, domain.references, domain.validation, domain.heldout)
    _require(domain.name, "heldout", heldout, available, "of all images")
    left = available - heldout
    _require(domain.name, "validation", validation, left, f"after {heldout} held-out images")
    after = f"after {heldout} held-out and {validation} validation images"
    _require(domain.name, "references", references, left - validation, after)


def split_pool(
    pool: Pool,
    references: int | None,
    validation: int | None,
    heldout: int | None,
    split_seed: int,
    draw: int,
    *,
    name: str = "pool",
    exclude: Collection[int] = (),
) -> tuple[list[int], list[int], list[int]]:
    """Splits a pool into indices of R, V and H.

    H is the beginning of an order that ``split_seed`` alone decides. ``draw`` orders what is left: R is taken
    from its beginning and V from its end, so neither depends on the other's size, and a smaller R is a prefix
    of a larger one. Cut-outs with common pixels, and equal images, are neighbours in every order; the rest of a
    cluster that a part does not use up is given to no other part.

    Args:
        pool: the images.
        references: size of R; None takes a share (see ``SHARES``) or what is left, if less.
        validation: size of V, likewise.
        heldout: size of H, likewise.
        split_seed: decides H.
        draw: decides R and V among the rest.
        name: the domain's, for messages.
        exclude: indices to leave out (unreadable images); the next ones in the order take their places.

    Returns:
        Indices of R, V and H.

    Raises:
        InputError: too few images; the message has the numbers and the remedy.
    """
    want_h, want_v, want_r = _sizes(len(pool.names), references, validation, heldout)
    clusters = _clusters(pool)
    usable = [i for i in _order(clusters, range(len(clusters)), split_seed, "heldout") if i not in exclude]
    if heldout is not None:
        _require(name, "heldout", want_h, len(usable), "of all readable images")
    h = usable[:want_h]
    rest = _without(clusters, usable, h)
    rest = _order(clusters, sorted(rest), split_seed, "references", draw)
    if validation is not None:
        _require(name, "validation", want_v, len(rest), f"after {len(h)} held-out images")
    v = rest[len(rest) - min(want_v, len(rest)) :][::-1]
    rest = _without(clusters, rest, v)
    if references is not None:
        after = f"after {len(h)} held-out and {len(v)} validation images"
        _require(name, "references", want_r, len(rest), after)
    return rest[:want_r], v, h


def fingerprint(**parts: Any) -> str:
    """SHA-256, hexadecimal, of JSON values in canonical form, and of how images are converted."""
    text = json.dumps({"preprocessing": images.PREPROCESSING, **parts}, sort_keys=True, allow_nan=False)
    return digest(text)


def array_pool(names: Sequence[str], arrays: Sequence[NDArray[Any]], size: int, channels: int, **parts: Any) -> Pool:
    """A pool of arrays in memory: (H, W, 1 or 3) each, values in 0..255, fitted to ``size`` on demand.

    Args:
        names: one per array.
        arrays: the images.
        size: height and width that the pool gives.
        channels: 1 or 3.
        parts: JSON values that enter the fingerprint beside names, values, size and channels.
    """

    def load(indices: Sequence[int]) -> Tensor:
        return _stack([images.fit(arrays[i], size, channels) for i in indices], size, channels)

    digests = [array_digest(array) for array in arrays]
    return Pool(
        tuple(names),
        load,
        fingerprint(names=list(names), arrays=digests, size=size, channels=channels, **parts),
    )


def _sizes(total: int, references: int | None, validation: int | None, heldout: int | None) -> tuple[int, int, int]:
    """Sizes of H, V and R; None becomes its share of ``total``, or what the explicit sizes leave, if less."""
    asked = {"heldout": heldout, "validation": validation, "references": references}
    left = max(0, total - sum(value for value in asked.values() if value is not None))
    sizes = []
    for part, value in asked.items():
        if value is None:
            value = min(left, int(total * SHARES[part]))
            left -= value
        sizes.append(value)
    return sizes[0], sizes[1], sizes[2]


def _require(name: str, part: str, asked: int, left: int, after: str) -> None:
    if asked > left:
        raise InputError(
            f"domain={name}: {asked} {LABELS[part]} asked, but {left} are left {after}; "
            f"set domain.{part}={left} or less"
        )


def _clusters(pool: Pool) -> NDArray[np.int64]:
    """A cluster number per image; images share one if they are equal, or a chain of overlapping boxes joins them."""
    if pool.contents is not None:
        numbers = {content: index for index, content in enumerate(pool.contents)}  # the last one's: others keep theirs
        return np.array([numbers[content] for content in pool.contents], dtype=np.int64)
    if pool.boxes is None:
        return np.arange(len(pool.names))
    top, left, bottom, right = (pool.boxes[:, [k]] for k in range(4))
    overlap = (top < bottom.T) & (bottom > top.T) & (left < right.T) & (right > left.T)
    return np.asarray(connected_components(overlap, directed=False)[1], dtype=np.int64)


def _order(clusters: NDArray[np.int64], indices: Sequence[int], seed: int, *stream: str | int) -> list[int]:
    """``indices`` in random order, whole clusters at a time.

    Every cluster number draws its place, present or not: leaving images out never reorders the others.
    """
    count = int(clusters.max()) + 1 if len(clusters) else 0
    rank = torch.randperm(count, generator=generator(seed, "split", *stream)).tolist()
    return sorted(indices, key=lambda index: (rank[clusters[index]], index))


def _without(clusters: NDArray[np.int64], indices: Sequence[int], taken: Sequence[int]) -> list[int]:
    """``indices`` less those in a cluster of which an image is taken."""
    gone = {int(clusters[index]) for index in taken}
    return [index for index in indices if int(clusters[index]) not in gone]


def _decode(pool: Pool, indices: Sequence[int], decoded: dict[int, Tensor]) -> dict[int, str]:
    """Decodes into ``decoded``; returns the unreadable indices and why, if they may be skipped."""
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


def _report_skipped(name: str, reasons: Sequence[str]) -> None:
    if reasons:
        more = f" and {len(reasons) - PER_LINE} more" if len(reasons) > PER_LINE else ""
        log.warning("domain=%s: %d unreadable skipped: %s%s", name, len(reasons), "; ".join(reasons[:PER_LINE]), more)


def _stack(tensors: Sequence[Tensor], size: int, channels: int) -> Tensor:
    """Like ``images.stack``, and an empty list is (0, channels, size, size)."""
    return images.stack(tensors) if tensors else torch.empty((0, channels, size, size), dtype=torch.uint8)
