"""The interface of every frozen model: a schedule, and (denoised, eps) of a state at a node."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.models.blocks import without_blocks
from unseen_diffusion.models.schedules import Node, Schedule
from unseen_diffusion.utils.batching import Size
from unseen_diffusion.utils.precision import full_float32


class Prediction(NamedTuple):
    """The denoised image and the noise that a network predicts: x = alpha denoised + sigma eps, each (B, C, H, W)."""

    denoised: Tensor
    eps: Tensor


class ModelSpec(NamedTuple):
    """Facts about a model that need no weights.

    Attributes:
        channels: of the images.
        size: of the images, height and width in pixels.
        schedule: the noise schedule.
        latent_shape: (C, H, W) of the states if an autoencoder makes them, else None.
    """

    channels: int
    size: int
    schedule: Schedule
    latent_shape: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the diffusion's states."""
        return self.latent_shape or (self.channels, self.size, self.size)


class DiffusionModel(ABC):
    """A frozen model of images in [-1, 1].

    ``encode`` turns images into states, which are noised and denoised; ``decode`` turns states into images.

    Attributes:
        name: for tables.
        spec: image channels and size, the noise schedule and the shape of the states.
        fingerprint: SHA-256 of everything that determines the output of the network.
        device: of the network; states may lie on any device.
        evaluations: NFE (network function evaluations) so far, one per image and call.
        tried: whether it has taken an image of its spec (``trial.try_model``), or is built to take any.
    """

    name: str
    spec: ModelSpec
    fingerprint: str
    device: torch.device
    tried: bool = False

    def __init__(self) -> None:
        self.evaluations = 0

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.spec.schedule

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a state, and so of a latent."""
        return self.spec.shape

    def encode(self, images: Float[Tensor, "n c h w"], batch_size: Size = 64) -> Float[Tensor, "n c2 h2 w2"]:
        """Images in [-1, 1] -> clean states, deterministically; by default the images themselves."""
        return images

    def decode(self, states: Float[Tensor, "n c2 h2 w2"], batch_size: Size = 64) -> Float[Tensor, "n c h w"]:
        """Clean states -> images around [-1, 1], unclamped; by default the states themselves."""
        return states

    def for_denoising(self) -> "DiffusionModel":
        """The model that denoises: this one, or its guided version if it has guidance."""
        return self

    def features(self, images: Float[Tensor, "n c h w"], batch_size: Size = 64) -> Float[Tensor, "n d"]:
        """Features of images in [-1, 1] from inside the network, float32 on the CPU; counts one NFE an image.

        Raises:
            InputError: a model without a network whose blocks could be read.
        """
        raise without_blocks(self.name)

    @torch.inference_mode()
    def predict(self, x: Float[Tensor, "b c h w"], node: Node) -> Prediction:
        """Denoised image and noise at a state ``x`` of ``node``; counts the NFE."""
        self.evaluations += len(x)
        with full_float32():
            return self._predict(x, node)

    @abstractmethod
    def _predict(self, x: Tensor, node: Node) -> Prediction:
        """One forward pass; no division by alpha where the family can avoid it."""
