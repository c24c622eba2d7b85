"""Tolerances that project each candidate onto the nearest point whose statistics lie within the bands.

The statistics are functions of the inner products of c with its k drawn references z_i and of |c|^2, so their
gradients lie in span(z_1, ..., z_k, c), and so does the nearest point: c' = y_0 c + sum y_i z_i. All computations use
these k + 1 numbers y and the Gram matrix H of (c, z_1, ..., z_k), so that their cost does not depend on d.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unseen_diffusion.rejection.geometry import CRITERIA, averages, draw_references, sides, statistics
from unseen_diffusion.rejection.routes import NUMBERS, Route, Task
from unseen_diffusion.rejection.tolerances import Band, Matched, within
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.errors import InputError

# Share of a band's width left at both ends, so that the rounding of float32 latents stays inside.
MARGIN = 1e-3
# A step below this share of the distance from the candidate ends the iteration.
SETTLED = 1e-6
# Longest step, relative to the candidate's norm: linearisations reach no farther.
LONGEST = 0.1


@settings("tolerances")
class Projection(Matched):
    """The bands of ``match``; each candidate is projected onto the nearest point within them.

    Only candidates that do not converge are rejected: their drawn references are so unusual that no point nearby
    satisfies the bands. The projected candidate lies in the span of the candidate and those references.
    """

    iterations: Count = 40
    """largest number of linearisations per candidate"""
    name: str = "projection"

    moves_candidates: ClassVar = True
    routes: ClassVar = ("direct",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.match.control or self.match.moves_candidates or not self.match.judges:
            raise InputError(f"tolerances.match={self.match.name}: a projection needs bands; match calibrated or paper")

    def route(self, name: str, task: Task, bands: Mapping[str, Band]) -> Route:
        return Projected(task, bands, self.k, self.iterations)

    def stored(self) -> dict[str, Any] | None:
        return (self.match.stored() or {}) | {
            "name": self.name,
            "match": self.match.name,
            "iterations": self.iterations,
        }


def criteria(
    y: Float[Tensor, "b k1"], gram: Float[Tensor, "b k1 k1"]
) -> tuple[Float[Tensor, "b 3"], Float[Tensor, "b 3 k1"]]:
    """The statistics of y_0 c + sum y_i z_i, and their gradients as combinations of (c, z_1, ..., z_k)."""
    k = gram.shape[1] - 1
    first, second = torch.triu_indices(k, k, offset=1)
    lengths, pairs = gram.diagonal(dim1=1, dim2=2)[:, 1:], gram[:, 1:, 1:][:, first, second]
    products = (gram @ y[:, :, None])[:, :, 0]
    with torch.enable_grad():
        dots = products[:, 1:].detach().requires_grad_()
        norms = (y * products).sum(1, keepdim=True).detach().requires_grad_()
        values = averages(dots, norms, lengths, *sides(dots, norms, lengths, pairs))
        slopes = [torch.autograd.grad(column.sum(), (dots, norms), retain_graph=True) for column in values.T]
    # d|c'|^2 = 2 c' . dc', and d(c' . z_i) = z_i . dc'.
    rows = [2 * by_norm * y + torch.nn.functional.pad(by_dot, (1, 0)) for by_dot, by_norm in slopes]
    return values.detach(), torch.stack(rows, 1)


def least_multipliers(
    matrix: Float[Tensor, "b m m"], low: Float[Tensor, "b m"], high: Float[Tensor, "b m"]
) -> Float[Tensor, "b m"]:
    """min |x|^2 subject to low <= J x <= high: x = J^T lambda, given A = J J^T, by trying every set of active ends.

    With at most 3 constraints there are at most 27 sets; the one that fulfils the Karush-Kuhn-Tucker conditions best
    is taken (exactly one fulfils them if A is regular).
    """
    unit = matrix.diagonal(dim1=1, dim2=2).clamp(min=torch.finfo(matrix.dtype).tiny).sqrt()
    scaled = matrix / unit[:, :, None] / unit[:, None, :]
    low, high = low / unit, high / unit
    size = torch.maximum(low.abs(), high.abs()).amax(1) + torch.finfo(matrix.dtype).tiny
    best, multipliers = torch.full((len(matrix),), torch.inf, dtype=matrix.dtype), torch.zeros_like(low)
    for ends in product((0, -1, 1), repeat=matrix.shape[1]):
        end = torch.tensor(ends)
        active = (end != 0).double()
        target = torch.where(end < 0, low, torch.where(end > 0, high, 0.0))
        system = scaled * active[:, None] * active + torch.diag(1 - active)
        solved, _ = torch.linalg.solve_ex(system, target)
        reached = (scaled @ solved[:, :, None])[:, :, 0]
        outside = torch.maximum(low - reached, reached - high).amax(1)
        wrong = (solved * end).amax(1)  # at a low end the multiplier pushes up, at a high one down
        fault = torch.nan_to_num(torch.maximum(outside, wrong), nan=torch.inf).clamp(min=1e-12 * size)
        better = fault < best * (1 - 1e-9)
        best = torch.where(better, fault, best)
        multipliers = torch.where(better[:, None], solved / unit, multipliers)
    return multipliers


def nearest(
    gram: Float[Tensor, "b k1 k1"], low: Float[Tensor, " 3"], high: Float[Tensor, " 3"], iterations: int
) -> tuple[Float[Tensor, "b k1"], Bool[Tensor, " b"]]:
    """The nearest points within the bands by sequential quadratic programming, and whether they converged.

    Each step linearises the statistics and solves for the point nearest to the *candidate* that satisfies them.

    Args:
        gram: H, inner products of (c, z_1, ..., z_k), float64.
        low: lower ends; -inf where a criterion is not in use.
        high: upper ends; inf where a criterion is not in use.
        iterations: most steps.
    """
    used = torch.isfinite(low)
    start = torch.zeros_like(gram[:, 0])
    start[:, 0] = 1
    y = start.clone()
    values, _ = criteria(y, gram)
    converged = ((values >= low) & (values <= high)).all(1)
    margin = MARGIN * (high - low)[used]
    inner_low, inner_high = low[used] + margin, high[used] - margin
    for _ in range(iterations):
        moving = (~converged).nonzero().flatten()
        if not len(moving):
            break
        values, slopes = criteria(y[moving], gram[moving])
        values, slopes = values[:, used], slopes[:, used]
        sloped = slopes @ gram[moving]
        offset = values + (sloped @ (start - y)[moving][:, :, None])[:, :, 0]
        multipliers = least_multipliers(sloped @ slopes.mT, inner_low - offset, inner_high - offset)
        step = start[moving] + (multipliers[:, None] @ slopes)[:, 0] - y[moving]
        limit = LONGEST * gram[moving, 0, 0].sqrt() / length(step, gram[moving])
        y[moving] = y[moving] + limit.clamp(max=1)[:, None] * step
        values, _ = criteria(y[moving], gram[moving])
        inside = ((values >= low) & (values <= high)).all(1)
        settled = length(step, gram[moving]) <= SETTLED * length(y[moving] - start[moving], gram[moving])
        converged[moving] = inside & settled
    return y, converged


def length(y: Float[Tensor, "b k1"], gram: Float[Tensor, "b k1 k1"]) -> Float[Tensor, " b"]:
    """L2 norm of a combination."""
    return (y[:, None] @ gram @ y[:, :, None])[:, 0, 0].clamp(min=0).sqrt()


@dataclass(frozen=True)
class ProjectedCandidate:
    """A projected candidate, and its L2 distance from the draw."""

    latent: Tensor
    distance: float


class Projected(Route):
    """The route of ``Projection``: candidates of the direct route, projected before they are judged."""

    def __init__(self, task: Task, bands: Mapping[str, Band], k: int, iterations: int) -> None:
        self.prior, self.references, self.seed, self.chunk = task.prior, task.references, task.seed, task.chunk
        self.bands, self.k, self.iterations = bands, k, iterations
        ends = [bands.get(name, Band(-torch.inf, torch.inf)) for name in CRITERIA]
        self.low, self.high = (torch.tensor(end, dtype=torch.float64) for end in zip(*ends, strict=True))
        self.before: list[Tensor] = []
        self.start = 0
        self.group_projected: list[ProjectedCandidate] = []
        self.accepted: dict[int, ProjectedCandidate] = {}

    @property
    def group(self) -> int:
        return max(1, min(self.chunk, NUMBERS // self.references.flat.shape[1]))

    def judge(self, start: int, stop: int) -> Float[Tensor, "b 3"]:
        """Statistics of the projected float32 latents; candidates that did not converge stay unchanged."""
        drawn = draw_references(len(self.references), self.k, self.seed, range(start, stop))
        candidates = self.prior.sample(range(start, stop), self.seed)
        before = statistics(candidates, self.references, drawn)
        grams = torch.stack([self._gram(one, chosen) for one, chosen in zip(candidates, drawn, strict=True)])
        y, converged = nearest(grams, self.low, self.high, self.iterations)
        y[~converged | within(before, self.bands).all(1)] = torch.eye(self.k + 1, dtype=y.dtype)[0]
        distances = length(y - torch.eye(self.k + 1, dtype=y.dtype)[0], grams).tolist()
        rows = zip(candidates, drawn, y, distances, strict=True)
        self.group_projected = [
            ProjectedCandidate(self._combine(one, chosen, by), distance) for one, chosen, by, distance in rows
        ]
        self.start = start
        self.before.append(before)
        return statistics(torch.stack([one.latent for one in self.group_projected]), self.references, drawn)

    def keep(self, index: int) -> None:
        self.accepted[index] = self.group_projected[index - self.start]

    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        return torch.stack([self.accepted[index].latent for index in indices])

    def distances(self, indices: list[int]) -> Float[Tensor, " n"]:
        return torch.tensor([self.accepted[index].distance for index in indices], dtype=torch.float64)

    def drawn_statistics(self) -> Float[Tensor, "b 3"]:
        return torch.cat(self.before)

    def _gram(self, candidate: Tensor, chosen: Tensor) -> Float[Tensor, "k1 k1"]:
        """H of a candidate and its drawn references."""
        one = candidate.flatten().double()
        dots = self.references.flat[chosen].double() @ one
        gram = torch.empty(self.k + 1, self.k + 1, dtype=torch.float64)
        gram[0, 0], gram[0, 1:], gram[1:, 0] = one @ one, dots, dots
        gram[1:, 1:] = self.references.gram[chosen][:, chosen]
        return gram

    def _combine(self, candidate: Tensor, chosen: Tensor, y: Tensor) -> Float[Tensor, "c h w"]:
        """y_0 c + sum y_i z_i as float32; the candidate itself where it was not changed."""
        if float(y[0]) == 1 and not bool(y[1:].any()):
            return candidate
        combined = y[0] * candidate.flatten().double() + y[1:] @ self.references.flat[chosen].double()
        return combined.float().reshape(candidate.shape)
