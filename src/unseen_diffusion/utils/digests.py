"""SHA-256 digests of bytes, texts, JSON values, files, arrays and tensors.

Artefact keys, fingerprints and random seeds are computed from these. The digest of a given value must therefore never
change: it would orphan every stored artefact, or change every sample. This module imports neither NumPy nor torch.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Array(Protocol):
    """The parts of a NumPy array that a digest reads."""

    @property
    def dtype(self) -> Any:
        """Type of its values."""

    @property
    def shape(self) -> Any:
        """Its sizes."""

    def tobytes(self) -> bytes:
        """The values in C order."""


@runtime_checkable
class ArrayOfTorch(Protocol):
    """The parts of a torch tensor that a digest reads."""

    @property
    def dtype(self) -> Any:
        """Type of its values."""

    @property
    def shape(self) -> Any:
        """Its sizes."""

    def numpy(self) -> Any:
        """The values as a NumPy array."""


def raw_digest(parts: Iterable[bytes | str]) -> bytes:
    """SHA-256 over the parts, one after the other; texts are encoded as UTF-8."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(part.encode() if isinstance(part, str) else part)
    return hashed.digest()


def digest(*parts: bytes | str) -> str:
    """``raw_digest`` of these parts, hexadecimal."""
    return raw_digest(parts).hex()


def json_digest(value: Any) -> str:
    """SHA-256, hexadecimal, of a value as compact JSON with sorted keys.

    Raises:
        ValueError: NaN or an infinity.
        TypeError: a value that JSON cannot hold.
    """
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False))


def file_digest(path: Path | str) -> str:
    """SHA-256, hexadecimal, of a file's content, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def array_digest(array: Array) -> str:
    """SHA-256, hexadecimal, of a NumPy array's type, shape and values."""
    return digest(f"{array.dtype.str}{array.shape}", array.tobytes())


def tensor_digest(tensor: ArrayOfTorch) -> str:
    """SHA-256, hexadecimal, of a CPU tensor's type, shape and values.

    It differs from ``array_digest`` of the same values, because torch names types differently.
    """
    return digest(f"{tensor.dtype}{tuple(tensor.shape)}", tensor.numpy().tobytes())
