"""Base models: eps-prediction by the simple loss of Ho et al. 2020 (arXiv 2006.11239, equation 14)."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from unseen_diffusion.images import dequantise
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.seeds import generator

VALIDATION_BATCH = 32  # images whose timesteps are stratified together


class EpsLoss:
    """Mean squared error of the predicted noise on uint8 ``images`` (N, C, H, W), flipped at random.

    Timesteps are stratified over the batch (one in each of B equal parts of the schedule, jointly shifted):
    each is uniform, and the loss varies less from step to step.

    Attributes:
        images: all of them, on any device.
        kept: the rows of ``images`` that this loss counts as 0, 1, 2, ... (None: all).
        flip: mirrors every second image.
        device: of the network.
    """

    def __init__(
        self,
        images: Tensor,
        scheduler: DDPMScheduler,
        factor: int,
        flip: bool,
        device: torch.device,
        kept: Tensor | None = None,
    ) -> None:
        self.images = images
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device)
        self.factor = factor
        self.flip = flip
        self.device = device
        self.kept = torch.arange(len(images)) if kept is None else kept

    def batch(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) uint8, which are mirrored (B,), timesteps (B,) and noise, drawn on the CPU."""
        count = len(rows)
        images = self.images[self.kept[rows].to(self.images.device)]
        mirrored = torch.rand(count, generator=rng) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool)
        steps = len(self.alphas_cumprod)
        shifted = (torch.arange(count) + torch.rand((), generator=rng)) / count
        t = (shifted * steps).long().clamp(max=steps - 1)
        return images, mirrored, t, torch.randn(images.shape, generator=rng)

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """The loss of (a part of) a batch."""
        images, mirrored, t, eps = (tensor.to(self.device) for tensor in batch)
        x0 = dequantise(images)
        x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        ac = self.alphas_cumprod[t][:, None, None, None]
        predicted = unet_forward(network, ac.sqrt() * x0 + (1 - ac).sqrt() * eps, t, self.factor)
        return (predicted.float() - eps).square().mean()


@torch.no_grad()
def validation_loss(network: nn.Module, loss: EpsLoss, seed: int) -> float:
    """Mean loss of all rows of ``loss``, in float32, with timesteps and noise that are the same at every call."""
    total, count = 0.0, len(loss.kept)
    for rows in torch.arange(count).split(VALIDATION_BATCH):
        batch = loss.batch(rows, generator(seed, "validation", int(rows[0])))
        total += len(rows) * float(loss(network, *batch))
    return total / count
