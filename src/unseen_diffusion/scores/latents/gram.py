"""Inner products of latents, from which every test here starts: no (d, d) matrix is ever computed."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.utils.errors import InputError

Latents = Float[Tensor, "_ ..."]  # any number of rows, because one call compares sets of different sizes
# Columns converted to float64 at a time: 2000 latents of 8192 columns take 131 MB.
COLUMNS = 8192


@dataclass(frozen=True)
class Pooled:
    """Inner products of two sets of latents, the rows of the first set first.

    Attributes:
        gram: inner products about the pooled mean, (N, N) float64 on the CPU, N = first + second.
        first: latents of the first set.
        dimension: d, coordinates of a latent.
    """

    gram: Tensor
    first: int
    dimension: int

    @classmethod
    def of(cls, x: Latents, y: Latents) -> "Pooled":
        """Computes the inner products of latents x (n, ...) and y (m, ...) of equal shape, n, m >= 3.

        Raises:
            InputError: fewer than 3 latents, shapes that differ, values that are not finite, or no spread at all.
        """
        x, y = flat(x, "the first set of latents", 3), flat(y, "the second set of latents", 3)
        if x.shape[1] != y.shape[1]:
            raise InputError(f"latents of {x.shape[1]} and of {y.shape[1]} coordinates: give two sets of one model")
        gram = torch.zeros(len(x) + len(y), len(x) + len(y), dtype=torch.float64)
        for start in range(0, x.shape[1], COLUMNS):
            columns = slice(start, start + COLUMNS)
            wide = torch.cat([x[:, columns].double(), y[:, columns].double()])
            wide = wide - wide.mean(0)
            gram += (wide @ wide.T).cpu()
        _require_spread(gram)
        return cls(gram, len(x), x.shape[1])

    @property
    def second(self) -> int:
        """Latents of the second set."""
        return len(self.gram) - self.first

    def squared_distances(self) -> Float[Tensor, "N N"]:
        """|x_i - x_j|^2 over all pairs, float64, zero on the diagonal."""
        norms = self.gram.diagonal()
        squared = (norms[:, None] + norms[None, :] - 2 * self.gram).clamp(min=0)
        return squared.fill_diagonal_(0)


def flat(latents: Latents, name: str, minimum: int) -> Float[Tensor, "n d"]:
    """Checks latents and returns them as rows.

    Raises:
        InputError: fewer than ``minimum`` latents, no coordinates, or values that are not finite.
    """
    count = len(latents)
    if count < minimum:
        raise InputError(f"{name}: {count} latents; give {minimum} or more")
    rows = latents.detach().flatten(1)
    if rows.shape[1] == 0:
        raise InputError(f"{name}: latents without coordinates; give (n, d) or (n, c, h, w)")
    broken = int((~rows.isfinite()).any(dim=1).sum())
    if broken:
        raise InputError(f"{name}: {broken} of {count} latents are not finite; invert them in float32")
    return rows


def centred_columns(rows: Float[Tensor, "n d"]) -> Iterator[tuple[slice, Float[Tensor, "n columns"]]]:
    """Yields (columns, those columns minus their mean in float64), block by block."""
    for start in range(0, rows.shape[1], COLUMNS):
        columns = slice(start, start + COLUMNS)
        wide = rows[:, columns].double()
        yield columns, wide - wide.mean(0)


def centred_gram(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """Inner products about the mean of the rows, float64 on the CPU.

    Raises:
        InputError: all rows are the same.
    """
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64)
    for _, wide in centred_columns(rows):
        gram += (wide @ wide.T).cpu()
    _require_spread(gram)
    return gram


def _require_spread(gram: Tensor) -> None:
    """Raises InputError where every latent is the same point."""
    if not float(gram.diagonal().sum()) > 0:
        raise InputError("all latents are the same point: there is no spread to compare with; check the inversion")
