"""Regularised logistic regression of two feature sets, iterated to convergence so that no score depends on a limit."""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.nn.functional import softplus

_PENALTY = 1.0  # of |weights|^2 / 2 on standardised features, the usual default
_TOLERANCE = 1e-10  # of the gradient per image
_STEPS = 100


def fit_logistic(positive: Tensor, negative: Tensor) -> Callable[[Tensor], Tensor]:
    """Fits log odds = w.x + b on features (P, d) and (Q, d), float64; returns x (N, d) -> log odds (N,).

    Minimises |w|^2 / 2 + sum_i c_i log(1 + exp(-y_i (w.x_i + b))) on standardised features, with weights c that
    give both classes half the total, so that the class with more images is not favoured. The solution lies in the span
    of the P + Q images, so features of any dimension cost little.
    """
    x, count = torch.cat([positive, negative]), len(positive) + len(negative)
    mean, spread = x.mean(0), x.std(0, unbiased=False)
    spread = spread.where(spread > 1e-12 * mean.abs().clamp(min=1e-300), 1)  # constant features stay zero
    x = (x - mean) / spread
    basis = _basis(x)
    signs = torch.ones(count, dtype=x.dtype)
    signs[len(positive) :] = -1
    costs = torch.where(signs > 0, count / (2 * len(positive)), count / (2 * len(negative)))
    weights = _newton(x @ basis, signs, costs)
    direction, offset = basis @ weights[:-1], weights[-1]
    return lambda rows: (rows - mean) / spread @ direction + offset


def _basis(x: Tensor) -> Float64[Tensor, "d r"]:
    """Orthonormal basis of the rows of x (n, d): the identity where there are more images than dimensions."""
    if len(x) >= x.shape[1]:
        return torch.eye(x.shape[1], dtype=x.dtype)
    return torch.linalg.qr(x.T).Q


def _newton(x: Tensor, signs: Tensor, costs: Tensor) -> Float64[Tensor, "r1"]:
    """Damped Newton steps on the weights and, last and without a penalty, the offset."""
    x = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
    penalty = torch.full((x.shape[1],), _PENALTY, dtype=x.dtype)
    penalty[-1] = 0

    def loss(weights: Tensor) -> Tensor:
        return (costs * softplus(-signs * (x @ weights))).sum() + (penalty * weights.square()).sum() / 2

    weights = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(_STEPS):
        odds = x @ weights
        pull = costs * signs * torch.sigmoid(-signs * odds)
        gradient = penalty * weights - x.T @ pull
        if torch.linalg.vector_norm(gradient) <= _TOLERANCE * len(x):
            break
        curvature = costs * torch.sigmoid(odds) * torch.sigmoid(-odds)
        step = torch.linalg.solve(x.T @ (curvature[:, None] * x) + penalty.diag(), gradient)
        scale, now = 1.0, loss(weights) * (1 + 1e-13)  # tolerates rounding
        while scale > 1e-9 and loss(weights - scale * step) > now - 1e-4 * scale * gradient @ step:
            scale /= 2
        weights = weights - scale * step
    return weights
