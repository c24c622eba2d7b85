"""What every frozen model offers: a schedule, and denoised and eps at (x, node)."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.precision import full_float32
from unseen_diffusion.schedules import Node, Schedule


class Prediction(NamedTuple):
    """The network's reading of a noisy state x = alpha denoised + sigma eps, each (B, C, H, W)."""

    denoised: Tensor
    eps: Tensor


class ModelSpec(NamedTuple):
    """What can be known of a model before its weights are read."""

    channels: int
    size: int
    schedule: Schedule


class DiffusionModel(ABC):
    """A frozen model on images in [-1, 1].

    Attributes:
        name: for tables.
        spec: image channels and size, and the noise schedule.
        fingerprint: SHA-256 of all that determines the network's output.
        device: where the network lives; states may come from anywhere.
        evaluations: network evaluations so far, one per image and call.
    """

    name: str
    spec: ModelSpec
    fingerprint: str
    device: torch.device

    def __init__(self) -> None:
        self.evaluations = 0

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.spec.schedule

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image and of a latent."""
        return (self.spec.channels, self.spec.size, self.spec.size)

    @torch.inference_mode()
    def predict(self, x: Float[Tensor, "b c h w"], node: Node) -> Prediction:
        """Denoised image and noise at a state ``x`` of ``node``; counts the evaluations."""
        self.evaluations += len(x)
        with full_float32():
            return self._predict(x, node)

    @abstractmethod
    def _predict(self, x: Tensor, node: Node) -> Prediction:
        """One forward pass; no division by alpha where the family can avoid it."""
