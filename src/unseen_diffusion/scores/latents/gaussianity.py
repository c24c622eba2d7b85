"""Tests whether latents are Gaussian, and whether their covariance is a multiple of the identity, at any n and d.

There are two null hypotheses: ``gaussian`` is N(m, S) with any mean and covariance; ``isotropic`` is N(m, s^2 I), the
paper's prior. Every p-value comes from draws of its null (``nulls``), none from an asymptotic law.

Tests of ``gaussian``, and what each detects:
- radius: a random scale per latent (t, mixtures of spreads) and shells; no distribution with concentrated radii.
- whitened_radius: the same in the leading principal components, and nothing outside them.
- components: clusters and skewness along the leading components, not in directions of small variance.
- projections: a random scale per latent and, in high dimension, hardly anything else (Diaconis and Freedman 1984).
- kurtosis: heavy or light tails that the coordinates have in common; neither tails that cancel nor dependence.

Tests of ``isotropic``:
- isotropic_radius: squared radii that vary more or less than chi^2_d, by more than the noise of n of them.
- largest_eigenvalue: a few strong directions, above s^2 (1 + sqrt(d / n)) (Baik, Ben Arous and Peche 2005).
- outside_edges: many of them, by eigenvalues outside the law of Marchenko and Pastur 1967.
- sphericity: spread of the whole spectrum (John 1971), of a relative variance above about 2 / n.

A test that does not reject has not shown that latents are Gaussian; with n far below d no test can. Nor can all
directions be whitened there: under the sample's covariance every latent has the same radius.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from unseen_diffusion.scores.inputs import require_count
from unseen_diffusion.scores.intervals import holm, two_sided_p, upper_p
from unseen_diffusion.scores.latents.gram import Latents, centred_columns, centred_gram, flat
from unseen_diffusion.scores.latents.nulls import (
    anderson_darling,
    anderson_darling_null,
    rotated_vectors,
    wishart_spectra,
)
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator, normal_rows

NULLS = ("gaussian", "isotropic")
COORDINATES = 256  # largest number of coordinates in the kurtosis test
TABLE = 9999  # samples from which an Anderson-Darling p-value is computed
_AT_A_TIME = 2_000_000  # numbers in a batch of rotations
_EDGE = 2.02  # the 99% point of the Tracy-Widom law of order 1


@dataclass(frozen=True)
class Finding:
    """The result of one test.

    Attributes:
        name: as in the module's list.
        null: ``gaussian`` or ``isotropic``.
        value: the statistic.
        low: lower end of its central 95% range under the null; for a one-sided test its least value.
        high: upper end of that range.
        p_value: before any correction across tests.
        adjusted: by Holm across the tests of the same null.
    """

    name: str
    null: str
    value: float
    low: float
    high: float
    p_value: float
    adjusted: float


@dataclass(frozen=True)
class Gaussianity:
    """The results of all tests of n latents with d coordinates, and the spectrum of their covariance.

    Attributes:
        findings: by name.
        n: latents.
        dimension: d.
        effective_dimension: (tr S)^2 / tr S^2 of the sample covariance; at most min(n - 1, d).
        spectrum: nonzero eigenvalues of the sample covariance, descending, over their mean variance per coordinate.
        edges: where Marchenko and Pastur's law puts such eigenvalues, with a margin of about 1% on each side.
    """

    findings: dict[str, Finding]
    n: int
    dimension: int
    effective_dimension: float
    spectrum: Float[Tensor, " r"]
    edges: tuple[float, float]

    def p_value(self, null: str) -> float:
        """P-value of a whole null hypothesis: the least adjusted p-value of its tests."""
        if null not in NULLS:
            raise InputError(f"null={null}: choose one of {', '.join(NULLS)}")
        return min(finding.adjusted for finding in self.findings.values() if finding.null == null)


class _Raw(NamedTuple):
    """A test before the correction across tests."""

    name: str
    null: str
    value: float
    low: float
    high: float
    p_value: float


def gaussianity(latents: Latents, seed: int, simulations: int = 199, directions: int = 20) -> Gaussianity:
    """Tests latents (n, ...) against both null hypotheses.

    Costs one (n, d) Gram matrix in float64, and two n^3 decompositions for each simulation.

    Args:
        latents: at least 8, taken as rows of d coordinates; independent draws.
        seed: of directions, coordinates and simulations; the same seed gives the same result.
        simulations: draws of each null: p-values are multiples of 1 / (simulations + 1), two-sided ones of twice that.
        directions: random projections, and leading principal components, that are tested.

    Raises:
        InputError: too few latents, values that are not finite, no spread, bad counts.
    """
    require_count("simulations", simulations)
    require_count("directions", directions)
    rows = flat(latents, "latents", 8)
    n, d = rows.shape
    values, vectors = _decompose(centred_gram(rows), d)
    projected = _projections(rows, seed, directions)
    coordinates = vectors.T @ _some_coordinates(rows, seed)
    raw = _simulated(values, vectors, coordinates, d, seed, simulations)
    leading = vectors[:, -min(directions, len(values)) :].T
    raw += [_normal_law("components", leading), _normal_law("projections", projected)]
    spectrum = values.flip(0) * d / values.sum()
    effective = float(values.sum() ** 2 / values.square().sum())
    return Gaussianity(_adjust(raw), n, d, effective, spectrum, marchenko_pastur_edges(n, d))


def marchenko_pastur_edges(n: int, d: int) -> tuple[float, float]:
    """Range of the nonzero eigenvalues of the sample covariance of n draws of N(m, I_d), but for about 1% per edge.

    (sqrt(n - 1) +- sqrt(d))^2 / (n - 1) (Marchenko and Pastur 1967), widened by 2.02 times the Tracy-Widom scale
    (Johnstone 2001). A lower edge below 0 is 0.
    """
    a, b = math.sqrt(n - 1), math.sqrt(d)
    upper = (a + b) ** 2 + _EDGE * (a + b) * (1 / a + 1 / b) ** (1 / 3)
    lower = (a - b) ** 2 - _EDGE * abs(a - b) * abs(1 / a - 1 / b) ** (1 / 3)
    return max(0.0, lower) / (n - 1), upper / (n - 1)


def _decompose(gram: Tensor, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (r,) ascending and eigenvectors (n, r) of the centred Gram matrix, r = min(n - 1, d) at most.

    Fewer where latents repeat or span less: vectors of a zero eigenvalue are arbitrary.
    """
    values, vectors = torch.linalg.eigh(gram)
    real = values[-min(len(gram) - 1, d) :] > 1e-12 * values[-1]
    rank = int(real.sum())
    return values[-rank:], vectors[:, -rank:]


def _projections(rows: Tensor, seed: int, count: int) -> Float[Tensor, "count n"]:
    """Latents along random directions, direction i from the stream (seed, "projection", i)."""
    directions = normal_rows((rows.shape[1],), seed, "projection", range(count)).double()
    projected = torch.zeros(count, len(rows), dtype=torch.float64)
    for columns, wide in centred_columns(rows):
        projected += directions[:, columns] @ wide.cpu().T
    return projected


def _some_coordinates(rows: Tensor, seed: int) -> Float[Tensor, "n k"]:
    """At most ``COORDINATES`` random coordinates minus their means, among those with nonzero variance."""
    varied = (rows != rows[:1]).any(0).cpu().nonzero().flatten()
    chosen = varied[torch.randperm(len(varied), generator=generator(seed, "coordinates"))[:COORDINATES]]
    picked = rows[:, chosen.to(rows.device)].cpu().double()
    return picked - picked.mean(0)


def _simulated(values: Tensor, vectors: Tensor, coordinates: Tensor, d: int, seed: int, simulations: int) -> list[_Raw]:
    """The tests whose null is simulated: every draw rotates the vectors and draws a Wishart spectrum."""
    n, rank = len(vectors), min(len(vectors) - 1, d)
    observed = _gaussian_statistics(values, vectors[None], coordinates)
    observed |= _isotropic_statistics(values[None], vectors[None], d)
    null: dict[str, list[Tensor]] = {name: [] for name in observed}
    for indices in torch.arange(simulations).split(max(1, _AT_A_TIME // (n * rank))):
        rngs = [generator(seed, "gaussianity", index) for index in indices.tolist()]
        turned = rotated_vectors(n, rank, rngs)
        drawn = _gaussian_statistics(values, turned[:, :, : len(values)], coordinates)
        drawn |= _isotropic_statistics(wishart_spectra(n, d, rngs), turned, d)
        for name, batch in drawn.items():
            null[name].append(batch)
    return [_finding(name, float(value), torch.cat(null[name])) for name, value in observed.items()]


_ONE_SIDED = ("largest_eigenvalue", "outside_edges", "sphericity")
_ISOTROPIC = ("isotropic_radius", *_ONE_SIDED)


def _finding(name: str, value: float, null: Tensor) -> _Raw:
    """The result of one test, from the observed statistic and the draws of its null."""
    kind = "isotropic" if name in _ISOTROPIC else "gaussian"
    if name in _ONE_SIDED:
        return _Raw(name, kind, value, float(null.min()), float(null.quantile(0.95)), upper_p(null, value))
    low, high = null.quantile(0.025), null.quantile(0.975)
    return _Raw(name, kind, value, float(low), float(high), two_sided_p(null, value))


def _gaussian_statistics(
    values: Float[Tensor, " r"], vectors: Float[Tensor, "b n r"], coordinates: Float[Tensor, "r k"]
) -> dict[str, Float[Tensor, " b"]]:
    """Statistics of the ``gaussian`` null; latents are vectors diag(sqrt(values)), coordinates vectors @ coordinates.

    radius: coefficient of variation of the squared radii about the mean; whitened_radius: the same with unit
    variance in each of the leading (n - 1) / 4 components; kurtosis: mean excess over the coordinates.
    """
    leading = max(1, min(len(values), (vectors.shape[1] - 1) // 4))
    squares = vectors.square()
    moments = (vectors @ coordinates).square()
    return {
        "radius": _variation(squares @ values),
        "whitened_radius": _variation(squares[:, :, -leading:].sum(2)),
        "kurtosis": (moments.square().mean(1) / moments.mean(1).square()).mean(1) - 3,
    }


def _isotropic_statistics(
    values: Float[Tensor, "b r"], vectors: Float[Tensor, "b n r"], d: int
) -> dict[str, Float[Tensor, " b"]]:
    """Statistics of the ``isotropic`` null; none depends on the scale.

    isotropic_radius: coefficient of variation of the squared radii, sqrt(2 / d) in theory; largest_eigenvalue
    and outside_edges (a share) of the covariance in units of the mean variance; sphericity: tr S^2 d / (tr S)^2.
    """
    scaled = values * d / values.sum(1, keepdim=True)
    low, high = marchenko_pastur_edges(vectors.shape[1], d)
    return {
        "isotropic_radius": _variation((vectors.square() @ values[:, :, None])[:, :, 0]),
        "largest_eigenvalue": scaled[:, -1],
        "outside_edges": ((scaled < low) | (scaled > high)).double().mean(1),
        "sphericity": scaled.square().sum(1) / d,
    }


def _variation(squared: Float[Tensor, "b n"]) -> Float[Tensor, " b"]:
    """Coefficient of variation: standard deviation over mean."""
    return squared.std(1) / squared.mean(1)


def _normal_law(name: str, samples: Float[Tensor, "k n"]) -> _Raw:
    """Anderson-Darling along k directions: the greatest A^2 and its p-value by Holm.

    Along fixed directions N(m, S) is normal. Along its principal components the normalised scores are those of a
    normal sample too (see ``nulls``), so the null depends on n alone.
    """
    null = anderson_darling_null(samples.shape[1], TABLE)
    worst = float(anderson_darling(samples).max())
    adjusted = holm([upper_p(null, float(one)) for one in anderson_darling(samples)])
    return _Raw(
        name, "gaussian", worst, float(null.min()), float(null.quantile(1 - 0.05 / len(samples))), min(adjusted)
    )


def _adjust(raw: list[_Raw]) -> dict[str, Finding]:
    """Adds Holm's correction within each null."""
    findings = {}
    for kind in NULLS:
        tests = [test for test in raw if test.null == kind]
        for test, adjusted in zip(tests, holm([test.p_value for test in tests]), strict=True):
            findings[test.name] = Finding(*test, adjusted)
    return findings
