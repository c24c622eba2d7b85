"""Draws of statistics under the null "latents are Gaussian": rotations, Wishart spectra, Anderson-Darling.

Centred latents N(m, S) have X ~ O X for every rotation O that keeps the vector of ones, whatever S is. So the left
singular vectors are uniform given the singular values: rotating them is an exact null with nothing to estimate
(rotation tests: Langsrud 2005).
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import chi2
from torch import Tensor

from unseen_diffusion.utils.seeds import generator

_AT_A_TIME = 2_000_000


def rotated_vectors(n: int, rank: int, rngs: Sequence[torch.Generator]) -> Float[Tensor, "b n r"]:
    """Uniform orthonormal columns orthogonal to the ones, one draw per generator.

    The left singular vectors of n centred Gaussian latents have this distribution.
    """
    z = torch.stack([torch.randn(n, rank, generator=rng, dtype=torch.float64) for rng in rngs])
    q, r = torch.linalg.qr(z - z.mean(1, keepdim=True))
    return q * r.diagonal(dim1=1, dim2=2).sign()[:, None, :]


def wishart_spectra(n: int, d: int, rngs: Sequence[torch.Generator]) -> Float[Tensor, "b r"]:
    """Nonzero eigenvalues, ascending, of centred Gram matrices of n draws of N(0, I_d); r = min(n - 1, d).

    From the bidiagonal matrix of chi variables of Dumitriu and Edelman 2002: 2 r numbers instead of n d.
    """
    rank, longer = min(n - 1, d), max(n - 1, d)
    uniform = torch.stack([torch.rand(2, rank, generator=rng, dtype=torch.float64) for rng in rngs]).numpy()
    steps = np.arange(rank)
    diagonal = torch.from_numpy(np.sqrt(chi2.ppf(uniform[:, 0], longer - steps)))
    below = torch.from_numpy(np.sqrt(chi2.ppf(uniform[:, 1, 1:], rank - steps[1:])))
    bidiagonal = torch.diag_embed(diagonal) + torch.diag_embed(below, -1)
    return torch.linalg.eigvalsh(bidiagonal @ bidiagonal.mT).clamp(min=0)


def anderson_darling(values: Float[Tensor, "... n"]) -> Float[Tensor, "..."]:
    """Anderson and Darling 1954: A^2 of each row against a normal distribution of estimated mean and variance."""
    count = values.shape[-1]
    scaled = (values - values.mean(-1, keepdim=True)) / values.std(-1, keepdim=True)
    ordered = scaled.sort(dim=-1).values
    weights = 2 * torch.arange(1, count + 1, dtype=values.dtype) - 1
    terms = torch.special.log_ndtr(ordered) + torch.special.log_ndtr(-ordered.flip(-1))
    return -count - (weights * terms).mean(-1)


@lru_cache(maxsize=8)
def anderson_darling_null(n: int, draws: int) -> Float[Tensor, " draws"]:
    """A^2 of ``draws`` normal samples of n, ascending: the null for any mean and variance."""
    rng, parts, done = generator(0, "anderson_darling", n), [], 0
    while done < draws:
        count = min(max(1, _AT_A_TIME // n), draws - done)
        parts.append(anderson_darling(torch.randn(count, n, generator=rng, dtype=torch.float64)))
        done += count
    return torch.cat(parts).sort().values
