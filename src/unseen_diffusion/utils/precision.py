"""Numerical precision: float32 without TF32, and automatic mixed precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


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
