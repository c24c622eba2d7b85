"""The exact shortcut for rejection: candidates are proposed as a few numbers, and formed only when accepted.

The criteria see a candidate c only through its inner products with its k drawn references, and its norm. Let a
prior be c = mean + y axes + s e with e white on the complement of the axes (``SphericalRest``), and let F be the
span of the axes and the mean. Within F, coordinates describe a candidate. Beyond F, the drawn references' parts have
the Gram matrix G = L L^T, c has the products s L v with them, v ~ N(0, I_k), and the square of all that remains is
s^2 chi^2 with d - dim F - k degrees of freedom, its direction uniform. A proposal costs dim F + k + 1 numbers,
whatever d; an accepted one gets a direction.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from scipy.special import gammaincinv
from torch import Tensor

from unseen_diffusion.priors import FittedPrior, SphericalRest
from unseen_diffusion.rejection.geometry import (
    References,
    averages,
    check_drawn,
    pair_products,
    sampled_products,
    sides,
)
from unseen_diffusion.rejection.routes import Route
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator, normal_rows

# Proposals per random stream: proposal i is row i % BLOCK of the stream of block i // BLOCK.
BLOCK = 4096
# A part beyond F below this share of a reference's squared norm is rounding error.
NEGLIGIBLE = 1e-12


@dataclass(frozen=True)
class PriorSubspace:
    """The subspace F of a prior's axes and mean, with the references' coordinates in it.

    Attributes:
        form: the prior as axes and a spherical rest.
        unit: (d,) direction of the mean beyond the axes; None if it has no such part.
        centre: (f,) coordinates of the mean in F, f = q or q + 1.
        points: (N, f) of the references.
        products: (N, N) inner products of the references.
        left: (N, N) inner products of their parts beyond F.
        beyond: whether there is a rest, and those parts are more than rounding.
        freedom: d - f.
    """

    form: SphericalRest
    unit: Tensor | None
    centre: Tensor
    points: Tensor
    products: Tensor
    left: Tensor
    beyond: bool
    freedom: int

    @classmethod
    def of(cls, form: SphericalRest, references: References) -> "PriorSubspace":
        """Computes the subspace from products of the references with the axes, the mean and each other, in float64."""
        flat = references.flat
        parts = [flat[i : i + 64].double() for i in range(0, len(flat), 64)]
        points = torch.cat([form.along(part) for part in parts])
        centre = form.along(form.mean[None])[0]
        left = form.mean - form.combine(centre[None])[0]
        unit = None
        if float(left.norm()) > 1e-9 * float(form.mean.norm()):
            unit = left / left.norm()
            points = torch.cat([points, torch.cat([part @ unit for part in parts])[:, None]], 1)
            centre = torch.cat([centre, left.norm()[None]])
        products = references.gram
        beyond = products - points @ points.T
        seen = bool((beyond.diagonal() > NEGLIGIBLE * products.diagonal().max()).any())
        return cls(form, unit, centre, points, products, beyond, seen and form.scale > 0, flat.shape[1] - len(centre))

    def vector(self, coordinates: Float[Tensor, " f"]) -> Float[Tensor, " d"]:
        """The vector of F with these coordinates."""
        axes = coordinates[:-1] if self.unit is not None else coordinates
        inside = self.form.combine(axes[None])[0]
        return inside if self.unit is None else inside + coordinates[-1] * self.unit

    def roots(self, drawn: Int[Tensor, "b k"]) -> Float[Tensor, "b k k"]:
        """R with R R^T = G, the Gram matrix of drawn references' parts beyond F.

        By Cholesky, or by eigenvectors where G is singular (repeated references).
        """
        places = drawn[:, :, None] * len(self.left) + drawn[:, None, :]
        gram = self.left.flatten().index_select(0, places.flatten()).reshape(places.shape)
        roots, info = torch.linalg.cholesky_ex(gram)
        for row in info.nonzero().flatten().tolist():
            values, vectors = torch.linalg.eigh(gram[row])
            roots[row] = vectors * values.clamp(min=0).sqrt()
        return roots

    def outside(self, vectors: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """The parts of vectors orthogonal to F."""
        left = vectors - self.form.combine(self.form.along(vectors))
        return left if self.unit is None else left - (left @ self.unit)[:, None] * self.unit


@dataclass(frozen=True)
class Proposals:
    """A block of candidates, each as the few numbers that its statistics need.

    Attributes:
        drawn: (b, k) references.
        coordinates: (b, f) in F.
        towards: (b, k) v, standard normal; the products beyond F are s L v.
        rest: (b,) squared norm beyond F, without s^2.
    """

    drawn: Tensor
    coordinates: Tensor
    towards: Tensor
    rest: Tensor


@dataclass(frozen=True)
class Accepted:
    """One row of ``Proposals``."""

    drawn: Tensor
    coordinates: Tensor
    towards: Tensor
    rest: Tensor


class ExactStatistics(Route):
    """The route of the exact shortcut: its candidates differ from the direct route's, their distribution does not."""

    def __init__(self, prior: FittedPrior, references: References, k: int, seed: int, shape: tuple[int, ...]) -> None:
        check_drawn(len(references), k)
        form = prior.spherical()
        if form is None:
            raise InputError(
                f"rejection.route=exact_statistics: {type(prior).__name__} has no spherical rest; "
                "set rejection.route=direct"
            )
        self.prior, self.references, self.k, self.seed, self.shape = prior, references, k, seed, shape
        self.subspace = PriorSubspace.of(form, references)
        self.freedom = self.subspace.freedom - (k if self.subspace.beyond else 0)
        if form.scale and self.freedom < 0:
            raise InputError(
                f"rejection.route=exact_statistics: {self.subspace.freedom} coordinates beyond the prior's axes are "
                f"fewer than tolerances.k={k}; set rejection.route=direct"
            )
        self.block = self._propose(0)
        self.start = 0
        self.accepted: dict[int, Accepted] = {}

    @property
    def group(self) -> int:
        return BLOCK

    def judge(self, start: int, stop: int) -> Float[Tensor, "b 3"]:
        if start != self.start:
            self.start, self.block = start, self._propose(start // BLOCK)
        return self._statistics(self.block)[: stop - start]

    def keep(self, index: int) -> None:
        row, block = index - self.start, self.block
        self.accepted[index] = Accepted(
            *(part[row].clone() for part in (block.drawn, block.coordinates, block.towards, block.rest))
        )

    def latents(self, indices: list[int], seed: int) -> Float[Tensor, "n c h w"]:
        if seed != self.seed:
            return torch.cat([self.prior.sample([index], seed) for index in indices])
        return torch.stack([self._formed(index).float().reshape(self.shape) for index in indices])

    def _propose(self, block: int) -> Proposals:
        """All proposals of a block, from its own stream."""
        rng, subspace = generator(self.seed, "proposals", block), self.subspace
        drawn = distinct(BLOCK, self.k, len(self.references), rng)
        f, q = len(subspace.centre), len(subspace.centre) - (subspace.unit is not None)
        noise = torch.randn(BLOCK, f, generator=rng).double()
        u = torch.rand(BLOCK, generator=rng, dtype=torch.float64)
        coordinates = subspace.form.scale * noise
        coordinates[:, :q] = subspace.form.coordinates(noise[:, :q], u)
        towards = torch.randn(BLOCK, self.k, generator=rng).double()
        if not subspace.beyond:
            towards = torch.zeros_like(towards)
        rest = towards.square().sum(1) + chi_squared(BLOCK, self.freedom if subspace.form.scale else 0, rng)
        return Proposals(drawn, subspace.centre + coordinates, towards, rest)

    def _statistics(self, block: Proposals) -> Float[Tensor, "b 3"]:
        subspace, scale, drawn = self.subspace, self.subspace.form.scale, block.drawn
        dots = sampled_products(block.coordinates, subspace.points, drawn)
        if subspace.beyond:
            dots += scale * (subspace.roots(drawn) @ block.towards[:, :, None])[:, :, 0]
        norms = (block.coordinates.square().sum(1) + scale**2 * block.rest)[:, None]
        lengths, pairs = subspace.products.diagonal()[drawn], pair_products(subspace.products, drawn)
        return averages(dots, norms, lengths, *sides(dots, norms, lengths, pairs))

    def _formed(self, index: int) -> Float[Tensor, " d"]:
        """Forms an accepted proposal: its part in F, its part along the references, and a random direction beyond."""
        one, subspace, scale = self.accepted[index], self.subspace, self.subspace.form.scale
        inside = subspace.vector(one.coordinates)
        if not scale:
            return inside
        direction = normal_rows((len(inside),), self.seed, "direction", [index]).double()
        left = subspace.outside(direction)[0]
        towards = torch.zeros_like(left)
        if subspace.beyond:
            root = subspace.roots(one.drawn[None])[0]
            axes = torch.linalg.pinv(root) @ subspace.outside(self.references.flat[one.drawn].double())
            towards = one.towards @ axes
            basis = torch.linalg.svd(axes, full_matrices=False)
            axes = basis.Vh[basis.S > 0.5]  # singular values are 1, and 0 for repeated references
            left = left - (axes @ left) @ axes
        remaining = (one.rest - towards.square().sum()).clamp(min=0)
        return inside + scale * (towards + remaining.sqrt() * left / left.norm())


def distinct(rows: int, k: int, count: int, rng: torch.Generator) -> Int[Tensor, "b k"]:
    """k different numbers below ``count`` per row, all sets equally likely: each is drawn among those not yet taken."""
    taken = torch.empty(rows, 0, dtype=torch.long)
    columns = []
    for j in range(k):
        new = torch.randint(count - j, (rows,), generator=rng)
        for other in taken.T:  # ascending: step over every number taken that is not above
            new = new + (new >= other)
        columns.append(new)
        taken = torch.stack(columns, 1).sort(1).values
    return torch.stack(columns, 1)


def chi_squared(rows: int, freedom: int, rng: torch.Generator) -> Float[Tensor, " b"]:
    """chi^2 draws by inversion, float64; zeros without a degree of freedom."""
    u = torch.rand(rows, generator=rng, dtype=torch.float64)
    return torch.from_numpy(2 * gammaincinv(freedom / 2, u.numpy())) if freedom else torch.zeros_like(u)
