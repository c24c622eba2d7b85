"""The implicit inverse of a DDIM step (as in AIDI and ReNoise): fixed points, solved image by image.

From a up to b it undoes DDIM's step down: find y with alpha_a denoised(y, b) + sigma_a eps(y, b) = x. With the exact
denoiser that step's Jacobian is (alpha_a / alpha_b) [(1 - th) I + th Cov[x0 | y] / vs_b^2], th = 1 - vs_a / vs_b:
positive definite, so a small enough step along the residual always helps, while the plain fixed point diverges where
th (largest eigenvalue / vs_b^2 - 1) > 1, that is at sharp posteriors.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.explicit import Ddim, advance, move, noise_ratio

ACCELERATIONS = ("anderson", "damped", "plain")
MEMORY = 5  # differences that Anderson's method combines
RIDGE = 1e-10  # of the normal equations' trace: keeps nearly parallel differences solvable
TINY = 1e-30  # keeps 0 / 0 apart from a number


@dataclass(frozen=True)
class FixedPoint:
    """How y = y + r(y) is solved.

    Attributes:
        iterations: evaluations at most, per image and step.
        tolerance: relative residual ||r|| / ||y|| at which an image is done and no longer evaluated.
        acceleration: ``plain`` y + r, come what may; ``damped`` y + w r, where w is halved and the best y taken up
            again when the residual has not fallen; ``anderson`` the combination of earlier steps that leaves the
            smallest residual (Walker and Ni 2011), with the same retreat.
    """

    iterations: int = 4
    tolerance: float = 1e-5
    acceleration: str = "anderson"


@dataclass
class Solution:
    """States y (b, ...), the relative residual (b,) float64 of each where last accepted, and the first one."""

    y: Tensor
    residual: Tensor
    first: Tensor


def solve(how: FixedPoint, residual: Callable[[Tensor, Tensor], Tensor], start: Tensor) -> Solution:
    """Solves r(y) = 0 from ``start``; ``residual(y, rows)`` evaluates the given rows (int64) of the batch.

    The result is one correction ahead of an evaluation that was accepted, so its residual is the one before it.
    """
    search = _Search(start, how.acceleration)
    rows = torch.arange(len(start), device=start.device)
    first = search.relative
    for iteration in range(how.iterations):
        search.observe(residual(search.y[rows], rows), rows)
        first = search.relative if iteration == 0 else first
        rows = (~(search.relative <= how.tolerance)).nonzero().flatten()
        if len(rows) == 0:
            break
    return Solution(_where(search.ahead, search.y, search.kept), search.relative, first)


class _Search:
    """Where the iteration stands, per image: the state kept, its residual, and the state ``y`` proposed next."""

    def __init__(self, start: Tensor, acceleration: str) -> None:
        self.acceleration = acceleration
        self.y, self.kept, self.r = start, start, torch.zeros_like(start)
        self.size = torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
        self.relative, self.damping = self.size, torch.ones_like(self.size)
        self.ahead = torch.zeros_like(self.size, dtype=torch.bool)
        self.history: list[tuple[Tensor, Tensor]] = []

    def observe(self, residual: Tensor, rows: Tensor) -> None:
        """Accepts or rejects the proposals of ``rows``, and makes new ones."""
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
        """Appends the differences of accepted states; a failure forgets what led to it."""
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
    """(b,) -> (b, 1, ..., 1)."""
    return (row if row.dtype == torch.bool else row.to(like.dtype)).reshape(-1, *[1] * (like.ndim - 1))


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Row by row one tensor or the other."""
    return torch.where(_wide(rows, yes), yes, no)


@dataclass
class ImplicitDdim:
    """DDIM downwards; upwards its implicit inverse, ``how.iterations`` evaluations a step at most. First order.

    Attributes:
        how: the fixed-point method.
        residual: the largest relative residual so far, over images and steps.
        diverged: images and steps whose residual did not fall below the first and stayed above the tolerance.
    """

    how: FixedPoint = FixedPoint()
    residual: float = 0.0
    diverged: int = 0
    eps: Tensor | None = field(default=None, repr=False)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        if noise_ratio(there) < noise_ratio(here):
            return Ddim()(model, x, here, there)
        # Without signal above, the step's Jacobian is sigma_a / sigma_b; the inverse scales the residual in y's units.
        scale = there.alpha / here.alpha if there.alpha else there.sigma / (here.sigma or there.sigma)
        eps = torch.zeros_like(x) if self.eps is None else self.eps
        start = advance(x, here, there, eps)

        def residual(y: Tensor, rows: Tensor) -> Tensor:
            nonlocal eps
            prediction = model.predict(y, there)
            eps = eps.index_copy(0, rows, prediction.eps)
            return scale * (x[rows] - move(prediction, here))

        found = solve(self.how, residual, start)
        self.eps = eps
        self.residual = max(self.residual, *found.residual.nan_to_num(torch.inf).tolist())
        stuck = ~(found.residual < found.first) & ~(found.residual <= self.how.tolerance)
        self.diverged += int(stuck.sum())
        return found.y
