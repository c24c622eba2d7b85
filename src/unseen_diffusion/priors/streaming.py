"""Moments and directions of any number of latents in constant memory, from batches that are read again and again.

Up to ``EXACT`` coordinates the covariance itself is summed (two passes, float64): exact. Beyond, block power iterations
on it (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithm 4.4) find the leading directions in d x (rank +
OVERSAMPLE) numbers: exact if the latents span no more directions than that; otherwise the gap between variances limits
the accuracy.
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.priors.base import Batches, FittedPrior, Prior, require
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

EXACT = 4096
OVERSAMPLE = 16
ITERATIONS = 4


def fit_streamed(prior: Prior, batches: Batches) -> FittedPrior:
    """``prior.fit`` of all latents in ``batches``, never holding more than one batch.

    The sample covariance becomes a ``LowRankNormal`` of the same distribution; its draws for a given seed differ.

    Args:
        prior: isotropic, diagonal, low_rank or shrinkage with a number, sample_covariance.
        batches: returns the same batches (b, C, H, W) at every call; read 1, 2 or ITERATIONS + 2 times.

    Raises:
        InputError: another prior, too few latents, or a full covariance of more than ``EXACT`` coordinates.
    """
    return prior.fit_batches(batches)


def moments(prior: Prior, batches: Batches) -> tuple[int, Tensor, Tensor]:
    """Count, mean and variance (with N - 1) of each coordinate, float64 (Chan, Golub and LeVeque 1979).

    Raises:
        InputError: fewer latents than the prior needs.
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches():
        if not len(batch):
            continue
        batch_mean = batch.double().mean(0)
        around = (batch.double() - batch_mean).square().sum(0)
        total = count + len(batch)
        shift = batch_mean - mean
        mean, squares = mean + shift * (len(batch) / total), squares + around + shift**2 * (count * len(batch) / total)
        count = total
    require(prior.name, count, prior.minimum_references)
    return count, mean, squares / (count - 1)


def all_directions(prior: Prior, batches: Batches, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All variances (d,), the largest first, and directions (d, d) of the sample covariance.

    Raises:
        InputError: more than ``EXACT`` coordinates.
    """
    d = mean.numel()
    if d > EXACT:
        raise InputError(
            f"prior={prior.name}: a full covariance of {d} coordinates is not fitted from a stream; choose low_rank"
        )
    return _exact(batches, mean, count)


def leading_directions(rank: int, batches: Batches, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At least the ``rank`` largest variances, the largest first, and their directions (r, d).

    Raises:
        InputError: not between 1 and d - 1.
    """
    d = mean.numel()
    if rank < 1 or rank >= d:
        raise InputError(f"prior.rank={rank}: give a number between 1 and {d - 1}")
    return _exact(batches, mean, count) if d <= EXACT else _iterated(rank, batches, mean, count)


def _centred(batches: Batches, mean: Tensor) -> Iterable[Float[Tensor, "b d"]]:
    return ((batch.double() - mean).flatten(1) for batch in batches())


def _exact(batches: Batches, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """All variances and directions, from the summed covariance."""
    d = mean.numel()
    scatter = torch.zeros(d, d, dtype=torch.float64)
    for rows in _centred(batches, mean):
        scatter.addmm_(rows.T, rows)
    values, vectors = torch.linalg.eigh(scatter / (count - 1))
    return values.flip(0).clamp(min=0), vectors.flip(1).T


def _iterated(rank: int, batches: Batches, mean: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest variances and their directions, by block power iterations."""
    d = mean.numel()
    width = min(rank + OVERSAMPLE, d)
    basis = torch.randn(d, width, generator=generator(0, "streamed"), dtype=torch.float64)
    for _ in range(ITERATIONS):
        image = torch.zeros(d, width, dtype=torch.float64)
        for rows in _centred(batches, mean):
            image.addmm_(rows.T, rows @ basis)
        basis = torch.linalg.qr(image).Q
    small = torch.zeros(width, width, dtype=torch.float64)
    for rows in _centred(batches, mean):
        along = rows @ basis
        small.addmm_(along.T, along)
    values, vectors = torch.linalg.eigh(small / (count - 1))
    return values.flip(0)[:rank].clamp(min=0), (basis @ vectors.flip(1)[:, :rank]).T.contiguous()
