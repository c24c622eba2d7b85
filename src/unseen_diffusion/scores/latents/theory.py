"""Serves docs/theory.md and its tests only: the page's equations, as functions.

Latents of Gaussian domains, exactly and by DDIM, and their separation. The model is exact for
N(m, V diag(variances) V^T); a second domain has mean m + V offset and covariance V covariance V^T. All tensors are in
the eigenbasis V, float64; numbers in brackets are the page's equations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.models.schedules import Node
from unseen_diffusion.utils.errors import InputError

Variances = Float[Tensor, " d"]


@dataclass(frozen=True)
class Moments:
    """Mean (d,) about alpha m, and covariance (d, d), of latents in the eigenbasis."""

    mean: Tensor
    covariance: Tensor


def flow_multiplier(variances: Variances, node: Node) -> Float[Tensor, " d"]:
    """Equation (3): sqrt(alpha^2 + sigma^2 / s^2), the exact flow from the clean image to ``node``, per direction.

    Raises:
        InputError: a variance that is not above 0, where the flow from the clean end is singular.
    """
    _require_positive(variances)
    return (node.alpha**2 + node.sigma**2 / variances).sqrt()


def ddim_multiplier(variances: Variances, nodes: Sequence[Node]) -> Float[Tensor, " d"]:
    """Equation (8): alpha_N / alpha_0 times the product of 1 + h v / (s^2 + v^2) along ``nodes``, per direction.

    v = sigma / alpha is the noise-to-signal ratio of a node and h the step to the next ratio.

    Args:
        variances: s^2 of the model's domain, each above 0.
        nodes: of the trajectory, upwards or downwards, each with alpha > 0.
    """
    _require_positive(variances)
    factor = torch.full_like(variances, nodes[-1].alpha / nodes[0].alpha)
    for here, there in pairwise(nodes):
        ratio, next_ratio = here.sigma / here.alpha, there.sigma / there.alpha  # noise to signal
        factor = factor * (1 + (next_ratio - ratio) * ratio / (variances + ratio**2))
    return factor


def ddim_share(variances: Variances, nodes: Sequence[Node]) -> Float[Tensor, " d"]:
    """Equation (9): product of cos(phi' - phi), phi = atan(v / s): DDIM's multiplier over that of the exact flow."""
    _require_positive(variances)
    sd = variances.sqrt()
    angles = [torch.atan2(torch.full_like(sd, node.sigma), node.alpha * sd) for node in nodes]
    share = torch.ones_like(sd)
    for here, there in pairwise(angles):
        share = share * (there - here).cos()
    return share


def latent_moments(
    multiplier: Float[Tensor, " d"], offset: Float[Tensor, " d"], covariance: Float[Tensor, "d d"]
) -> Moments:
    """Equation (4): moments of the latents of a domain N(m + offset, covariance) under a linear inversion."""
    return Moments(multiplier * offset, multiplier[:, None] * covariance * multiplier)


def kl_divergence(first: Moments, second: Moments) -> float:
    """Equation (5): KL(first || second) in nats, the same at every t for every solver with multipliers other than 0."""
    factor = torch.linalg.cholesky(second.covariance)
    scaled = torch.linalg.solve_triangular(factor, torch.linalg.cholesky(first.covariance), upper=False)
    shift = torch.linalg.solve_triangular(factor, (second.mean - first.mean)[:, None], upper=False)
    volume = scaled.diagonal().abs().log().sum()
    return float(0.5 * (scaled.square().sum() + shift.square().sum() - len(factor)) - volume)


@dataclass(frozen=True)
class Separation:
    """Separation of two Gaussian domains by distances.

    Attributes:
        distance: between the centres, L2.
        spreads: root mean variance per coordinate of each.
        threshold: d^(1/4) max(spreads).
        effective_threshold: max of (tr S^2)^(1/4), its form for any covariance (15).
        shell: mean squared radius of the second about the first's centre, less that of the first, in standard
            deviations of the first's squared radius (16).
    """

    distance: float
    spreads: tuple[float, float]
    threshold: float
    effective_threshold: float
    shell: float


def separation(first: Moments, second: Moments) -> Separation:
    """Equations (15) and (16) for two Gaussians."""
    d = len(first.mean)
    squared = float((second.mean - first.mean).square().sum())
    one, two = float(first.covariance.trace()), float(second.covariance.trace())
    squares = float(first.covariance.square().sum()), float(second.covariance.square().sum())
    spreads = (math.sqrt(one / d), math.sqrt(two / d))
    return Separation(
        distance=math.sqrt(squared),
        spreads=spreads,
        threshold=d**0.25 * max(spreads),
        effective_threshold=max(squares) ** 0.25,
        shell=(squared + two - one) / math.sqrt(2 * squares[0]),
    )


@dataclass(frozen=True)
class Margin:
    """How much nearer a latent of the first set is to that set than to the second: mean and standard deviation."""

    mean: float
    sd: float

    @property
    def error(self) -> float:
        """Share misclassified if the margin is normal, which holds as the effective dimension grows."""
        return NormalDist().cdf(-self.mean / self.sd) if self.sd > 0 else float(self.mean <= 0)


def distance_margin(first: Moments, second: Moments, n: int, m: int) -> Margin:
    """Equation (13): mean squared distance to m latents of the second set minus that to n others of the first."""
    squared, one, two, across, along = _traces(first, second, m)
    mean = squared + float(second.covariance.trace()) - float(first.covariance.trace())
    return Margin(mean, math.sqrt(along + (4 * across + 2 * two) / m + 6 * one / n))


def centre_margin(first: Moments, second: Moments, n: int, m: int) -> Margin:
    """Equation (14): the margin between estimated centres, with their noise tr S / n (taken as known) subtracted."""
    squared, one, two, across, along = _traces(first, second, m)
    return Margin(squared, math.sqrt(along + 4 * across / m + 4 * one / n + 2 * two / m**2 + 2 * one / n**2))


def _traces(first: Moments, second: Moments, m: int) -> tuple[float, float, float, float, float]:
    """|D|^2, tr A^2, tr B^2, tr A B and 4 D^T (A + B / m) D for centres D apart and covariances A and B."""
    apart = second.mean - first.mean
    a, b = first.covariance, second.covariance
    along = 4 * float(apart @ (a + b / m) @ apart)
    squares = float(a.square().sum()), float(b.square().sum())
    return float(apart.square().sum()), *squares, float((a * b).sum()), along


def _require_positive(variances: Tensor) -> None:
    """Raises InputError for a direction in which the model's domain has no spread."""
    if not bool((variances > 0).all()):
        raise InputError(
            "variances of the model's domain: give numbers above 0, the flow from the clean end needs them"
        )
