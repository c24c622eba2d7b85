"""Weighted sums of the references that a prior's candidates consist of: the same weights serve latents and pixels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import interpolate


@dataclass(frozen=True)
class Combination:
    """The references and weights of some candidates: m + sum_i w_i (z_i - m), or sum_i w_i z_i.

    Attributes:
        rows: (b, k) which references each candidate combines.
        weights: (b, k) float64; or (b, k, H, W), one for every place of the image.
        centred: whether the references are taken around their mean m.
    """

    rows: Int[Tensor, "b k"]
    weights: Tensor
    centred: bool

    def of(self, references: Float[Tensor, "n c h w"]) -> Float[Tensor, "b c h w"]:
        """The combinations of latents, or of images in [-1, 1] of the same references; float32.

        Weights that vary over the image are repeated where images are larger than latents. Computes in float64, one
        candidate at a time: its value does not depend on the others.
        """
        size = references.shape[2:]
        mean = references.mean(0, dtype=torch.float64) if self.centred else None
        weights = self.weights[..., None, None] if self.weights.ndim == 2 else self.weights
        if self.weights.ndim == 4 and weights.shape[2:] != size:
            weights = interpolate(weights, size=tuple(size), mode="nearest")
        results = torch.empty(len(self.rows), *references.shape[1:])
        for result, rows, factors in zip(results, self.rows, weights, strict=True):
            total = (factors[:, None] * references[rows].double()).sum(0)
            result.copy_(total if mean is None else total + (1 - factors.sum(0)) * mean)
        return results
