"""Numerical precision: float32 without TF32, deterministic algorithms, and automatic mixed precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def reproducible(wanted: bool) -> Iterator[None]:
    """Makes torch choose deterministic algorithms on one thread of the CPU, if ``wanted``.

    Convolutions on the CPU split their sums among the threads, and so round by their number. Operations without a
    deterministic algorithm raise RuntimeError.
    """
    cudnn, before = torch.backends.cudnn, torch.are_deterministic_algorithms_enabled()
    searches, threads = cudnn.benchmark, torch.get_num_threads()
    try:
        if wanted:
            torch.use_deterministic_algorithms(True)
            cudnn.benchmark = False
            torch.set_num_threads(1)
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        cudnn.benchmark = searches
        torch.set_num_threads(threads)


@contextmanager
def full_float32() -> Iterator[None]:
    """Switches TF32 off on CUDA: its 10-bit mantissa changes results in the third digit."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        matmul.allow_tf32 = cudnn.allow_tf32 = False
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def mixed_precision(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Autocast to ``dtype`` on ``device``; no effect for float32. Enter it once per pass: it caches weights."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
