"""Inversion of images to latents (upwards) and denoising of latents (downwards), with any solver.

The step of DDIM (Song et al. 2021, arXiv 2010.02502, equation 12) for every model family, with v = sigma / alpha:
x' = alpha' denoised + sqrt(sigma'^2 - tau^2) eps + tau z, tau = eta sigma' sqrt(1 - v'^2 / v^2).
Its deterministic part ends at the node (alpha', sqrt(sigma'^2 - tau^2)). Any ODE solver can take that step; the noise
is added afterwards, so eta means the same for every solver.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import CLEAN, Node
from unseen_diffusion.solvers.base import Solver
from unseen_diffusion.solvers.grids import Grid
from unseen_diffusion.solvers.settings import SolverSettings, make_solver
from unseen_diffusion.utils.batching import Size, in_batches
from unseen_diffusion.utils.devices import to_device
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.progress import steps_bar
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import fill_normal, generator

log = logging.getLogger(__name__)


class NoiseSplit(NamedTuple):
    """A noisy step: the node at which its deterministic part ends, and the noise tau that is added there."""

    there: Node
    tau: float


def split_noise(here: Node, there: Node, eta: float) -> NoiseSplit:
    """tau = eta sigma' sqrt(1 - v'^2 / v^2) of a downward step, and the rest of sigma'."""
    if eta == 0 or there.sigma == 0:
        return NoiseSplit(there, 0.0)
    tau = eta * there.sigma * math.sqrt(max(0.0, 1 - (there.noise_to_signal / here.noise_to_signal) ** 2))
    return NoiseSplit(there._replace(sigma=math.sqrt(max(0.0, there.sigma**2 - tau**2))), tau)


def trajectory(
    model: DiffusionModel,
    x: Float[Tensor, "b c h w"],
    nodes: Sequence[Node],
    solver: str | SolverSettings | Solver,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> Iterator[tuple[Node, Float[Tensor, "b c h w"]]]:
    """Yields (node, state) after each step along ``nodes``.

    Args:
        model: the frozen model.
        x: state at ``nodes[0]``.
        nodes: consecutive nodes, upwards or downwards.
        solver: the name of a solver, its settings, or a fresh ``Solver``.
        eta: 0 deterministic, 1 as noisy as DDPM; only downwards.
        generators: one per image, used where eta > 0.
    """
    step = make_solver(solver)
    for here, there in pairwise(nodes):
        target, tau = split_noise(here, there, eta)
        x = step(model, x, here, target)
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
        record: the mixing steps whose latents to return.
        solver: the name of a solver, or its settings (``grid`` must result from their ``grid`` and ``steps``).
        batch_size: images per network call, halved where memory runs out; the result does not depend on it, up to
            float rounding.
        progress: shows a progress bar with the time left, or advances a given one.
        residuals: if the solver is implicit, the largest relative residual of each batch is appended. Steps that
            did not converge are also logged as a warning.

    Returns:
        Latents by mixing step, float32 on the CPU.
    """
    times = {node.t for node in grid.up[1:]}
    if missing := [t for t in record if t not in times]:
        raise InputError(f"mixing.record={missing}: not among the nodes of the inversion's grid")
    wanted, steps = set(record), len(grid.up) - 1
    with steps_bar("invert", len(images), steps, progress) as bar:

        def job(rows: slice) -> tuple[Solver, dict[float, Tensor]]:
            instance, recorded = make_solver(solver), {}
            with _uncounted_on_failure(model, bar):
                for node, state in trajectory(model, to_device(images[rows], model.device), grid.up, instance):
                    bar.update(len(state))
                    if node.t in wanted:
                        recorded[node.t] = state.float().cpu()
            return instance, recorded

        done = list(in_batches(job, len(images), batch_size))
    _report([instance for instance, _ in done], residuals)
    empty = images.new_empty((0, *model.shape))
    return {t: torch.cat([recorded[t] for _, recorded in done]) if done else empty for t in record}


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
        indices: one per latent; the noise of image i comes from the stream (seed, "denoise", indices[i]) alone.
            By default 0, 1, 2, ...
        solver: the name of a solver, or its settings (``grid`` must result from their ``grid`` and ``steps``).
        batch_size: images per network call, halved where memory runs out.
        stop: the node at which to stop; by default the clean image.
        progress: shows a progress bar with the time left, or advances a given one.

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
            with _uncounted_on_failure(model, bar):
                for _, state in trajectory(model, x, nodes, solver, eta, streams):
                    x = state
                    bar.update(len(x))
            return x.float().cpu()

        done = list(in_batches(job, len(latents), batch_size))
    return torch.cat(done) if done else latents.new_empty(latents.shape)


@contextmanager
def _uncounted_on_failure(model: DiffusionModel, bar: "tqdm[None]") -> Iterator[None]:
    """Computes one batch; if it fails, its evaluations and its progress are not counted."""
    before, position = model.evaluations, bar.n
    try:
        yield
    except BaseException:
        model.evaluations, bar.n = before, position
        raise


def _report(solvers: Sequence[Solver], residuals: list[float] | None) -> None:
    """Appends the residuals of implicit solvers to ``residuals``, and warns if some did not converge."""
    largest = [solver.residual for solver in solvers if solver.residual is not None]
    if residuals is not None:
        residuals += largest
    if diverged := sum(solver.diverged for solver in solvers):
        log.warning(
            "solver: %d fixed points did not converge (largest relative residual %.1e); raise solver.steps, "
            "or choose solver.acceleration=damped with more solver.iterations",
            diverged,
            max(largest),
        )


__getattr__ = new_names(__name__)
