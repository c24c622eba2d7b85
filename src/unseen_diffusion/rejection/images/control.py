"""The control of a selection: as many images, taken at random from the same candidates."""

import torch

from unseen_diffusion.rejection.images.base import Choice, ImageSelection, ImageTask, Seen
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.seeds import generator


@settings("selection")
class RandomImages(ImageSelection):
    """Keeps as many of the same candidates as ``match``, chosen without looking at them."""

    match: ImageSelection
    """the selection whose acceptance is imitated"""
    name: str = "random"

    @property
    def needs_features(self) -> bool:
        return self.match.needs_features

    def choose(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        choice = self.match.choose(candidates, references, task)
        count = min(len(choice.kept), task.count)
        total = len(candidates.numbers)
        if count and choice.judged is None:
            total = int(choice.kept[count - 1]) + 1
        drawn = torch.randperm(total, generator=generator(task.seed, "selection control"))[:count]
        return Choice(drawn.sort().values, {"match": self.match.name, **choice.facts}, judged=total)

    def every(self) -> tuple[ImageSelection, ...]:
        return (self, *self.match.every())
