"""Tensors as safetensors files that are either whole or absent."""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from unseen_diffusion.utils.files import atomic_path


def pack(tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> bytes:
    """Encodes tensors as the bytes of a safetensors file."""
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, header)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: dict[str, str] | None = None) -> None:
    """Writes a safetensors file atomically.

    It is written as bytes, because ``save_file`` of safetensors leaves a temporary file when killed, and raises its own
    type of error for a full disk.
    """
    data = pack(tensors, header)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
