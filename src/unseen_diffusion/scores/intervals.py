"""Shares of a count, with their intervals."""

from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

from unseen_diffusion.errors import InputError


@dataclass(frozen=True)
class Proportion:
    """``count`` of ``total``: the share in [0, 1] and the bounds of its interval."""

    count: int
    total: int
    share: float
    low: float
    high: float


def normal_quantile(level: float) -> float:
    """Half-width of a two-sided normal interval in standard errors: 1.96 for ``level`` 0.95.

    Raises:
        InputError: ``level`` is not inside (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level}: give a confidence level between 0 and 1, e.g. 0.95")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson(count: int, total: int, level: float = 0.95) -> Proportion:
    """Score interval of Wilson 1927 for a binomial share; it keeps its coverage at shares of 0 and 1.

    Args:
        count: successes, 0..total.
        total: trials, at least 1.
        level: two-sided confidence level in (0, 1).

    Raises:
        InputError: no trials, or a count outside 0..total.
    """
    if total < 1 or not 0 <= count <= total:
        raise InputError(f"{count} of {total}: a share needs a count between 0 and a total of 1 or more")
    z = normal_quantile(level)
    share = count / total
    shrink = 1 + z**2 / total
    centre = (share + z**2 / (2 * total)) / shrink
    half = z * sqrt(share * (1 - share) / total + z**2 / (4 * total**2)) / shrink
    # At the ends the bound is the share itself, which rounding would miss by 1e-17.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(count, total, share, low, high)
