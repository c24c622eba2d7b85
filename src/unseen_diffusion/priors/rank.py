"""The number of leading directions: given, or chosen by the likelihood of held-out references."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

FOLDS = 5
LEAST = 10  # references from which a rank may be chosen: every training fold keeps 8
# Variances below this share of the total are rounding errors.
NEGLIGIBLE = 1e-10


def least_references(rank: int | str) -> int:
    """Fewest references for a rank: its directions, the mean, and one for the rest."""
    return LEAST if isinstance(rank, str) else rank + 2


def chosen_rank(rank: int | str, residuals: Float[Tensor, "n d"], dimension: int | None = None) -> int:
    """The number of leading directions; for ``auto`` the one with the greatest held-out likelihood.

    ``dimension``: the dimension of the space that the residuals fill, if smaller than d.

    Raises:
        InputError: not between 1 and that dimension less 1.
    """
    d = dimension or residuals.shape[1]
    if isinstance(rank, str):
        return int(held_out_likelihood(residuals, d).argmax()) + 1
    if rank >= d:
        raise InputError(f"prior.rank={rank}: give a number between 1 and {d - 1}")
    return rank


def held_out_likelihood(vectors: Float[Tensor, "n d"], dimension: int, folds: int = FOLDS) -> Float[Tensor, " r"]:
    """Mean log-likelihood of held-out vectors under probabilistic PCA of rank 1, 2, ... (Tipping and Bishop 1999).

    Every ``folds``-th vector is held out in turn; mean, directions and variances come from the others alone. Only
    the Gram matrix of the vectors is decomposed, so that beyond it the cost does not depend on d.

    Args:
        vectors: (N, d), with any mean.
        dimension: d, or that of the subspace that the vectors fill.
        folds: parts held out in turn.

    Returns:
        (R,) float64, in nats per vector: rank r at r - 1. R is the greatest rank that leaves variance for the rest in
        every fold.

    Raises:
        InputError: the vectors span too few directions for any rank to leave variance for the rest.
    """
    wide = vectors.double()
    gram, count = wide @ wide.T, len(wide)
    rows = [_fold_likelihood(gram, torch.arange(count) % folds == fold, dimension) for fold in range(folds)]
    least = min(len(row[0]) for row in rows)
    if not least:
        raise InputError("prior.rank=auto: the references vary in one direction only; give a number or another prior")
    return torch.stack([row[:, :least].sum(0) for row in rows]).sum(0) / count


def _fold_likelihood(gram: Tensor, held: Tensor, d: int) -> Float[Tensor, "e r"]:
    """Log-likelihood of each held-out vector by rank."""
    train, cross = gram[~held][:, ~held], gram[held][:, ~held]
    mean = train.mean(1)
    inner = train - mean - mean[:, None] + train.mean()
    outer = cross - cross.mean(1, keepdim=True) - mean + train.mean()
    norms = gram.diagonal()[held] - 2 * cross.mean(1) + train.mean()
    squares, vectors = torch.linalg.eigh(inner)
    squares, vectors = squares.flip(0).clamp(min=0), vectors.flip(1)
    highest = min(len(train) - 2, d - 1)
    ranks = torch.arange(1, highest + 1, dtype=gram.dtype)
    rest = (squares.sum() - squares.cumsum(0))[:highest]
    usable = int((rest > NEGLIGIBLE * squares.sum()).sum())
    squares, rest, ranks = squares[:usable], rest[:usable], ranks[:usable]
    variances = squares / (len(train) - 1)
    noise = rest / (len(train) - 1) / (d - ranks)
    along = (outer @ vectors[:, :usable]).square() / squares
    quadratic = (along / variances).cumsum(1) + (norms[:, None] - along.cumsum(1)).clamp(min=0) / noise
    determinant = variances.log().cumsum(0) + (d - ranks) * noise.log()
    return -0.5 * (quadratic + determinant + d * math.log(2 * math.pi))
