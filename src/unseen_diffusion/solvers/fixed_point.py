"""Fixed-point iterations, image by image: plain, damped or with Anderson acceleration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Acceleration = Literal["anderson", "damped", "plain"]
ACCELERATIONS = get_args(Acceleration)
MEMORY = 5  # differences that Anderson acceleration combines
RIDGE = 1e-10  # times the trace of the normal equations: keeps nearly parallel differences solvable
TINY = 1e-30  # avoids 0 / 0


@dataclass(frozen=True)
class FixedPoint:
    """Settings of the fixed-point iteration y = y + r(y).

    Attributes:
        iterations: NFE per image and step, at most.
        tolerance: relative residual ||r|| / ||y|| at which an image is done and no longer evaluated.
        acceleration: ``plain`` always takes y + r. ``damped`` takes y + w r; when the residual has not fallen, it
            halves w and returns to the best y. ``anderson`` takes the combination of earlier steps with the smallest
            residual (Walker and Ni 2011), and returns to the best y likewise.
    """

    iterations: int = 4
    tolerance: float = 1e-5
    acceleration: Acceleration = "anderson"


@dataclass
class Solution:
    """The solution of a fixed point, with its residuals.

    Attributes:
        y: (b, ...), the states.
        residual: (b,) float64, relative, where each state was last accepted.
        first: (b,) float64, relative, of the first evaluation.
    """

    y: Tensor
    residual: Tensor
    first: Tensor


def solve(method: FixedPoint, residual: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Solution:
    """Solves r(y) = 0 from ``start``; ``residual(y, rows)`` evaluates the given rows (int64) of the batch.

    The result is one correction ahead of the last accepted evaluation; the residual belongs to that evaluation.
    """
    search = _Search(start, method.acceleration)
    rows = torch.arange(len(start), device=start.device)
    first = search.relative
    for iteration in range(method.iterations):
        search.observe(residual(search.y[rows], rows), rows)
        first = search.relative if iteration == 0 else first
        rows = (~(search.relative <= method.tolerance)).nonzero().flatten()
        if len(rows) == 0:
            break
    return Solution(_where(search.ahead, search.y, search.kept), search.relative, first)


class _Search:
    """The state of the iteration, per image: the best state, its residual, and the next proposal ``y``."""

    def __init__(self, start: Tensor, acceleration: str) -> None:
        self.acceleration = acceleration
        self.y, self.kept, self.r = start, start, torch.zeros_like(start)
        self.size = torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
        self.relative, self.damping = self.size, torch.ones_like(self.size)
        self.ahead = torch.zeros_like(self.size, dtype=torch.bool)
        self.history: list[tuple[Tensor, Tensor]] = []

    def observe(self, residual: Tensor, rows: Tensor) -> None:
        """Accepts or rejects the proposals of ``rows``, and proposes new states."""
        seen = torch.zeros_like(self.ahead).index_fill(0, rows, True)
        r = self.r.index_copy(0, rows, residual)
        size = _norm(r)
        better = seen & ((size < self.size) | (self.acceleration == "plain"))
        if self.acceleration == "anderson":
            self._remember(self.y - self.kept, r - self.r, better & self.size.isfinite(), seen & ~better)
        self.kept, self.r = _where(better, self.y, self.kept), _where(better, r, self.r)
        self.size = torch.where(better, size, self.size)
        self.relative = torch.where(better, size / _norm(self.y).clamp(min=TINY), self.relative)
        self.damping = torch.where(seen & ~better, self.damping / 2, self.damping)
        self.ahead = torch.where(seen, better, self.ahead)
        self.y = _where(seen, self._proposal(), self.y)

    def _remember(self, dy: Tensor, dr: Tensor, better: Tensor, failed: Tensor) -> None:
        """Appends the differences of accepted states; an image that failed loses its history."""
        none = torch.zeros_like(dy)
        past = [(_where(failed, none, a), _where(failed, none, b)) for a, b in self.history]
        self.history = [*past, (_where(better, dy, none), _where(better, dr, none))][-MEMORY:]

    def _proposal(self) -> Tensor:
        """y + w r, or Anderson's y - dY gamma + w (r - dR gamma) with gamma = argmin ||r - dR gamma||."""
        damping = _wide(self.damping, self.r)
        if not self.history:
            return self.kept + damping * self.r
        dy, dr = (torch.stack([pair[i].flatten(1) for pair in self.history], 1).double() for i in (0, 1))
        gram = dr @ dr.mT
        ridge = RIDGE * gram.diagonal(dim1=1, dim2=2).sum(1) + TINY
        gram = gram + ridge[:, None, None] * torch.eye(len(self.history), dtype=gram.dtype, device=gram.device)
        gamma = torch.linalg.solve(gram, dr @ self.r.flatten(1).double()[:, :, None])
        along_y, along_r = (((d.mT @ gamma)[:, :, 0]).reshape(self.r.shape).to(self.r.dtype) for d in (dy, dr))
        return self.kept - along_y + damping * (self.r - along_r)


def _norm(x: Tensor) -> Tensor:
    """L2 norm of each image, (b,) float64."""
    return x.flatten(1).double().norm(dim=1)


def _wide(row: Tensor, like: Tensor) -> Tensor:
    """Adds dimensions of size 1: (b,) -> (b, 1, ..., 1)."""
    return (row if row.dtype == torch.bool else row.to(like.dtype)).reshape(-1, *[1] * (like.ndim - 1))


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Chooses ``yes`` or ``no`` row by row."""
    return torch.where(_wide(rows, yes), yes, no)
