"""How candidates are drawn and judged: the step between a prior and the loop that keeps some of its candidates."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.priors import FittedPrior
from unseen_diffusion.rejection.geometry import References, draw_references, statistics

# Numbers per group of candidates: more than this no longer fits a cache, and costs time instead of saving it.
NUMBERS = 1 << 20


@dataclass(frozen=True)
class Task:
    """The source of candidates, and the references that they are compared with.

    Attributes:
        prior: draws them.
        references: latents that the criteria compare with.
        shape: (C, H, W) of a latent.
        seed: of candidates and drawn references.
        chunk: candidates per matrix product.
    """

    prior: FittedPrior
    references: References
    shape: tuple[int, ...]
    seed: int
    chunk: int


class Route(ABC):
    """Draws and judges candidates 0, 1, 2, ... in groups."""

    @property
    @abstractmethod
    def group(self) -> int:
        """Candidates per call of ``judge``; results do not depend on it."""

    @abstractmethod
    def judge(self, start: int, stop: int) -> Float[Tensor, "b 3"]:
        """Statistics of candidates start, ..., stop - 1."""

    def keep(self, index: int) -> None:
        """Remembers an accepted candidate of the group judged last; for routes that cannot draw it again."""
        return

    @abstractmethod
    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        """Accepted candidates in full; under another ``seed``, independent draws of the prior in their place."""

    def distances(self, indices: list[int]) -> Float[Tensor, " n"]:
        """L2 distance of each accepted latent from its draw; empty where latents are the draws."""
        return torch.empty(0)

    def drawn_statistics(self) -> Float[Tensor, "b 3"]:
        """Statistics of all draws before they were changed; empty where they are not."""
        return torch.empty(0, 3)


class Direct(Route):
    """Draws each candidate in full, and measures it."""

    def __init__(self, prior: FittedPrior, references: References, k: int, seed: int, chunk: int) -> None:
        self.prior, self.references, self.k, self.seed, self.chunk = prior, references, k, seed, chunk

    @property
    def group(self) -> int:
        return max(1, min(self.chunk, NUMBERS // self.references.flat.shape[1]))

    def judge(self, start: int, stop: int) -> Float[Tensor, "b 3"]:
        indices = range(start, stop)
        drawn = draw_references(len(self.references), self.k, self.seed, indices)
        return statistics(self.prior.sample(indices, self.seed), self.references, drawn)

    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        chunk = self.chunk
        return torch.cat([self.prior.sample(indices[i : i + chunk], seed) for i in range(0, len(indices), chunk)])
