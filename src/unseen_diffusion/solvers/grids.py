"""Grids of nodes between the clean image and a mixing step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from unseen_diffusion.models.schedules import CLEAN, CLEAN_NODE, Node, Schedule
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.renamed import new_names

GridKind = Literal["uniform_t", "trailing", "karras", "log_snr", "paper"]
GRIDS = get_args(GridKind)
WHOLE_TIMESTEPS = ("trailing", "paper")  # grids of whole timesteps only
RHO = 7  # Karras et al. 2022
CleanEnd = Literal["full", "half"]  # the step between the clean image and the lowest node


@dataclass(frozen=True)
class Grid:
    """Nodes of one trajectory between the clean image and ``up[-1]``.

    The inversion follows ``up`` and the denoising ``down``. They are mirror images, except for the ``paper`` grid: the
    released code starts its inversion at t = 0, with the clean image in place of that state.
    """

    up: tuple[Node, ...]
    down: tuple[Node, ...]


def make_grid(schedule: Schedule, kind: str, steps: int, t_top: float, through: Sequence[float] = ()) -> Grid:
    """A grid of ``steps`` intervals between the clean image and ``t_top``.

    Args:
        schedule: the noise schedule.
        kind: ``uniform_t`` (equal steps in t, fractional), ``trailing`` (the same rounded to whole timesteps, which
            at t_top = T - 1 is diffusers' trailing spacing), ``karras`` (Karras et al. 2022, equation 5, rho 7,
            from the noise at t = 0 up), ``log_snr`` (from there in equal steps of log v) or ``paper``
            (linspace(0, t_top, steps) rounded down, as in the released code: its inversion has steps - 1 intervals).
        steps: intervals, at least 2; fewer where rounding makes timesteps coincide.
        t_top: the upper end, in (0, T - 1].
        through: mixing steps that must be nodes: the nearest inner node is moved onto each.

    Raises:
        InputError: a t outside the schedule, or a fractional one on a grid of whole timesteps.
    """
    if t_top <= 0:
        raise InputError(f"mixing.t={t_top:g}: choose a mixing step above 0")
    if kind in WHOLE_TIMESTEPS and any(t != math.floor(t) for t in (t_top, *through)):
        wrong = next(t for t in (t_top, *through) if t != math.floor(t))
        raise InputError(f"mixing.t={wrong:g}: solver.grid={kind} has whole timesteps only; choose another grid or t")
    nodes = tuple(schedule.node(t) for t in _snap(_times(schedule, kind, steps, t_top), through))
    if kind == "paper":
        return Grid(nodes, (*reversed(nodes), CLEAN_NODE))
    return Grid(nodes, tuple(reversed(nodes)))


def _times(schedule: Schedule, kind: str, steps: int, t_top: float) -> list[float]:
    """The timesteps of the grid, rising."""
    if kind == "paper":
        return sorted({float(math.floor(t_top * i / (steps - 1))) for i in range(steps)})
    if kind == "trailing":
        return sorted({float(round((t_top - CLEAN) * i / steps)) + CLEAN for i in range(steps + 1)})
    if kind == "uniform_t":
        return [CLEAN + (t_top - CLEAN) * i / steps for i in range(steps)] + [t_top]
    top = schedule.node(t_top)
    if top.alpha > 0:
        return [CLEAN, *_by_noise(schedule, kind, steps, top), t_top]
    # v is infinite at the top: the spacing ends one timestep below it, and the top is an extra node.
    return [CLEAN, *_by_noise(schedule, kind, steps - 1, schedule.node(t_top - 1)), t_top - 1, t_top]


def _by_noise(schedule: Schedule, kind: str, count: int, top: Node) -> list[float]:
    """``count`` levels of v from t = 0 to ``top``, without the last, equally spaced in v^(1/7) or log v."""
    bottom = schedule.node(0.0)
    low, high = bottom.noise_to_signal, top.noise_to_signal
    if kind == "karras":
        first, last = low ** (1 / RHO), high ** (1 / RHO)
        levels = [(first + (last - first) * i / (count - 1)) ** RHO for i in range(count - 1)]
    else:
        levels = [low * (high / low) ** (i / (count - 1)) for i in range(count - 1)]
    return [schedule.node_at_noise(v).t for v in levels]


def _snap(times: list[float], through: Sequence[float]) -> list[float]:
    """Moves the nearest inner node onto each step of ``through``; adds a node where the nearest is taken already."""
    times, fixed = list(times), {times[0], times[-1], *through}
    for wanted in sorted(set(through) - set(times)):
        if not times[0] < wanted < times[-1]:
            raise InputError(f"mixing.record: t={wanted:g} lies outside ({times[0]:g}, {times[-1]:g}]")
        free = [t for t in times if t not in fixed]
        nearest = min(free, key=lambda t: abs(t - wanted)) if free else None
        if nearest is not None and _keeps_order(times, nearest, wanted):
            times.remove(nearest)
        times = sorted([*times, wanted])
        fixed.add(wanted)
    return times


def _keeps_order(times: list[float], node: float, wanted: float) -> bool:
    """True if no other node lies between ``node`` and ``wanted``."""
    low, high = min(node, wanted), max(node, wanted)
    return not any(low < t < high for t in times)


__getattr__ = new_names(__name__)
