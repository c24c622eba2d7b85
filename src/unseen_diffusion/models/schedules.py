"""Noise schedules of every family as (alpha, sigma) over continuous time.

Notation: x_t = alpha x_0 + sigma eps, and v = sigma / alpha is the noise-to-signal ratio. The clean image is the state
before t = 0, written t = -1: alpha 1, sigma 0.

| kind | alpha, sigma at v | table |
| --- | --- | --- |
| vp (Ho et al. 2020) | (1, v) / sqrt(1 + v^2) | alphas_cumprod, falling |
| ve (Song et al. 2021; Karras et al. 2022) | 1, v | sigma, rising |
| flow (Lipman et al. 2023; Liu et al. 2023) | (1, v) / (1 + v) | sigma, rising, at most 1 |
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

CLEAN = -1.0


class Node(NamedTuple):
    """A point of the schedule: timestep t (may be fractional; -1 is clean) with its signal and noise levels."""

    t: float
    alpha: float
    sigma: float

    @property
    def log_snr_half(self) -> float:
        """log(alpha / sigma): +inf at the clean end, -inf at pure noise."""
        if self.sigma == 0:
            return math.inf
        return -math.inf if self.alpha == 0 else math.log(self.alpha / self.sigma)

    @property
    def noise_to_signal(self) -> float:
        """v = sigma / alpha: 0 at the clean end, infinite at pure noise."""
        return self.sigma / self.alpha if self.alpha else math.inf


CLEAN_NODE = Node(CLEAN, 1.0, 0.0)
KINDS = ("vp", "ve", "flow")


@dataclass(frozen=True)
class Schedule:
    """The noise levels of T timesteps, and all levels between them.

    Between whole timesteps, log v is linear in t. Between the clean end (t = -1) and t = 0, v itself is linear. Below a
    last timestep without signal (alpha = 0), 1 / v is linear.

    Attributes:
        table: (T,) float64; alphas_cumprod within [0, 1) for ``vp``, sigma > 0 for ``ve``, sigma within (0, 1]
            for ``flow``.
        kind: one of ``KINDS``.
    """

    table: Tensor
    kind: str = "vp"
    _log_noise_to_signal: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"schedule kind {self.kind}: choose one of {', '.join(KINDS)}")
        table = self.table.to(torch.float64)
        object.__setattr__(self, "table", table)
        if self.kind == "vp":
            _check_alphas_cumprod(table)
            log_ratio = 0.5 * ((1 - table) / table).log()
        else:
            _check_sigmas(table, 1.0 if self.kind == "flow" else math.inf)
            log_ratio = (table / (1 - table)).log() if self.kind == "flow" else table.log()
        object.__setattr__(self, "_log_noise_to_signal", log_ratio)

    @property
    def alphas_cumprod(self) -> Tensor:
        """(T,) float64: alpha^2 / (alpha^2 + sigma^2); for ``vp``, the table itself."""
        return self.table if self.kind == "vp" else 1 / (1 + (2 * self._log_noise_to_signal).exp())

    @property
    def timesteps(self) -> int:
        """T: valid timesteps are -1 (clean) to T - 1."""
        return len(self.table)

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
            return self._table_node(low)
        if t < 0:
            ratio = (t - CLEAN) * math.exp(float(self._log_noise_to_signal[0]))
        else:
            first, second = float(self._log_noise_to_signal[low]), float(self._log_noise_to_signal[low + 1])
            share = t - low
            ratio = math.exp(first) / (1 - share) if second == math.inf else math.exp(first + share * (second - first))
        scale = {"vp": math.hypot(1, ratio), "ve": 1.0, "flow": 1 + ratio}[self.kind]
        return Node(float(t), 1 / scale, ratio / scale)

    def _table_node(self, index: int) -> Node:
        """A whole timestep, without interpolation."""
        value = float(self.table[index])
        if self.kind == "vp":
            return Node(float(index), math.sqrt(value), math.sqrt(1 - value))
        return Node(float(index), 1.0 if self.kind == "ve" else 1 - value, value)

    def state_std(self, t: float) -> float:
        """Standard deviation of the states at ``t``, for data with unit variance: 1 where variance is preserved.

        Noise of this scale takes the place of N(0, I) in every family: sqrt(1 + sigma^2) for ``ve``, as in EDM.
        """
        node = self.node(t)
        return 1.0 if self.kind == "vp" else math.hypot(node.alpha, node.sigma)

    def node_at_noise(self, noise_to_signal: float) -> Node:
        """The node whose ratio sigma / alpha is ``noise_to_signal`` >= 0: the inverse of ``node``."""
        if noise_to_signal <= 0:
            return CLEAN_NODE
        table = self._log_noise_to_signal
        target = math.log(noise_to_signal)
        if target <= float(table[0]):
            t = CLEAN + noise_to_signal / math.exp(float(table[0]))
        else:
            high = min(int(torch.searchsorted(table, target)), self.timesteps - 1)
            first, second = float(table[high - 1]), float(table[high])
            share = 1 - math.exp(first - target) if second == math.inf else (target - first) / (second - first)
            t = high - 1 + share
        return self.node(min(max(t, CLEAN), self.timesteps - 1.0))


def _check_alphas_cumprod(table: Tensor) -> None:
    falling = table.ndim == 1 and len(table) > 1 and bool((table.diff() < 0).all())
    if not falling or not 0 <= float(table[-1]) < float(table[0]) < 1:
        raise InputError("alphas_cumprod must be one row of at least 2 numbers that fall within [0, 1)")


def _check_sigmas(table: Tensor, top: float) -> None:
    rising = table.ndim == 1 and len(table) > 1 and bool((table.diff() > 0).all())
    if not rising or not float(table[0]) > 0 or not float(table[-1]) <= top or not bool(table.isfinite().all()):
        raise InputError(f"sigmas must be one row of at least 2 numbers that rise within (0, {top:g}]")
