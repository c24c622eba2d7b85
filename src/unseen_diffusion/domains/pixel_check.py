"""A check of decoded images for pixels that collapsed: a wrong range leaves few grey levels and plausible scores."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from unseen_diffusion.domains.pools import Pool
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

FEW_LEVELS = 32  # of 256
EDGE = 32  # grey levels from black or white within which nearly all pixels lie
NEARLY_ALL = 0.999  # share of pixels
ALIKE = 1.0  # mean over pixels of the standard deviation across images, in grey levels
REPEATED = 0.5  # share of images that are copies of others
ENLARGED = 0.75  # files whose smaller side is below this share of the size have no detail at the scale of a pixel
DOMAIN_WIDE = ("levels", "dark", "bright", "alike")


def check_contents(name: str, pool: Pool) -> None:
    """Refuses files that are copies of one image, before a split keeps them together and leaves its parts empty.

    Raises:
        InputError: all files are equal.
    """
    if len(pool.names) > 1 and pool.contents and len(set(pool.contents)) == 1:
        raise InputError(f"domain={name}: all {len(pool.names)} images are equal; give different images")


def check_pixels(name: str, tensors: Sequence[Tensor], pool: Pool) -> None:
    """Logs one warning that lists what is suspicious about a domain's decoded images; see ``judge_pixels``.

    Raises:
        InputError: there are several images and all are equal, so that nothing can be learned.
    """
    if line := judge_pixels(name, tensors, pool):
        log.warning("%s", line)


def judge_pixels(name: str, tensors: Sequence[Tensor], pool: Pool | None) -> str:
    """One line that lists what is suspicious about decoded images; empty where nothing is.

    Args:
        name: the domain's, for messages.
        tensors: (n, channels, size, size) uint8 each, e.g. references, validation and held-out images.
        pool: where they come from; names the range that was used and the sizes of the files. None: not known.

    Raises:
        InputError: there are several images and all are equal, so that nothing can be learned.
    """
    parts = [tensor for tensor in tensors if len(tensor)]
    if not parts:
        return ""
    images, levels = torch.cat(parts), pool.levels if pool else None
    used = f"; {levels.described()}" if levels else ""
    if len(images) > 1 and bool((images == images[:1]).all()):
        value = f" (every pixel is {int(images[0].min())})" if images[0].min() == images[0].max() else ""
        remedy = f"{levels.remedy()}, or give other images" if levels else "change the domain's settings"
        raise InputError(f"domain={name}: all {len(images)} images are equal once decoded{value}{used}; {remedy}")
    found = findings(images, pool)
    if not found:
        return ""
    ranged = levels is not None and any(one in DOMAIN_WIDE for one in found)
    remedy = f"{used}; {levels.remedy()} if this is wrong" if levels and ranged else ""
    return f"domain={name}: look at the images: {', '.join(found.values())}{remedy}"


def findings(images: Tensor, pool: Pool | None) -> dict[str, str]:
    """What is suspicious about images (n, channels, size, size) uint8: a keyword and a phrase for each finding."""
    found: dict[str, str] = {}
    count = len(images)
    histogram = sum(
        (torch.bincount(rows.flatten(), minlength=256) for rows in images.split(64)),
        torch.zeros(256, dtype=torch.int64),
    )
    present = histogram.nonzero().flatten().tolist()
    shares = histogram.cumsum(0) / histogram.sum()
    if len(present) <= FEW_LEVELS:
        found["levels"] = f"only {len(present)} grey levels ({present[0]} to {present[-1]} of 0 to 255)"
    if shares[EDGE - 1] >= NEARLY_ALL:
        found["dark"] = f"nearly black ({100 * shares[EDGE - 1]:.1f} % of the pixels are below {EDGE})"
    if 1 - shares[255 - EDGE] >= NEARLY_ALL:
        found["bright"] = f"nearly white ({100 * (1 - shares[255 - EDGE]):.1f} % of the pixels are above {255 - EDGE})"
    flat = images.flatten(1)
    constant = int((flat.amin(1) == flat.amax(1)).sum())
    if constant:
        found["constant"] = f"{constant} of {count} images have one value only"
    distinct = len({digest(row.numpy().tobytes()) for row in flat})
    if count - distinct > REPEATED * count:
        found["alike"] = f"only {distinct} of {count} images differ"
    elif count > 1 and float(_spread(flat)) < ALIKE:
        found["alike"] = "all images are nearly alike"
    if text := _enlarged(images, pool):
        found["enlarged"] = text
    return found


def _spread(flat: Tensor) -> Tensor:
    """Mean over pixels of the standard deviation across images (n, pixels)."""
    total, squares = torch.zeros(flat.shape[1]).double(), torch.zeros(flat.shape[1]).double()
    for rows in flat.split(256):
        total += rows.double().sum(0)
        squares += rows.double().square().sum(0)
    mean = total / len(flat)
    return (squares / len(flat) - mean.square()).clamp(min=0).sqrt().mean()


def _enlarged(images: Tensor, pool: Pool | None) -> str:
    """Says that images were smaller than the size that they have now, or consist of repeated pixels; else empty."""
    size = images.shape[-1]
    sides = (pool.sides if pool else None) or ()
    small = [side for side in sides if side < ENLARGED * size]
    if small:
        return f"{len(small)} of {len(sides)} files are enlarged to {size} pixels (the smallest has {min(small)})"
    even = images[..., : size // 2 * 2, : size // 2 * 2]
    blocks = even.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    varied = (images.flatten(1).amin(1) != images.flatten(1).amax(1)).any()
    if size > 1 and varied and bool((blocks == blocks[..., :1, :, :1]).all()):
        return "every pixel is repeated 2 by 2: the files were enlarged before"
    return ""
