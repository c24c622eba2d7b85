"""The released loop, from its description: one image at a time, one generator, float32, 80 + 80 steps.

The network is evaluated at the lower end of each upward step; the grid is linspace(0, t_0, steps) rounded down, the
clean image is taken as the state at t = 0, and the last downward step ends at alpha = 1.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]


def timesteps(top: int, steps: int) -> list[int]:
    """linspace(0, top, steps) rounded down."""
    return [int(top * i / (steps - 1)) for i in range(steps)]


def ddim_step(x: Tensor, eps: Tensor, here: Tensor, there: Tensor, eta: float, rng: torch.Generator) -> Tensor:
    """One DDIM step between two values of alpha-bar."""
    denoised = (x - eps * (1 - here).sqrt()) / here.sqrt()
    c1 = eta * ((1 - here / there) * (1 - there) / (1 - here)).clamp(min=0).sqrt()
    c2 = ((1 - there) - c1**2).sqrt()
    noise = c1 * torch.randn(x.shape, generator=rng).to(x.device) if eta else 0
    return there.sqrt() * denoised + noise + c2 * eps


@torch.no_grad()
def invert(network: Network, images: Tensor, alphas: Tensor, times: list[int]) -> Tensor:
    """Latents at times[-1], image by image."""
    found, rng = [], torch.Generator()
    for image in images:
        x = image[None]
        for low, high in itertools.pairwise(times):
            eps = network(x, torch.full((1,), float(low), device=x.device))
            x = ddim_step(x, eps, alphas[low], alphas[high], 0.0, rng)
        found.append(x)
    return torch.cat(found)


@torch.no_grad()
def denoise(network: Network, latents: Tensor, alphas: Tensor, times: list[int], eta: float, seed: int) -> Tensor:
    """Images, one by one, all noise from one generator: image i depends on how many came before it."""
    found, rng = [], torch.Generator().manual_seed(seed)
    targets = [alphas[t] for t in times[:-1]]
    for latent in latents:
        x = latent[None]
        for high, there in zip(reversed(times), [*reversed(targets), torch.ones_like(alphas[0])], strict=True):
            eps = network(x, torch.full((1,), float(high), device=x.device))
            x = ddim_step(x, eps, alphas[high], there, eta, rng)
        found.append(x)
    return torch.cat(found)
