"""How candidates are drawn and judged: what stands between a prior and the loop that keeps some of them."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.priors import FittedPrior
from unseen_diffusion.rejection.geometry import References, draw_references, statistics

# Numbers per group of candidates: more than this no longer fits a cache, and costs time instead of saving it.
NUMBERS = 1 << 20


@runtime_checkable
class Route(Protocol):
    """Candidates 0, 1, 2, ... by groups."""

    @property
    def group(self) -> int:
        """Candidates per call of ``judge``; results do not depend on it."""
        ...

    def judge(self, start: int, stop: int) -> Float[Tensor, "b 3"]:
        """Statistics of candidates start, ..., stop - 1."""
        ...

    def keep(self, index: int) -> None:
        """Notes a candidate of the group judged last as accepted."""
        ...

    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        """Accepted candidates in full; under another ``seed``, independent draws of the prior in their place."""
        ...


class Direct:
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

    def keep(self, index: int) -> None:
        """Nothing to note: a candidate is drawn again from its index."""

    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        chunk = self.chunk
        return torch.cat([self.prior.sample(indices[i : i + chunk], seed) for i in range(0, len(indices), chunk)])
