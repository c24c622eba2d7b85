"""Distances to the nearest reference where turned and mirrored references count as well."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from unseen_diffusion.domains.symmetries import Symmetries, under_symmetries
from unseen_diffusion.scores.inputs import as_features
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.neighbours import squared_distances
from unseen_diffusion.utils.errors import InputError


def as_images(pixels: Float[Tensor, "n p"]) -> Float[Tensor, "n 3 side side"]:
    """Flattened RGB pixels (``scores.features.pixels``) as square images.

    Raises:
        InputError: not three square planes.
    """
    side = round((pixels.shape[1] / 3) ** 0.5)
    if 3 * side**2 != pixels.shape[1]:
        raise InputError(f"pixels: {pixels.shape[1]} values an image; give RGB images of one square size")
    return pixels.reshape(-1, 3, side, side)


def nearest_under(samples: Tensor, references: Tensor, symmetries: Symmetries) -> Float64[Tensor, " n"]:
    """Distance of samples (n, p) to the nearest reference (m, p), turned and mirrored as the symmetries allow.

    Raises:
        InputError: as ``memorisation.nearest``, or pixels that are no square RGB images.
    """
    if symmetries == "none":
        return nearest(samples, references)[0]
    turned = [images.flatten(1) for images in under_symmetries(as_images(references), symmetries)]
    return torch.stack([nearest(samples, one)[0] for one in turned]).amin(0)


def left_out_distances(references: Tensor, symmetries: Symmetries) -> Float64[Tensor, " m"]:
    """Distance of each reference (m, p) to the nearest of the others, turned and mirrored as the symmetries allow.

    Raises:
        InputError: fewer than 2 references, values that are not finite, or no square RGB images.
    """
    centre = as_features(references, "the references", 2).mean(0)
    every = [references]
    if symmetries != "none":
        every = [images.flatten(1) for images in under_symmetries(as_images(references), symmetries)]
    found = torch.full((len(references),), torch.inf, dtype=torch.float64)
    x = references.double()
    for turned in every:
        others = turned.double()
        for squares in squared_distances(x - centre, others - centre):
            squares.values.diagonal(squares.rows.start).fill_(torch.inf)
            index = squares.values.argmin(1)
            distances = torch.linalg.vector_norm(x[squares.rows] - others[index], dim=1)
            found[squares.rows] = found[squares.rows].minimum(distances)
    return found
