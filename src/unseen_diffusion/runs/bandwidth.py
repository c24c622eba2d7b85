"""The bandwidth search: the largest eta at which reconstructions keep a given quality, found by bisection.

It uses only what the stages store, so a repeated or resumed search evaluates no network again.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor

from unseen_diffusion.scores.intervals import t_interval
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError

Decibels = Annotated[float, Field(gt=0, le=100)]


@settings("bandwidth")
class BandwidthSearch:
    """How much quality a reconstruction may lose; exactly one of minimum_psnr, minimum_snr and drop is given."""

    minimum_psnr: Decibels | None
    """lowest mean PSNR of the references inverted and denoised, in dB"""
    minimum_snr: Decibels | None
    """lowest mean ratio of the domain's variance to the error, in dB; unlike PSNR, comparable across contrasts"""
    drop: Decibels | None
    """how far the mean PSNR may fall below its value at eta 0, in dB"""
    resolution: Annotated[float, Field(gt=0, le=0.5)]
    """spacing of the etas tried: multiples of it (rounded down to 1 / a whole number)"""
    references: Annotated[int, Field(ge=2)]
    """references reconstructed at each eta: the first ones, or all if there are fewer"""
    recorded: bool
    """search at every other recorded timestep too; reported only"""

    def __post_init__(self) -> None:
        limits = {f"bandwidth.{key}": getattr(self, key) for key in ("minimum_psnr", "minimum_snr", "drop")}
        given = {key: value for key, value in limits.items() if value is not None}
        if len(given) != 1:
            named = ", ".join(f"{key}={_decibels(value)}" for key, value in (given or limits).items())
            raise InputError(f"{named}: give one of them in dB, and null for the others")

    def on(self, images: UInt8[Tensor, "n c h w"]) -> "BandwidthSearch":
        """The same search with ``minimum_snr`` converted to the PSNR for a domain of these images.

        SNR = PSNR - 10 log10(255^2 / variance of the images about their mean image).

        Raises:
            InputError: the images are all the same.
        """
        if self.minimum_snr is None:
            return self
        variance = float(images.double().var(0).mean())
        if variance == 0:
            raise InputError(
                f"bandwidth.minimum_snr={self.minimum_snr}: the references do not differ; give minimum_psnr"
            )
        return replace(self, minimum_snr=None, minimum_psnr=self.minimum_snr + 10 * math.log10(255**2 / variance))

    @property
    def criterion(self) -> str:
        """The allowed loss of quality, in words."""
        if self.minimum_snr is not None:
            return f"mean SNR of {self.minimum_snr:g} dB or more"
        if self.minimum_psnr is not None:
            return f"mean PSNR of {self.minimum_psnr:g} dB or more"
        return f"mean PSNR at most {self.drop:g} dB below that at eta 0"

    @property
    def intervals(self) -> int:
        """Number of steps of eta between 0 and 1."""
        return math.ceil(1 / self.resolution - 1e-9)

    def margins(self, curve: Mapping[float, Tensor]) -> Float[Tensor, "k n"]:
        """PSNR above the criterion, in dB, of n references at the k etas of ``curve`` in ascending order."""
        psnr = torch.stack([curve[eta] for eta in sorted(curve)])
        return psnr - (curve[0.0] - self.drop if self.drop is not None else float(self.minimum_psnr or 0))


@dataclass(frozen=True)
class CurvePoint:
    """One eta that was tried: mean PSNR in dB over the references, and its standard error."""

    eta: float
    psnr_mean: float
    psnr_se: float


@dataclass(frozen=True)
class Bandwidth:
    """The result of a bandwidth search.

    Attributes:
        eta: the largest eta tried that keeps the criterion.
        low: lower end of a 95% interval over references: Student's, from the jackknife of the crossing, and never
            narrower than the last bracket of the bisection.
        high: upper end of it.
        censored: ``above`` where the criterion still holds at eta 1 (the bandwidth is 1 or more), ``below`` where
            it fails at eta 0 already, else None.
        crossing: where the mean curve, taken as straight between the etas tried, meets the criterion; of a censored
            search, where its extrapolation does, at most 1 beyond the end.
        references: number of references behind every mean.
        criterion: in words.
        curve: every eta tried, ascending.
    """

    eta: float
    low: float
    high: float
    censored: str | None
    crossing: float
    references: int
    criterion: str
    curve: list[CurvePoint]

    def __str__(self) -> str:
        remark = {
            "above": "; the criterion still holds at eta 1: the bandwidth is 1 or more",
            "below": "; the criterion fails at eta 0 already: no bandwidth, only a better solver would help",
            None: "",
        }[self.censored]
        return (
            f"eta {self.eta:g} [{self.low:.3f}, {self.high:.3f}] ({self.criterion}, {self.references} references, "
            f"{len(self.curve)} etas){remark}"
        )


def find_bandwidth(search: BandwidthSearch, psnr_at: Callable[[float], Tensor]) -> Bandwidth:
    """The largest eta in [0, 1] within the allowed loss, by bisection.

    One noise stream per reference serves every eta, so that the mean curve falls smoothly and a bracket's ends differ
    by eta alone. If the curve rises again, this is one crossing of several.

    Args:
        search: the allowed loss, and how finely eta is resolved.
        psnr_at: eta -> PSNR of each reference's reconstruction in dB, (n,) float64, n >= 2.
    """
    count = search.intervals
    curve = {eta: psnr_at(eta) for eta in (0.0, 1.0)}
    at_zero, at_one = search.margins(curve).mean(1).tolist()
    low, high, censored = 0, count, None
    if at_zero < 0:
        high, censored = 0, "below"
    elif at_one >= 0:
        low, censored = count, "above"
    while high - low > 1:
        middle = (low + high) // 2
        curve[middle / count] = psnr_at(middle / count)
        within = float(search.margins(curve).mean(1)[sorted(curve).index(middle / count)]) >= 0
        low, high = (middle, high) if within else (low, middle)
    return _summary(search, curve, low / count, high / count, censored)


def _summary(
    search: BandwidthSearch, curve: Mapping[float, Tensor], low: float, high: float, censored: str | None
) -> Bandwidth:
    """The interval, for a bracket [low, high] of the crossing."""
    etas = torch.tensor(sorted(curve), dtype=torch.float64)
    margins = search.margins(curve).double()
    n = margins.shape[1]
    crossing = float(crossings(etas, margins.mean(1)[None])[0])
    without = crossings(etas, ((margins.sum(1, keepdim=True) - margins) / (n - 1)).T)
    pseudo = t_interval((n * crossing - (n - 1) * without).tolist())  # Tukey 1958
    half = (pseudo.high - pseudo.low) / 2
    return Bandwidth(
        eta=low,
        low=max(0.0, min(low, crossing - half)),
        high=min(1.0, max(high, crossing + half)),
        censored=censored,
        crossing=crossing,
        references=n,
        criterion=search.criterion,
        curve=[CurvePoint(e, float(v.mean()), float(v.std() / n**0.5)) for e, v in sorted(curve.items())],
    )


def crossings(etas: Float[Tensor, " k"], margins: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """Where each of b curves, straight between k >= 2 ascending etas, first falls below 0.

    The end segments are extrapolated by 1 at most, so that a crossing just outside still varies with the curve.
    """
    below = margins < 0
    last = len(etas) - 1
    right = torch.where(below.any(1), below.int().argmax(1), last).clamp(1, last)
    a, b = (margins.gather(1, index[:, None])[:, 0] for index in (right - 1, right))
    slope = (b - a) / (etas[right] - etas[right - 1])
    level = torch.where(a < 0, -torch.inf, torch.inf)  # a curve that does not fall never crosses
    return torch.where(slope < 0, etas[right - 1] - a / slope, level).clamp(float(etas[0]) - 1, float(etas[-1]) + 1)


def _decibels(value: float | None) -> str:
    return "null" if value is None else f"{value:g}"
