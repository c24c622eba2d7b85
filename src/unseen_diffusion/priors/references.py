"""Priors made of the references themselves: slerp between them, and their replay as a control."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from unseen_diffusion.priors.base import FittedPrior, IdLatents, Latents, Prior
from unseen_diffusion.priors.combination import Combination
from unseen_diffusion.priors.gaussian import DiagonalNormal, Isotropic
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def slerp(a: Latents, b: Latents, u: Float[Tensor, " n"]) -> Latents:
    """Spherical interpolation (Shoemake 1985) of rows of ``a`` and ``b`` at u in [0, 1], in float64.

    Interpolates on the circle arc of the unnormalised vectors: sin((1-u) w)/sin(w) a + sin(u w)/sin(w) b with w
    the angle between them; linear where they are parallel.
    """
    x, y = a.double().flatten(1), b.double().flatten(1)
    first, second = slerp_weights(x, y, u)
    return (first * x + second * y).reshape(a.shape).float()


def slerp_weights(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d"], u: Float[Tensor, " n"]
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    """The factors of x and y, float64, at u in [0, 1] of the arc between them."""
    u = u.double()[:, None]
    cosine = (x * y).sum(1, keepdim=True) / (x.norm(dim=1, keepdim=True) * y.norm(dim=1, keepdim=True))
    angle = cosine.clamp(-1, 1).acos()
    sine = angle.sin()
    parallel = sine < 1e-6
    safe = torch.where(parallel, 1.0, sine)
    first = torch.where(parallel, 1 - u, ((1 - u) * angle).sin() / safe)
    second = torch.where(parallel, u, (u * angle).sin() / safe)
    return first, second


@dataclass(frozen=True)
class SlerpReferences(FittedPrior):
    """Slerp between two different references, at a position u uniform in [0, 1]."""

    latents: Tensor

    def drawn(self, indices: Sequence[int], seed: int) -> tuple[Int[Tensor, "b 2"], Float[Tensor, " b"]]:
        """The two references of each candidate, and its position u between them."""
        count = len(self.latents)
        pairs, positions = [], []
        for index in indices:
            rng = generator(seed, "candidate", index)
            pairs.append(torch.randperm(count, generator=rng)[:2])
            positions.append(torch.rand((), generator=rng))
        return torch.stack(pairs), torch.stack(positions)

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        pair, u = self.drawn(indices, seed)
        return slerp(self.latents[pair[:, 0]], self.latents[pair[:, 1]], u)

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        return self._around(0.0, *self.drawn(indices, seed), centred=False)

    def _around(self, centre: Tensor | float, pair: Tensor, u: Tensor, centred: bool) -> Combination:
        x, y = ((self.latents[rows].double() - centre).flatten(1) for rows in pair.T)
        return Combination(pair, torch.cat(slerp_weights(x, y, u), dim=1), centred)

    def contains_references(self, count: int) -> bool:
        return True


@dataclass(frozen=True)
class CentredSlerp(SlerpReferences):
    """Slerp around the mean of the references; the same pairs and positions as around the origin."""

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        return self.combination(indices, seed).of(self.latents)

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        mean = self.latents.mean(0, dtype=torch.float64)
        return self._around(mean, *self.drawn(indices, seed), centred=True)


@dataclass(frozen=True)
class SlerpToId(FittedPrior):
    """Slerp from a reference to a draw from the isotropic Gaussian of the base model's own domain."""

    latents: Tensor
    id_mean: Tensor
    id_scale: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        draws = [generator(seed, "slerp", index) for index in indices]
        rows = torch.stack([torch.randint(len(self.latents), (), generator=rng) for rng in draws])
        u = torch.stack([torch.rand((), generator=rng) for rng in draws])
        drawn = DiagonalNormal(self.id_mean, self.id_scale).sample(indices, seed)
        return slerp(self.latents[rows], drawn, u)

    def contains_references(self, count: int) -> bool:
        return True


@settings("prior")
class Slerp(Prior):
    """Slerp between two references, or from a reference to the base model's own domain (as in the released code).

    Around the origin, as released, the two weights sum to more than 1 (to 1.41 halfway between latents at right
    angles), so that the references' common mean is inflated by as much. Around that mean it stays as it is.
    """

    towards: Literal["references", "id"] = "references"
    """the other end: another reference, or a draw from the Gaussian of the base model's own domain"""
    id_count: Annotated[int, Field(ge=2)] = 200
    """latents of the base model's own domain that its Gaussian is fitted to; for towards=id"""
    centre: Literal["mean", "origin"] = "origin"
    """centre of the arcs: the references' mean, or the origin (as released); mean needs towards=references"""
    name: str = "slerp"

    fitted: ClassVar = SlerpReferences

    def __post_init__(self) -> None:
        if self.towards == "id" and self.centre == "mean":
            raise InputError("prior.centre=mean: needs prior.towards=references")

    @property
    def minimum_references(self) -> int:
        return 1 if self.id_latents else 2

    @property
    def id_latents(self) -> int:
        return self.id_count if self.towards == "id" else 0

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        self.check_latents(latents)
        if not self.id_latents:
            return self.restore({"latents": latents})
        if id_latents is None:
            raise InputError("prior.towards=id: needs latents of the model's own domain")
        gaussian = Isotropic().fit(id_latents)
        return SlerpToId(latents, gaussian.mean, gaussian.scale)

    def restore(self, tensors: Mapping[str, Tensor]) -> FittedPrior:
        between = CentredSlerp if self.centre == "mean" else SlerpReferences
        return SlerpToId(**tensors) if self.towards == "id" else between(**tensors)


@dataclass(frozen=True)
class ReplayedLatents(FittedPrior):
    """The references in a fixed order, repeated as often as needed."""

    latents: Tensor

    def sample(self, indices: Sequence[int], seed: int) -> Latents:
        return self.latents[torch.tensor(list(indices), dtype=torch.long) % len(self.latents)]

    def combination(self, indices: Sequence[int], seed: int) -> Combination:
        rows = torch.tensor(list(indices), dtype=torch.long)[:, None] % len(self.latents)
        return Combination(rows, torch.ones(len(rows), 1, dtype=torch.float64), centred=False)

    def contains_references(self, count: int) -> bool:
        return True


@settings("prior")
class Replay(Prior):
    """The inverted references themselves: scores almost perfectly and generates nothing new."""

    name: str = "replay"

    fitted: ClassVar = ReplayedLatents
    random: ClassVar = False

    @property
    def minimum_references(self) -> int:
        return 1

    def fit(self, latents: Latents, id_latents: IdLatents | None = None) -> FittedPrior:
        self.check_latents(latents)
        return ReplayedLatents(latents)
