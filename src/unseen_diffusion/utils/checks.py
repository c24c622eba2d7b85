"""Checks that numbers are finite before they become results."""

from collections.abc import Sequence

import torch
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

SHOWN = 5  # rows that a message names


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor has neither NaN nor infinity, by one reduction."""
    return bool(tensor.isfinite().all())


def require_finite(what: str, tensor: Tensor, remedy: str, numbers: Sequence[int] | None = None) -> None:
    """Checks that every row of ``tensor`` (n, ...) is finite.

    Args:
        what: what the rows are, for the message.
        tensor: any dtype, on any device.
        remedy: what to change.
        numbers: the number of each row, for the message; by default 0, 1, 2, ...

    Raises:
        InputError: NaN or infinity in some rows; it names the first of them.
    """
    if is_finite(tensor):
        return
    if tensor.ndim == 0:
        raise InputError(f"{what}: not finite; {remedy}")
    broken = broken_rows(tensor)
    names = broken if numbers is None else [numbers[row] for row in broken]
    raise InputError(f"{what}: {rows_named(names, len(tensor))} not finite; {remedy}")


def broken_rows(tensor: Tensor) -> list[int]:
    """Rows of ``tensor`` (n, ...) with NaN or infinity."""
    finite = tensor.reshape(len(tensor), -1).isfinite().all(1)
    return torch.nonzero(~finite).flatten().tolist()


def rows_named(names: Sequence[int], count: int) -> str:
    """``3 of 64 (rows 0, 5, 9) are``, with the first few rows."""
    shown = ", ".join(map(str, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
    return f"{len(names)} of {count} (row{'s' * (len(names) > 1)} {shown}) {'are' if len(names) > 1 else 'is'}"
