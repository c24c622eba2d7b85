"""Base models: eps-prediction by the simple loss of Ho et al. 2020 (arXiv 2006.11239, equation 14)."""

import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from unseen_diffusion.images import dequantise
from unseen_diffusion.models.unet import unet_forward


class EpsLoss:
    """Mean squared error of the predicted noise on uint8 ``images`` (N, C, H, W), flipped at random.

    Timesteps are stratified over the batch (one in each of B equal parts of the schedule, jointly shifted):
    each is uniform, and the loss varies less from step to step.
    """

    def __init__(self, images: Tensor, scheduler: DDPMScheduler, factor: int, flip: bool, device: torch.device):
        self.images = images.to(device)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device)
        self.factor = factor
        self.flip = flip
        self.device = device

    def __call__(self, network: nn.Module, rows: Tensor, rng: torch.Generator) -> Tensor:
        count = len(rows)
        x0 = dequantise(self.images[rows.to(self.device)])
        if self.flip:
            mirrored = torch.rand(count, generator=rng) < 0.5
            x0 = torch.where(mirrored.to(self.device)[:, None, None, None], x0.flip(-1), x0)
        steps = len(self.alphas_cumprod)
        shifted = (torch.arange(count) + torch.rand((), generator=rng)) / count
        t = (shifted * steps).long().clamp(max=steps - 1).to(self.device)
        eps = torch.randn(x0.shape, generator=rng).to(self.device)
        ac = self.alphas_cumprod[t][:, None, None, None]
        predicted = unet_forward(network, ac.sqrt() * x0 + (1 - ac).sqrt() * eps, t, self.factor)
        return (predicted.float() - eps).square().mean()
