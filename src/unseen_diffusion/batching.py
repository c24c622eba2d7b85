"""Rows through a network a batch at a time: a batch that does not fit into memory is halved and done again."""

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from unseen_diffusion.errors import InputError

log = logging.getLogger(__name__)

Made = TypeVar("Made")

# Where batch_size=auto starts. Larger ones gain nothing: a CPU is at its matrix rate from 32 images on.
AUTO = {"cuda": 256}
AUTO_ELSEWHERE = 64
# How allocators without an exception of their own say it (CPU, MPS).
SAYINGS = ("out of memory", "can't allocate memory", "not enough memory")


def start_size(batch_size: object, device: torch.device) -> int:
    """Images per network call to begin with; ``auto`` is a number per kind of device, so that runs agree.

    Raises:
        InputError: neither auto nor a whole number of 1 or more.
    """
    if batch_size == "auto":
        return AUTO.get(device.type, AUTO_ELSEWHERE)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size={batch_size}: give a whole number of 1 or more, or auto")
    return batch_size


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a smaller batch may help."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(saying in str(error) for saying in SAYINGS)


def in_batches(job: Callable[[slice], Made], count: int, size: int) -> Iterator[Made]:
    """``job(rows)`` for consecutive slices that cover ``count`` rows, ``size`` each at most.

    A job that runs out of memory is done again with half its rows, and so are all after it: jobs must have no lasting
    effect until they return.

    Raises:
        InputError: not even one row fits.
    """
    start = 0
    while start < count:
        rows = slice(start, min(start + size, count))
        try:
            made = job(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            made, size = None, (rows.stop - start) // 2
        if made is None:  # outside the handler, which keeps the failed job's tensors alive
            _release(size)
            continue
        yield made
        start = rows.stop


def _release(size: int) -> None:
    """Hands cached memory back, and says what happens next."""
    if size < 1:
        raise InputError(
            "out of memory with one image at a time: free memory, choose another device or model.dtype=bfloat16"
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory: going on with batches of %d", size)


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Rows on a device; to CUDA through pinned memory, without waiting for the copy."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)
