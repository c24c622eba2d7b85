"""Rejection of near copies: an image that is nearer to a reference than references are to each other is dropped."""

import torch

from unseen_diffusion.rejection.images.base import Choice, ImageSelection, ImageTask, Seen
from unseen_diffusion.scores.symmetric import left_out_distances, nearest_under
from unseen_diffusion.utils.checked import Share, settings


@settings("selection")
class CopyRejection(ImageSelection):
    """Drops images nearer to a reference than a quantile of the references' own leave-one-out distances.

    Distances are those of pixels, over the domain's symmetries. The threshold follows from the references alone, so
    that no held-out image decides what is kept.
    """

    quantile: Share
    """share of the references that would count as near copies of the others"""
    name: str = "copies"

    def choose(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        own = left_out_distances(references.pixels, task.symmetries)
        threshold = float(torch.quantile(own, self.quantile))
        distances = nearest_under(candidates.pixels, references.pixels, task.symmetries)
        new = distances > threshold
        facts = {"threshold": threshold, "near_copies": float((~new).double().mean())}
        return Choice(new.nonzero().flatten(), facts)
