"""Arithmetic that results may depend on."""

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
    """Autocast to ``dtype`` on ``device``; nothing for float32. One pass each: it remembers weights as they were."""
    return nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype=dtype)
