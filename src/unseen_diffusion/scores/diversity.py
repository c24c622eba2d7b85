"""Diversity of a set of images: the Vendi score (Friedman and Dieng 2023, arXiv 2210.02410)."""

from typing import NamedTuple

import torch
from jaxtyping import Float64
from torch import Tensor

from unseen_diffusion.scores.inputs import as_features, as_pair

_RESOLUTION = 1e-12  # of the largest norm; a shorter difference from the centre is rounding


class DiversityRatio(NamedTuple):
    """``samples`` / ``target``: the Vendi scores of ``images`` images of each, centred on the mean of the target."""

    value: float
    samples: float
    target: float
    images: int


def vendi(features: Tensor, centre: Tensor | None = None) -> float:
    """Vendi score: the exponential of the entropy of the eigenvalues of U U^T / N, from 1 to N.

    U (N, d) are the features minus ``centre``, scaled to unit norm: the similarity of two images is the cosine
    of the angle between them at the centre. 10 orthogonal images score 10, 10 duplicates score 1. Images that
    coincide with the centre have no direction: they count as equal to each other and orthogonal to the rest.

    Args:
        features: (N, d), N >= 1.
        centre: (d,), e.g. the mean of the target images; None is the origin.

    Raises:
        InputError: no images, features that are not finite, or a centre of another dimension.
    """
    features = as_features(features, "the features", 1)
    if centre is not None:
        features, centre = as_pair(features, centre[None], ("the features", "the centre"), 1)
        centre = centre[0]
    unit = _directions(features, centre)
    gram = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    values = torch.linalg.eigvalsh(gram / len(unit)).clamp(min=0)
    return float(torch.special.entr(values).sum().exp())


def vendi_ratio(samples: Tensor, target: Tensor) -> DiversityRatio:
    """Vendi score of samples (N, d) over that of the target images H (M, d), both with the mean of H as centre.

    The score grows with the number of images, so both are taken of the first min(N, M) images of their set;
    the centre is the mean of all M. A set as diverse as H scores 1, a collapsed one near 1 / Vendi(H), and
    noise can exceed 1: diversity says nothing about fidelity.

    Raises:
        InputError: fewer than 2 images, differing dimensions, or features that are not finite.
    """
    samples, target = as_pair(samples, target, ("the samples", "the target images"), 2)
    count, centre = min(len(samples), len(target)), target.mean(0)
    of_samples, of_target = vendi(samples[:count], centre), vendi(target[:count], centre)
    return DiversityRatio(of_samples / of_target, of_samples, of_target, count)


def _directions(features: Tensor, centre: Tensor | None) -> Float64[Tensor, "n e"]:
    """Unit vectors of features - centre; images at the centre get a last coordinate of their own."""
    scale = float(torch.linalg.vector_norm(features, dim=1).max())
    if centre is not None:
        features = features - centre
    norms = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    directed = norms > _RESOLUTION * scale
    unit = torch.where(directed, features / norms.where(directed, 1), 0)
    return torch.cat([unit, (~directed).to(unit.dtype)], dim=1)
