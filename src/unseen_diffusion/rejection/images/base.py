"""The base class of selections by images: which of the candidates seen so far are kept.

A new selection is one class with ``choose``::

    @settings("selection")
    class Bright(ImageSelection):
        def choose(self, candidates, references, task): return Choice((candidates.pixels.mean(1) > 0).nonzero()[:, 0])
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unseen_diffusion.domains.symmetries import Symmetries
from unseen_diffusion.utils.checked import settings


class Seen(NamedTuple):
    """Images as a selection sees them.

    Attributes:
        pixels: (n, p) in [-1, 1].
        features: (n, d) of the base model's own network; None where the selection needs none.
        numbers: (n,) int64, the place of each in the order of candidates.
    """

    pixels: Float[Tensor, "n p"]
    features: Tensor | None
    numbers: Int[Tensor, " n"]

    def at(self, positions: Int[Tensor, " m"]) -> "Seen":
        """The images at these positions."""
        features = None if self.features is None else self.features[positions]
        return Seen(self.pixels[positions], features, self.numbers[positions])


@dataclass(frozen=True)
class ImageTask:
    """What a selection is for.

    Attributes:
        count: images wanted.
        seed: of random decisions.
        symmetries: of the domain.
    """

    count: int
    seed: int
    symmetries: Symmetries


@dataclass(frozen=True)
class Choice:
    """The candidates that are kept.

    Attributes:
        kept: (k,) int64 positions among the candidates, in their order.
        facts: numbers for the record, such as thresholds; JSON values.
        judged: how many candidates the decision looked at, where it needs them all; None: those up to the last kept.
    """

    kept: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    judged: int | None = None


@settings("selection")
class ImageSelection(ABC):
    """The base class; a config of the ``selection`` group builds one."""

    name: str
    """label in tables and messages"""

    judges: ClassVar[bool] = True
    """whether it looks at images at all"""
    independent: ClassVar[bool] = True
    """whether one image is kept or dropped whatever the others are, so that the kept ones are independent draws"""

    @property
    def needs_features(self) -> bool:
        """Whether it needs features of the base model's own network."""
        return False

    @abstractmethod
    def choose(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        """Which of the first candidates are kept: fewer than ``task.count`` where more candidates are needed.

        None are kept while it needs more candidates to decide at all; after that, later candidates must not change the
        decision about an earlier one, unless ``independent`` is False.
        """

    def every(self) -> tuple["ImageSelection", ...]:
        """This selection, with those that it contains."""
        return (self,)


@settings("selection")
class NoSelection(ImageSelection):
    """Every image is kept."""

    name: str = "none"

    judges: ClassVar = False

    def choose(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        return Choice(torch.arange(len(candidates.numbers)))


@settings("selection")
class AfterAnother(ImageSelection):
    """Base class of selections that may follow another one: they see only what that one keeps."""

    before: ImageSelection | None
    """a selection that is applied first, such as the rejection of copies; null: none"""

    @abstractmethod
    def choose_among(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        """``choose``, among the candidates that ``before`` has kept."""

    def choose(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        if self.before is None:
            return self.choose_among(candidates, references, task)
        first = self.before.choose(candidates, references, task)
        then = self.choose_among(candidates.at(first.kept), references, task)
        kept = torch.empty(0, dtype=torch.long) if not len(then.kept) else first.kept[then.kept]
        judged = len(candidates.numbers) if then.judged is not None else None
        return Choice(kept, {**then.facts, "before": {"name": self.before.name, **first.facts}}, judged)

    def every(self) -> tuple[ImageSelection, ...]:
        return (self, *(self.before.every() if self.before else ()))
