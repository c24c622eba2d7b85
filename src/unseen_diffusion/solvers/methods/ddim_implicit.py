"""The implicit inverse of a DDIM step (as in AIDI and ReNoise), solved by fixed-point iteration.

The step from a up to b inverts the DDIM step down from b: find y with alpha_a denoised(y, b) + sigma_a eps(y, b) = x.
With the exact denoiser, the Jacobian of that step is (alpha_a / alpha_b) [(1 - th) I + th Cov[x0 | y] / v_b^2], with v
= sigma / alpha and th = 1 - v_a / v_b. It is positive definite, so a small enough step along the residual always helps.
The plain fixed point diverges where th (largest eigenvalue / v_b^2 - 1) > 1, that is at sharp posteriors.
"""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Solver, euler_step, to_node
from unseen_diffusion.solvers.fixed_point import Acceleration, FixedPoint, solve
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.errors import InputError


@dataclass
class ImplicitDdim(Solver):
    """First order: DDIM downwards, its implicit inverse upwards.

    Attributes:
        fixed_point: the method that solves each step upwards.
        residual: the largest relative residual so far, over images and steps.
        diverged: images and steps whose residual did not fall below the first one and stayed above the tolerance.
    """

    order, nfe = 1, FixedPoint.iterations
    clean_ends = ("full",)
    fixed_point: FixedPoint = field(default_factory=FixedPoint)
    residual: float = 0.0
    diverged: int = 0
    eps: Tensor | None = field(default=None, repr=False)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        if there.noise_to_signal < here.noise_to_signal:
            return to_node(model.predict(x, here), there)
        # Without signal above, the Jacobian of the step is sigma_a / sigma_b. Its inverse scales the residual to y.
        scale = there.alpha / here.alpha if there.alpha else there.sigma / (here.sigma or there.sigma)
        eps = torch.zeros_like(x) if self.eps is None else self.eps
        start = euler_step(x, here, there, eps)

        def residual(y: Tensor, rows: Tensor) -> Tensor:
            nonlocal eps
            prediction = model.predict(y, there)
            eps = eps.index_copy(0, rows, prediction.eps)
            return scale * (x[rows] - to_node(prediction, here))

        solution = solve(self.fixed_point, residual, start)
        self.eps = eps
        self.residual = max(self.residual, *solution.residual.nan_to_num(torch.inf).tolist())
        stuck = ~(solution.residual < solution.first) & ~(solution.residual <= self.fixed_point.tolerance)
        self.diverged += int(stuck.sum())
        return solution.y


@settings("solver")
class ImplicitSettings(SolverSettings):
    """The implicit inverse of DDIM: at most ``steps`` NFE upwards, ``steps / iterations`` downwards."""

    iterations: Count
    """NFE of a fixed point, at most, per image and step of the inversion"""
    tolerance: Annotated[float, Field(gt=0, lt=1)]
    """relative residual at which an image is done"""
    acceleration: Acceleration
    """the fixed-point method (see ``FixedPoint``)"""

    def __post_init__(self) -> None:
        if self.name != "ddim_implicit":
            raise InputError(f"solver.name={self.name}: takes no iterations; choose solver={self.name}")
        super().__post_init__()

    def intervals_of(self, steps: int) -> int:
        """Number of intervals that ``steps`` NFE allow, if every fixed point needs all its iterations."""
        return steps // self.iterations

    @property
    def nfe_by_direction(self) -> tuple[int, int]:
        """NFE of an inversion and of a denoising, at most."""
        return self.steps, self.steps // self.iterations

    def make_solver(self) -> Solver:
        """A fresh solver, for one trajectory."""
        return ImplicitDdim(FixedPoint(self.iterations, self.tolerance, self.acceleration))
