"""Rows through a network a batch at a time: a batch that does not fit into memory is halved and done again."""

import gc
import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

Made = TypeVar("Made")

# Where batch_size=auto starts. Larger ones gain nothing: a CPU is at its matrix rate from 32 images on.
AUTO = {"cuda": 256}
AUTO_ELSEWHERE = 64
# How allocators without an exception of their own say it (CPU, MPS).
SAYINGS = ("out of memory", "can't allocate memory", "not enough memory")


class BatchSize:
    """Images per network call for all calls that share it: once memory ran out, it stays smaller for those that follow.

    Attributes:
        size: images at most.

    Raises:
        InputError: below 1.
    """

    def __init__(self, size: int):
        if size < 1:
            raise InputError(f"batch_size={size}: give 1 or more images at a time")
        self.size = size


Size = int | BatchSize


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


def in_batches(job: Callable[[slice], Made], count: int, size: Size) -> Iterator[Made]:
    """``job(rows)`` for consecutive slices that cover ``count`` rows, ``size`` each at most.

    A job that runs out of memory is done again with half its rows, and so are all after it, those of later calls with
    the same ``BatchSize`` included: jobs must have no lasting effect until they return.

    Raises:
        InputError: not even one row fits, or a size below 1.
    """
    start, most = 0, size if isinstance(size, BatchSize) else BatchSize(size)
    while start < count:
        rows = slice(start, min(start + most.size, count))
        try:
            made = job(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            made = None
        if made is None:  # outside the handler, which keeps the failed job's tensors alive
            most.size = _release((rows.stop - start) // 2)
            continue
        yield made
        start = rows.stop


def _release(size: int) -> int:
    """Hands cached memory back, and says what happens next: batches of ``size``, which is returned."""
    if size < 1:
        raise InputError(
            "out of memory with one image at a time: free memory, choose another device or model.dtype=bfloat16"
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory: going on with batches of %d", size)
    return size
