"""One random generator per (seed, purpose, index), so that batch sizes never change a random number."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from unseen_diffusion.utils.digests import raw_digest


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """A CPU generator for one stream, e.g. ``generator(0, "candidate", 17)``.

    The state is the first 8 bytes of SHA-256 over the stream's name: streams with different names are
    independent, and CPU generators give the same numbers whatever the device of the computation.
    """
    return torch.Generator("cpu").manual_seed(_state(seed, *stream))


def generators(seed: int, purpose: str, indices: Iterable[int]) -> Iterator[torch.Generator]:
    """Yields ``generator(seed, purpose, index)`` for each index, valid until the next one is requested.

    Seeding one object again takes half the time of creating a new one.
    """
    rng = torch.Generator("cpu")
    for index in indices:
        yield rng.manual_seed(_state(seed, purpose, index))


def _state(seed: int, *stream: str | int) -> int:
    name = "/".join(str(part) for part in (seed, *stream))
    return int.from_bytes(raw_digest([name])[:8], "big", signed=True)


def normal_rows(shape: tuple[int, ...], seed: int, purpose: str, indices: range | list[int]) -> Tensor:
    """Standard normal noise, one stream per row: float32 of shape (len(indices), *shape)."""
    return fill_normal(torch.empty((len(indices), *shape)), generators(seed, purpose, indices))


def fill_normal(rows: Tensor, streams: Iterable[torch.Generator]) -> Tensor:
    """Fills each row of ``rows`` from its own stream, in place: the numbers that torch.randn draws from it."""
    for row, rng in zip(rows, streams, strict=True):
        row.normal_(generator=rng)
    return rows
