"""The three geometric statistics of a candidate against references, and of references against each other.

Each statistic is averaged over k references drawn for the candidate: the pair distance over the k distances,
the pair angle over all k (k - 1) / 2 pairs, the origin angle over the k angles. Angles are in degrees.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator, generators

Criterion = Literal["pair_distance", "pair_angle", "origin_angle"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
# With a cosine this close to 1 or -1, differences of float32 products have lost 3 of their 7 digits.
CANCELLATION = 1e-3


@dataclass(frozen=True)
class References:
    """Reference latents prepared for repeated use: flat (N, d) float32, float64 Gram matrix (N, N)."""

    flat: Tensor
    gram: Tensor

    @classmethod
    def of(cls, latents: Float[Tensor, "n c h w"]) -> "References":
        flat = latents.flatten(1).float()
        wide = flat.double()
        return cls(flat, wide @ wide.T)

    def __len__(self) -> int:
        return len(self.flat)


def check_drawn(count: int, k: int) -> None:
    """Raises InputError unless k of that many references can be drawn, with a pair among them."""
    if not 2 <= k <= count:
        raise InputError(f"tolerances.k={k}: with {count} references give a number between 2 and {count}")


def check_left_out(count: int, k: int) -> None:
    """Raises InputError unless bands can be measured, for which each reference is compared with k others."""
    if not 2 <= k <= count - 1:
        raise InputError(f"tolerances.k={k}: with {count} references give a number between 2 and {count - 1}")


def draw_references(count: int, k: int, seed: int, indices: Sequence[int]) -> Int[Tensor, "b k"]:
    """k different reference rows per candidate, from the stream (seed, "criteria", index).

    Raises:
        InputError: fewer than k references.
    """
    check_drawn(count, k)
    rows = [torch.randperm(count, generator=rng)[:k] for rng in generators(seed, "criteria", indices)]
    return torch.stack(rows)


def statistics(
    candidates: Float[Tensor, "b c h w"], references: References, drawn: Int[Tensor, "b k"]
) -> Float[Tensor, "b 3"]:
    """Pair distance (L2), pair angle and origin angle (degrees) per candidate, float64, in ``CRITERIA``'s order.

    Products of candidates and references are float32; the rest is float64. Candidates that are nearly parallel to a
    drawn reference (or coincide with it), where those products cancel, are recomputed from float64 differences.
    An angle with a side of length zero counts as 0 degrees.
    """
    flat = candidates.flatten(1).float()
    dots = sampled_products(flat, references.flat, drawn).double()
    norms = torch.linalg.vector_norm(flat, dim=1, keepdim=True, dtype=torch.float64).square()
    lengths = references.gram.diagonal()[drawn]
    pairs = pair_products(references.gram, drawn)
    squared, legs = sides(dots, norms, lengths, pairs)
    first, second = _pairs(drawn.shape[1])
    close = (dots.abs() > (1 - CANCELLATION) * (norms * lengths).sqrt()).any(1)
    for row in close.nonzero().flatten().tolist():
        one, many = flat[row].double(), references.flat[drawn[row]].double()
        difference = many - one
        products = difference @ difference.T
        legs[row] = products[first, second]
        squared[row] = products.diagonal()
        dots[row] = many @ one
    return averages(dots, norms, lengths, squared, legs)


def sampled_products(
    rows: Float[Tensor, "b f"], points: Float[Tensor, "n f"], drawn: Int[Tensor, "b k"]
) -> Float[Tensor, "b k"]:
    """Products of each row with its drawn points: computes only the k needed ones of N products."""
    count, k = drawn.shape
    columns, order = drawn.sort(1)
    starts = torch.arange(0, count * k + 1, k)
    zeros = rows.new_zeros(count * k)
    with warnings.catch_warnings():  # torch warns that CSR tensors are beta; tests check these products
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")
        wanted = torch.sparse_csr_tensor(starts, columns.flatten(), zeros, (count, len(points)), check_invariants=False)
        found = torch.sparse.sampled_addmm(wanted, rows, points.T, beta=0.0).values().reshape(count, k)
    return torch.empty_like(found).scatter_(1, order, found)


def _pairs(k: int) -> tuple[Tensor, Tensor]:
    """Both members of each of the k (k - 1) / 2 pairs."""
    first, second = torch.triu_indices(k, k, offset=1)
    return first, second


def pair_products(gram: Float[Tensor, "n n"], drawn: Int[Tensor, "b k"]) -> Float[Tensor, "b p"]:
    """Inner products of each pair of drawn references."""
    first, second = _pairs(drawn.shape[1])
    places = drawn[:, first] * len(gram) + drawn[:, second]
    return gram.flatten().index_select(0, places.flatten()).reshape(places.shape)  # 10 times as fast as gram[...]


def sides(
    dots: Float[Tensor, "b k"],
    norms: Float[Tensor, "b 1"],
    lengths: Float[Tensor, "b k"],
    pairs: Float[Tensor, "b p"],
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b p"]]:
    """|z_i - c|^2 and (z_i - c) . (z_j - c) from inner products.

    Args:
        dots: c . z_i.
        norms: |c|^2.
        lengths: |z_i|^2.
        pairs: z_i . z_j.
    """
    first, second = _pairs(dots.shape[1])
    return norms + lengths - 2 * dots, pairs - dots[:, first] - dots[:, second] + norms


def averages(
    dots: Float[Tensor, "b k"],
    norms: Float[Tensor, "b 1"],
    lengths: Float[Tensor, "b k"],
    squared: Float[Tensor, "b k"],
    legs: Float[Tensor, "b p"],
) -> Float[Tensor, "b 3"]:
    """The three statistics from inner products and the result of ``sides``."""
    first, second = _pairs(dots.shape[1])
    distances = squared.clamp(min=0).sqrt()
    pair = _degrees(legs, distances[:, first] * distances[:, second])
    origin = _degrees(dots, (norms * lengths).sqrt())
    return torch.stack([distances.mean(1), pair.mean(1), origin.mean(1)], dim=1)


def _degrees(dots: Tensor, lengths: Tensor) -> Tensor:
    """Angles from inner products and products of lengths; the cosine is clamped to [-1, 1]."""
    cosine = torch.where(lengths > 0, dots / lengths.clamp(min=torch.finfo(dots.dtype).tiny), 1.0)
    return cosine.clamp(-1, 1).acos().rad2deg()


def leave_one_out(references: References, k: int, seed: int, repeats: int) -> Float[Tensor, "m 3"]:
    """Statistics of each reference against k others, ``repeats`` draws each: rows in order of reference.

    A new latent of the same distribution has these statistics; (N * repeats, 3) float64.
    """
    count = len(references)
    if not 2 <= k <= count - 1:
        raise InputError(
            f"tolerances.k={k}: leave-one-out needs k + 1 references, but there are {count}; raise domain.references "
            "or lower tolerances.k"
        )
    rows = []
    for index in range(count):
        draws = []
        for repeat in range(repeats):
            rng = generator(seed, "leave_one_out", index, repeat)
            others = torch.randperm(count - 1, generator=rng)[:k]
            draws.append(others + (others >= index))
        one = references.flat[index].expand(repeats, -1)[:, :, None, None]
        rows.append(statistics(one, references, torch.stack(draws)))
    return torch.cat(rows)


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation of one statistic."""

    mean: float
    sd: float


def summarise(latents: Float[Tensor, "n c h w"], seed: int, k: int = 10) -> dict[str, Summary]:
    """Summarises a set of latents: the criteria by leave-one-out, radius, residual sd and the mean vector's norm."""
    wide = latents.double().flatten(1)
    mean = wide.mean(0)
    own = leave_one_out(References.of(latents), min(k, len(latents) - 1), seed, repeats=1)
    result = {name: Summary(float(own[:, i].mean()), float(own[:, i].std())) for i, name in enumerate(CRITERIA)}
    radius = wide.norm(dim=1)
    result["radius"] = Summary(float(radius.mean()), float(radius.std()))
    spread = ((wide - mean).square().sum() / ((len(wide) - 1) * wide.shape[1])).sqrt()
    result["residual_sd"] = Summary(float(spread), 0.0)
    result["mean_norm"] = Summary(float(mean.norm()), 0.0)
    return result
