"""Damage of images in three strengths each: what generated images suffer from, and what a yardstick has to see."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

Pixels = NDArray[np.float64]  # (n, H, W, 3), values in 0..255
STRENGTHS = ("weak", "middle", "strong")


@dataclass(frozen=True)
class Domain:
    """The undamaged images of a domain: (n, H, W, 3) uint8, and how many of the first are damaged."""

    images: NDArray[np.uint8]
    damaged: int

    @property
    def first(self) -> Pixels:
        """The images to damage."""
        return self.images[: self.damaged].astype(np.float64)


def blur(domain: Domain, sigma: float, rng: np.random.Generator) -> Pixels:
    """Gaussian blur."""
    return gaussian_filter(domain.first, (0, sigma, sigma, 0), mode="reflect")


def noise(domain: Domain, sigma: float, rng: np.random.Generator) -> Pixels:
    """White Gaussian noise."""
    return domain.first + sigma * rng.standard_normal(domain.first.shape)


def jpeg(domain: Domain, quality: int, rng: np.random.Generator) -> Pixels:
    """Compressed and decoded again."""

    def again(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=quality)
        return np.asarray(Image.open(buffer))

    return np.stack([again(image) for image in domain.images[: domain.damaged]]).astype(np.float64)


def colour(domain: Domain, shift: float, rng: np.random.Generator) -> Pixels:
    """More red and less blue."""
    return domain.first + shift * np.array([1.0, 0.0, -1.0])


def shuffle(domain: Domain, block: int, rng: np.random.Generator) -> Pixels:
    """Square blocks in random order, another order for each image."""
    x = domain.first
    n, side = len(x), x.shape[1] // block
    blocks = x.reshape(n, side, block, side, block, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n, side**2, block, block, 3)
    order = np.stack([rng.permutation(side**2) for _ in range(n)])
    moved = np.take_along_axis(blocks, order[:, :, None, None, None], 1)
    return moved.reshape(n, side, side, block, block, 3).transpose(0, 1, 3, 2, 4, 5).reshape(x.shape)


def phases(domain: Domain, share: float, rng: np.random.Generator) -> Pixels:
    """Fourier phases plus a share of those of white noise, the same in all channels; amplitudes stay."""
    x = domain.first
    random = np.angle(np.fft.fft2(rng.standard_normal(x.shape[:3])))
    random[:, 0, 0] = 0  # the mean brightness stays
    spectrum = np.fft.fft2(x, axes=(1, 2)) * np.exp(1j * share * random)[..., None]
    return np.fft.ifft2(spectrum, axes=(1, 2)).real


def texture(domain: Domain, share: float, rng: np.random.Generator) -> Pixels:
    """Images on the way to a Gaussian of the domain's mean and covariance, which they keep all the way."""
    x = domain.images.astype(np.float64).reshape(len(domain.images), -1)
    mean = x.mean(0)
    gaussian = rng.standard_normal((domain.damaged, len(x))) @ (x - mean) / np.sqrt(len(x) - 1)
    mixed = mean + np.sqrt(1 - share**2) * (x[: domain.damaged] - mean) + share * gaussian
    return mixed.reshape(domain.first.shape)


def mixture(domain: Domain, weight: float, rng: np.random.Generator) -> Pixels:
    """Blends of each image with the next one."""
    return (1 - weight) * domain.first + weight * np.roll(domain.first, -1, 0)


Damage = Callable[[Domain, float, np.random.Generator], Pixels]
DAMAGES: Mapping[str, tuple[Damage, tuple[float, float, float]]] = {
    "blur": (blur, (0.5, 1, 2)),
    "noise": (noise, (5, 12, 25)),
    "jpeg": (jpeg, (75, 40, 10)),
    "colour": (colour, (6, 15, 30)),
    "shuffle": (shuffle, (16, 8, 4)),
    "phases": (phases, (0.2, 0.5, 1)),
    "texture": (texture, (0.3, 0.6, 1)),
    "mixture": (mixture, (0.1, 0.25, 0.5)),
}
SELECTIONS: Mapping[str, tuple[float, float, float]] = {  # damage to the set: which images are in it
    "modes": (0.25, 0.5, 0.75),  # share of the domain that is missing, the brightest images
    "copies": (2, 4, 10),  # times that every image is there
}


def damaged(domain: Domain, kind: str, level: int) -> NDArray[np.uint8]:
    """The damaged images of a kind and a strength (0 to 2), rounded as they would be saved."""
    damage, strengths = DAMAGES[kind]
    rng = np.random.default_rng([level, *kind.encode()])
    return np.clip(np.rint(damage(domain, strengths[level], rng)), 0, 255).astype(np.uint8)
