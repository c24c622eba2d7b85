"""The loops that a user of diffusers would write: DDIMInverseScheduler up, DDIMScheduler down, one batch."""

import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from torch import Tensor

from benchmarks.peers.official import Network

OPTIONS = {"beta_start": 1e-4, "beta_end": 0.02, "clip_sample": False, "timestep_spacing": "trailing"}


@torch.no_grad()
def invert(network: Network, images: Tensor, steps: int, lower: bool = False) -> Tensor:
    """Latents at t = 999. The stock loop evaluates at each step's upper end; ``lower`` at its lower end."""
    scheduler = DDIMInverseScheduler(set_alpha_to_one=True, **OPTIONS)
    scheduler.set_timesteps(steps)
    x = images
    for t in scheduler.timesteps:
        asked = (t - 1000 // steps).clamp(min=0) if lower else t
        eps = network(x, asked.float().expand(len(x)).to(x.device))
        x = scheduler.step(eps, t, x).prev_sample
    return x


@torch.no_grad()
def denoise(network: Network, latents: Tensor, steps: int, eta: float, seed: int) -> Tensor:
    """Images from latents at t = 999."""
    scheduler = DDIMScheduler(set_alpha_to_one=True, **OPTIONS)
    scheduler.set_timesteps(steps)
    x, rng = latents, torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        eps = network(x, t.float().expand(len(x)).to(x.device))
        x = scheduler.step(eps, int(t), x, eta=eta, generator=rng).prev_sample
    return x
