"""Work-precision of solvers: errors against NFE (network function evaluations).

Three errors, because none predicts another (the implicit inverse of DDIM has the best round trips and the worst
latents): the error of the latent against a fine reference trajectory, the round trip of an image, and the round trip
of a fresh latent, to which no image was inverted.
"""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.solvers.grids import CleanEnd, GridKind
from unseen_diffusion.solvers.methods import solvers
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path
from unseen_diffusion.utils.seeds import generator

REFERENCE_STEPS = 241  # NFE (61 intervals); raised to four times the largest measured budget
PANELS = {
    "latent_rms": "latent: RMS error",
    "pair_psnr": "image round trip: PSNR (dB)",
    "fresh_rms": "fresh latent round trip: RMS error",
}


class Pair(NamedTuple):
    """A solver to measure, with its grid and its clean end (see ``SolverSettings``)."""

    solver: str
    grid: GridKind
    clean_end: CleanEnd = "full"

    @property
    def label(self) -> str:
        """For tables and figures."""
        return f"{self.solver}, {self.grid}" + (", half clean end" if self.clean_end == "half" else "")


def all_pairs() -> list[Pair]:
    """Every solver with the grids and clean ends in which it is measured (its ``pairings``)."""
    return [Pair(name, *pairing) for name, solver in solvers().items() for pairing in solver.pairings]


def solvers_table(
    model: DiffusionModel,
    images: Float[Tensor, "n c h w"],
    t: float,
    evaluations: Sequence[int],
    pairs: Sequence[Pair] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> pd.DataFrame:
    """Measures every pair at every budget.

    Args:
        model: the frozen model.
        images: in [-1, 1], at least 2.
        t: mixing step.
        evaluations: budgets per direction, in NFE (``SolverSettings.steps``).
        pairs: what to measure; by default every solver in each of its ``pairings``.
        batch_size: images per network call.
        progress: show progress bars.

    Returns:
        A row per pair and budget: ``solver``, ``grid``, ``clean_end``, ``steps`` (the budget), ``up`` and ``down``
        (NFE really spent, per image), ``latent_rms`` (against RK4 on the log_snr grid with the same clean
        end), ``pair_psnr`` (dB, mean over images, of float images with peak 2) and ``fresh_rms`` (latents drawn from
        the reference latents' mean and covariance, denoised and inverted again).

    Raises:
        InputError: fewer than 2 images, or a budget that is too small for one of the pairs; before any evaluation.
    """
    return pd.DataFrame(measure(model, images, t, evaluations, pairs, batch_size, progress))


def measure(
    model: DiffusionModel,
    images: Float[Tensor, "n c h w"],
    t: float,
    evaluations: Sequence[int],
    pairs: Sequence[Pair] | None = None,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[dict[str, object]]:
    """The rows of ``solvers_table``, budget by budget, each as soon as it is measured."""
    if len(images) < 2:
        raise InputError(f"{len(images)} images: give 2 or more, to estimate the spread of fresh latents")
    pairs = all_pairs() if pairs is None else pairs
    settings = [
        SolverSettings(name=pair.solver, grid=pair.grid, steps=steps, clean_end=pair.clean_end)
        for steps in evaluations
        for pair in pairs
    ]
    fine = max(REFERENCE_STEPS, 4 * max(evaluations, default=0))
    truths = {
        clean_end: _up(model, images, _reference(fine, clean_end), t, batch_size, progress)
        for clean_end in dict.fromkeys(pair.clean_end for pair in pairs)
    }
    for solver in settings:
        yield _row(model, images, solver, t, truths[solver.clean_end], batch_size, progress)


def fresh_latents(latents: Float[Tensor, "n c h w"], seed: int = 0) -> Float[Tensor, "n c h w"]:
    """As many draws from N(mean, sample covariance) of ``latents`` as there are, one stream each."""
    mean = latents.mean(0, keepdim=True)
    draws = [torch.randn(len(latents), generator=generator(seed, "fresh", index)) for index in range(len(latents))]
    weights = torch.stack(draws) / math.sqrt(len(latents) - 1)
    return mean + torch.einsum("kn,nchw->kchw", weights, latents - mean)


def _reference(steps: int, clean_end: CleanEnd) -> SolverSettings:
    """The solver whose latents the others are compared with."""
    return SolverSettings(name="rk4", grid="log_snr", steps=steps, clean_end=clean_end)


def _up(
    model: DiffusionModel, images: Tensor, solver: SolverSettings, t: float, batch_size: int, progress: bool
) -> Tensor:
    """Inverts images to latents at ``t``."""
    return invert(model, images, solver.make_grid(model.schedule, t), [t], solver, batch_size, progress)[t]


def _down(
    model: DiffusionModel, latents: Tensor, solver: SolverSettings, t: float, batch_size: int, progress: bool
) -> Tensor:
    """Denoises latents to images, without added noise."""
    grid = solver.make_grid(model.schedule, t)
    return denoise(model, latents, grid, 0.0, 0, solver=solver, batch_size=batch_size, progress=progress)


def _row(
    model: DiffusionModel,
    images: Tensor,
    solver: SolverSettings,
    t: float,
    truth: Tensor,
    batch_size: int,
    progress: bool,
) -> dict[str, object]:
    """One line of the table."""
    before = model.evaluations
    latents = _up(model, images, solver, t, batch_size, progress)
    middle = model.evaluations
    back = _down(model, latents, solver, t, batch_size, progress)
    after = model.evaluations
    fresh = fresh_latents(truth)
    again = _up(model, _down(model, fresh, solver, t, batch_size, progress), solver, t, batch_size, progress)
    return {
        "solver": solver.name,
        "grid": solver.grid,
        "clean_end": solver.clean_end,
        "steps": solver.steps,
        "up": (middle - before) / len(images),
        "down": (after - middle) / len(images),
        "latent_rms": _rms(latents - truth),
        "pair_psnr": float((20 * torch.log10(2 / _rms_each(back - images))).mean()),
        "fresh_rms": _rms(again - fresh),
    }


def _rms_each(x: Tensor) -> Tensor:
    """Root mean square of each image, (n,) float64; at least the smallest float32 step, so that no PSNR is infinite."""
    return x.double().square().mean((1, 2, 3)).sqrt().clamp(min=torch.finfo(torch.float32).eps)


def _rms(x: Tensor) -> float:
    """Root mean square over all values."""
    return float(x.double().square().mean().sqrt())


def solvers_figure(table: pd.DataFrame, path: Path | str) -> None:
    """Draws ``solvers_table``: three panels against the NFE of the inversion, as SVG or PNG by the suffix.

    Raises:
        InputError: another suffix.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise InputError(f"{path}: name a file that ends in .svg or .png")
    figure = Figure(figsize=(13, 4.8), layout="constrained")
    axes = figure.subplots(1, len(PANELS))
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        _panel(axis, table, column, title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)


def _panel(axis: Axes, table: pd.DataFrame, column: str, title: str) -> None:
    """One error against the NFE, a line per pair."""
    for number, (key, lines) in enumerate(table.groupby(["solver", "grid", "clean_end"], sort=False)):
        spent = lines.sort_values("up")
        marker, style = "osD^vP*Xh<>d"[number % 12], "--" if key[2] == "half" else "-"
        axis.plot(spent["up"], spent[column], style, marker=marker, color=f"C{number % 10}", label=Pair(*key).label)
    budgets = sorted(set(table["steps"]))
    axis.set_xscale("log", base=2)
    axis.set_xticks(budgets, [str(budget) for budget in budgets])
    if column != "pair_psnr":
        axis.set_yscale("log")
    axis.set_title(title, fontsize=12)
    axis.set_xlabel("NFE of the inversion", fontsize=11)
    axis.grid(alpha=0.3)
