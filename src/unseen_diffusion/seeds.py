"""One random generator per (seed, purpose, index), so that batching never changes a number."""

import hashlib

import torch
from torch import Tensor


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator for one stream, e.g. ``generator(0, "candidate", 17)``.

    The state is the first 8 bytes of SHA-256 over the stream's name: streams with different names are
    independent, and CPU generators give the same numbers whatever the device of the computation.
    """
    name = "/".join(str(part) for part in (seed, *stream))
    state = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)
    return torch.Generator("cpu").manual_seed(state)


def normal_rows(shape: tuple[int, ...], seed: int, purpose: str, indices: range | list[int]) -> Tensor:
    """Standard normal noise, one stream per row: float32 of shape (len(indices), *shape)."""
    rows = [torch.randn(shape, generator=generator(seed, purpose, index)) for index in indices]
    return torch.stack(rows) if rows else torch.empty((0, *shape))
