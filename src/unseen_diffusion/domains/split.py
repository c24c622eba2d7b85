"""Splits a pool into references R, validation images V and held-out images H; seeds alone decide."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from unseen_diffusion.domains.pools import Pool
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SHARES = {"references": 0.5, "validation": 0.15, "heldout": 0.35}  # of the pool, where a size is None
LABELS = {"references": "references", "validation": "validation images", "heldout": "held-out images"}


@dataclass(frozen=True)
class Split:
    """References R, validation V and held-out H, which share no image and no pixel of a picture.

    Attributes:
        references, validation, heldout: (n, channels, size, size) uint8, 0..255.
        reference_names, validation_names, heldout_names: the pool's names of the same images.
        fingerprint: the pool's, so that results can be traced to the images.
        skipped: number of unreadable images that were replaced (0 where they are errors).
    """

    references: UInt8[Tensor, "r channels size size"]
    validation: UInt8[Tensor, "v channels size size"]
    heldout: UInt8[Tensor, "h channels size size"]
    reference_names: tuple[str, ...]
    validation_names: tuple[str, ...]
    heldout_names: tuple[str, ...]
    fingerprint: str
    skipped: int = 0


def split_pool(
    pool: Pool,
    references: int | None,
    validation: int | None,
    heldout: int | None,
    split_seed: int,
    draw: int,
    *,
    redraw: bool = False,
    name: str = "pool",
    exclude: Collection[int] = (),
) -> tuple[list[int], list[int], list[int]]:
    """Splits a pool into indices of R, V and H.

    ``split_seed`` alone orders the pool, and H is the beginning of that order. ``draw`` orders the remaining images: R
    is taken from the beginning and V from the end. So neither depends on the other's size, and a smaller R is a prefix
    of a larger one. Cut-outs with common pixels, and equal images, form clusters, which stay together in every order.
    If a part uses a cluster in part, the rest of the cluster is left out of the other parts.

    With ``redraw``, every draw has an H of its own, and draws share no image as long as the pool lasts.

    Args:
        pool: the images.
        references: size of R; None takes its share of the pool (see ``SHARES``), or what is left if that is less.
        validation: size of V, likewise.
        heldout: size of H, likewise.
        split_seed: decides H, or with ``redraw`` the order of the pool.
        draw: decides R and V among the remaining images.
        redraw: whether the draw decides H too.
        name: the domain's, for messages.
        exclude: indices of unreadable images; the next ones in the order take their places.

    Returns:
        Indices of R, V and H.

    Raises:
        InputError: too few images; the message has the numbers and the remedy.
    """
    sizes = Sizes(references, validation, heldout)
    clusters = clusters_of(pool)
    if redraw:
        return _redrawn(clusters, sizes, split_seed, draw, name, exclude)
    usable = [i for i in _order(clusters, range(len(clusters)), split_seed, "heldout") if i not in exclude]
    want_h, want_v, want_r = sizes.of(len(clusters))
    sizes.require(name, "heldout", want_h, len(usable), "of all readable images")
    h = usable[:want_h]
    rest = _without(clusters, usable, h)
    rest = _order(clusters, sorted(rest), split_seed, "references", draw)
    sizes.require(name, "validation", want_v, len(rest), f"after {len(h)} held-out images")
    v = rest[len(rest) - min(want_v, len(rest)) :][::-1]
    rest = _without(clusters, rest, v)
    sizes.require(name, "references", want_r, len(rest), _after(h, v))
    return rest[:want_r], v, h


@dataclass(frozen=True)
class Sizes:
    """The sizes that were asked for; None takes a share of the pool, or what is left if that is less."""

    references: int | None
    validation: int | None
    heldout: int | None

    def of(self, total: int) -> tuple[int, int, int]:
        """Sizes of H, V and R in a pool of ``total`` images."""
        return _sizes(total, self.references, self.validation, self.heldout)

    def require(self, name: str, part: str, asked: int, left: int, after: str) -> None:
        """Refuses a size that was given and of which too few images are left; a share of the pool may be short."""
        if getattr(self, part) is not None:
            _require(name, part, asked, left, after)


def _redrawn(
    clusters: NDArray[np.int64], sizes: Sizes, split_seed: int, draw: int, name: str, exclude: Collection[int]
) -> tuple[list[int], list[int], list[int]]:
    """R, V and H of a draw that shares no image with others as long as the pool lasts.

    A random order of the pool is divided into as many draws as fit into it, each H, V and R in this order; the next
    draws come from the next order. The first order says how many fit. Where clusters leave another order too little,
    the draw begins an order of its own.
    """

    def left(*stream: str | int) -> list[int]:
        order = _order(clusters, range(len(clusters)), split_seed, "draws", *stream)
        return [index for index in order if index not in exclude]

    wanted = sizes.of(len(clusters))
    fit = len(_blocks(clusters, left(0), wanted))
    found = _blocks(clusters, left(draw // fit), wanted) if fit else []
    if fit and draw % fit < len(found):
        h, v, r = found[draw % fit]
        return r, v, h
    rest = left("alone", draw)
    sizes.require(name, "heldout", wanted[0], len(rest), "of all readable images")
    h, rest = _take(clusters, rest, wanted[0])
    sizes.require(name, "validation", wanted[1], len(rest), f"after {len(h)} held-out images")
    v, rest = _take(clusters, rest, wanted[1])
    sizes.require(name, "references", wanted[2], len(rest), _after(h, v))
    return rest[: wanted[2]], v, h


def _blocks(clusters: NDArray[np.int64], left: list[int], wanted: tuple[int, int, int]) -> list[list[list[int]]]:
    """The images of an order divided into parts of the wanted sizes, as often as they last; no parts of no images."""
    blocks: list[list[list[int]]] = []
    while sum(wanted):
        parts = []
        for want in wanted:
            part, left = _take(clusters, left, want)
            parts.append(part)
        if tuple(map(len, parts)) != wanted:
            break
        blocks.append(parts)
    return blocks


def _take(clusters: NDArray[np.int64], left: list[int], want: int) -> tuple[list[int], list[int]]:
    """The first images of a list, and the rest without their clusters."""
    return left[:want], _without(clusters, left, left[:want])


def _after(h: Sequence[int], v: Sequence[int]) -> str:
    return f"after {len(h)} held-out and {len(v)} validation images"


def check_counts(
    name: str, available: int, references: int | None, validation: int | None, heldout: int | None
) -> None:
    """Checks that a number of images is enough for R, V and H, before anything is decoded.

    Args:
        name: the domain's, for messages.
        available: number of images in the pool.
        references: size of R; None takes its share.
        validation: size of V, likewise.
        heldout: size of H, likewise.

    Raises:
        InputError: too few images; the message has the numbers and the remedy.
    """
    want_h, want_v, want_r = _sizes(available, references, validation, heldout)
    _require(name, "heldout", want_h, available, "of all images")
    _require(name, "validation", want_v, available - want_h, f"after {want_h} held-out images")
    after = f"after {want_h} held-out and {want_v} validation images"
    _require(name, "references", want_r, available - want_h - want_v, after)


def _sizes(total: int, references: int | None, validation: int | None, heldout: int | None) -> tuple[int, int, int]:
    """Sizes of H, V and R; None becomes its share of ``total``, or what the given sizes leave if that is less."""
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
    """Refuses to take ``asked`` images where ``left`` remain."""
    if asked > left:
        raise InputError(
            f"domain={name}: {asked} {LABELS[part]} requested, but {left} are left {after}; "
            f"set domain.{part}={left} or less"
        )


def clusters_of(pool: Pool) -> NDArray[np.int64]:
    """A cluster number per image: equal images, chains of overlapping boxes, and images of one named cluster share one.

    Splits keep clusters together, and permutation tests relabel them as a whole.
    """
    numbers = _by_content_or_box(pool)
    if pool.clusters is None:
        return numbers
    links = [(numbers.tolist(), "image"), (list(pool.clusters), "cluster")]
    first: dict[tuple[str, int | str], int] = {}
    edges = [(first.setdefault((kind, key), index), index) for keys, kind in links for index, key in enumerate(keys)]
    rows, columns = np.array(edges).T
    graph = coo_array((np.ones(len(edges)), (rows, columns)), shape=(len(numbers), len(numbers)))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _by_content_or_box(pool: Pool) -> NDArray[np.int64]:
    """A number per image: equal encoded images share one, or chains of overlapping boxes."""
    if pool.contents is not None:
        # Equal images share the number of the last one, so that an added copy changes no other number.
        numbers = {content: index for index, content in enumerate(pool.contents)}
        return np.array([numbers[content] for content in pool.contents], dtype=np.int64)
    if pool.boxes is None:
        return np.arange(len(pool.names))
    top, left, bottom, right = (pool.boxes[:, [k]] for k in range(4))
    overlap = (top < bottom.T) & (bottom > top.T) & (left < right.T) & (right > left.T)
    return np.asarray(connected_components(overlap, directed=False)[1], dtype=np.int64)


def _order(clusters: NDArray[np.int64], indices: Sequence[int], seed: int, *stream: str | int) -> list[int]:
    """``indices`` in random order, whole clusters at a time.

    Every cluster number gets a position, even if its images are left out, so that this never reorders the others.
    """
    count = int(clusters.max()) + 1 if len(clusters) else 0
    rank = torch.randperm(count, generator=generator(seed, "split", *stream)).tolist()
    return sorted(indices, key=lambda index: (rank[clusters[index]], index))


def _without(clusters: NDArray[np.int64], indices: Sequence[int], taken: Sequence[int]) -> list[int]:
    """``indices`` without the clusters of the ``taken`` images."""
    gone = {int(clusters[index]) for index in taken}
    return [index for index in indices if int(clusters[index]) not in gone]
