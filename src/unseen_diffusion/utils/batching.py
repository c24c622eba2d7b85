"""Batches of rows for a network: a batch that does not fit into memory is halved and computed again."""

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar

import torch

from unseen_diffusion.utils.checked import Count, checked_value
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# First batch size of batch_size=auto. Larger ones are no faster: a CPU reaches its full rate with 32 images.
AUTO = {"cuda": 256}
AUTO_ELSEWHERE = 64
# Messages of allocators that have no exception of their own (CPU, MPS).
MESSAGES = ("out of memory", "can't allocate memory", "not enough memory")


class BatchSize:
    """Images per network call, shared by several calls: after memory ran out, it stays smaller for all later calls.

    Attributes:
        size: images at most.
        fixed: never smaller, since another size changes the last bits of results: lack of memory is an error.

    Raises:
        InputError: below 1.
    """

    def __init__(self, size: int, fixed: bool = False):
        if size < 1:
            raise InputError(f"batch_size={size}: give 1 or more images at a time")
        self.size, self.fixed = size, fixed


Size = int | BatchSize


def start_size(batch_size: object, device: torch.device) -> int:
    """Images per network call at first; ``auto`` depends only on the kind of device, so that runs make equal batches.

    Raises:
        InputError: neither auto nor a whole number of 1 or more.
    """
    if batch_size == "auto":
        return AUTO.get(device.type, AUTO_ELSEWHERE)
    return checked_value("batch_size", batch_size, Count | Literal["auto"])


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, so that a smaller batch may work."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES)


def in_batches(job: Callable[[slice], Result], count: int, size: Size) -> Iterator[Result]:
    """Yields ``job(rows)`` for consecutive slices of at most ``size`` rows that cover ``count`` rows.

    A job that runs out of memory is repeated with half its rows. All later jobs get as few, also in later calls with
    the same ``BatchSize``. A job must therefore have no lasting effect before it returns.

    Raises:
        InputError: not even one row fits, a ``fixed`` size does not fit, or a size below 1.
    """
    start, limit = 0, size if isinstance(size, BatchSize) else BatchSize(size)
    while start < count:
        rows = slice(start, min(start + limit.size, count))
        try:
            result = job(rows)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            result = None
        if result is None and limit.fixed:
            raise InputError(f"deterministic=true: out of memory with {limit.size} images at a time; give false")
        if result is None:  # outside the handler, which would keep the failed job's tensors alive
            limit.size = _release((rows.stop - start) // 2)
            continue
        yield result
        start = rows.stop


def _release(size: int) -> int:
    """Frees cached memory, logs the new batch size and returns it."""
    if size < 1:
        raise InputError(
            "out of memory with one image at a time: free memory, choose another device or model.dtype=bfloat16"
        )
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory: continuing with batches of %d", size)
    return size
