"""Herding: the subset of the candidates whose features together are nearest to the references'."""

import math
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float64, Int
from pydantic import Field
from torch import Tensor

from unseen_diffusion.rejection.images.base import AfterAnother, Choice, ImageTask, Seen
from unseen_diffusion.rejection.images.features import features_of, standardised
from unseen_diffusion.utils.checked import settings


@settings("selection")
class Herding(AfterAnother):
    """Chooses images one after the other so that the set has the least kernel distance to the references.

    MMD^2 with the kernel (x.y / d + 1)^3 in the base model's own features (Chen, Welling and Smola 2010, arXiv
    1203.3472). Each choice depends on all others: the images are a set and no independent draws, so that intervals and
    tests that take them for draws are too narrow.
    """

    acceptance: Annotated[float, Field(gt=0, lt=1)]
    """share of the candidates that is kept"""
    name: str = "herding"

    independent: ClassVar = False

    @property
    def needs_features(self) -> bool:
        return True

    def choose_among(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        total = len(candidates.numbers)
        if total < math.ceil(task.count / self.acceptance):
            return Choice(torch.empty(0, dtype=torch.long), {"left_by_before": total}, judged=total)
        r = features_of(references)
        kept = herded(standardised(features_of(candidates), r), standardised(r, r), task.count)
        return Choice(kept.sort().values, {"left_by_before": total}, judged=total)


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """(x.y / d + 1)^3, the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def herded(x: Float64[Tensor, "n d"], references: Float64[Tensor, "m d"], count: int) -> Int[Tensor, " count"]:
    """Greedy choice of ``count`` rows of x, each the one that lowers the set's MMD^2 to the references the most."""
    own, towards = kernel(x, x), kernel(x, references).mean(1)
    kept = torch.zeros(len(x), dtype=torch.bool)
    sums, order = torch.zeros(len(x), dtype=torch.float64), []
    for size in range(1, count + 1):
        # MMD^2 of the set with i, without terms that are the same for every i.
        change = (2 * sums + own.diagonal()) / size - 2 * towards
        chosen = int(change.where(~kept, torch.inf).argmin())
        kept[chosen] = True
        order.append(chosen)
        sums += own[chosen]
    return torch.tensor(order)
