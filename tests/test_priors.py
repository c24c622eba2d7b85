"""Priors: the moments they promise, by linear algebra; one stream per candidate; storage; geometry of slerp."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unseen_diffusion import priors
from unseen_diffusion.errors import InputError
from unseen_diffusion.priors import (
    Diagonal,
    FittedPrior,
    Isotropic,
    LowRank,
    LowRankNormal,
    Prior,
    Replay,
    SampleCovariance,
    Slerp,
    Standard,
    Stationary,
    StationaryNormal,
    restore,
    slerp,
)
from unseen_diffusion.seeds import normal_rows

SHAPE, D, N = (3, 8, 8), 192, 60
GAUSSIAN: dict[str, Prior] = {
    "isotropic": Isotropic(),
    "diagonal": Diagonal(),
    "low_rank": LowRank(rank=5),
    "sample_covariance": SampleCovariance(),
    "stationary": Stationary(),
}
ALL: dict[str, Prior] = GAUSSIAN | {
    "slerp": Slerp(),
    "slerp to id": Slerp(towards="id"),
    "replay": Replay(),
    "standard": Standard(),
}


def make_latents(count: int = N, seed: int = 0) -> Tensor:
    """Correlated latents of unequal variance around a mean vector whose entries spread as much as they do."""
    rng = torch.Generator().manual_seed(seed)
    mean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(99))
    mixing = torch.randn(D, D, generator=torch.Generator().manual_seed(98)) / math.sqrt(D)
    scale = torch.logspace(-1, 0.5, D)
    return mean + ((torch.randn(count, D, generator=rng) * scale) @ mixing).reshape(-1, *SHAPE)


LATENTS = make_latents()
ID_LATENTS = make_latents(40, seed=1) * 0.5 - 1
MEAN = LATENTS.double().mean(0)
RESIDUALS = (LATENTS.double() - MEAN).flatten(1)
COVARIANCE = RESIDUALS.T @ RESIDUALS / (N - 1)


def fit(prior: Prior) -> FittedPrior:
    return prior.fit(LATENTS, ID_LATENTS if prior.id_latents else None)


def linear_map(fitted: FittedPrior, monkeypatch: pytest.MonkeyPatch, noise_shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Rows L e_i of candidates m + L z, in float64: the prior is fed the basis vectors e_i as its noise."""
    count = math.prod(noise_shape)
    with monkeypatch.context() as patch:
        patch.setattr(priors, "normal_rows", lambda *_: torch.eye(count).reshape(count, *noise_shape))
        rows = fitted.sample(range(count), 0).double()
    return (rows - MEAN).flatten(1)


def covariance(fitted: FittedPrior, monkeypatch: pytest.MonkeyPatch, noise_shape: tuple[int, ...] = SHAPE) -> Tensor:
    """The exact covariance of the candidates, up to float32 output."""
    rows = linear_map(fitted, monkeypatch, noise_shape)
    return rows.T @ rows


@pytest.mark.parametrize("name", GAUSSIAN)
def test_the_mean_of_the_references_is_the_mean_of_the_prior(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero noise in, the mean latent out; and the samples scatter about it."""
    fitted = fit(GAUSSIAN[name])
    sampled = fitted.sample(range(400), 0).double()
    monkeypatch.setattr(priors, "normal_rows", lambda shape, *_: torch.zeros(1, *shape))
    torch.testing.assert_close(fitted.sample([0], 0)[0], MEAN.float(), rtol=0, atol=1e-7)
    standard_error = (sampled.var(0) / 400).sqrt()
    assert bool(((sampled.mean(0) - MEAN).abs() < 5 * standard_error).all())


def test_isotropic_variance_is_that_of_the_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    """method.md, 2: the released code's variance over all entries would add the spread of the mean vector."""
    expected = float(COVARIANCE.trace()) / D
    got = covariance(fit(Isotropic()), monkeypatch)
    torch.testing.assert_close(got, expected * torch.eye(D, dtype=torch.float64), rtol=1e-5, atol=1e-6)
    released = float(LATENTS.double().var())
    assert released > 1.3 * expected


def test_diagonal_variance_is_each_coordinates_own(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = LATENTS.double().flatten(1).var(0).diag()
    torch.testing.assert_close(covariance(fit(Diagonal()), monkeypatch), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 5, N - 2])
def test_low_rank_keeps_the_leading_directions_and_the_total(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eigenvalues: the sample's first ``rank``, then all equal; their directions; the sample's total variance."""
    got = covariance(fit(LowRank(rank=rank)), monkeypatch)
    values = torch.linalg.eigvalsh(got).flip(0)
    exact, vectors = torch.linalg.eigh(COVARIANCE)
    exact, vectors = exact.flip(0), vectors.flip(1)
    rest = float(exact[rank:].sum()) / (D - rank)
    expected = torch.cat([exact[:rank], torch.full((D - rank,), rest, dtype=torch.float64)])
    torch.testing.assert_close(values, expected.sort(descending=True).values, rtol=1e-5, atol=1e-6)
    leading = vectors[:, :rank]
    torch.testing.assert_close(got @ leading, leading * exact[:rank], rtol=1e-4, atol=1e-5)
    assert float(got.trace()) == pytest.approx(float(COVARIANCE.trace()), rel=1e-6)


def test_low_rank_with_more_references_than_coordinates() -> None:
    """N > d: the residual variance is the mean of the d - k smaller eigenvalues."""
    latents = torch.randn(50, 1, 3, 3, generator=torch.Generator().manual_seed(2)) * torch.linspace(1, 3, 3)
    fitted = LowRank(rank=2).fit(latents)
    assert isinstance(fitted, LowRankNormal)
    values = torch.linalg.eigvalsh(latents.double().flatten(1).T.cov()).flip(0)
    assert float(fitted.residual_scale**2) == pytest.approx(float(values[2:].mean()), rel=1e-9)


def test_sample_covariance_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """X^T X / (N - 1), all N - 1 directions of it and no other."""
    got = covariance(fit(SampleCovariance()), monkeypatch, (N,))
    torch.testing.assert_close(got, COVARIANCE, rtol=1e-5, atol=1e-6)
    assert int(torch.linalg.matrix_rank(got, rtol=1e-6)) == N - 1


def test_stationary_keeps_the_cross_spectrum_of_every_frequency(monkeypatch: pytest.MonkeyPatch) -> None:
    """E[F x F x^*] per frequency equals the sample's; the covariance is the same wherever the image is shifted."""
    rows = linear_map(fit(Stationary()), monkeypatch).reshape(D, *SHAPE)
    spectrum = torch.fft.fft2(rows, norm="ortho")
    got = torch.einsum("ichw,idhw->hwcd", spectrum, spectrum.conj())
    sample = torch.fft.fft2(RESIDUALS.reshape(-1, *SHAPE), norm="ortho")
    expected = torch.einsum("nchw,ndhw->hwcd", sample, sample.conj()) / (N - 1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    flat = rows.flatten(1)
    shifted = rows.roll((3, 2), (2, 3)).flatten(1)
    torch.testing.assert_close(shifted.T @ shifted, flat.T @ flat, rtol=1e-5, atol=1e-5)


def test_stationary_samples_are_real_before_the_imaginary_part_is_dropped() -> None:
    """S(-f) = conj S(f): what ``.real`` discards is rounding."""
    fitted = fit(Stationary())
    assert isinstance(fitted, StationaryNormal)
    spectrum = torch.fft.fft2(normal_rows(SHAPE, 0, "candidate", range(20)).double(), norm="ortho")
    shaped = torch.einsum("hwcd,bdhw->bchw", torch.view_as_complex(fitted.roots), spectrum)
    field = torch.fft.ifft2(shaped, norm="ortho")
    assert float(field.imag.abs().max()) < 1e-12 * float(field.real.abs().max())


def test_stationary_recovers_a_known_process() -> None:
    """White noise mixed across channels and smoothed circularly: S(f) = |k(f)|^2 A A^T, from 8000 latents.

    A complex Wishart matrix of N draws is off by tr(S) / sqrt(N) (root mean square Frobenius norm), real ones by
    up to sqrt(2) of it.
    """
    mixing = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.7, 0.0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
    kernel = torch.fft.fft2(torch.tensor([[0.5, 0.2], [0.2, 0.1]], dtype=torch.float64), s=(8, 8))
    noise = torch.randn(8000, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mixed = torch.einsum("cd,ndhw->nchw", mixing, noise)
    fitted = Stationary().fit(torch.fft.ifft2(torch.fft.fft2(mixed) * kernel).real.float() + 2)
    assert isinstance(fitted, StationaryNormal)
    roots = torch.view_as_complex(fitted.roots)
    expected = kernel.abs().square()[..., None, None] * (mixing @ mixing.T)
    error = (roots @ roots.mH - expected).abs().flatten(2).norm(dim=2)
    error = error / expected.diagonal(dim1=2, dim2=3).sum(2) * math.sqrt(8000)
    assert 0.8 < float(error.square().mean().sqrt()) < 1.25
    assert float(error.max()) < 4


def test_standard_is_blind_to_the_references() -> None:
    fitted = fit(Standard())
    assert torch.equal(fitted.sample([4, 2], 7), normal_rows(SHAPE, 7, "candidate", [4, 2]))
    assert torch.equal(fitted.sample([4], 7), (Standard().fit(5 * LATENTS[:1])).sample([4], 7))


def test_replay_cycles_through_the_references() -> None:
    fitted = fit(Replay())
    assert torch.equal(fitted.sample([0, N - 1, N, 2 * N + 3], 0), LATENTS[[0, N - 1, 0, 3]])


@pytest.mark.parametrize("name", ALL)
def test_candidates_belong_to_seed_and_index(name: str) -> None:
    """One by one, in any order, in any company: candidate i is the same; float32, of a latent's shape."""
    fitted = fit(ALL[name])
    whole = fitted.sample(range(9), 3)
    assert whole.dtype == torch.float32
    assert whole.shape == (9, *SHAPE)
    for order in ([7], [8, 0, 3], [5, 5]):
        torch.testing.assert_close(fitted.sample(order, 3), whole[order], rtol=1e-6, atol=1e-6)
    if name != "replay":
        assert not torch.allclose(fitted.sample(range(9), 4), whole)
        assert len({float(row.sum()) for row in whole}) == 9


@pytest.mark.parametrize("name", ALL)
def test_stored_priors_draw_the_same_candidates(name: str, tmp_path: Path) -> None:
    """Class name and tensors are all there is to a prior, through a safetensors file as well."""
    fitted = fit(ALL[name])
    kind, tensors = type(fitted).__name__, fitted.tensors()
    expected = fitted.sample(range(5), 2)
    assert torch.equal(restore(kind, tensors).sample(range(5), 2), expected)
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "prior.safetensors")
    assert torch.equal(restore(kind, load_file(tmp_path / "prior.safetensors")).sample(range(5), 2), expected)


@pytest.mark.parametrize("name", ALL)
def test_the_fewest_references_that_determine_a_prior(name: str) -> None:
    """The minimum works; one fewer is refused with the count and the remedy."""
    prior = ALL[name]
    least = prior.minimum_references
    id_latents = ID_LATENTS if prior.id_latents else None
    assert bool(prior.fit(LATENTS[:least], id_latents).sample(range(3), 0).isfinite().all())
    if least > 0:
        with pytest.raises(InputError, match=rf"{least - 1} references, but it needs {least} or more; raise domain"):
            prior.fit(LATENTS[: least - 1], id_latents)


@pytest.mark.parametrize("rank", [0, -3])
def test_a_rank_must_be_positive(rank: int) -> None:
    with pytest.raises(InputError, match=rf"prior\.rank={rank}: give a number between 1 and {D - 1}"):
        LowRank(rank=rank).fit(LATENTS)


def test_a_rank_must_lie_below_the_number_of_coordinates() -> None:
    with pytest.raises(InputError, match=r"prior\.rank=9: give a number between 1 and 8"):
        LowRank(rank=9).fit(torch.randn(20, 1, 3, 3))


def test_slerp_ends_at_its_ends() -> None:
    """u = 0 is a, u = 1 is b, of whatever lengths."""
    a, b = LATENTS[:5], 3 * LATENTS[5:10]
    torch.testing.assert_close(slerp(a, b, torch.zeros(5)), a, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slerp(a, b, torch.ones(5)), b, rtol=1e-6, atol=1e-6)


def test_slerp_keeps_to_the_great_circle() -> None:
    """Between vectors of one norm: that norm throughout, and the angle from a is u times the whole."""
    a, b = (rows / rows.flatten(1).norm(dim=1)[:, None, None, None] for rows in (LATENTS[:9], LATENTS[9:18]))
    u = torch.linspace(0.05, 0.95, 9)
    c = slerp(a, b, u)
    torch.testing.assert_close(c.flatten(1).norm(dim=1), torch.ones(9), rtol=1e-6, atol=1e-6)
    whole, part = ((a * other).flatten(1).sum(1).acos() for other in (b, c))
    torch.testing.assert_close(part, u * whole, rtol=1e-4, atol=1e-4)


def test_slerp_of_parallel_and_opposite_vectors_is_linear() -> None:
    """No arc is defined there: finite, and on the straight line."""
    a, u = LATENTS[:2], torch.tensor([0.25, 0.5])
    torch.testing.assert_close(slerp(a, 3 * a, u), a * (1 + 2 * u)[:, None, None, None], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(slerp(a, -a, u), a * (1 - 2 * u)[:, None, None, None], rtol=1e-6, atol=1e-6)


def coefficients(candidates: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares weights (B, k) of candidates in terms of ``vectors``, and what they leave unexplained (B,)."""
    flat, basis = candidates.double().flatten(1), vectors.double().flatten(1)
    weights = torch.linalg.lstsq(basis.T, flat.T).solution.T
    return weights, (flat - weights @ basis).norm(dim=1)


def test_slerp_between_references_uses_two_different_ones() -> None:
    """Each candidate is a combination of exactly two references with positive weights, and all get their turn."""
    fitted = Slerp().fit(LATENTS[:6])
    weights, left = coefficients(fitted.sample(range(200), 0), LATENTS[:6])
    assert float(left.max()) < 1e-4
    used = weights.abs() > 1e-4
    # A weight below the threshold is a position u within 1e-4 of an end.
    assert bool((used.sum(1) <= 2).all())
    assert float((used.sum(1) == 2).double().mean()) > 0.98
    assert float(weights.min()) > -1e-4
    assert bool((used.sum(0) > 30).all())


def test_slerp_towards_id_ends_in_the_gaussian_of_the_models_own_domain() -> None:
    """The released variant: from a reference to an isotropic draw of ID latents with the same seed and index."""
    fitted = Slerp(towards="id").fit(LATENTS[:1], ID_LATENTS)
    drawn = Isotropic().fit(ID_LATENTS).sample(range(8), 5)
    candidates = fitted.sample(range(8), 5)
    for i in range(8):
        ends = torch.cat([LATENTS[:1], drawn[i : i + 1]])
        (weights,), left = coefficients(candidates[i : i + 1], ends)
        assert float(left) < 1e-4
        unit = ends.double().flatten(1)
        angle = torch.nn.functional.cosine_similarity(unit[0], unit[1], dim=0).acos()
        u = torch.asin((weights[1] * angle.sin()).clamp(-1, 1)) / angle
        if float(u * angle) < 1.5 and float(weights[0]) > 0:
            torch.testing.assert_close(weights[0], ((1 - u) * angle).sin() / angle.sin(), rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match=r"prior\.towards=id: needs latents of the model's own domain"):
        Slerp(towards="id").fit(LATENTS)


def test_unknown_slerp_target_is_refused() -> None:
    with pytest.raises(InputError, match=r"prior\.towards=somewhere: choose references or id"):
        Slerp(towards="somewhere")
