"""The acceptance that geometric tolerances will have, from theory and before anything is inverted.

For independent c, z_1, ..., z_k ~ N(0, s^2 I_d) the three statistics are, to first order in 1 / sqrt(d), linear in
four independent sums (s = 1): A = |c|^2 - d, the mean B of |z_i|^2 - d, the mean C of c . z_i, and the mean E of
z_i . z_j over pairs. Their variances are 2d, 2d / k, d / k and 2d / (k (k - 1)). So the statistics are jointly normal:

    pair distance - sqrt(2d)  =  (A + B - 2C) / (2 sqrt(2d))
    60 degrees - pair angle   =  (A/4 - C/2 - B/4 + E/2) / (d sin 60)
    90 degrees - origin angle =  C / d
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import degrees, isinf, log10, pi, sin, sqrt

import numpy as np
from numpy.typing import NDArray

from unseen_diffusion.rejection.geometry import CRITERIA
from unseen_diffusion.rejection.tolerances import Tolerances

FEW = 0.05  # acceptance below which a run says what to change
DIGITS = 2


@dataclass(frozen=True)
class Expectation:
    """Expected acceptance of some tolerances.

    Attributes:
        share: of candidates that satisfy every criterion, in [0, 1].
        d: coordinates of a latent.
        k: references drawn per candidate.
    """

    share: float
    d: int
    k: int

    @property
    def text(self) -> str:
        """The share in words, such as ``expected 0.5% at d = 3072``."""
        return f"expected {percent(self.share)} at d = {self.d}"


def percent(share: float) -> str:
    """A share with two digits, however small: 36%, 0.5%, 0.0003%."""
    value = 100 * share
    if value <= 0:
        return "0%"
    return f"{value:.{max(0, DIGITS - 1 - int(np.floor(log10(value))))}f}%"


def deviations(d: int, k: int, scale: float = 1.0) -> NDArray[np.float64]:
    """Covariance (3, 3) of pair distance (L2), pair angle and origin angle (degrees) in ``CRITERIA``'s order.

    Args:
        d: coordinates of a latent.
        k: references drawn per candidate, at least 2.
        scale: standard deviation s of a coordinate.
    """
    sine = sin(pi / 3)
    factors = np.array(
        [
            [scale / (2 * sqrt(2 * d)), scale / (2 * sqrt(2 * d)), -scale / sqrt(2 * d), 0.0],
            [-degrees(0.25 / (d * sine)), degrees(0.25 / (d * sine)), degrees(0.5 / (d * sine)), 0.0],
            [0.0, 0.0, -degrees(1 / d), 0.0],
        ]
    )
    factors[1, 3] = -degrees(0.5 / (d * sine))
    variances = np.array([2.0 * d, 2.0 * d / k, d / k, 2.0 * d / (k * (k - 1))])
    return np.asarray((factors * variances) @ factors.T)


def box_share(covariance: NDArray[np.float64], half_widths: Mapping[str, float]) -> float:
    """Probability that every criterion in ``half_widths`` lies within its half-width of its mean."""
    from scipy.stats import multivariate_normal  # takes half a second to import, and few runs ask for it

    used = [CRITERIA.index(name) for name in CRITERIA if name in half_widths and not isinf(half_widths[name])]
    if not used:
        return 1.0
    ends = np.array([half_widths[CRITERIA[i]] for i in used])
    if not ends.all():
        return 0.0
    cut = covariance[np.ix_(used, used)]
    scales = np.sqrt(cut.diagonal())
    normal = multivariate_normal(mean=np.zeros(len(used)), cov=cut / np.outer(scales, scales), seed=0)
    return float(np.clip(normal.cdf(ends / scales, lower_limit=-ends / scales), 0.0, 1.0))


def expected_acceptance(tolerances: Tolerances, d: int, references: int, scale: float = 1.0) -> Expectation | None:
    """The acceptance of tolerances for independent Gaussian latents; None for tolerances that reject nothing.

    Real latents differ: a prior with a mean vector or a few large directions spreads the statistics more, and accepts
    fewer candidates than this with absolute tolerances.

    Args:
        tolerances: those of a run.
        d: coordinates of a latent.
        references: how many there are.
        scale: standard deviation of a coordinate.
    """
    k = min(tolerances.k, references)
    if not tolerances.judges or tolerances.moves_candidates or k < 2:
        return None
    covariance = deviations(d, k, scale)
    widths = tolerances.half_widths(dict(zip(CRITERIA, np.sqrt(covariance.diagonal()).tolist(), strict=True)))
    return None if widths is None else Expectation(box_share(covariance, widths), d, k)
