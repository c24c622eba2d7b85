"""Noise schedules as (alpha, sigma) over continuous time, and the grids of nodes that solvers walk on.

Notation: x_t = alpha x_0 + sigma eps and vs = sigma / alpha. The clean image is the state before t = 0,
written t = -1: alpha 1, sigma 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unseen_diffusion.errors import InputError

CLEAN = -1.0
GRIDS = ("uniform_t", "karras", "paper")


class Node(NamedTuple):
    """A point of the schedule: timestep t (fractional, -1 is clean) with its signal and noise levels."""

    t: float
    alpha: float
    sigma: float

    @property
    def log_snr_half(self) -> float:
        """log(alpha / sigma): +inf at the clean end, -inf at pure noise."""
        if self.sigma == 0:
            return math.inf
        return -math.inf if self.alpha == 0 else math.log(self.alpha / self.sigma)


CLEAN_NODE = Node(CLEAN, 1.0, 0.0)


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule: ``alphas_cumprod`` (T,) float64, falling within (0, 1].

    Between whole timesteps log vs is linear in t; between the clean end (t = -1) and t = 0 vs itself is, and
    below a last timestep without signal (alpha = 0) 1 / vs is.
    """

    alphas_cumprod: Tensor
    _log_vs: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        ac = self.alphas_cumprod.to(torch.float64)
        if ac.ndim != 1 or len(ac) < 2 or not bool((ac.diff() < 0).all()) or not 0 <= float(ac[-1]) < float(ac[0]) < 1:
            raise InputError("alphas_cumprod must be one row of at least 2 numbers that fall within [0, 1)")
        object.__setattr__(self, "alphas_cumprod", ac)
        object.__setattr__(self, "_log_vs", 0.5 * ((1 - ac) / ac).log())

    @property
    def timesteps(self) -> int:
        """T: valid timesteps are -1 (clean) to T - 1."""
        return len(self.alphas_cumprod)

    def node(self, t: float) -> Node:
        """The node at timestep ``t`` in [-1, T - 1].

        Raises:
            InputError: t lies outside the schedule.
        """
        if not CLEAN <= t <= self.timesteps - 1:
            raise InputError(
                f"t={t:g} lies outside the schedule; choose it between -1 (clean) and {self.timesteps - 1}"
            )
        low = math.floor(t)
        if t == low and t >= 0:
            ac = float(self.alphas_cumprod[low])
            return Node(float(t), math.sqrt(ac), math.sqrt(1 - ac))
        if t < 0:
            vs = (t - CLEAN) * math.exp(float(self._log_vs[0]))
        else:
            first, second = float(self._log_vs[low]), float(self._log_vs[low + 1])
            share = t - low
            vs = math.exp(first) / (1 - share) if second == math.inf else math.exp(first + share * (second - first))
        return Node(float(t), 1 / math.hypot(1, vs), vs / math.hypot(1, vs))

    def node_at_noise(self, vs: float) -> Node:
        """The node whose noise-to-signal ratio is ``vs`` >= 0: the inverse of ``node``."""
        if vs <= 0:
            return CLEAN_NODE
        table = self._log_vs
        target = math.log(vs)
        if target <= float(table[0]):
            t = CLEAN + vs / math.exp(float(table[0]))
        else:
            high = min(int(torch.searchsorted(table, target)), self.timesteps - 1)
            first, second = float(table[high - 1]), float(table[high])
            share = 1 - math.exp(first - target) if second == math.inf else (target - first) / (second - first)
            t = high - 1 + share
        return self.node(min(max(t, CLEAN), self.timesteps - 1.0))


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
