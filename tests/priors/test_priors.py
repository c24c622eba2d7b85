"""Priors: the moments they promise, by linear algebra; one stream per candidate; storage; geometry of slerp."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf as sklearn_ledoit_wolf
from sklearn.neighbors import KernelDensity as SklearnKernelDensity
from torch import Tensor

from unseen_diffusion.priors import (
    Diagonal,
    FittedPrior,
    Isotropic,
    KernelDensity,
    KernelNormal,
    LinearCombination,
    LowRank,
    LowRankNormal,
    Mixture,
    MixtureNormal,
    Prior,
    Replay,
    SampleCovariance,
    Shrinkage,
    Slerp,
    Standard,
    Stationary,
    StationaryLowRank,
    StationaryNormal,
    SubspaceKernelDensity,
    gaussian,
    held_out_likelihood,
    ledoit_wolf,
    mixture,
    restore,
    slerp,
    stationary,
)
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import normal_rows

SHAPE, D, N = (3, 8, 8), 192, 60
PAIRS = {"k": 2, "weights": "dirichlet", "concentration": 3.0, "spatial": None, "contrast": 2.0}
GAUSSIAN: dict[str, Prior] = {
    "isotropic": Isotropic(),
    "diagonal": Diagonal(),
    "low_rank": LowRank(rank=5),
    "sample_covariance": SampleCovariance(),
    "stationary": Stationary(),
    "shrinkage": Shrinkage(),
    "low_rank auto": LowRank(rank="auto"),
    "stationary_low_rank": StationaryLowRank(rank=5),
}
ALL: dict[str, Prior] = GAUSSIAN | {
    "slerp": Slerp(),
    "slerp to id": Slerp(towards="id"),
    "replay": Replay(),
    "standard": Standard(),
    "gmm": Mixture(rank=5, components=3),
    "kde": KernelDensity(),
    "kde_subspace": SubspaceKernelDensity(rank=5),
    "slerp around the mean": Slerp(centre="mean"),
    "linear_combination": LinearCombination(**PAIRS),
    "gaussian weights": LinearCombination(**PAIRS | {"k": 9, "weights": "gaussian"}),
    "spatial weights": LinearCombination(**PAIRS | {"spatial": 2.0}),
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


def feed(patch: pytest.MonkeyPatch, noise: Callable[..., Tensor]) -> None:
    """Lets every prior take ``noise`` for standard normal rows."""
    for module in (gaussian, stationary, mixture):
        patch.setattr(module, "normal_rows", noise)


def linear_map(fitted: FittedPrior, monkeypatch: pytest.MonkeyPatch, noise_shape: tuple[int, ...] = SHAPE) -> Tensor:
    """Rows L e_i of candidates m + L z, in float64: the prior is fed the basis vectors e_i as its noise."""
    count = math.prod(noise_shape)
    with monkeypatch.context() as patch:
        feed(patch, lambda *_: torch.eye(count).reshape(count, *noise_shape))
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
    feed(monkeypatch, lambda shape, *_: torch.zeros(1, *shape))
    torch.testing.assert_close(fitted.sample([0], 0)[0], MEAN.float(), rtol=0, atol=1e-7)
    standard_error = (sampled.var(0) / 400).sqrt()
    assert bool(((sampled.mean(0) - MEAN).abs() < 5 * standard_error).all())


def test_isotropic_variance_is_that_of_the_residuals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released code's variance over all entries would add the spread of the mean vector."""
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


@pytest.mark.parametrize("count", [5, N, 400])
def test_shrinkage_is_that_of_ledoit_and_wolf(count: int) -> None:
    """The amount agrees with scikit-learn's, with fewer and with more references than coordinates."""
    latents = make_latents(count, seed=5)
    flat = latents.double().flatten(1)
    amount = ledoit_wolf(flat - flat.mean(0))
    assert amount == pytest.approx(sklearn_ledoit_wolf(flat.numpy())[1], rel=1e-9)
    assert 0 < amount < 1


def test_shrinkage_of_equal_variances_is_whole() -> None:
    """Where the sample shows no structure beyond noise, all of it goes: an isotropic covariance."""
    rng = torch.Generator().manual_seed(0)
    amounts = [ledoit_wolf(x - x.mean(0)) for x in torch.randn(20, 40, 60, generator=rng, dtype=torch.float64)]
    assert max(amounts) <= 1
    assert sum(amounts) / 20 > 0.9
    cube = torch.tensor([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)], dtype=torch.float64)
    assert ledoit_wolf(cube) == 1


@pytest.mark.parametrize("amount", [None, 0.0, 0.3, 1.0])
def test_shrunk_covariance_is_exact(amount: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """(1 - a) S + a tr(S) / d I, from the sample covariance to the isotropic one."""
    a = ledoit_wolf(RESIDUALS) if amount is None else amount
    expected = (1 - a) * COVARIANCE + a * COVARIANCE.trace() / D * torch.eye(D, dtype=torch.float64)
    got = covariance(fit(Shrinkage(amount=amount)), monkeypatch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_shrinkage_with_more_references_than_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    latents = torch.randn(50, 1, 3, 3, generator=torch.Generator().manual_seed(2)) * torch.linspace(1, 3, 3)
    flat = latents.double().flatten(1)
    a = float(sklearn_ledoit_wolf(flat.numpy())[1])
    expected = (1 - a) * flat.T.cov() + a * flat.T.cov().trace() / 9 * torch.eye(9, dtype=torch.float64)
    feed(monkeypatch, lambda *_: torch.eye(9).reshape(9, 1, 3, 3))
    rows = (Shrinkage().fit(latents).sample(range(9), 0).double() - flat.mean(0).reshape(1, 3, 3)).flatten(1)
    torch.testing.assert_close(rows.T @ rows, expected, rtol=1e-5, atol=1e-6)


def test_held_out_likelihood_is_that_of_dense_normals() -> None:
    """Every fold and rank again, with explicit d x d covariances of probabilistic PCA and scipy's density."""
    vectors = 2 + torch.randn(23, 6, generator=torch.Generator().manual_seed(0)).double() * torch.arange(1, 7)
    expected = torch.zeros(5, dtype=torch.float64)
    for fold in range(5):
        held = torch.arange(23) % 5 == fold
        values, axes = torch.linalg.eigh(vectors[~held].T.cov())
        values, axes = values.flip(0), axes.flip(1)
        for rank in range(1, 6):
            modelled = torch.cat([values[:rank], values[rank:].mean().expand(6 - rank)])
            density = multivariate_normal(vectors[~held].mean(0), (axes * modelled) @ axes.T)
            expected[rank - 1] += density.logpdf(vectors[held]).sum() / 23
    torch.testing.assert_close(held_out_likelihood(vectors, 6), expected, rtol=1e-9, atol=1e-9)


def planted(rank: int, count: int, strength: float = 4.0) -> Tensor:
    """``rank`` strong directions in white noise."""
    rng = torch.Generator().manual_seed(rank)
    axes = torch.linalg.qr(torch.randn(D, rank, generator=rng)).Q
    signal = strength * torch.randn(count, rank, generator=rng) @ axes.T
    return (1 + signal + torch.randn(count, D, generator=rng)).reshape(-1, *SHAPE)


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_the_rank_of_a_planted_structure_is_found(rank: int) -> None:
    fitted = LowRank(rank="auto").fit(planted(rank, 200))
    assert isinstance(fitted, LowRankNormal)
    assert len(fitted.scales) == rank
    assert float(fitted.residual_scale) == pytest.approx(1, abs=0.03)
    again = LowRank(rank=rank).fit(planted(rank, 200))
    assert torch.equal(again.sample(range(3), 0), fitted.sample(range(3), 0))


def test_references_in_one_direction_have_no_rank() -> None:
    latents = torch.linspace(-1, 1, 20)[:, None, None, None] * torch.ones(1, *SHAPE)
    with pytest.raises(InputError, match=r"prior\.rank=auto: the references vary in one direction only"):
        LowRank(rank="auto").fit(latents)


def dense_root(matrix: Tensor, power: float) -> Tensor:
    """A power of a symmetric matrix, zero where its eigenvalues are."""
    values, vectors = torch.linalg.eigh(matrix)
    kept = values > 1e-10 * values[-1]
    return (vectors[:, kept] * values[kept] ** power) @ vectors[:, kept].T


@pytest.mark.parametrize("count", [N, 7])
def test_stationary_low_rank_is_its_definition(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """T^(1/2) P T^(1/2) with dense matrices: T from the stationary prior, P probabilistic PCA of what T whitens."""
    latents, identity = LATENTS[:count], torch.eye(D).reshape(D, *SHAPE)
    mean = latents.double().mean(0)
    prior = StationaryLowRank(rank=3)
    with monkeypatch.context() as patch:
        feed(patch, lambda *_: identity)
        rows = (Stationary().fit(latents).sample(range(D), 0).double() - mean).flatten(1)
        got = (prior.fit(latents).sample(range(D), 0).double() - mean).flatten(1)
    field = rows.T @ rows
    white = (latents.double() - mean).flatten(1) @ dense_root(field, -0.5)
    values, axes = torch.linalg.eigh(white.T.cov())
    values, axes = values.flip(0), axes.flip(1)
    filled = int(torch.linalg.matrix_rank(field, rtol=1e-9))
    modelled = torch.cat([values[:3], (values[3:].sum() / (filled - 3)).expand(D - 3)])
    root = dense_root(field, 0.5)
    torch.testing.assert_close(got.T @ got, root @ (axes * modelled) @ axes.T @ root, rtol=1e-3, atol=1e-4)


def test_stationary_low_rank_finds_the_pattern_in_a_field() -> None:
    """One fixed pattern of random strength in coloured noise: one direction, and it is that pattern whitened."""
    rng = torch.Generator().manual_seed(4)
    kernel = torch.fft.fft2(torch.tensor([[0.6, 0.3], [0.3, 0.2]]), s=(8, 8))
    field = torch.fft.ifft2(torch.fft.fft2(torch.randn(300, *SHAPE, generator=rng)) * kernel).real
    pattern = torch.zeros(SHAPE)
    pattern[:, 2:5, 2:5] = 2.0
    latents = field + torch.randn(300, 1, 1, 1, generator=rng) * pattern
    fitted = StationaryLowRank(rank="auto").fit(latents)
    assert len(fitted.tensors()["scales"]) == 1
    roots = torch.view_as_complex(fitted.tensors()["roots"])
    shown = stationary.filtered(fitted.tensors()["directions"].reshape(1, *SHAPE), roots).flatten()
    assert abs(float(torch.nn.functional.cosine_similarity(shown, pattern.double().flatten(), dim=0))) > 0.95


def mixture_moments(fitted: MixtureNormal) -> tuple[Tensor, Tensor]:
    """Mean and covariance in all coordinates, from the parameters."""
    v, w = fitted.directions, fitted.weights
    along = w @ fitted.centres
    second = (w[:, None] * fitted.centres).T @ fitted.centres + torch.diag(w @ fitted.scales.square())
    rest = fitted.residual_scale**2 * (torch.eye(D, dtype=torch.float64) - v.T @ v)
    return fitted.mean.flatten() + along @ v, v.T @ (second - torch.outer(along, along)) @ v + rest


@pytest.mark.parametrize("prior", [Mixture(rank=4, components=4), SubspaceKernelDensity(rank=4)])
def test_priors_of_many_centres_keep_the_first_moments(prior: Prior) -> None:
    """The references' mean and variances along the leading directions, exactly; draws scatter as the parameters say."""
    fitted, normal = fit(prior), fit(LowRank(rank=4))
    assert isinstance(fitted, MixtureNormal)
    assert isinstance(normal, LowRankNormal)
    mean, expected = mixture_moments(fitted)
    torch.testing.assert_close(mean, MEAN.flatten(), rtol=0, atol=1e-9)
    v = fitted.directions
    torch.testing.assert_close((v @ expected @ v.T).diagonal(), normal.scales.square(), rtol=1e-9, atol=0)
    drawn = fitted.sample(range(4000), 0).double().flatten(1)
    assert float((drawn.mean(0) - mean).norm()) < 2 * math.sqrt(float(expected.trace()) / 4000)
    # Frobenius error of a Gaussian sample covariance: E |S - Sigma|^2 = (tr(Sigma)^2 + |Sigma|^2) / n.
    error = math.sqrt(float(expected.trace() ** 2 + expected.square().sum()) / 4000)
    assert float((drawn.T.cov() - expected).norm()) < 1.3 * error


@pytest.mark.parametrize("prior", [Mixture(rank=4, components=1), SubspaceKernelDensity(rank=4, bandwidth=1.0)])
def test_one_centre_is_the_low_rank_normal(prior: Prior) -> None:
    torch.testing.assert_close(
        fit(prior).sample(range(6), 1), fit(LowRank(rank=4)).sample(range(6), 1), rtol=1e-5, atol=1e-6
    )


def test_kernels_of_a_subspace_keep_its_covariance() -> None:
    """Silverman and Young: whatever the bandwidth, the covariance is that of ``LowRank``."""
    normal = fit(LowRank(rank=4))
    assert isinstance(normal, LowRankNormal)
    for bandwidth in (0.05, 0.5, None):
        fitted = fit(SubspaceKernelDensity(rank=4, bandwidth=bandwidth))
        assert isinstance(fitted, MixtureNormal)
        expected = torch.diag(normal.scales.square())
        got = fitted.directions @ mixture_moments(fitted)[1] @ fitted.directions.T
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


def test_a_mixture_finds_its_components() -> None:
    """Two planted clusters of weights 3 : 1 give two components; one Gaussian gives one."""
    rng = torch.Generator().manual_seed(1)
    shift = torch.randn(SHAPE, generator=rng)
    clusters = torch.randn(160, *SHAPE, generator=rng)
    clusters[::4] += shift
    fitted = Mixture(rank=2, components=5).fit(clusters)
    assert isinstance(fitted, MixtureNormal)
    assert fitted.weights.sort().values.tolist() == pytest.approx([0.25, 0.75], abs=0.01)
    distance = float((fitted.centres[0] - fitted.centres[1]).norm())
    assert distance == pytest.approx(float(shift.norm()), rel=0.1)
    alone = Mixture(rank=2, components=5).fit(clusters[1::4])
    assert len(alone.tensors()["weights"]) == 1


@pytest.mark.parametrize(("count", "most", "tried"), [(40, 8, 8), (16, 8, 8), (15, 8, 7), (8, 8, 4), (8, 2, 2)])
def test_half_the_references_cap_the_components(
    monkeypatch: pytest.MonkeyPatch, count: int, most: int, tried: int
) -> None:
    """A component has two references at least, whatever number was asked for."""
    asked = list[int]()

    def seen(points: torch.Tensor, limit: int) -> tuple[torch.Tensor, ...]:
        asked.append(limit)
        return original(points, limit)

    original = mixture.fit_mixture
    monkeypatch.setattr(mixture, "fit_mixture", seen)
    fitted = Mixture(rank=2, components=most).fit(LATENTS[:count])
    assert asked == [tried]
    assert len(fitted.tensors()["weights"]) <= tried


def test_mixture_components_never_close_in_on_a_reference() -> None:
    """The floor: no component narrower than about a tenth of the references' spread, with few references too."""
    fitted, normal = Mixture(rank=5, components=8).fit(LATENTS[:16]), LowRank(rank=5).fit(LATENTS[:16])
    assert bool((fitted.tensors()["scales"] > 0.08 * normal.tensors()["scales"]).all())


def test_left_out_likelihood_is_that_of_scikit_learn() -> None:
    points = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    squared = mixture.squared_distances(points, points)
    for h in (0.2, 1.0, 3.0):
        expected = [
            SklearnKernelDensity(bandwidth=h).fit(points[torch.arange(12) != i]).score(points[i : i + 1])
            for i in range(12)
        ]
        assert mixture.left_out(squared, h, 5) == pytest.approx(sum(expected) / 12, rel=1e-9)


def test_kernel_bandwidth_is_the_likeliest() -> None:
    """No neighbouring width does better; that of one Gaussian in one coordinate is near the normal-reference rule."""
    fitted = fit(KernelDensity())
    assert isinstance(fitted, KernelNormal)
    h, squared = float(fitted.bandwidth), mixture.squared_distances(RESIDUALS, RESIDUALS)
    best = mixture.left_out(squared, h, D)
    assert all(mixture.left_out(squared, factor * h, D) < best for factor in (0.5, 0.98, 1.02, 2))
    line = torch.randn(500, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    width = float(KernelDensity().fit(line).tensors()["bandwidth"])
    assert width == pytest.approx(1.06 * float(line.std()) * 500**-0.2, rel=0.35)


def test_kernel_draws_are_references_plus_noise() -> None:
    """Each at the distance h sqrt(d) from a reference, all used alike; exact copies as h goes to 0."""
    close = KernelDensity(bandwidth=0.01).fit(LATENTS).sample(range(1200), 0)
    distances = torch.cdist(close.flatten(1), LATENTS.flatten(1))
    nearest = distances.min(1)
    assert float(nearest.values.mean()) == pytest.approx(0.01 * math.sqrt(D), rel=0.02)
    counts = nearest.indices.bincount(minlength=N)
    assert int(counts.min()) > 3  # 20 on average, with a binomial sd of 4.4
    assert int(counts.max()) < 42
    copies = KernelDensity(bandwidth=1e-9).fit(LATENTS).sample(range(10), 0)
    assert (
        float(
            torch.cdist(copies.flatten(1), LATENTS.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
            .min(1)
            .values.max()
        )
        < 1e-6
    )


def test_repeated_references_have_no_bandwidth() -> None:
    twice = LATENTS[:10].repeat(2, 1, 1, 1)
    for prior in (KernelDensity(), SubspaceKernelDensity(rank=3)):
        with pytest.raises(InputError, match=r"prior\.bandwidth=null: references repeat each other"):
            prior.fit(twice)
    with pytest.raises(InputError, match=r"prior\.bandwidth=null: the references are all alike"):
        KernelDensity().fit(LATENTS[:1].repeat(5, 1, 1, 1))


@pytest.mark.parametrize("name", ALL)
def test_the_spherical_form_has_the_moments_of_the_draws(name: str) -> None:
    """mean + y axes + scale e: orthonormal axes, and the mean and covariance of the prior's own candidates."""
    fitted = fit(ALL[name])
    form = fitted.spherical()
    assert (form is not None) == ALL[name].spherical
    if form is None:
        return
    axes = form.combine(torch.eye(len(form.along(form.mean[None])[0]), dtype=torch.float64))
    torch.testing.assert_close(axes @ axes.T, torch.eye(len(axes), dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(form.along(RESIDUALS), RESIDUALS @ axes.T, rtol=1e-9, atol=1e-9)
    rng = torch.Generator().manual_seed(0)
    noise = torch.randn(2000, len(axes), generator=rng, dtype=torch.float64)
    y = form.coordinates(noise, torch.rand(2000, generator=rng, dtype=torch.float64))
    rest = form.scale**2 * (torch.eye(D, dtype=torch.float64) - axes.T @ axes)
    drawn = fitted.sample(range(2000), 1).double().flatten(1)
    ours = form.mean + form.combine(y)
    whole = drawn.T.cov()
    error = math.sqrt(float(whole.trace() ** 2 + whole.square().sum()) / 2000)
    assert float((form.combine(y).T.cov() + rest - whole).norm()) < 2 * error
    assert float((ours.mean(0) - drawn.mean(0)).norm()) < 3 * math.sqrt(2 * float(whole.trace()) / 2000)


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
    """Its config and tensors restore a prior; so do its class name and tensors; through a safetensors file as well."""
    fitted = fit(ALL[name])
    kind, tensors = type(fitted).__name__, fitted.tensors()
    expected = fitted.sample(range(5), 2)
    assert torch.equal(restore(kind, tensors).sample(range(5), 2), expected)
    assert torch.equal(ALL[name].restore(tensors).sample(range(5), 2), expected)
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
    with pytest.raises(InputError, match=rf"prior\.rank={rank}: give a whole number of 1 or more or auto"):
        LowRank(rank=rank)


def test_a_rank_must_lie_below_the_number_of_coordinates() -> None:
    with pytest.raises(InputError, match=r"prior\.rank=9: give a number between 1 and 8"):
        LowRank(rank=9).fit(normal_rows((1, 3, 3), 0, "latents", range(20)))


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
    with pytest.raises(InputError, match=r"prior\.id_count=0: give a whole number of 2 or more"):
        Slerp(towards="id", id_count=0)
    with pytest.raises(InputError, match=r"prior\.towards=somewhere: choose one of references, id"):
        Slerp(towards="somewhere")


def test_settings_of_the_new_priors_are_checked() -> None:
    for prior, message in (
        (lambda: Shrinkage(amount=1.5), r"prior\.amount=1\.5: give a number between 0 and 1 or null"),
        (lambda: LowRank(rank="many"), r"prior\.rank=many: give a whole number of 1 or more or auto"),
        (lambda: StationaryLowRank(rank="many"), r"prior\.rank=many: give a whole number of 1 or more or auto"),
        (lambda: Mixture(components=0), r"prior\.components=0: give a whole number of 1 or more"),
        (lambda: KernelDensity(bandwidth=0.0), r"prior\.bandwidth=0\.0: give a number above 0 or null"),
        (
            lambda: SubspaceKernelDensity(bandwidth=2.0),
            r"prior\.bandwidth=2\.0: give a number above 0, up to 1 or null",
        ),
    ):
        with pytest.raises(InputError, match=message):
            prior()
