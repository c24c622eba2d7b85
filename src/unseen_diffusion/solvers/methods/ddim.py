"""DDIM (Song et al. 2021, arXiv 2010.02502): the Euler method in v = sigma / alpha."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node, Schedule
from unseen_diffusion.solvers.base import Solver, to_node
from unseen_diffusion.solvers.grids import Grid
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError


class Ddim(Solver):
    """First order: one evaluation per step, at its start."""

    order, nfe = 1, 1
    pairings = (("uniform_t", "full"), ("karras", "full"))

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        return to_node(model.predict(x, here), there)


@settings("solver")
class UnevenSettings(SolverSettings):
    """DDIM with ``steps`` NFE upwards, in the inversion, and another number downwards, in the denoising."""

    denoising_steps: Annotated[int, Field(ge=2, le=10**6)]
    """NFE of the denoising; ``steps`` are those of the inversion"""

    def __post_init__(self) -> None:
        if self.name != "ddim":
            raise InputError(f"solver.name={self.name}: takes no denoising_steps; choose solver={self.name}")
        super().__post_init__()

    @property
    def nfe_by_direction(self) -> tuple[int, int]:
        """NFE of an inversion and of a denoising, at most."""
        return self.steps, self.denoising_steps

    def make_grid(self, schedule: Schedule, t_top: float, through: Sequence[float] = ()) -> Grid:
        """The nodes of both directions, each with its own number of steps."""
        down = SolverSettings(name=self.name, grid=self.grid, steps=self.denoising_steps, clean_end=self.clean_end)
        up = super().make_grid(schedule, t_top, through)
        return Grid(up.up, down.make_grid(schedule, t_top, through).down)
