"""The settings of a solver: its method, its grid and its budget."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any

from pydantic import Field

from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.solvers.base import Solver
from unseen_diffusion.solvers.clean_end import HalfCleanEnd
from unseen_diffusion.solvers.grids import CleanEnd, Grid, GridKind, make_grid
from unseen_diffusion.solvers.methods import find_solver
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names


@settings("solver")
class SolverSettings:
    """A config of the ``solver`` group. A method with settings of its own adds them in a subclass."""

    name: str
    """the method: a file in ``solvers/methods``, or the import path of your own class"""
    grid: GridKind
    """the spacing of the nodes (see ``make_grid``)"""
    steps: Annotated[int, Field(le=10**6)]
    """NFE per direction, at most; a method that needs several per interval gets fewer intervals"""
    clean_end: CleanEnd = "full"
    """the step between the clean image and the lowest node: a DDIM step, or half of it (``HalfCleanEnd``)"""

    def __post_init__(self) -> None:
        method = find_solver(self.name)
        if self.clean_end not in method.clean_ends:
            raise InputError(
                f"solver.clean_end={self.clean_end}: {self.name} does not support it; "
                f"choose {' or '.join(method.clean_ends)}"
            )
        if self.intervals < 2:
            least = next(steps for steps in range(2, 10**6) if self.intervals_of(steps) >= 2)
            raise InputError(f"solver.steps={self.steps}: give {least} or more to {self.name}")

    @property
    def intervals(self) -> int:
        """Number of intervals of the grid that ``steps`` NFE allow."""
        return self.intervals_of(self.steps)

    def intervals_of(self, steps: int) -> int:
        """Number of intervals that ``steps`` NFE allow."""
        method = find_solver(self.name)
        return (steps - method.extra_nfe) // method.nfe

    @property
    def nfe_by_direction(self) -> tuple[int, int]:
        """NFE of an inversion and of a denoising, at most."""
        return self.steps, self.steps

    def make_grid(self, schedule: Schedule, t_top: float, through: Sequence[float] = ()) -> Grid:
        """The nodes between the clean image and ``t_top`` (see ``grids.make_grid``)."""
        return make_grid(schedule, self.grid, self.intervals, t_top, through)

    def make_solver(self) -> Solver:
        """A fresh solver, for one trajectory."""
        solver = find_solver(self.name)()
        return HalfCleanEnd(solver) if self.clean_end == "half" else solver


def make_solver(solver: str | SolverSettings | Solver) -> Solver:
    """A fresh solver by name or settings; an instance is returned as it is.

    Raises:
        InputError: unknown solver.
    """
    if isinstance(solver, SolverSettings):
        return solver.make_solver()
    return find_solver(solver)() if isinstance(solver, str) else solver


def restore_settings(values: Mapping[str, Any]) -> SolverSettings:
    """Rebuilds settings from ``values``, as ``dataclasses.asdict`` returned them; the fields determine the class.

    Raises:
        InputError: unknown keys or values, or a user's class that is not imported yet: values from a file never import
            code.
    """
    name = str(values["name"])
    module = name.rpartition(".")[0]
    if module and module not in sys.modules:
        raise InputError(f"solver.name={name}: import {module} first, which defines this solver")
    beside = vars(sys.modules[find_solver(name).__module__]).values()
    kinds: list[type[SolverSettings]] = [SolverSettings]
    kinds += [one for one in beside if isinstance(one, type) and issubclass(one, SolverSettings)]
    return min(kinds, key=lambda one: len({field.name for field in fields(one)} ^ values.keys()))(**values)


__getattr__ = new_names(__name__)
