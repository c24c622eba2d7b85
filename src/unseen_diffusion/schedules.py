"""Noise schedules as (alpha, sigma) over continuous time.

Notation: x_t = alpha x_0 + sigma eps and vs = sigma / alpha. The clean image is the state before t = 0,
written t = -1: alpha 1, sigma 0.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unseen_diffusion.errors import InputError

CLEAN = -1.0


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
