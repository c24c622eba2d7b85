"""Scores against closed forms, independent implementations, and the values of the evaluation notes."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from unseen_diffusion.scores.frechet import (
    EXACT_COUNT,
    FeatureStatistics,
    frechet_distance,
    frechet_from_statistics,
)
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.memorisation import copy_rate, copy_threshold, nearest
from unseen_diffusion.scores.reconstruction import PSNR_CAP, psnr, ssim
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def normal(count: int, dimension: int, *stream: str | int) -> Tensor:
    return torch.randn(count, dimension, generator=generator(0, *stream), dtype=torch.float64)


def with_moments(count: int, mean: Tensor, covariance: Tensor, *stream: str | int) -> Tensor:
    """Features whose sample mean and unbiased sample covariance are exactly these."""
    noise = normal(count, len(mean), *stream)
    noise = noise - noise.mean(0)
    whitened = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / (count - 1))).T
    return mean + whitened @ torch.linalg.cholesky(covariance).T


def images(count: int, channels: int, size: int, *stream: str | int) -> Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=generator(0, *stream)).to(torch.uint8)


class Identity(nn.Module):
    """Lets torchmetrics consume features: (N, d, 1, 1) -> (N, d)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.num_features = dimension

    def forward(self, features: Tensor) -> Tensor:
        return features.flatten(1)


# ---------------------------------------------------------------- Frechet distance


def diagonal_pair() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    zeros = torch.zeros(32, dtype=torch.float64)
    first = torch.linspace(0.1, 2, 32, dtype=torch.float64).diag()
    second = torch.linspace(0.5, 3, 32, dtype=torch.float64).diag()
    return zeros, first, zeros + 0.5, second


@pytest.mark.parametrize("count", [100, EXACT_COUNT + 1])
def test_frechet_distance_of_known_gaussians(count: int) -> None:
    mean_x, cov_x, mean_y, cov_y = diagonal_pair()
    x, y = with_moments(count, mean_x, cov_x, "x"), with_moments(count, mean_y, cov_y, "y")
    assert frechet_distance(x, y) == pytest.approx(11.117634772262, abs=1e-10)


def test_frechet_distance_from_exact_statistics() -> None:
    mean_x, cov_x, mean_y, cov_y = diagonal_pair()
    zeros = torch.zeros_like(mean_x)
    x, y = FeatureStatistics(11, mean_x, zeros, 10 * cov_x), FeatureStatistics(5, zeros, mean_y, 4 * cov_y)
    assert frechet_from_statistics(x, y) == pytest.approx(11.117634772262, abs=1e-11)


@pytest.mark.filterwarnings("ignore:Matrix is singular")
@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 16), (20, 30, 64), (10, 300, 64), (2, 2, 8)])
def test_frechet_distance_agrees_with_sqrtm(n: int, m: int, d: int) -> None:
    x, y = normal(n, d, "x"), 0.3 + 1.5 * normal(m, d, "y")
    cov_x, cov_y = np.cov(x.numpy().T), np.cov(y.numpy().T)
    root = scipy.linalg.sqrtm(scipy.linalg.sqrtm(cov_x) @ cov_y @ scipy.linalg.sqrtm(cov_x))
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(cov_x + cov_y - 2 * root.real)
    # sqrtm halves the digits of a singular covariance: its error, not ours, sets the tolerance.
    assert frechet_distance(x, y) == pytest.approx(float(expected), rel=1e-10 if min(n, m) > d else 1e-5)


@pytest.mark.parametrize(("n", "m", "d"), [(200, 150, 16), (40, 300, 64)])
def test_frechet_distance_agrees_with_torchmetrics(n: int, m: int, d: int) -> None:
    x, y = normal(n, d, "x"), 0.3 + 1.5 * normal(m, d, "y")
    metric = FrechetInceptionDistance(feature=Identity(d), normalize=False).eval()
    metric.set_dtype(torch.float64)
    metric.update(x[:, :, None, None], real=True)
    metric.update(y[:, :, None, None], real=False)
    assert frechet_distance(x, y) == pytest.approx(float(metric.compute()), rel=1e-6)


def test_exact_and_streamed_forms_agree() -> None:
    x, y = normal(500, 24, "x"), 0.2 + 1.3 * normal(400, 24, "y")
    streamed = frechet_from_statistics(FeatureStatistics.of(x.split(64)), FeatureStatistics.of(y.split(50)))
    assert frechet_distance(x, y) == pytest.approx(streamed, rel=1e-8)


def test_exact_and_streamed_forms_agree_on_singular_covariances() -> None:
    x, y = normal(12, 24, "x"), 0.2 + 1.3 * normal(400, 24, "y")
    streamed = frechet_from_statistics(FeatureStatistics.of([x]), FeatureStatistics.of([y]))
    assert frechet_distance(x, y) == pytest.approx(streamed, rel=1e-8)


@pytest.mark.parametrize("size", [1, 7, 64, 300])
def test_statistics_do_not_depend_on_batches(size: int) -> None:
    x = 1000 + normal(300, 8, "x")
    whole, parts = FeatureStatistics.of([x]), FeatureStatistics.of(x.split(size))
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(parts.scatter, whole.scatter, rtol=1e-12, atol=1e-10)
    merged = FeatureStatistics.of(x[:120].split(size)).merge(FeatureStatistics.of(x[120:].split(size)))
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=1e-10)
    other = FeatureStatistics.of([normal(50, 8, "y")])
    expected = frechet_from_statistics(whole, other)
    assert frechet_from_statistics(parts, other) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("count", [2, 10, 50])
def test_frechet_distance_of_a_set_to_itself_is_zero(count: int) -> None:
    x = 100 + normal(count, 20, "x")
    assert frechet_distance(x, x.clone()) == pytest.approx(0, abs=1e-10)


def test_frechet_distance_of_degenerate_features() -> None:
    constant, other = torch.full((10, 6), 3.0), torch.full((40, 6), 5.0)
    assert frechet_distance(constant, other) == pytest.approx(24)
    duplicates = normal(3, 6, "x").repeat(20, 1)
    assert frechet_distance(duplicates, duplicates) == pytest.approx(0, abs=1e-12)
    half_constant = torch.cat([normal(50, 3, "y"), torch.ones(50, 3)], dim=1)
    streamed = frechet_from_statistics(*(FeatureStatistics.of([x]) for x in (half_constant, duplicates)))
    assert frechet_distance(half_constant, duplicates) == pytest.approx(streamed, rel=1e-8)


# ---------------------------------------------------------------- kernel distance


def mean_kernel(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> float:
    """E (x.y / d + 1)^3 of independent Gaussians, from their first three moment tensors."""
    d = len(m1)
    dot = m1 @ m2
    second = ((s1 + torch.outer(m1, m1)) * (s2 + torch.outer(m2, m2))).sum()
    third = dot**3 + 3 * dot * (m1 @ s2 @ m1 + m2 @ s1 @ m2 + (s1 * s2).sum()) + 6 * (m1 @ s2 @ s1 @ m2)
    return float(third / d**3 + 3 * second / d**2 + 3 * dot / d + 1)


def population_kid(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor) -> float:
    return mean_kernel(m1, s1, m1, s1) + mean_kernel(m2, s2, m2, s2) - 2 * mean_kernel(m1, s1, m2, s2)


TABLE = [(0.0, 1.0, 0.0, 4.0, 0.421875), (0.0, 1.0, 0.3, 1.0, 0.300138961), (1.0, 1.0, 1.3, 2.0, 3.5459715)]


@pytest.mark.parametrize(("mean_x", "var_x", "mean_y", "var_y", "expected"), TABLE)
def test_kid_meets_its_population_value(
    mean_x: float, var_x: float, mean_y: float, var_y: float, expected: float
) -> None:
    ones, eye = torch.ones(64, dtype=torch.float64), torch.eye(64, dtype=torch.float64)
    closed = population_kid(mean_x * ones, var_x * eye, mean_y * ones, var_y * eye)
    assert closed == pytest.approx(expected, abs=5e-8)
    x = mean_x + math.sqrt(var_x) * normal(2000, 64, "x", str(expected))
    y = mean_y + math.sqrt(var_y) * normal(1500, 64, "y", str(expected))
    estimate = kid(x, y)
    assert abs(estimate.value - expected) < 3 * estimate.standard_error
    assert estimate.standard_error < 0.04 * expected


def test_population_value_of_zero_mean_gaussians() -> None:
    zeros = torch.zeros(8, dtype=torch.float64)
    first, second = torch.cov(normal(30, 8, "a").T), torch.cov(normal(30, 8, "b").T)
    expected = 3 * float((first - second).square().sum()) / 64
    assert population_kid(zeros, first, zeros, second) == pytest.approx(expected, rel=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_kid_agrees_with_torchmetrics() -> None:
    x, y = normal(60, 16, "x"), 0.3 + normal(60, 16, "y")
    metric = KernelInceptionDistance(feature=Identity(16), subsets=1, subset_size=60, normalize=False).eval()
    metric.set_dtype(torch.float64)
    metric.update(x[:, :, None, None], real=True)
    metric.update(y[:, :, None, None], real=False)
    assert kid(x, y).value == pytest.approx(float(metric.compute()[0]), rel=1e-10)


def naive_kid(x: Tensor, y: Tensor) -> float:
    def off_diagonal_mean(a: Tensor) -> float:
        kernel = (a @ a.T / a.shape[1] + 1) ** 3
        return float((kernel.sum() - kernel.trace()) / (len(a) * (len(a) - 1)))

    across = float(((x @ y.T / x.shape[1] + 1) ** 3).mean())
    return off_diagonal_mean(x) + off_diagonal_mean(y) - 2 * across


def test_kid_and_its_jackknife_agree_with_the_definition() -> None:
    x, y = normal(12, 5, "x"), 0.5 + normal(9, 5, "y")
    estimate = kid(x, y)
    assert estimate.value == pytest.approx(naive_kid(x, y), rel=1e-12)
    variance = 0.0
    for count, without in (
        (12, [naive_kid(torch.cat([x[:i], x[i + 1 :]]), y) for i in range(12)]),
        (9, [naive_kid(x, torch.cat([y[:i], y[i + 1 :]])) for i in range(9)]),
    ):
        variance += (count - 1) / count * float(np.square(np.array(without) - np.mean(without)).sum())
    assert estimate.standard_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    assert estimate.high - estimate.value == pytest.approx(1.959964 * estimate.standard_error, rel=1e-6)
    assert estimate.value - estimate.low == pytest.approx(1.959964 * estimate.standard_error, rel=1e-6)


@pytest.mark.parametrize("block", [1, 13, 100, 1000])
def test_kid_does_not_depend_on_blocks(block: int) -> None:
    x, y = normal(150, 16, "x"), 0.1 + normal(90, 16, "y")
    whole, parts = kid(x, y), kid(x, y, block=block)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    assert parts.standard_error == pytest.approx(whole.standard_error, rel=1e-12)
    assert permutation_p_value(x, y, 50, 0, block=block) == permutation_p_value(x, y, 50, 0)


@pytest.mark.parametrize(("n", "m", "d"), [(12, 20, 512), (20, 20, 2048), (70, 90, 2048), (150, 300, 128)])
def test_kid_does_not_depend_on_threads(n: int, m: int, d: int) -> None:
    """Equal to the last bit: launchers give their workers one thread, a plain run has them all."""
    x, y = torch.rand(n, d, generator=generator(0, "x")), torch.rand(m, d, generator=generator(0, "y"))
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(kid(x, y))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert found[1:] == found[:1] * 2


def test_jackknife_interval_covers() -> None:
    """200 draws: between 90% and 98% of the intervals hold the population value of 0.300 (d = 64)."""
    hits = 0
    for draw in range(200):
        estimate = kid(normal(100, 64, "x", draw), 0.3 + normal(100, 64, "y", draw))
        hits += estimate.low <= 0.300138961 <= estimate.high
    assert 180 <= hits <= 196


def test_permutation_test_is_uniform_for_equal_sets_and_small_for_others() -> None:
    pairs = [(normal(40, 8, "x", draw), normal(30, 8, "y", draw)) for draw in range(200)]
    p_values = [permutation_p_value(x, y, 99, seed) for seed, (x, y) in enumerate(pairs)]
    assert sum(p <= 0.1 for p in p_values) in range(8, 36)  # 20 expected, standard deviation 4.2
    assert min(p_values) >= 0.01
    assert permutation_p_value(normal(40, 8, "x"), 1 + normal(30, 8, "y"), 99, 0) == 0.01


def test_permutation_test_of_constant_features_sees_no_difference() -> None:
    assert permutation_p_value(torch.ones(10, 4), torch.ones(8, 4), 20, 0) == 1.0


def test_kid_of_degenerate_features_is_finite() -> None:
    constant = kid(torch.ones(10, 4), torch.ones(8, 4))
    assert constant.value == pytest.approx(0, abs=1e-12)
    assert constant.standard_error == pytest.approx(0, abs=1e-12)
    duplicates = normal(2, 4, "x").repeat(10, 1)
    assert math.isfinite(kid(duplicates, duplicates).standard_error)
    assert kid(duplicates, duplicates).value < 0  # the unbiased estimate of a replay lies below zero


# ---------------------------------------------------------------- memorisation


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_nearest_agrees_with_all_distances(block: int) -> None:
    x, refs = normal(50, 12, "x"), normal(40, 12, "refs")
    distance, index = nearest(x, refs, block=block)
    expected = torch.cdist(x, refs, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    torch.testing.assert_close(distance, expected.values, rtol=1e-12, atol=0)
    assert torch.equal(index, expected.indices)


def test_nearest_is_exact_for_copies_far_from_the_origin() -> None:
    refs = 1e6 + normal(30, 12, "refs").float()
    distance, index = nearest(refs, refs)
    assert torch.equal(distance, torch.zeros(30, dtype=torch.float64))
    assert torch.equal(refs[index], refs)


def test_replay_is_a_copy_and_new_images_are_not() -> None:
    refs, heldout, fresh = normal(100, 8, "refs"), normal(2000, 8, "heldout"), normal(2000, 8, "fresh")
    replay = copy_rate(refs, refs, heldout)
    assert (replay.share, replay.count, replay.total) == (1.0, 100, 100)
    new = copy_rate(fresh, refs, heldout)
    assert new.low <= 0.01 <= new.high
    assert copy_threshold(refs, heldout, 0.05) > copy_threshold(refs, heldout, 0.01) > 0


@pytest.mark.parametrize(("heldout", "rank"), [(35, 1), (99, 1), (200, 2)])
def test_new_images_copy_as_often_as_expected_and_are_rarely_called_copies(heldout: int, rank: int) -> None:
    """However few held-out images set the threshold: the test is exact, so that its level holds."""
    found = []
    for trial in range(400):
        images = normal(20 + heldout + 50, 3, f"copies {heldout} {trial}")
        found.append(copy_rate(images[-50:], images[:20], images[20:-50]))
    assert {one.expected for one in found} == {rank / (heldout + 1)}
    shares = torch.tensor([one.share for one in found])
    assert abs(float(shares.mean()) - rank / (heldout + 1)) < 4 * float(shares.std()) / 400**0.5
    for level in (0.05, 0.2):
        assert sum(one.p_value <= level for one in found) / 400 <= level + 3 * (level * (1 - level) / 400) ** 0.5


def test_the_p_value_of_copies_is_the_beta_binomial_one() -> None:
    """By the ranks of held-out and new distances: with one held-out image each order is equally likely."""
    refs, heldout = torch.zeros(2, 1), torch.tensor([[1.0]])
    assert copy_rate(torch.tensor([[0.5]]), refs, heldout).p_value == pytest.approx(1 / 2)
    assert copy_rate(torch.tensor([[0.5], [0.2]]), refs, heldout).p_value == pytest.approx(1 / 3)
    assert copy_rate(torch.tensor([[2.0], [3.0]]), refs, heldout).p_value == 1.0


def test_replay_is_a_copy_even_of_constant_features() -> None:
    ones = torch.ones(5, 3)
    assert copy_rate(ones, ones, ones).share == 1.0


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_agrees_with_published_values(count: int, total: int, low: float, high: float) -> None:
    """Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3."""
    interval = wilson(count, total)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)
    assert interval.share == count / total


def test_wilson_bounds_enclose_the_share_at_any_level() -> None:
    for level in (0.5, 0.95, 0.999):
        for count in range(11):
            interval = wilson(count, 10, level)
            assert 0 <= interval.low <= interval.share <= interval.high <= 1


# ---------------------------------------------------------------- reconstruction


def test_psnr_of_a_known_error() -> None:
    a = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    b = a.clone()
    b[1] += 10
    assert psnr(a, b).tolist() == pytest.approx([PSNR_CAP, 20 * math.log10(25.5)])


def test_smallest_error_stays_below_the_cap() -> None:
    a = images(1, 3, 32, "a").clamp(max=254)
    b = a.clone()
    b[0, 0, 0, 0] += 1
    assert 82 < psnr(a, b).item() < PSNR_CAP


def test_reconstruction_scores_are_per_image() -> None:
    a, b = images(5, 3, 32, "a"), images(5, 3, 32, "b")
    for score in (psnr, ssim):
        alone = torch.cat([score(a[i : i + 1], b[i : i + 1]) for i in range(5)])
        torch.testing.assert_close(score(a, b), alone, rtol=1e-12, atol=1e-12)
    assert ssim(a, a).tolist() == pytest.approx([1.0] * 5)
    assert (ssim(a, b) < 0.2).all()


def test_ssim_agrees_with_scikit_image() -> None:
    a = images(1, 1, 40, "a")
    b = (a.double() * 0.8 + 20).to(torch.uint8)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    padded = [np.pad(image[0, 0].numpy(), 5, mode="reflect") for image in (a, b)]  # it crops 5 pixels
    expected = structural_similarity(*padded, **settings)
    assert ssim(a, b).item() == pytest.approx(expected, abs=1e-6)


# ---------------------------------------------------------------- messages


def broken(value: float) -> Tensor:
    features = torch.zeros(5, 4)
    features[2, 1] = value
    return features


@pytest.mark.parametrize("score", [frechet_distance, kid])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(1, 4), torch.zeros(5, 4), "1 image; this score needs at least"),
        (torch.zeros(5, 4), torch.zeros(0, 4), "0 images"),
        (torch.zeros(5, 4), torch.zeros(5, 3), "4 feature dimensions"),
        (broken(math.nan), torch.zeros(5, 4), "1 of 5 images have non-finite"),
        (torch.zeros(5, 4), broken(math.inf), "1 of 5 images have non-finite"),
        (torch.zeros(5), torch.zeros(5, 4), "give a matrix"),
        (torch.zeros(5, 0), torch.zeros(5, 0), "dimension 0"),
    ],
)
def test_unusable_features_are_refused(score, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FeatureStatistics.of([]), "at least one batch"),
        (lambda: FeatureStatistics.of([torch.ones(2, 3), torch.ones(2, 4)]), "cannot be merged"),
        (lambda: frechet_from_statistics(*[FeatureStatistics.of([torch.ones(1, 3)])] * 2), "at least 2"),
        (lambda: permutation_p_value(torch.ones(4, 2), torch.ones(4, 2), 0, 0), "permutations=0"),
        (lambda: kid(torch.ones(4, 2), torch.ones(4, 2), block=0), "block=0"),
        (lambda: nearest(torch.ones(0, 2), torch.ones(3, 2)), "0 images"),
        (
            lambda: copy_rate(torch.ones(2, 2), torch.ones(3, 2), torch.ones(3, 2), quantile=1.0),
            "quantile=1.0",
        ),
        (lambda: wilson(1, 0), "1 of 0"),
        (lambda: wilson(3, 2), "3 of 2"),
        (lambda: wilson(1, 2, level=95.0), "level=95.0"),
        (lambda: psnr(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)), "uint8"),
        (lambda: psnr(images(1, 3, 8, "a"), images(2, 3, 8, "b")), "two equal batches"),
        (lambda: ssim(images(1, 3, 5, "a"), images(1, 3, 5, "b")), "SSIM needs 6 pixels"),
    ],
)
def test_unusable_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
