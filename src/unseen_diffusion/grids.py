"""The grids of nodes that solvers walk on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unseen_diffusion.errors import InputError
from unseen_diffusion.schedules import CLEAN, CLEAN_NODE, Node, Schedule

GRIDS = ("uniform_t", "karras", "paper")


@dataclass(frozen=True)
class Grid:
    """Nodes of one trajectory between the clean image and ``up[-1]``.

    ``up`` is walked by the inversion, ``down`` by the denoising. They are mirror images, save for the
    ``paper`` grid: the released code starts its inversion with the clean image taken as the state at t = 0.
    """

    up: tuple[Node, ...]
    down: tuple[Node, ...]


def make_grid(schedule: Schedule, kind: str, steps: int, t_top: float, through: Sequence[float] = ()) -> Grid:
    """A grid of ``steps`` network evaluations between the clean image and ``t_top``.

    Args:
        schedule: the noise schedule.
        kind: ``uniform_t`` (equal steps in t, fractional), ``karras`` (Karras et al. 2022, equation 5, rho 7,
            from the noise at t = 0 up) or ``paper`` (linspace(0, t_top, steps) rounded down, as released: its
            inversion spends steps - 1 evaluations).
        steps: evaluations, at least 2.
        t_top: the upper end, in (0, T - 1].
        through: mixing steps that must be nodes: the nearest inner node is moved onto each.

    Raises:
        InputError: a t outside the schedule, or one without signal for ``karras``, which needs a finite vs.
    """
    if t_top <= 0:
        raise InputError(f"mixing.t={t_top:g}: choose a mixing step above 0")
    top = schedule.node(t_top)
    if kind == "karras":
        if top.alpha == 0:
            raise InputError(f"mixing.t={t_top:g}: no signal is left there; lower it, or choose solver.grid=uniform_t")
        bottom = schedule.node(0.0)
        low, high = (bottom.sigma / bottom.alpha) ** (1 / 7), (top.sigma / top.alpha) ** (1 / 7)
        levels = [(low + (high - low) * i / (steps - 1)) ** 7 for i in range(steps)]
        times = [CLEAN, *(schedule.node_at_noise(vs).t for vs in levels[:-1]), t_top]
    elif kind == "paper":
        times = sorted({float(math.floor(t_top * i / (steps - 1))) for i in range(steps)})
    else:
        times = [CLEAN + (t_top - CLEAN) * i / steps for i in range(steps)] + [t_top]
    nodes = tuple(schedule.node(t) for t in _snap(times, through))
    if kind == "paper":
        return Grid(nodes, (*reversed(nodes), CLEAN_NODE))
    return Grid(nodes, tuple(reversed(nodes)))


def _snap(times: list[float], through: Sequence[float]) -> list[float]:
    """Moves the nearest inner node onto each of ``through``; two that want the same node add one."""
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


def _keeps_order(times: list[float], moved: float, wanted: float) -> bool:
    """True if no other node lies between ``moved`` and ``wanted``."""
    low, high = min(moved, wanted), max(moved, wanted)
    return not any(low < t < high for t in times)
