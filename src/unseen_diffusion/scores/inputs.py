"""The checks that every score runs on its features before it computes anything, and block sizes."""

import torch
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

_ENTRIES = 1 << 22  # of a pairwise matrix in memory at a time: 32 MB of float64


def as_features(features: Tensor, name: str, minimum: int) -> Tensor:
    """Checks features (N, d) of any real dtype and returns them as float64 on the CPU.

    Raises:
        InputError: not a matrix, no features, fewer than ``minimum`` images, or a value that is not finite.
    """
    if features.ndim != 2:
        raise InputError(f"{name}: shape {tuple(features.shape)}; give a matrix (images, dimensions)")
    count, dimension = features.shape
    if count < minimum:
        raise InputError(f"{name}: {count} image{'s' * (count != 1)}; this score needs at least {minimum}")
    if dimension == 0:
        raise InputError(f"{name}: features of dimension 0; choose an extractor that returns numbers")
    features = features.detach().to("cpu", torch.float64)
    broken = int((~features.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(f"{name}: {broken} of {count} images have non-finite features; extract in float32")
    return features


def as_pair(x: Tensor, y: Tensor, names: tuple[str, str], minimum: int) -> tuple[Tensor, Tensor]:
    """``as_features`` of two sets, which must have the same dimension.

    Raises:
        InputError: as ``as_features``, or the dimensions differ.
    """
    x, y = as_features(x, names[0], minimum), as_features(y, names[1], minimum)
    if x.shape[1] != y.shape[1]:
        raise InputError(
            f"{names[0]} has {x.shape[1]} feature dimensions and {names[1]} has {y.shape[1]}; "
            "extract both with the same extractor"
        )
    return x, y


def require_count(name: str, count: int) -> None:
    """Raises InputError where the number of permutations, simulations or directions is below 1."""
    if count < 1:
        raise InputError(f"{name}={count}: give 1 or more, e.g. 999")


def attained_rank(count: int, level: float) -> int:
    """k = floor(level (M + 1)): new values are below the k-th smallest of M with probability k / (M + 1) <= level."""
    return int(level * (count + 1) + 1e-9)  # 0.29 * 100 is 28.999999999999996


def rows_at_a_time(block: int | None, columns: int) -> int:
    """Rows of a pairwise matrix in memory at a time: ``block``, or as many as 32 MB hold where it is None.

    Raises:
        InputError: ``block`` below 1.
    """
    if block is None:
        return max(1, _ENTRIES // columns)
    if block < 1:
        raise InputError(f"block={block}: give a number of rows of 1 or more")
    return block
