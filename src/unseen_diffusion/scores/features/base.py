"""The interface of a feature extractor, and features of any number of images in batches."""

from abc import ABC, abstractmethod
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float32
from torch import Tensor
from torch.nn.functional import interpolate

from unseen_diffusion.utils.batching import Size, in_batches
from unseen_diffusion.utils.checks import require_finite
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.precision import full_float32


@runtime_checkable
class FeatureExtractor(Protocol):
    """Maps uint8 images (N, C, H, W) to float32 features (N, dimension), each image on its own.

    Attributes:
        name: shown beside every score; scores of different extractors cannot be compared.
        dimension: features per image.
        fingerprint: SHA-256 that changes with the weights or the preprocessing; part of every artefact's key.
        batch_size: images at a time; no result depends on it.
    """

    name: str
    dimension: int
    fingerprint: str
    batch_size: int

    def to(self, device: torch.device | str) -> None:
        """Moves the network to a device; each batch of images follows it."""

    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """Features of one batch, on the extractor's device."""


def extract(
    extractor: FeatureExtractor,
    images: Tensor,
    batch_size: Size | None = None,
    device: torch.device | str = "cpu",
) -> Float32[Tensor, "n d"]:
    """Features of any number of images: uint8 (N, C, H, W) -> float32 (N, d) on the CPU.

    Args:
        extractor: the feature network.
        images: as they are saved, grey (C = 1) or RGB (C = 3).
        batch_size: images at a time, halved if memory runs out; None takes the extractor's.
        device: where the network runs.

    Raises:
        InputError: no images, images that are not uint8, a batch size below 1, or features that are not finite.
    """
    check_images(images)
    size = extractor.batch_size if batch_size is None else batch_size
    extractor.to(device)

    def job(rows: slice) -> Tensor:
        features = extractor(images[rows]).to("cpu", torch.float32)
        require_finite(f"features={extractor.name}", features, "check the network's weights", range(len(images))[rows])
        return features

    with full_float32():
        return torch.cat(list(in_batches(job, len(images), size)))


def check_images(images: Tensor) -> None:
    """Checks that images are uint8, grey or RGB, and at least one.

    Raises:
        InputError: another dtype or shape.
    """
    if images.dtype != torch.uint8:
        raise InputError(f"images of {images.dtype}: features need uint8; quantise them first")
    if images.ndim != 4 or images.shape[1] not in (1, 3) or len(images) == 0:
        raise InputError(
            f"images of shape {tuple(images.shape)}: give (N, 1 or 3, height, width) with at least one image"
        )


def resized(images: Tensor, side: int) -> Float32[Tensor, "n 3 s s"]:
    """uint8 (N, 1 or 3, H, W) -> RGB in [0, 1] of side ``side``, by an antialiased bicubic filter.

    The filter overshoots at edges: values are clamped to [0, 1], as in an image library, but not rounded.
    """
    unit = images.to(torch.float32).expand(-1, 3, -1, -1) / 255
    return interpolate(unit, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)


class LazyNetwork(ABC):
    """An extractor whose network is loaded with the first images, so that its files are checked long before."""

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._loaded: torch.nn.Module | None = None

    @abstractmethod
    def _load(self) -> torch.nn.Module:
        """The network, on any device."""

    @property
    def _network(self) -> torch.nn.Module:
        """The network, on the extractor's device."""
        if self._loaded is None:
            self._loaded = self._load().to(self._device)
        return self._loaded

    def to(self, device: torch.device | str) -> None:
        """Moves the network, if it is loaded already."""
        self._device = torch.device(device)
        if self._loaded is not None:
            self._loaded.to(self._device)
