"""Chooses a device and copies images to it."""

import torch
from torch import Tensor

from unseen_diffusion.utils.errors import InputError


def choose_device(name: str) -> torch.device:
    """The device of this name; ``auto`` is the first available one of cuda, mps and cpu.

    Raises:
        InputError: an unknown or absent device.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise InputError(f"device={name}: not available here; choose auto or cpu") from error
    return device


def to_device(rows: Tensor, device: torch.device) -> Tensor:
    """Copies rows to a device; to CUDA from pinned memory, without waiting for the copy."""
    return rows.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else rows.to(device)
