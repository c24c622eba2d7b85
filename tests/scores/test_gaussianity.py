"""Gaussianity: exact nulls for any covariance, power where a test claims to see, blindness where it says so."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import anderson, binom, ks_2samp, kstest, kurtosis
from torch import Tensor

from unseen_diffusion.scores.latents.gaussianity import gaussianity, marchenko_pastur_edges
from unseen_diffusion.scores.latents.gram import centred_gram
from unseen_diffusion.scores.latents.nulls import (
    anderson_darling,
    anderson_darling_null,
    rotated_vectors,
    wishart_spectra,
)
from unseen_diffusion.utils.errors import InputError

GAUSSIAN = ("radius", "whitened_radius", "kurtosis", "components", "projections")
ISOTROPIC = ("isotropic_radius", "largest_eigenvalue", "outside_edges", "sphericity")


def normal(count: int, d: int, seed: int) -> Tensor:
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def expected_rejections(rejected: int, total: int, level: float) -> bool:
    """Inside the central 99.8% of the binomial law."""
    return bool(binom.ppf(0.001, total, level) <= rejected <= binom.ppf(0.999, total, level))


def coloured(count: int, d: int, seed: int) -> Tensor:
    """N(m, S) with |m| = 5 sqrt(d) and variances over four decades in a random basis."""
    basis = torch.linalg.qr(normal(d, d, 99)).Q
    return 5 + normal(count, d, seed) * torch.logspace(0, -2, d, dtype=torch.float64) @ basis.T


@pytest.mark.parametrize(("count", "d", "sets"), [(20, 50, 200), (24, 6, 100)])
def test_p_values_keep_their_level_under_the_isotropic_null(count: int, d: int, sets: int) -> None:
    """Sets of 3 + 0.7 N(0, I): every test rejects at 5% and at 30% as often as it should, d above and below n."""
    found = [gaussianity(3 + 0.7 * normal(count, d, i), seed=i, simulations=39, directions=5) for i in range(sets)]
    for name in GAUSSIAN + ISOTROPIC:
        p_values = [one.findings[name].p_value for one in found]
        for level in (0.05, 0.3):
            rejected = sum(p <= level + 1e-9 for p in p_values)
            if name in ("components", "projections", "outside_edges"):  # Holm and ties may only be conservative
                assert rejected <= binom.ppf(0.999, sets, level), name
            else:
                assert expected_rejections(rejected, sets, level), (name, level, rejected)
    for null in ("gaussian", "isotropic"):
        assert sum(one.p_value(null) <= 0.05 for one in found) <= binom.ppf(0.999, sets, 0.05)


def test_p_values_are_adjusted_within_their_null() -> None:
    """Holm 1979, by hand: the i-th smallest of m times m - i + 1, never below the one before it."""
    found = gaussianity(coloured(24, 40, 0), seed=0, simulations=39, directions=5).findings
    assert set(found) == {*GAUSSIAN, *ISOTROPIC}
    for null, names in (("gaussian", GAUSSIAN), ("isotropic", ISOTROPIC)):
        assert {name for name, finding in found.items() if finding.null == null} == set(names)
        ordered = sorted(names, key=lambda name: found[name].p_value)
        least = 0.0
        for index, name in enumerate(ordered):
            least = max(least, min(1.0, (len(names) - index) * found[name].p_value))
            assert found[name].adjusted == pytest.approx(least), name
    least = {name: found[name].p_value for name in ISOTROPIC}
    assert min(least.values()) * len(found) > found["sphericity"].adjusted  # all nine together would differ


def test_the_gaussian_null_holds_for_any_covariance() -> None:
    """100 sets with variances over four decades, where the isotropic null must fall."""
    found = [gaussianity(coloured(20, 40, i), seed=i, simulations=39, directions=5) for i in range(100)]
    for name in GAUSSIAN:
        rejected = sum(one.findings[name].p_value <= 0.05 + 1e-9 for one in found)
        assert rejected <= binom.ppf(0.999, 100, 0.05), name
        if name in ("radius", "whitened_radius", "kurtosis"):
            assert rejected >= binom.ppf(0.001, 100, 0.05), name
    assert all(one.findings["sphericity"].p_value == 1 / 40 for one in found)


def heavy(seed: int) -> Tensor:
    """Multivariate t with 3 degrees of freedom: one random scale per latent."""
    scale = (3 / torch.from_numpy(np.random.default_rng(seed).chisquare(3, 80))).sqrt()
    return normal(80, 200, seed) * scale[:, None]


def clustered(seed: int) -> Tensor:
    """Two clusters 16 apart in one direction of 200."""
    x = normal(80, 200, seed)
    x[:40, 0] += 16
    return x


def shell(seed: int) -> Tensor:
    """A sphere: every radius the same."""
    x = normal(80, 200, seed)
    return x / x.norm(dim=1, keepdim=True)


def light(seed: int) -> Tensor:
    """Independent uniform coordinates."""
    return torch.rand(80, 200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uneven(seed: int) -> Tensor:
    """Gaussian, with twice the standard deviation in half of the directions."""
    return normal(80, 200, seed) * torch.tensor([2.0] * 100 + [1.0] * 100, dtype=torch.float64)


# Where each test must see an alternative (p at its least), and where it must not in most of 10 sets.
CASES: dict[str, tuple[Callable[[int], Tensor], tuple[str, ...], tuple[str, ...]]] = {
    "t": (heavy, ("radius", "kurtosis", "projections", "isotropic_radius"), ()),
    "clusters": (clustered, ("components", "largest_eigenvalue"), ("projections",)),
    "shell": (shell, ("radius", "isotropic_radius"), ("projections", "components")),
    "uniform": (light, ("kurtosis",), ("projections", "components", "largest_eigenvalue")),
    "uneven": (uneven, ("sphericity",), GAUSSIAN),
}


@pytest.mark.parametrize("case", CASES)
def test_what_each_test_can_and_cannot_see(case: str) -> None:
    make, seen, unseen = CASES[case]
    found = [gaussianity(make(seed), seed=seed, simulations=39, directions=10) for seed in range(10)]
    for name in seen:
        assert sum(one.findings[name].p_value <= 0.05 for one in found) >= 9, name
    for name in unseen:
        assert sum(one.findings[name].p_value <= 0.05 for one in found) <= 4, name


def test_radius_says_in_which_direction() -> None:
    """Above its range for t, below it for a shell."""
    wide = gaussianity(heavy(0), 0, 39).findings["radius"]
    narrow = gaussianity(shell(0), 0, 39).findings["radius"]
    assert wide.value > wide.high > wide.low > 0
    assert narrow.value < narrow.low


def test_values_are_what_their_names_say() -> None:
    """Against numpy and scipy: spread of squared radii, top eigenvalue, kurtosis of all 12 coordinates."""
    x = coloured(40, 12, 3)
    found = gaussianity(x, seed=0, simulations=19, directions=4)
    rows = x.numpy()
    centred = rows - rows.mean(0)
    radii = (centred**2).sum(1)
    covariance = np.cov(rows.T)
    values = np.linalg.eigvalsh(covariance)
    assert found.findings["isotropic_radius"].value == pytest.approx(radii.std(ddof=1) / radii.mean())
    assert found.findings["radius"].value == found.findings["isotropic_radius"].value
    assert found.findings["kurtosis"].value == pytest.approx(kurtosis(rows, axis=0).mean())
    assert found.findings["largest_eigenvalue"].value == pytest.approx(values[-1] / values.mean())
    assert found.effective_dimension == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert found.findings["sphericity"].value == pytest.approx(12 / found.effective_dimension)
    np.testing.assert_allclose(found.spectrum.numpy(), values[::-1] / values.mean(), rtol=1e-8)
    # (n - 1) / 4 = 9 of 12 components: the leading principal scores at unit variance.
    scores = np.linalg.svd(centred, full_matrices=False)[0][:, :9]
    leverages = (scores**2).sum(1)
    assert found.findings["whitened_radius"].value == pytest.approx(leverages.std(ddof=1) / leverages.mean())


def test_anderson_darling_against_scipy() -> None:
    x = normal(3, 50, 0) ** 3
    for row, value in zip(x, anderson_darling(x), strict=True):
        assert float(value) == pytest.approx(anderson(row.numpy(), "norm", method="interpolate").statistic, rel=1e-9)


def test_anderson_darling_null_has_its_published_percentiles() -> None:
    """Stephens 1974: 0.752 / (1 + 0.75 / n + 2.25 / n^2) at 5%, 1.035 at 1%; 9999 draws of 30."""
    null = anderson_darling_null(30, 9999)
    shrink = 1 + 0.75 / 30 + 2.25 / 900
    for level, point in ((0.05, 0.752), (0.01, 1.035)):
        above = int((null > point / shrink).sum())
        assert expected_rejections(above, 9999, level)


def test_rotated_vectors_are_uniform_orthonormal_and_centred() -> None:
    """Orthonormal, orthogonal to the ones; the first entry squared times n / (n - 1) is Beta(1/2, (n - 2) / 2)."""
    draws = rotated_vectors(6, 4, [torch.Generator().manual_seed(0)] * 2000)
    for u in draws[:5]:
        torch.testing.assert_close(u.T @ u, torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(u.sum(0), torch.zeros(4, dtype=torch.float64), atol=1e-12, rtol=0)
    for column in (0, 3):
        entries = draws[:, 0, column]
        squares = (entries.square() * 6 / 5).numpy()
        assert kstest(squares, "beta", args=(0.5, 2.0)).pvalue > 1e-3
        assert abs(float((entries > 0).double().mean()) - 0.5) < 4 * 0.5 / math.sqrt(2000)


@pytest.mark.parametrize(("n", "d"), [(6, 9), (12, 4), (5, 4)])
def test_wishart_spectrum_is_that_of_centred_gaussians(n: int, d: int) -> None:
    """Largest, smallest and sum of eigenvalues against 1500 direct draws, Kolmogorov-Smirnov."""
    rank = min(n - 1, d)
    quick = wishart_spectra(n, d, [torch.Generator().manual_seed(1)] * 1500)
    direct = torch.stack([torch.linalg.eigvalsh(centred_gram(normal(n, d, seed)))[-rank:] for seed in range(1500)])
    for view in (lambda e: e[:, -1], lambda e: e[:, 0], lambda e: e.sum(1)):
        assert ks_2samp(view(quick).numpy(), view(direct).numpy()).pvalue > 1e-3


def test_edges_hold_about_99_percent_of_extreme_eigenvalues() -> None:
    """300 spectra of 60 draws in 200 dimensions: the extreme ones leave by each edge in 0 to 4% (nominal: 1%).

    On average they lie 1.2 Tracy-Widom scales inside the edges of the limit, within half a scale at this size.
    """
    low, high = marchenko_pastur_edges(60, 200)
    spectra = wishart_spectra(60, 200, [torch.Generator().manual_seed(2)] * 300) / 59
    assert float((spectra[:, -1] > high).double().mean()) < 0.04
    assert float((spectra[:, 0] < low).double().mean()) < 0.04
    for sign, edge, extreme in ((1, high, spectra[:, -1]), (-1, low, spectra[:, 0])):
        limit = (math.sqrt(59) + sign * math.sqrt(200)) ** 2 / 59
        scale = abs(edge - limit) / 2.02
        assert sign * (limit - float(extreme.mean())) / scale == pytest.approx(1.2, abs=0.5)


def test_scale_shift_and_rotation_change_no_isotropic_finding() -> None:
    x = normal(20, 15, 4)
    turned = 3 * x @ torch.linalg.qr(normal(15, 15, 5)).Q + 2
    one, other = gaussianity(x, 0, 19, 3), gaussianity(turned, 0, 19, 3)
    for name in (*ISOTROPIC, "radius", "whitened_radius", "components"):
        assert other.findings[name].value == pytest.approx(one.findings[name].value, rel=1e-9)
        assert other.findings[name].p_value == one.findings[name].p_value


def test_seed_and_shape() -> None:
    """The same seed, the same findings; images are rows; float32 is enough."""
    x = normal(12, 48, 6)
    one, same = gaussianity(x, 0, 19, 3), gaussianity(x.reshape(12, 3, 4, 4), 0, 19, 3)
    assert one.findings == same.findings
    assert gaussianity(x, 1, 19, 3).findings != one.findings
    single = gaussianity(x.float(), 0, 19, 3)
    for name, finding in one.findings.items():
        assert single.findings[name].value == pytest.approx(finding.value, rel=1e-4)


def test_repeated_latents_and_constant_coordinates_stay_finite() -> None:
    """A rank below n - 1 and pixels that never change: finite numbers, and the repetition is seen."""
    x = normal(6, 20, 7).repeat(3, 1)
    x[:, :5] = 1.0
    found = gaussianity(x, 0, 39, 10)
    assert all(math.isfinite(one.value) and 0 < one.p_value <= 1 for one in found.findings.values())
    assert found.findings["sphericity"].p_value == 1 / 40


def test_refusals_name_the_value() -> None:
    with pytest.raises(InputError, match=r"latents: 7 latents; give 8 or more"):
        gaussianity(normal(7, 5, 0), 0)
    with pytest.raises(InputError, match=r"simulations=0"):
        gaussianity(normal(9, 5, 0), 0, simulations=0)
    with pytest.raises(InputError, match=r"directions=0"):
        gaussianity(normal(9, 5, 0), 0, directions=0)
    with pytest.raises(InputError, match=r"no spread"):
        gaussianity(torch.ones(9, 5), 0)
    with pytest.raises(InputError, match=r"null=normal: choose one of gaussian, isotropic"):
        gaussianity(normal(9, 5, 0), 0, 1, 1).p_value("normal")
