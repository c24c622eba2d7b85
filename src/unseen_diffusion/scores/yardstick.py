"""What a feature extractor can see in a domain: does it tell changed images from real ones?

A score says something about a domain only if its features tell real images from images that are plainly none. Two
changes are tried on half of the held-out images: a blur of one pixel, and a Gaussian texture of the same mean and
covariance. KID's permutation test compares them with the other half.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from unseen_diffusion.scores.intervals import holm
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.utils.seeds import generator

VERSION = "yardstick-1"  # of the changed images
LEVEL = 0.05  # of both tests together
LEAST = 3  # images that KID needs in each half


def halves(count: int) -> tuple[Tensor, Tensor]:
    """Two random halves of the rows 0 to count - 1.

    The halves are drawn at random, so that under "the change makes no difference" the permutation test is exact, even
    where the images depend on each other, such as overlapping cut-outs of one picture.
    """
    order = torch.randperm(count, generator=generator(0, "yardstick", count))
    return order[: count // 2], order[count // 2 :]


def blurred(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> the images blurred by a Gaussian of standard deviation 1 pixel."""
    smooth = gaussian_filter(images.numpy().astype(np.float32), (0, 0, 1, 1), mode="reflect")
    return torch.from_numpy(smooth).round().clamp(0, 255).to(torch.uint8)


def texture(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> as many Gaussian textures, with exactly the mean and covariance of these images.

    The deviations from the mean are rotated among the images (Langsrud 2005, rotation tests): with a random orthogonal
    matrix that keeps the mean. If the images are Gaussian themselves, the result has their joint distribution, so that
    the test keeps its level although mean and covariance are estimated.
    """
    count = len(images)
    x = images.flatten(1).double()
    mean = x.mean(0)
    bases = []
    for index in range(2):  # two random orthonormal bases of the vectors whose entries sum to 0
        columns = torch.randn(count, count, dtype=torch.float64, generator=generator(0, "texture", index))
        columns[:, 0] = 1
        bases.append(torch.linalg.qr(columns).Q[:, 1:])
    rotated = bases[0] @ (bases[1].T @ (x - mean))
    return (mean + rotated).round().clamp(0, 255).to(torch.uint8).reshape(images.shape)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {"blurred": blurred, "texture": texture}


def sight(one: Tensor, other: Tensor, changed: Mapping[str, Tensor], permutations: int) -> dict[str, Any]:
    """KID of changed and of unchanged images against other images of the domain, and whether they are told apart.

    Args:
        one: features (n, d) of one half of the images, unchanged.
        other: features (m, d) of the other half.
        changed: features (n, d) of the first half by the name of the change.
        permutations: random relabellings behind each p-value.

    Returns:
        JSON values: n, level, real (KID of ``one``), changes (for each name KID and Holm-adjusted p), and judges:
        whether every change is told from real images at the level.
    """
    p_values = [permutation_p_value(features, other, permutations, seed=0) for features in changed.values()]
    adjusted = holm(p_values)
    changes = {
        name: {"kid": kid(features, other).value, "p": p}
        for (name, features), p in zip(changed.items(), adjusted, strict=True)
    }
    return {
        "n": len(one),
        "level": LEVEL,
        "real": kid(one, other).value,
        "changes": changes,
        "judges": all(p <= LEVEL for p in adjusted),
    }
