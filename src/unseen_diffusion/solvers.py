"""The numerical core: one step on (alpha, sigma), inversion upwards and denoising downwards.

The step of DDIM (Song et al. 2021, arXiv 2010.02502, equation 12) for every family:
x' = alpha' denoised + sqrt(sigma'^2 - tau^2) eps + tau z, tau = eta sigma' sqrt(1 - vs'^2 / vs^2).
The deterministic part ends at the node (alpha', sqrt(sigma'^2 - tau^2)), so any ODE solver takes that step
and the noise is added afterwards: eta means the same for every solver.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.errors import InputError
from unseen_diffusion.grids import GRIDS, Grid
from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.schedules import CLEAN, Node
from unseen_diffusion.seeds import generator


@runtime_checkable
class Stepper(Protocol):
    """One trajectory of a solver: called once per step, in order; may remember earlier predictions."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor: ...


def move(prediction: Prediction, there: Node) -> Tensor:
    """alpha' denoised + sigma' eps: DDIM's deterministic step (Euler in vs)."""
    return there.alpha * prediction.denoised + there.sigma * prediction.eps


class Ddim:
    """First order: one evaluation a step, at the step's start."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        return move(model.predict(x, here), there)


@dataclass
class DpmSolver2M:
    """DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): second order, one evaluation a step, both directions.

    The denoised image is extrapolated linearly in log(alpha / sigma) to the middle of the step; steps from or
    to the clean end or pure noise, where that coordinate is infinite, are DDIM steps.
    """

    previous: tuple[Node, Tensor] | None = field(default=None)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        prediction = model.predict(x, here)
        before, self.previous = self.previous, (here, prediction.denoised)
        if before is None or any(math.isinf(node.log_snr_half) for node in (before[0], here, there)):
            return move(prediction, there)
        earlier, denoised_earlier = before
        ratio = (there.log_snr_half - here.log_snr_half) / (here.log_snr_half - earlier.log_snr_half)
        denoised = prediction.denoised + 0.5 * ratio * (prediction.denoised - denoised_earlier)
        return move(Prediction(denoised, (x - here.alpha * denoised) / here.sigma), there)


SOLVERS: dict[str, type[Ddim] | type[DpmSolver2M]] = {"ddim": Ddim, "dpmpp_2m": DpmSolver2M}


@dataclass(frozen=True)
class SolverSettings:
    """A config of the ``solver`` group: the method, its grid and its network evaluations per direction."""

    name: str
    grid: str
    steps: int

    def __post_init__(self) -> None:
        make_stepper(self.name)
        if self.grid not in GRIDS:
            raise InputError(f"solver.grid={self.grid}: choose one of {', '.join(GRIDS)}")
        if self.steps < 2:
            raise InputError(f"solver.steps={self.steps}: give 2 or more")


def make_stepper(solver: str) -> Stepper:
    """A fresh stepper by name.

    Raises:
        InputError: unknown solver.
    """
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
    vs, vs_next = here.sigma / here.alpha if here.alpha else math.inf, there.sigma / there.alpha
    tau = eta * there.sigma * math.sqrt(max(0.0, 1 - (vs_next / vs) ** 2))
    return NoiseSplit(there._replace(sigma=math.sqrt(max(0.0, there.sigma**2 - tau**2))), tau)


def walk(
    model: DiffusionModel,
    x: Float[Tensor, "b c h w"],
    nodes: Sequence[Node],
    solver: str,
    eta: float = 0.0,
    generators: Sequence[torch.Generator] = (),
) -> Iterator[tuple[Node, Float[Tensor, "b c h w"]]]:
    """Yields (node, state) after each step along ``nodes``.

    Args:
        model: the frozen model.
        x: state at ``nodes[0]``.
        nodes: consecutive nodes, upwards or downwards.
        solver: a key of ``SOLVERS``.
        eta: 0 deterministic, 1 as noisy as DDPM; only downwards.
        generators: one per image, used where eta > 0.
    """
    stepper = make_stepper(solver)
    for here, there in pairwise(nodes):
        target, tau = split_noise(here, there, eta)
        x = stepper(model, x, here, target)
        if tau > 0:
            z = torch.stack([torch.randn(x.shape[1:], generator=rng) for rng in generators])
            x = x + tau * z.to(x.device, x.dtype)
        yield there, x


def invert(
    model: DiffusionModel,
    images: Float[Tensor, "n c h w"],
    grid: Grid,
    record: Sequence[float],
    solver: str = "ddim",
    batch_size: int = 64,
    progress: bool = False,
) -> dict[float, Float[Tensor, "n c h w"]]:
    """Deterministic inversion: the latents of every recorded mixing step, from one trajectory.

    Args:
        model: the frozen model.
        images: in [-1, 1].
        grid: nodes; each recorded step must be one of them (see ``make_grid``'s ``through``).
        record: mixing steps.
        solver: a key of ``SOLVERS``.
        batch_size: images per network call; the result does not depend on it, up to float rounding.
        progress: show a progress bar with the time left.

    Returns:
        Latents by mixing step, float32 on the CPU.
    """
    times = {node.t for node in grid.up}
    if missing := [t for t in record if t not in times]:
        raise InputError(f"mixing.record={missing}: not among the nodes of the inversion's grid")
    latents: dict[float, list[Tensor]] = {t: [] for t in record}
    with _bar("invert", len(images), len(grid.up) - 1, progress) as bar:
        for batch in images.split(batch_size):
            for node, state in walk(model, batch.to(model.device), grid.up, solver):
                bar.update(len(batch))
                if node.t in latents:
                    latents[node.t].append(state.float().cpu())
    empty = images.new_empty((0, *model.shape))
    return {t: torch.cat(parts) if parts else empty for t, parts in latents.items()}


def denoise(
    model: DiffusionModel,
    latents: Float[Tensor, "n c h w"],
    grid: Grid,
    eta: float,
    seed: int,
    indices: Sequence[int] | None = None,
    solver: str = "ddim",
    batch_size: int = 64,
    stop: float = CLEAN,
    progress: bool = False,
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
        solver: a key of ``SOLVERS``.
        batch_size: images per network call.
        stop: the node at which to stop; by default the clean image.
        progress: show a progress bar with the time left.

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
    done: list[Tensor] = []
    with _bar("denoise", len(latents), len(nodes) - 1, progress) as bar:
        for start in range(0, len(latents), batch_size):
            x = latents[start : start + batch_size].to(model.device)
            streams = [generator(seed, "denoise", index) for index in indices[start : start + batch_size]]
            for _, state in walk(model, x, nodes, solver, eta, streams):
                x = state
                bar.update(len(x))
            done.append(x.float().cpu())
    return torch.cat(done) if done else latents.new_empty(latents.shape)


def _bar(label: str, images: int, steps: int, shown: bool) -> "tqdm[None]":
    """Progress in network evaluations, with the time left; a line every 20 s where it goes to a file."""
    every = 0.2 if sys.stderr.isatty() else 20
    steps = images * steps
    return tqdm(
        total=steps, desc=label, unit="eval", disable=not shown, dynamic_ncols=True, leave=False, mininterval=every
    )
