"""The method, written once: invert the references, fit the prior, select candidates, denoise them.

``unseen run`` keeps the result of each step in the artefact store (``runs.methods.drawn``), the diffusers pipeline in
memory (``pipeline.unseen_domain``). With the same settings and seeds both give the same samples, bit by bit.
"""

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from torch import Tensor

from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.priors import Prior
from unseen_diffusion.utils.digests import digest

Fitted = TypeVar("Fitted")  # a fitted prior, or the artefact that holds one
Account = TypeVar("Account")  # of the selection
Images = TypeVar("Images")


@dataclass(frozen=True)
class LatentSet:
    """Latents at one mixing step.

    Attributes:
        t: mixing step.
        latents: (n, C, H, W) float32.
        indices: for each latent, the number of its stream of denoising noise.
    """

    t: float
    latents: Tensor
    indices: list[int]

    @cached_property
    def key(self) -> str:
        """SHA-256 of the latents and of all that their denoising depends on, whatever their origin."""
        head = json.dumps([self.t, list(self.latents.shape), self.indices])
        return digest(head, self.latents.contiguous().numpy().tobytes())

    def first(self, count: int) -> "LatentSet":
        """The first ``count`` latents."""
        return LatentSet(self.t, self.latents[:count], self.indices[:count])

    def after(self, start: int) -> "LatentSet":
        """The latents from number ``start`` on."""
        return LatentSet(self.t, self.latents[start:], self.indices[start:])

    def at(self, positions: list[int]) -> "LatentSet":
        """The latents at these positions."""
        return LatentSet(self.t, self.latents[positions], [self.indices[i] for i in positions])


class FitSteps(ABC, Generic[Fitted]):
    """The steps before a prior is fitted (arXiv 2310.09213, section 4.1)."""

    @abstractmethod
    def invert(self) -> LatentSet:
        """Reference images -> their latents at the mixing step."""

    @abstractmethod
    def id_latents(self, count: int) -> LatentSet:
        """Latents of the base model's own domain at the mixing step."""

    @abstractmethod
    def fit(self, prior: Prior, references: LatentSet, id_latents: LatentSet | None) -> Fitted:
        """Latents -> the fitted prior."""

    def run(self, prior: Prior, schedule: Schedule) -> tuple[LatentSet, Fitted]:
        """Inverts, then fits: returns the references' latents and the prior fitted to them."""
        references = self.invert()
        id_latents = self.id_latents(prior.id_latents) if prior.id_latents else None
        return references, self.fit(prior.at_step(schedule, references.t), references, id_latents)


class DrawSteps(ABC, Generic[Fitted, Account, Images]):
    """The steps from a fitted prior to images."""

    @abstractmethod
    def select(self, fitted: Fitted, references: LatentSet, seed: int) -> tuple[Account, LatentSet]:
        """Candidates of the prior -> those within the tolerances, numbered by candidate."""

    @abstractmethod
    def denoise(self, latents: LatentSet, eta: float, seed: int) -> Images:
        """Latents -> images; with eta above 0, the noise of each depends on (seed, its number)."""

    def run(self, fitted: Fitted, references: LatentSet, eta: float, seed: int) -> tuple[Account, LatentSet, Images]:
        """Selects, then denoises with one seed: returns the record of the selection, its latents and their images."""
        account, latents = self.select(fitted, references, seed)
        return account, latents, self.denoise(latents, eta, seed)
