"""New or copied, beyond one threshold: distances to the references, turned copies, and copied patches.

All of it is measured against held-out images: what they score is what new images of the domain score.
"""

from typing import Literal

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, unfold

from unseen_diffusion.domains.symmetries import Symmetries
from unseen_diffusion.scores.inputs import as_pair
from unseen_diffusion.scores.memorisation import CopyRate, nearest, share_below
from unseen_diffusion.scores.symmetric import as_images, nearest_under

PATCH, PLACES = 16, 8  # pixels: side of a patch, and distance between the places of patches that are compared
SIDE = 32  # larger images are averaged down to it, so that a patch is half as wide as the image
SHIFT = 2  # pixels between the places of the references at which a shifted patch is looked for

Where = Literal["in_place", "shifted"]


def novelty_ratio(samples: Tensor, references: Tensor, heldout: Tensor) -> float:
    """Mean distance of samples (n, d) to the nearest reference over that of held-out images: 1 for new real images.

    Well below 1: samples keep closer to the references than new images do. Above 1: farther away than real images.
    NaN where every held-out image equals a reference.

    Raises:
        InputError: as ``memorisation.nearest``.
    """
    real = float(nearest(heldout, references)[0].mean())
    return float(nearest(samples, references)[0].mean()) / real if real else float("nan")


def symmetric_copy_rate(
    samples: Tensor, references: Tensor, heldout: Tensor, symmetries: Symmetries, quantile: float = 0.01
) -> CopyRate:
    """``memorisation.copy_rate`` of pixels (n, p), with the references turned and mirrored as the symmetries allow."""
    of_samples = nearest_under(samples, references, symmetries)
    return share_below(of_samples, nearest_under(heldout, references, symmetries), quantile)


def patch_copy_rate(
    samples: Tensor, references: Tensor, heldout: Tensor, where: Where, quantile: float = 0.01
) -> float:
    """Share of patches of samples that are nearer to a patch of a reference than a share of held-out patches is.

    Patches have 16 x 16 pixels of 32 x 32. ``in_place`` compares each with the references' patches at its own place,
    9 places an image; ``shifted`` with those at all places, 2 pixels apart, for the 4 corners of an image. The
    threshold is a quantile of the held-out patches' distances, all places together: new images score about
    ``quantile``.

    Args:
        samples: pixels (n, p) of square RGB images.
        references: pixels (m, p).
        heldout: pixels (k, p).
        where: at which places of the references a patch is looked for.
        quantile: share of held-out patches below the threshold.

    Raises:
        InputError: differing sizes, values that are not finite, or no square RGB images.
    """
    as_pair(samples, references, ("the samples", "the references"), 1)
    as_pair(heldout, references, ("the held-out images", "the references"), 1)
    measure = _in_place if where == "in_place" else _shifted
    threshold = torch.quantile(measure(heldout, references).flatten(), quantile)
    return float((measure(samples, references) < threshold).double().mean())


def patches(pixels: Float[Tensor, "n p"], step: int) -> Float32[Tensor, "places n q"]:
    """Patches of images, ``step`` pixels apart, flattened."""
    images = adaptive_avg_pool2d(as_images(pixels).float(), SIDE)
    return unfold(images, PATCH, stride=step).permute(2, 0, 1).contiguous()


def _in_place(pixels: Tensor, references: Tensor) -> Float64[Tensor, "places n"]:
    pairs = zip(patches(pixels, PLACES), patches(references, PLACES), strict=True)
    return torch.stack([nearest(mine, theirs)[0] for mine, theirs in pairs])


def _shifted(pixels: Tensor, references: Tensor) -> Float64[Tensor, "1 n4"]:
    """Distances of the 4 corner patches of every image to the nearest patch of any reference at any place.

    The products are float32, to be quick; the distance to the patch that they find is exact.
    """
    every = patches(references, SHIFT).flatten(0, 1)
    mine = patches(pixels, PATCH).flatten(0, 1)
    centre = every.mean(0)
    theirs = every - centre
    norms = theirs.square().sum(1)
    index = torch.cat([(norms - 2 * (rows - centre) @ theirs.T).argmin(1) for rows in mine.split(64)])
    return torch.linalg.vector_norm(mine.double() - every[index].double(), dim=1)[None]
