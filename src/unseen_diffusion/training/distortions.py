"""Distortions that resemble the faults of generated images; the feature network learns to distinguish them.

Every kind maps x (N, C, H, W) in [-1, 1], a strength in [0, 1] per image (N,) and a CPU generator to images
of the same shape; strength 0 is already visible (except ``none``), strength 1 is gross.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import conv2d, fold, interpolate, pad, unfold

Distortion = Callable[[Tensor, Tensor, torch.Generator], Tensor]

_KERNEL = 4  # half-width of the blur's window, in pixels
_BLOCKS = 4  # blocks along each side, for the shuffle


def none(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """The images without a change."""
    return x


def noise(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """White Gaussian noise of standard deviation 0.04 to 0.6; in half of the images it is grey."""
    coloured = _normal(x.shape, rng, x)
    grey = (torch.rand(len(x), generator=rng) < 0.5).to(x.device)[:, None, None, None]
    return x + _geometric(0.04, 0.6, strength) * torch.where(grey, coloured[:, :1], coloured)


def blur(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Gaussian blur of standard deviation 0.7 to 2.5 pixels."""
    offsets = torch.arange(-_KERNEL, _KERNEL + 1, device=x.device, dtype=x.dtype)
    weights = torch.exp(-0.5 * (offsets / _geometric(0.7, 2.5, strength)[:, :, 0, 0]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)
    weights = weights.repeat_interleave(x.shape[1], 0)[:, None]  # (N C, 1, K): one group per channel
    padded = pad(x, (_KERNEL,) * 4, mode="reflect").flatten(0, 1)[None]
    rows = conv2d(padded, weights[:, :, :, None], groups=len(weights))
    return conv2d(rows, weights[:, :, None, :], groups=len(weights)).reshape(x.shape)


def shuffle(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Moves 2 to 16 of the 4x4 blocks of an image; height and width are multiples of 4."""
    height, width = x.shape[2] // _BLOCKS, x.shape[3] // _BLOCKS
    size = (height, width)
    blocks = unfold(x, size, stride=size)  # (N, C height width, 16)
    places = torch.arange(blocks.shape[-1]).repeat(len(x), 1)
    moved = 2 + ((blocks.shape[-1] - 2) * strength).round().long()
    for place, number in zip(places, moved.tolist(), strict=True):
        chosen = torch.randperm(len(place), generator=rng)[:number]
        place[chosen] = chosen.roll(1)  # a cycle: every chosen block moves
    shuffled = blocks.gather(2, places.to(x.device)[:, None].expand_as(blocks))
    return fold(shuffled, x.shape[2:], size, stride=size)


def phase(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Turns the Fourier phases towards those of white noise by a share of 0.25 to 1; the spectrum stays the same."""
    share = (0.25 + 0.75 * strength)[:, None, None, None]
    spectrum = torch.fft.rfft2(x)
    random = torch.fft.rfft2(_normal((len(x), 1, *x.shape[2:]), rng, x)).angle()
    random[..., 0, 0] = 0  # the mean stays the same
    return torch.fft.irfft2(spectrum * torch.polar(torch.ones_like(random), share * random), s=x.shape[2:])


def blend(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Blends with another image of the batch, whose weight is 0.25 to 0.5 (like an average of two references)."""
    weight = (0.25 + 0.25 * strength)[:, None, None, None]
    other = x.roll(1, 0) if len(x) > 1 else x.flip(-1)
    return torch.lerp(x, other, weight)


def colour(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Adds a colour cast of 0.08 to 0.6 and coarse noise of 0.02 to 0.15, different in every channel."""
    cast = _normal((len(x), x.shape[1], 1, 1), rng, x)
    cast = cast - cast.mean(1, keepdim=True)
    cast = cast / cast.abs().amax(1, keepdim=True).clamp(min=1e-6)
    coarse = interpolate(_normal((*x.shape[:2], 4, 4), rng, x), x.shape[2:], mode="bilinear")
    return x + _geometric(0.08, 0.6, strength) * cast + _geometric(0.02, 0.15, strength) * coarse


def low_resolution(x: Tensor, strength: Tensor, rng: torch.Generator) -> Tensor:
    """Reduces the side to 3/4 down to 1/5, and enlarges it again."""
    sides = (x.shape[-1] * (0.75 - 0.55 * strength.double())).round().long().clamp(min=1)
    result = torch.empty_like(x)
    for side in sides.unique().tolist():
        chosen = sides == side
        small = interpolate(x[chosen], (side, side), mode="area")
        result[chosen] = interpolate(small, x.shape[2:], mode="bilinear")
    return result


DISTORTIONS: dict[str, Distortion] = {
    function.__name__: function for function in (none, noise, blur, shuffle, phase, blend, colour, low_resolution)
}
KINDS = tuple(DISTORTIONS)


def distort(
    x: Float[Tensor, "n c h w"], kinds: Int[Tensor, "n"], strength: Float[Tensor, "n"], rng: torch.Generator
) -> Float[Tensor, "n c h w"]:
    """Applies one kind of distortion to each image.

    Args:
        x: images (N, C, H, W) in [-1, 1].
        kinds: indices into ``KINDS``, (N,) int64 on the CPU.
        strength: in [0, 1], (N,) on the CPU.
        rng: CPU generator; all randomness comes from it.

    Returns:
        Images (N, C, H, W), clamped to [-1, 1].
    """
    result = x.clone()
    for number, kind in enumerate(KINDS):
        rows = (kinds == number).nonzero()[:, 0].to(x.device)
        if len(rows):
            result[rows] = DISTORTIONS[kind](x[rows], strength.to(x.device)[rows], rng)
    return result.clamp(-1, 1)


def _geometric(low: float, high: float, strength: Tensor) -> Tensor:
    """Geometric interpolation from low at strength 0 to high at strength 1: (N,) -> (N, 1, 1, 1)."""
    return (low * torch.exp(strength * math.log(high / low)))[:, None, None, None]


def _normal(shape: tuple[int, ...] | torch.Size, rng: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=rng).to(like)
