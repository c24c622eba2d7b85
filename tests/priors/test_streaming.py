"""Priors fitted from batches against the same priors fitted at once."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from unseen_diffusion.priors import (
    Diagonal,
    Isotropic,
    LowRank,
    LowRankNormal,
    Prior,
    SampleCovariance,
    Shrinkage,
    Stationary,
    fit_streamed,
    streaming,
)
from unseen_diffusion.utils.errors import InputError

SHAPE, D = (3, 4, 4), 48


def latents(count: int, rank: int = 20) -> Tensor:
    """Far from the origin, with falling variances and a rest."""
    rng = torch.Generator().manual_seed(1)
    axes = torch.linalg.qr(torch.randn(D, D, generator=rng)).Q[:rank]
    scales = torch.logspace(0.5, -1.5, rank)
    rows = torch.randn(count, rank, generator=rng) * scales @ axes + 0.01 * torch.randn(count, D, generator=rng)
    return (50 + rows).reshape(-1, *SHAPE)


class Stream:
    """Batches of a fixed size, and how often they were read."""

    def __init__(self, rows: Tensor, size: int) -> None:
        self.rows, self.size, self.passes = rows, size, 0

    def __call__(self) -> Iterator[Tensor]:
        self.passes += 1
        return iter(self.rows.split(self.size))


def covariance(fitted: LowRankNormal) -> Tensor:
    """Of its draws."""
    v = fitted.directions
    return (v.T * fitted.scales**2) @ v + fitted.residual_scale**2 * (torch.eye(D, dtype=torch.float64) - v.T @ v)


@pytest.mark.parametrize("prior", [Isotropic(), Diagonal()], ids=lambda prior: prior.name)
@pytest.mark.parametrize("size", [1, 7, 200])
def test_moments_do_not_depend_on_the_batches(prior: Prior, size: int) -> None:
    """Mean and scales to 12 digits."""
    rows = latents(100)
    for ours, theirs in zip(
        fit_streamed(prior, Stream(rows, size)).tensors().values(), prior.fit(rows).tensors().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    "prior", [LowRank(rank=6), SampleCovariance(), Shrinkage(amount=0.3)], ids=lambda prior: prior.name
)
@pytest.mark.parametrize("count", [30, 100])
def test_covariances_are_exact(prior: Prior, count: int) -> None:
    """Fewer and more latents than coordinates; of the sample covariance by its definition."""
    rows = latents(count)
    fitted = fit_streamed(prior, Stream(rows, 7))
    assert isinstance(fitted, LowRankNormal)
    whole = prior.fit(rows)
    expected = covariance(whole) if isinstance(whole, LowRankNormal) else torch.cov(rows.double().flatten(1).T)
    torch.testing.assert_close(covariance(fitted), expected, rtol=1e-9, atol=1e-10)


def test_power_iterations_find_the_leading_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact where the latents span few directions, and near where they fill the space; six passes."""
    monkeypatch.setattr(streaming, "EXACT", 0)
    for count, accuracy in ((20, 1e-9), (100, 1e-4)):
        rows, prior = latents(count), LowRank(rank=6)
        stream = Stream(rows, 7)
        fitted, whole = fit_streamed(prior, stream), prior.fit(rows)
        assert isinstance(fitted, LowRankNormal)
        assert isinstance(whole, LowRankNormal)
        torch.testing.assert_close(fitted.scales, whole.scales, rtol=accuracy, atol=0)
        torch.testing.assert_close(covariance(fitted), covariance(whole), rtol=0, atol=accuracy)
        assert stream.passes == 2 + streaming.ITERATIONS


def test_power_iterations_are_accurate_where_variances_fall_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variances 1, 1/2, 1/3, ... of 192 coordinates: scales and directions to 2e-5 (1.4e-4 with one pass fewer)."""
    monkeypatch.setattr(streaming, "EXACT", 0)
    rng = torch.Generator().manual_seed(2)
    axes = torch.linalg.qr(torch.randn(192, 192, generator=rng)).Q
    rows = 50 + torch.randn(150, 192, generator=rng) * torch.arange(1, 193) ** -0.5 @ axes
    rows = rows.reshape(-1, 3, 8, 8)
    fitted, whole = fit_streamed(LowRank(rank=6), Stream(rows, 7)), LowRank(rank=6).fit(rows)
    assert isinstance(fitted, LowRankNormal)
    assert isinstance(whole, LowRankNormal)
    torch.testing.assert_close(fitted.scales, whole.scales, rtol=2e-5, atol=0)
    assert float((fitted.directions @ whole.directions.T).square().sum()) > 6 * (1 - 2e-5)
    assert float(fitted.residual_scale) == pytest.approx(float(whole.residual_scale), rel=1e-5)


def test_what_cannot_be_streamed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line each."""
    rows = latents(20)
    for prior in (Stationary(), LowRank(rank="auto"), Shrinkage()):
        with pytest.raises(InputError, match="cannot be fitted from a stream"):
            fit_streamed(prior, Stream(rows, 7))
    with pytest.raises(InputError, match="5 references"):
        fit_streamed(LowRank(rank=6), Stream(rows[:5], 7))
    with pytest.raises(InputError, match=r"prior\.rank=48"):
        fit_streamed(LowRank(rank=48), Stream(latents(60), 7))
    monkeypatch.setattr(streaming, "EXACT", 10)
    with pytest.raises(InputError, match="choose low_rank"):
        fit_streamed(SampleCovariance(), Stream(rows, 7))
