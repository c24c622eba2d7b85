"""Nearest neighbours of feature sets, from matrix products in blocks.

|x - y|^2 = |x|^2 - 2 x.y + |y|^2 is a matrix product, ten times faster than the differences, but its rounding error is
that of |x|^2 + |y|^2. So ``nearer`` compares distances and treats those within the error as ties: results depend
neither on the block size nor on the order of summation, and duplicates stay duplicates.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from unseen_diffusion.scores.inputs import rows_at_a_time
from unseen_diffusion.utils.errors import InputError

RESOLUTION = 1e-12  # of |x|^2 + |y|^2: above the rounding of float64 products, far below that of float32 features


class Squares(NamedTuple):
    """Squared distances of some rows to all of y: values (b, m) and the margin (b, m) within which they are ties."""

    rows: slice
    values: Tensor
    margin: Tensor


def squared_distances(x: Tensor, y: Tensor, block: int | None = None) -> Iterator[Squares]:
    """Squared Euclidean distances of x (N, d) to y (M, d), float64, some rows of x at a time.

    Centre both sets first if their mean is far from the origin: the margin grows with the norms.
    """
    norms_x, norms_y = x.square().sum(1), y.square().sum(1)
    size = rows_at_a_time(block, len(y))
    for start in range(0, len(x), size):
        rows = slice(start, min(start + size, len(x)))
        norms = norms_x[rows, None] + norms_y
        yield Squares(rows, (norms - 2 * x[rows] @ y.T).clamp(min=0), RESOLUTION * norms)


def nearer(values: Tensor, radii: Tensor, margin: Tensor | float) -> Bool[Tensor, "..."]:
    """Whether squared distances are below squared radii by more than the rounding error."""
    return values < radii - margin


def neighbour_squares(x: Tensor, y: Tensor | None, k: int, block: int | None = None) -> Float64[Tensor, "n"]:
    """Squared distance (N,) from x (N, d) to its k-th nearest neighbour in y (M, d), or in the rest of x.

    Args:
        x: features, float64.
        y: other features; None leaves each image out of its own neighbours.
        k: 1 for the nearest.
        block: rows at a time; no result depends on it.

    Raises:
        InputError: ``k`` below 1, or fewer than k neighbours.
    """
    available = len(x) - 1 if y is None else len(y)
    if k < 1:
        raise InputError(f"k={k}: give a number of neighbours of 1 or more, e.g. 5")
    if available < k:
        raise InputError(f"{available} neighbours for k={k}: this score needs {k} beside each image; take more images")
    found = []
    for squares in squared_distances(x, x if y is None else y, block):
        if y is None:
            squares.values.diagonal(squares.rows.start).fill_(torch.inf)
        found.append(squares.values.kthvalue(k, dim=1).values)
    return torch.cat(found)
