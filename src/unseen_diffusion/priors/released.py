"""The proposal of the code released in 2024: points of arcs from a reference to a draw of the model's own Gaussian."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unseen_diffusion.priors.base import FittedPrior, IdLatents, Latents, Prior
from unseen_diffusion.priors.gaussian import DiagonalNormal
from unseen_diffusion.priors.references import slerp
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


@dataclass(frozen=True)
class Arcs(FittedPrior):
    """Candidate i is point i % n of arc i // n; ``positions`` (n,) rise from 0, a reference, to 1, a Gaussian draw."""

    latents: Tensor
    id_mean: Tensor
    id_scale: Tensor
    positions: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        arcs = [index // len(self.positions) for index in indices]
        rows = [int(torch.randint(len(self.latents), (), generator=generator(seed, "arc", arc))) for arc in arcs]
        drawn = DiagonalNormal(self.id_mean, self.id_scale).sample(arcs, seed)
        u = self.positions[[index % len(self.positions) for index in indices]]
        return slerp(self.latents[rows], drawn, u)

    def contains_references(self, count: int) -> bool:
        return True


@settings("prior")
class ReleasedSlerp(Prior):
    """Slerp at equal steps from a reference to a draw from the base model's own Gaussian, as released in 2024.

    The Gaussian has the mean vector of the base model's own latents, and as variance that of all their entries at once,
    which adds the spread of the mean vector itself.
    """

    points: Annotated[int, Field(ge=2)] = 20
    """points on an arc, ends included"""
    id_count: Annotated[int, Field(ge=2)] = 200
    """latents of the base model's own domain that its Gaussian is fitted to"""
    name: str = "released2024"

    fitted: ClassVar = Arcs

    @property
    def minimum_references(self) -> int:
        return 1

    @property
    def id_latents(self) -> int:
        return self.id_count

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        self.check_latents(latents)
        if id_latents is None:
            raise InputError(f"prior={self.name}: needs latents of the model's own domain")
        own = id_latents.double()
        return Arcs(latents, own.mean(0), own.std(), torch.linspace(0, 1, self.points, dtype=torch.float64))
