"""The numerical core: one step on (alpha, sigma), inversion upwards and denoising downwards.

The step of DDIM (Song et al. 2021, arXiv 2010.02502, equation 12) for every family:
x' = alpha' denoised + sqrt(sigma'^2 - tau^2) eps + tau z, tau = eta sigma' sqrt(1 - vs'^2 / vs^2).
The deterministic part ends at the node (alpha', sqrt(sigma'^2 - tau^2)), so any ODE solver takes that step
and the noise is added afterwards: eta means the same for every solver.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import CLEAN, Node, Schedule
from unseen_diffusion.solvers.explicit import (
    Ddim,
    DpmSolver2M,
    HalfCleanEnd,
    Heun,
    RungeKutta4,
    Stepper,
    Trapezoid,
    noise_ratio,
)
from unseen_diffusion.solvers.grids import GRIDS, Grid, make_grid
from unseen_diffusion.solvers.implicit import ACCELERATIONS, FixedPoint, ImplicitDdim
from unseen_diffusion.utils.batching import Size, in_batches
from unseen_diffusion.utils.devices import to_device
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.progress import steps_bar
from unseen_diffusion.utils.seeds import fill_normal, generator

log = logging.getLogger(__name__)

SOLVERS: dict[str, Callable[[], Stepper]] = {
    "ddim": Ddim,
    "ddim_implicit": ImplicitDdim,
    "dpmpp_2m": DpmSolver2M,
    "trapezoid": Trapezoid,
    "heun": Heun,
    "rk4": RungeKutta4,
}
# Evaluations per interval, and what the end of the trajectory adds to it (it saves where that is negative).
COSTS = {
    "ddim": (1, 0),
    "ddim_implicit": (FixedPoint.iterations, 0),
    "dpmpp_2m": (1, 0),
    "trapezoid": (1, 1),
    "heun": (2, -1),
    "rk4": (4, -3),
}
CLEAN_ENDS = ("full", "half")


@dataclass(frozen=True)
class SolverSettings:
    """A config of the ``solver`` group.

    Attributes:
        name: a key of ``SOLVERS``.
        grid: one of ``GRIDS``.
        steps: network evaluations per direction, at most. Methods of several evaluations an interval get fewer
            intervals instead: heun (steps + 1) / 2, rk4 (steps + 3) / 4, trapezoid steps - 1, rounded down.
        clean_end: ``full``, DDIM's step between the clean image and the lowest node, or ``half`` of it
            (``HalfCleanEnd``).
    """

    name: str
    grid: str
    steps: int
    clean_end: str = "full"

    def __post_init__(self) -> None:
        for key, value, known in (
            ("name", self.name, tuple(SOLVERS)),
            ("grid", self.grid, GRIDS),
            ("clean_end", self.clean_end, CLEAN_ENDS),
        ):
            if value not in known:
                raise InputError(f"solver.{key}={value}: choose one of {', '.join(known)}")
        if self.clean_end == "half" and self.name == "ddim_implicit":
            raise InputError("solver.clean_end=half: ddim_implicit inverts whole DDIM steps only; choose full")
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or self.intervals < 2:
            least = next(steps for steps in range(2, 10**6) if self.intervals_of(steps) >= 2)
            raise InputError(f"solver.steps={self.steps}: give {least} or more to {self.name}")

    @property
    def intervals(self) -> int:
        """Intervals of the grid: what ``steps`` evaluations pay for."""
        return self.intervals_of(self.steps)

    def intervals_of(self, steps: int) -> int:
        """Intervals that ``steps`` evaluations pay for."""
        each, extra = COSTS[self.name]
        return (steps - extra) // each

    def make_grid(self, schedule: Schedule, t_top: float, through: Sequence[float] = ()) -> Grid:
        """The nodes between the clean image and ``t_top`` (see ``grids.make_grid``)."""
        return make_grid(schedule, self.grid, self.intervals, t_top, through)

    def stepper(self) -> Stepper:
        """A fresh trajectory of this solver."""
        stepper = SOLVERS[self.name]()
        return HalfCleanEnd(stepper) if self.clean_end == "half" else stepper


@dataclass(frozen=True)
class ImplicitSettings(SolverSettings):
    """The implicit inverse of DDIM: ``steps`` evaluations upwards at most, ``steps / iterations`` downwards.

    Attributes:
        iterations: evaluations of a fixed point at most, per image and step of the inversion.
        tolerance: relative residual at which an image is done.
        acceleration: ``anderson``, ``damped`` or ``plain`` (see ``FixedPoint``).
    """

    iterations: int = 4
    tolerance: float = 1e-5
    acceleration: str = "anderson"

    def __post_init__(self) -> None:
        if self.name != "ddim_implicit":
            raise InputError(f"solver.name={self.name}: takes no iterations; choose solver={self.name}")
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 1:
            raise InputError(f"solver.iterations={self.iterations}: give a whole number of 1 or more")
        if not 0 < self.tolerance < 1:
            raise InputError(f"solver.tolerance={self.tolerance}: give a number between 0 and 1, such as 1e-5")
        if self.acceleration not in ACCELERATIONS:
            raise InputError(f"solver.acceleration={self.acceleration}: choose one of {', '.join(ACCELERATIONS)}")
        super().__post_init__()

    def intervals_of(self, steps: int) -> int:
        """Intervals that ``steps`` evaluations pay for, all iterations needed."""
        return steps // self.iterations

    def stepper(self) -> Stepper:
        """A fresh trajectory of this solver."""
        return ImplicitDdim(FixedPoint(self.iterations, self.tolerance, self.acceleration))


def make_stepper(solver: str | SolverSettings | Stepper) -> Stepper:
    """A fresh stepper by name or settings; one that exists already is used on.

    Raises:
        InputError: unknown solver.
    """
    if isinstance(solver, SolverSettings):
        return solver.stepper()
    if not isinstance(solver, str):
        return solver
    if solver not in SOLVERS:
        raise InputError(f"solver.name={solver}: choose one of {', '.join(SOLVERS)}")
    return SOLVERS[solver]()


class NoiseSplit(NamedTuple):
    """A stochastic step: the node that its deterministic part reaches, and the noise added there."""

    there: Node
    tau: float


def split_noise(here: Node, there: Node, eta: float) -> NoiseSplit:
    """tau = eta sigma' sqrt(1 - vs'^2 / vs^2) of a downward step, and what is left of sigma'."""
    if eta == 0 or there.sigma == 0:
        return NoiseSplit(there, 0.0)
    tau = eta * there.sigma * math.sqrt(max(0.0, 1 - (noise_ratio(there) / noise_ratio(here)) ** 2))
    return NoiseSplit(there._replace(sigma=math.sqrt(max(0.0, there.sigma**2 - tau**2))), tau)


def walk(
    model: DiffusionModel,
    x: Float[Tensor, "b c h w"],
    nodes: Sequence[Node],
    solver: str | SolverSettings | Stepper,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> Iterator[tuple[Node, Float[Tensor, "b c h w"]]]:
    """Yields (node, state) after each step along ``nodes``.

    Args:
        model: the frozen model.
        x: state at ``nodes[0]``.
        nodes: consecutive nodes, upwards or downwards.
        solver: a key of ``SOLVERS``, settings, or a fresh stepper.
        eta: 0 deterministic, 1 as noisy as DDPM; only downwards.
        generators: one per image, used where eta > 0.
    """
    stepper = make_stepper(solver)
    for here, there in pairwise(nodes):
        target, tau = split_noise(here, there, eta)
        x = stepper(model, x, here, target)
        if tau > 0:
            z = fill_normal(torch.empty(x.shape), generators)
            x = x + tau * to_device(z, x.device).to(x.dtype)
        yield there, x


def invert(
    model: DiffusionModel,
    images: Float[Tensor, "n c h w"],
    grid: Grid,
    record: Sequence[float],
    solver: str | SolverSettings = "ddim",
    batch_size: Size = 64,
    progress: "bool | tqdm[None]" = False,
    residuals: list[float] | None = None,
) -> dict[float, Float[Tensor, "n c h w"]]:
    """Deterministic inversion: the latents of every recorded mixing step, from one trajectory.

    Args:
        model: the frozen model.
        images: in [-1, 1].
        grid: nodes; each recorded step must be one of them (see ``make_grid``'s ``through``).
        record: mixing steps.
        solver: a key of ``SOLVERS``, or settings (whose ``grid`` and ``steps`` went into ``grid``).
        batch_size: images per network call, halved where memory runs out; the result does not depend on it, up to
            float rounding.
        progress: show a progress bar with the time left, or move one on.
        residuals: gets the largest relative residual of each batch, where the solver is implicit; what did not
            converge is also logged as a warning.

    Returns:
        Latents by mixing step, float32 on the CPU.
    """
    times = {node.t for node in grid.up[1:]}
    if missing := [t for t in record if t not in times]:
        raise InputError(f"mixing.record={missing}: not among the nodes of the inversion's grid")
    wanted, steps = set(record), len(grid.up) - 1
    with steps_bar("invert", len(images), steps, progress) as bar:

        def job(rows: slice) -> tuple[Stepper, dict[float, Tensor]]:
            stepper, found = make_stepper(solver), {}
            with _attempt(model, bar):
                for node, state in walk(model, to_device(images[rows], model.device), grid.up, stepper):
                    bar.update(len(state))
                    if node.t in wanted:
                        found[node.t] = state.float().cpu()
            return stepper, found

        done = list(in_batches(job, len(images), batch_size))
    _report([stepper for stepper, _ in done if isinstance(stepper, ImplicitDdim)], residuals)
    empty = images.new_empty((0, *model.shape))
    return {t: torch.cat([found[t] for _, found in done]) if done else empty for t in record}


def denoise(
    model: DiffusionModel,
    latents: Float[Tensor, "n c h w"],
    grid: Grid,
    eta: float,
    seed: int,
    indices: Sequence[int] | None = None,
    solver: str | SolverSettings = "ddim",
    batch_size: Size = 64,
    stop: float = CLEAN,
    progress: "bool | tqdm[None]" = False,
) -> Float[Tensor, "n c h w"]:
    """Denoises latents from the top of ``grid`` with bandwidth ``eta``.

    Args:
        model: the frozen model.
        latents: states at ``grid.down[0]``.
        grid: nodes.
        eta: 0 deterministic, 1 as noisy as DDPM.
        seed: of the added noise.
        indices: one per latent; image i's noise comes from the stream (seed, "denoise", indices[i]) alone.
            By default 0, 1, 2, ...
        solver: a key of ``SOLVERS``, or settings (whose ``grid`` and ``steps`` went into ``grid``).
        batch_size: images per network call, halved where memory runs out.
        stop: the node at which to stop; by default the clean image.
        progress: show a progress bar with the time left, or move one on.

    Returns:
        Images (or states at ``stop``), unclamped float32 on the CPU.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"bandwidth.eta={eta}: give a number between 0 and 1")
    indices = range(len(latents)) if indices is None else indices
    if len(indices) != len(latents):
        raise InputError(f"indices: {len(indices)} for {len(latents)} latents; give one per latent")
    nodes = [node for node in grid.down if node.t >= stop]
    if nodes[-1:] != [node for node in grid.down if node.t == stop]:
        raise InputError(f"stop={stop:g}: not among the nodes of the denoising's grid")
    steps = len(nodes) - 1
    with steps_bar("denoise", len(latents), steps, progress) as bar:

        def job(rows: slice) -> Tensor:
            x = to_device(latents[rows], model.device)
            streams = [generator(seed, "denoise", index) for index in indices[rows]]
            with _attempt(model, bar):
                for _, state in walk(model, x, nodes, solver, eta, streams):
                    x = state
                    bar.update(len(x))
            return x.float().cpu()

        done = list(in_batches(job, len(latents), batch_size))
    return torch.cat(done) if done else latents.new_empty(latents.shape)


@contextmanager
def _attempt(model: DiffusionModel, bar: "tqdm[None]") -> Iterator[None]:
    """One batch; if it fails, neither its evaluations nor its progress count."""
    before, position = model.evaluations, bar.n
    try:
        yield
    except BaseException:
        model.evaluations, bar.n = before, position
        raise


def _report(steppers: Sequence[ImplicitDdim], residuals: list[float] | None) -> None:
    """Hands the residuals of implicit steps on, and warns of those that did not fall."""
    if residuals is not None:
        residuals += [stepper.residual for stepper in steppers]
    if diverged := sum(stepper.diverged for stepper in steppers):
        log.warning(
            "ddim_implicit: %d fixed points did not converge (largest relative residual %.1e); raise solver.steps, "
            "or choose solver.acceleration=damped with more solver.iterations",
            diverged,
            max(stepper.residual for stepper in steppers),
        )
