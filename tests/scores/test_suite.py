"""The suite of scores beside FID and KID: against closed forms, independent implementations, and degenerate input."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from unseen_diffusion.scores.diversity import vendi, vendi_ratio
from unseen_diffusion.scores.frechet import FeatureStatistics, frechet_distance, frechet_from_statistics
from unseen_diffusion.scores.inputs import rows_at_a_time
from unseen_diffusion.scores.intervals import combined_p, crossed_interval, holm, paired_difference, t_interval
from unseen_diffusion.scores.kernel import kid, kid_difference, permutation_p_value
from unseen_diffusion.scores.logistic import fit_logistic
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.scores.membership import classifier_share, conformal_share
from unseen_diffusion.scores.neighbours import neighbour_squares
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def normal(count: int, dimension: int, *stream: str | int) -> Tensor:
    return torch.randn(count, dimension, generator=generator(1, *stream), dtype=torch.float64)


# ---------------------------------------------------------------- neighbours


@pytest.mark.parametrize("block", [None, 1, 7, 1000])
def test_neighbours_agree_with_sorted_distances(block: int | None) -> None:
    x, y = normal(30, 6, "x"), normal(20, 6, "y")
    among, across = torch.cdist(x, x).sort(1).values, torch.cdist(x, y).sort(1).values
    torch.testing.assert_close(neighbour_squares(x, None, 3, block).sqrt(), among[:, 3], rtol=1e-6, atol=0)
    torch.testing.assert_close(neighbour_squares(x, y, 3, block).sqrt(), across[:, 2], rtol=1e-6, atol=0)


def test_pairwise_matrices_stay_small() -> None:
    for columns in (1, 1000, 50_000, 10**7):
        rows = rows_at_a_time(None, columns)
        assert rows == 1 if columns == 10**7 else rows * columns * 8 <= 2**25 < (rows + 1) * columns * 8
    assert rows_at_a_time(7, 10**7) == 7


# ---------------------------------------------------------------- precision, recall, density, coverage


def naive_prdc(samples: Tensor, target: Tensor, k: int) -> tuple[float, float, float, float]:
    """Naeem et al. 2020, equations 3 to 9, from the differences themselves."""
    distances = torch.linalg.vector_norm(samples[:, None] - target, dim=2)
    own = [torch.linalg.vector_norm(x[:, None] - x, dim=2).sort(1).values[:, k] for x in (samples, target)]
    in_target, in_samples = distances < own[1], distances < own[0][:, None]
    return (
        float(in_target.any(1).double().mean()),
        float(in_samples.any(0).double().mean()),
        float(in_target.sum()) / (k * len(samples)),
        float((distances.min(0).values < own[1]).double().mean()),
    )


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    target = normal(60, 8, "target")
    return {
        "equal": (normal(80, 8, "samples"), target),
        "shifted": (1 + normal(40, 8, "samples"), target),
        "narrow": (0.3 * normal(70, 8, "samples"), target),
        "replay": (target.clone(), target),
        "part of a replay": (target[:20].clone(), target),
        "duplicates of two": (target[:2].repeat(20, 1), target),
        "duplicated target": (normal(50, 8, "samples"), target[:10].repeat(5, 1)),
        "constant samples": (torch.zeros(20, 8), target),
        "more dimensions than images": (normal(15, 64, "samples"), normal(12, 64, "target")),
        "far from the origin": (1e4 + normal(40, 8, "samples"), 1e4 + target),
        "float32": (normal(40, 8, "samples").float(), target.float()),
    }


@pytest.mark.parametrize("case", pairs())
@pytest.mark.parametrize("k", [1, 5])
def test_prdc_agrees_with_the_definition(case: str, k: int) -> None:
    samples, target = pairs()[case]
    assert prdc(samples, target, k) == pytest.approx(naive_prdc(samples.double(), target.double(), k), abs=1e-12)


@pytest.mark.parametrize("case", pairs())
def test_prdc_agrees_with_its_authors_package(case: str) -> None:
    package = pytest.importorskip("prdc")
    samples, target = (x.double().numpy() for x in pairs()[case])
    expected = package.compute_prdc(real_features=target, fake_features=samples, nearest_k=5)
    assert prdc(*pairs()[case])._asdict() == pytest.approx(expected, abs=1e-12)


def test_replay_scores_one_everywhere() -> None:
    refs = normal(100, 16, "refs")
    replay = prdc(refs, refs.clone())
    assert (replay.precision, replay.recall, replay.coverage) == (1, 1, 1)
    assert replay.density == pytest.approx(1, abs=1e-12)  # itself and 4 nearer neighbours: the fifth is on the edge


def test_balls_of_constant_images_hold_nothing() -> None:
    assert prdc(torch.ones(8, 3), torch.ones(9, 3)) == (0, 0, 0, 0)


def test_density_is_one_in_the_mean_for_equal_distributions() -> None:
    values = [prdc(normal(100, 4, "x", draw), normal(100, 4, "y", draw)).density for draw in range(30)]
    assert np.mean(values) == pytest.approx(1, abs=3.5 * np.std(values) / math.sqrt(30))


@pytest.mark.parametrize("block", [1, 7, 64])
def test_prdc_does_not_depend_on_blocks(block: int) -> None:
    for samples, target in pairs().values():
        assert prdc(samples, target, block=block) == prdc(samples, target)


# ---------------------------------------------------------------- diversity


def test_vendi_of_known_sets() -> None:
    assert vendi(torch.eye(10)) == pytest.approx(10, abs=1e-12)
    assert vendi(torch.ones(10, 4)) == pytest.approx(1, abs=1e-12)
    assert vendi(torch.eye(4).repeat(5, 1)) == pytest.approx(4, abs=1e-12)
    assert vendi(torch.tensor([[1.0, 0], [0.5, math.sqrt(0.75)]])) == pytest.approx(  # 60 degrees: 3/4 and 1/4
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), abs=1e-7
    )


def test_vendi_agrees_with_its_authors_package() -> None:
    package = pytest.importorskip("vendi_score.vendi")
    for count, dimension in ((20, 50), (50, 20)):
        x, centre = normal(count, dimension, "x"), normal(1, dimension, "centre")[0]
        assert vendi(x, centre) == pytest.approx(package.score_X((x - centre).numpy()), rel=1e-10)
        assert vendi(x, centre) == pytest.approx(package.score_dual((x - centre).numpy()), rel=1e-10)


def test_vendi_ignores_scale_order_and_rotation() -> None:
    x, centre = normal(30, 12, "x"), normal(1, 12, "centre")[0]
    rotation = torch.linalg.qr(normal(12, 12, "rotation")).Q
    assert vendi(x.flip(0) @ rotation, centre @ rotation) == pytest.approx(vendi(x, centre), rel=1e-12)
    assert vendi(100 * x, 100 * centre) == pytest.approx(vendi(x, centre), rel=1e-12)


def test_images_at_the_centre_count_as_equal() -> None:
    assert vendi(torch.full((10, 4), 0.1), torch.full((4,), 0.1)) == pytest.approx(1, abs=1e-12)
    assert vendi(torch.cat([torch.zeros(5, 2), torch.ones(5, 2)])) == pytest.approx(2, abs=1e-12)


def test_vendi_ratio_is_one_for_the_target_itself_and_near_it_for_its_like() -> None:
    target = 3 + normal(100, 16, "target")
    assert vendi_ratio(target, target).value == 1
    assert vendi_ratio(3 + normal(100, 16, "fresh"), target).value == pytest.approx(1, abs=0.05)
    collapsed = vendi_ratio(target[:1].repeat(100, 1), target)
    assert collapsed.samples == pytest.approx(1, abs=1e-9)
    assert collapsed.value == pytest.approx(1 / collapsed.target)


def test_vendi_ratio_compares_equal_numbers_of_images() -> None:
    target, samples = normal(90, 12, "target"), normal(40, 12, "samples")
    few, many = vendi_ratio(samples, target), vendi_ratio(target, samples)
    assert (few.images, many.images) == (40, 40)
    assert few.target == pytest.approx(vendi(target[:40], target.mean(0)))
    assert many.samples == pytest.approx(vendi(target[:40], samples.mean(0)))


# ---------------------------------------------------------------- logistic regression


@pytest.mark.parametrize(("positive", "negative", "d"), [(30, 30, 4), (20, 60, 8), (15, 10, 100), (40, 40, 40)])
def test_logistic_regression_agrees_with_scikit_learn(positive: int, negative: int, d: int) -> None:
    a, b = 5 + normal(positive, d, "a"), 4.5 + normal(negative, d, "b")
    a[:, 0] = b[:, 0] = 7  # a constant feature
    x = torch.cat([a, b])
    standard = ((x - x.mean(0)) / x.std(0, unbiased=False).where(x.std(0) > 0, 1)).numpy()
    labels = np.r_[np.ones(positive), np.zeros(negative)]
    model = LogisticRegression(C=1.0, class_weight="balanced", tol=1e-12, max_iter=10_000, solver="newton-cholesky")
    expected = model.fit(standard, labels).decision_function(standard)
    torch.testing.assert_close(fit_logistic(a, b)(x), torch.from_numpy(expected), rtol=1e-6, atol=1e-8)


def test_logistic_regression_of_separated_or_equal_sets_ends() -> None:
    a = normal(20, 300, "a")
    far = fit_logistic(a, 1000 + a)
    assert (far(a) > 0).all()
    assert (far(1000 + a) < 0).all()
    torch.testing.assert_close(fit_logistic(a, a)(a), torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-8)


# ---------------------------------------------------------------- membership


def domains(gap: float, count: int = 100, d: int = 8) -> tuple[Tensor, Tensor]:
    return gap + normal(count, d, "target"), normal(count, d, "source")


@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_classifier_share_recovers_the_mixture(part: float) -> None:
    """An imperfect classifier (overlapping domains): the adjustment undoes its errors."""
    target, source = domains(0.5, 400)
    inside = int(part * 1000)
    samples = torch.cat([0.5 + normal(inside, 8, "in"), normal(1000 - inside, 8, "out")])
    share = classifier_share(samples, target, source)
    assert share.fpr > 0.1
    assert share.low <= part <= share.high
    assert share.value == pytest.approx((share.raw - share.fpr) / (share.tpr - share.fpr))
    assert share.high - share.low < 0.3


def test_classifier_interval_covers() -> None:
    hits = 0
    for draw in range(50):
        target, source = 0.8 + normal(60, 4, "t", draw), normal(60, 4, "s", draw)
        samples = torch.cat([0.8 + normal(42, 4, "in", draw), normal(18, 4, "out", draw)])
        share = classifier_share(samples, target, source)
        hits += share.low <= 0.7 <= share.high
    assert hits >= 43  # of 50; 47.5 expected at 95%, standard deviation 1.5


def test_classifier_that_tells_nothing_says_so() -> None:
    """Equal domains: a share only where tpr exceeds fpr by chance, in 2.5% of all draws."""
    told = 0
    for draw in range(30):
        share = classifier_share(normal(20, 3, "x", draw), normal(30, 3, "t", draw), normal(30, 3, "s", draw))
        told += not math.isnan(share.value)
        assert math.isnan(share.low) == math.isnan(share.high) == math.isnan(share.value)
        assert 0 <= share.fpr <= 1
    assert told <= 4
    same = normal(40, 6, "same")
    for equal in (same, torch.ones(40, 6)):
        assert math.isnan(classifier_share(normal(30, 6, "samples"), equal, equal).value)


def test_classifier_share_of_perfectly_told_domains() -> None:
    target, source = domains(20)
    share = classifier_share(20 + normal(50, 8, "samples"), target, source)
    assert (share.value, share.raw, share.tpr, share.fpr) == (1, 1, 1, 0)
    assert share.low < 1 == share.high  # 50 of 50 is no certainty, and a share ends at 1


def test_fieller_interval_agrees_with_its_definition() -> None:
    """The bounds are where the statistic of the hypothesis reaches the normal quantile."""
    target, source = domains(0.6, 50)
    share = classifier_share(0.3 + normal(40, 8, "samples"), target, source, level=0.9)
    z = scipy.stats.norm.ppf(0.95)

    def variance(p: float, n: int) -> float:
        smooth = (p * n + z**2 / 2) / (n + z**2)
        return smooth * (1 - smooth) / (n + z**2)

    for bound in (share.low, share.high):
        difference = (share.raw - share.fpr) - bound * (share.tpr - share.fpr)
        spread = (
            variance(share.raw, 40) + bound**2 * variance(share.tpr, 50) + (1 - bound) ** 2 * variance(share.fpr, 50)
        )
        assert abs(difference) / math.sqrt(spread) == pytest.approx(z, rel=1e-9)


def test_each_share_sees_what_the_other_is_blind_to() -> None:
    target, source = domains(3)
    junk = 3 + 30 * normal(100, 8, "junk").abs()  # on the target's side of the border, but nowhere near it
    assert classifier_share(junk, target, source).value > 0.9
    assert conformal_share(junk, target).value < 0.1
    near_target, near_source = domains(0.7)
    assert conformal_share(near_source, near_target).value > 0.6
    assert classifier_share(normal(100, 8, "more"), near_target, near_source).value < 0.3


def test_conformal_share_agrees_with_the_definition() -> None:
    target, samples = normal(57, 5, "target"), 1.2 * normal(80, 5, "samples")
    usual = torch.cdist(target, target).sort(1).values[:, 5]
    strange = torch.cdist(samples, target).sort(1).values[:, 4]
    p_values = (1 + (usual >= strange[:, None]).sum(1)) / 58
    share = conformal_share(samples, target)
    assert share.value == pytest.approx(float((p_values > 0.05).double().mean()) / (1 - 2 / 58), rel=1e-12)
    assert share.low < share.value < share.high


@pytest.mark.parametrize("held_out", [20, 35, 199])
def test_conformal_share_of_new_target_images_is_one_in_the_mean(held_out: int) -> None:
    values = [conformal_share(normal(50, 4, "x", draw), normal(held_out, 4, "y", draw)).value for draw in range(60)]
    assert np.mean(values) == pytest.approx(1, abs=3.5 * np.std(values) / math.sqrt(60))


def test_conformal_share_of_degenerate_features() -> None:
    assert conformal_share(torch.ones(5, 3), torch.ones(30, 3)).value == pytest.approx(1 / (1 - 1 / 31))
    assert conformal_share(torch.full((5, 3), 2.0), torch.ones(30, 3)).value == 0
    assert math.isnan(conformal_share(torch.ones(5, 3), normal(18, 3, "few")).value)
    assert not math.isnan(conformal_share(torch.ones(5, 3), normal(19, 3, "enough")).value)


@pytest.mark.parametrize("block", [1, 13, 1000])
def test_conformal_share_does_not_depend_on_blocks(block: int) -> None:
    samples, target = normal(40, 5, "x"), normal(30, 5, "y")
    assert conformal_share(samples, target, block=block) == conformal_share(samples, target)
    assert conformal_share(samples[:7], samples) == conformal_share(samples[:7], samples, block=block)


# ---------------------------------------------------------------- means over draws


def test_t_interval_agrees_with_scipy() -> None:
    values = [0.3, 0.5, 0.1, 0.45, 0.2]
    for level in (0.8, 0.95):
        found, expected = t_interval(values, level), scipy.stats.ttest_1samp(values, 0)
        assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(level)), rel=1e-12)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-12)
        assert found.standard_error == pytest.approx(scipy.stats.sem(values), rel=1e-12)
        assert found.count == 5


def test_paired_difference_agrees_with_scipy() -> None:
    a, b = [0.3, 0.5, 0.1, 0.45, 0.2], [0.25, 0.52, 0.02, 0.4, 0.1]
    found, expected = paired_difference(a, b), scipy.stats.ttest_rel(a, b)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-10)
    assert paired_difference(b, a).mean == pytest.approx(-found.mean)


def test_equal_values_have_a_point_for_an_interval() -> None:
    assert t_interval([2.0, 2.0, 2.0]).p_value == 0.25  # of three equal signs
    assert (t_interval([2.0, 2.0]).low, t_interval([2.0, 2.0]).high) == (2, 2)
    assert paired_difference([1.0, 2.0], [1.0, 2.0]).p_value == 1


def test_holm_of_known_p_values() -> None:
    """By hand, and as R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") gives it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([0.0, 1.0, 0.5]) == pytest.approx([0.0, 1.0, 1.0])


def test_combined_p_is_one_of_the_hypothesis_whatever_the_dependence() -> None:
    """Twice the median; of equal, correlated and independent p-values its level holds."""
    assert combined_p([0.3]) == 0.3
    assert combined_p([0.01, 0.04, 0.2]) == 0.08
    assert combined_p([0.9, 0.8]) == 1
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(4000, 1)), rng.normal(size=(4000, 5))
    for weight in (0.0, 0.7, 1.0):
        families = scipy.stats.norm.sf(weight * common + math.sqrt(1 - weight**2) * own)
        assert np.mean([combined_p(family) <= 0.05 for family in families.tolist()]) <= 0.05


def test_holm_keeps_the_familywise_error() -> None:
    """4000 families of 5 true hypotheses: at 0.05 a first error in about 5% (standard deviation 0.35%)."""
    families = torch.rand(4000, 5, generator=generator(0, "p"), dtype=torch.float64)
    errors = sum(min(holm(family)) <= 0.05 for family in families.tolist())
    assert errors / 4000 == pytest.approx(1 - 0.99**5, abs=0.012)


# ---------------------------------------------------------------- kernel distance


def naive_kid(x: Tensor, y: Tensor) -> float:
    """The definition, pair by pair."""

    def k(a: Tensor, b: Tensor) -> float:
        return float((a @ b / len(a) + 1) ** 3)

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (n * m)


def without(x: Tensor, index: int) -> Tensor:
    return torch.cat([x[:index], x[index + 1 :]])


def test_kid_difference_agrees_with_the_definition() -> None:
    a, b, target = 0.5 + normal(6, 3, "a"), normal(5, 3, "b"), normal(7, 3, "target")
    found = kid_difference(a, b, target)
    assert found.value == pytest.approx(naive_kid(a, target) - naive_kid(b, target), rel=1e-10)
    replicates = (
        [naive_kid(without(a, i), target) for i in range(6)],
        [naive_kid(without(b, i), target) for i in range(5)],
        [naive_kid(a, without(target, i)) - naive_kid(b, without(target, i)) for i in range(7)],
    )
    variance = sum((len(r) - 1) * np.var(r) for r in replicates)
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-10)
    assert found.p_value == pytest.approx(2 * scipy.stats.norm.sf(abs(found.value) / found.standard_error), rel=1e-9)


def test_kid_difference_is_antisymmetric_and_zero_for_one_method() -> None:
    a, b, target = 0.5 + normal(30, 6, "a"), normal(40, 6, "b"), normal(50, 6, "target")
    forth, back = kid_difference(a, b, target), kid_difference(b, a, target)
    assert (forth.value, forth.p_value) == pytest.approx((-back.value, back.p_value), rel=1e-12)
    itself = kid_difference(a, a, target)
    assert (itself.value, itself.p_value) == (0, 1)
    assert forth.value == pytest.approx(kid(a, target).value - kid(b, target).value, rel=1e-12)
    for block in (1, 7, 100):
        assert kid_difference(a, b, target, block=block).standard_error == pytest.approx(
            forth.standard_error, rel=1e-12
        )


def test_sharing_the_images_narrows_the_interval_of_a_difference() -> None:
    """Two methods alike: what H contributes to both distances cancels."""
    a, b, target = 1 + normal(300, 8, "a"), 1 + normal(300, 8, "b"), 1.5 * normal(15, 8, "target")
    apart = math.hypot(kid(a, target).standard_error, kid(b, target).standard_error)
    assert kid_difference(a, b, target).standard_error < 0.9 * apart


def test_kid_difference_interval_covers() -> None:
    """100 draws of N(.5, I) and N(.3, I) against N(0, I), d = 16: the difference of the population values."""
    ones = torch.ones(16, dtype=torch.float64)

    def population(mean: float) -> float:
        def kernel(m1: float, m2: float) -> float:  # E (x.y / d + 1)^3 of unit Gaussians around m1, m2
            d, dot = 16, float(m1 * m2 * ones.sum())
            second = d + d * m1**2 + d * m2**2 + dot**2
            third = dot**3 + 3 * dot * (d * m1**2 + d * m2**2 + d) + 6 * dot
            return third / d**3 + 3 * second / d**2 + 3 * dot / d + 1

        return kernel(mean, mean) + kernel(0, 0) - 2 * kernel(mean, 0)

    truth, hits = population(0.5) - population(0.3), 0
    for draw in range(100):
        found = kid_difference(
            0.5 + normal(60, 16, "a", draw), 0.3 + normal(60, 16, "b", draw), normal(60, 16, "h", draw)
        )
        hits += found.low <= truth <= found.high
    assert 86 <= hits <= 100


# ---------------------------------------------------------------- statistics of many images


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("size", [1, 3, 100, 1024])
def test_statistics_of_any_split_agree(offset: float, size: int) -> None:
    x, other = offset + normal(1000, 6, "x"), FeatureStatistics.of([offset + 1 + 2 * normal(300, 6, "y")])
    whole, parts = FeatureStatistics.of([x]), FeatureStatistics.of(x.split(size))
    centred = x - x.mean(0)
    assert relative(parts.scatter, centred.T @ centred) < 1e-12
    assert relative(parts.mean, x.mean(0)) < 1e-12
    assert frechet_from_statistics(parts, other) == pytest.approx(frechet_from_statistics(whole, other), rel=1e-12)


def test_forms_of_the_frechet_distance_agree() -> None:
    """From the features' singular values, and from eigenvalues of S1^(1/2) S2 S1^(1/2)."""
    x, y = normal(200, 12, "x"), 0.3 + 1.4 * normal(150, 12, "y")
    s1, s2 = np.cov(x.numpy().T), np.cov(y.numpy().T)
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(values) @ vectors.T
    overlap = np.sqrt(np.linalg.eigvalsh(root @ s2 @ root)).sum()
    shift = float((x.mean(0) - y.mean(0)).square().sum())
    assert frechet_distance(x, y) == pytest.approx(shift + np.trace(s1 + s2) - 2 * overlap, rel=1e-10)


# ---------------------------------------------------------------- messages


def broken() -> Tensor:
    features = normal(30, 4, "broken")
    features[2, 1] = math.nan
    return features


GOOD = normal(30, 4, "good")


@pytest.mark.parametrize(
    "score",
    [
        prdc,
        vendi_ratio,
        conformal_share,
        lambda x, y: classifier_share(x, y, GOOD),
        lambda x, y: kid_difference(x, GOOD, y),
    ],
    ids=["prdc", "vendi_ratio", "conformal", "classifier", "kid_difference"],
)
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (broken(), GOOD, "1 of 30 images have non-finite"),
        (GOOD, broken(), "1 of 30 images have non-finite"),
        (GOOD, GOOD[:1], "1 image; this score needs at least"),
        (GOOD[:0], GOOD, "0 images; this score needs at least"),
        (GOOD[:, :3], GOOD, "3 feature dimensions|4 feature dimensions"),
    ],
)
def test_unusable_features_are_refused(score, x: Tensor, y: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        score(x, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: prdc(GOOD, GOOD, k=0), "k=0"),
        (lambda: prdc(GOOD[:5], GOOD), "5 images; this score needs at least 6"),
        (lambda: prdc(GOOD, GOOD, block=0), "block=0"),
        (lambda: neighbour_squares(GOOD, GOOD[:3], 4), "3 neighbours for k=4"),
        (lambda: conformal_share(GOOD, GOOD, alpha=1.0), "alpha=1.0"),
        (lambda: conformal_share(GOOD, GOOD, k=0), "k=0"),
        (lambda: classifier_share(GOOD, GOOD, GOOD[:3]), "3 images; this score needs at least 4"),
        (lambda: vendi(GOOD[:0]), "0 images"),
        (lambda: vendi(GOOD, torch.zeros(3)), "the centre has 3"),
        (lambda: t_interval([1.0]), "1 value: an interval"),
        (lambda: t_interval([1.0, math.nan]), "finite"),
        (lambda: t_interval([1.0, 2.0], level=95.0), "level=95.0"),
        (lambda: paired_difference([1.0], [1.0, 2.0]), "1 and 2 values"),
        (lambda: holm([]), "no p-values"),
        (lambda: combined_p([]), "no p-values"),
        (lambda: holm([0.5, math.nan]), "nan"),
        (lambda: holm([1.5]), "1.5"),
        (lambda: permutation_p_value(GOOD, GOOD[:2], 10, 0), "2 images"),
    ],
)
def test_unusable_arguments_are_refused(call, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def crossed(count: int, draw_sd: float, seed_sd: float) -> np.ndarray:
    """Tables (count, 5, 3) of scores with mean 0: effects of draws, of seeds, and the rest."""
    rng = np.random.default_rng(0)
    draws, seeds = draw_sd * rng.normal(size=(count, 5, 1)), seed_sd * rng.normal(size=(count, 1, 3))
    return draws + seeds + rng.normal(size=(count, 5, 3))


@pytest.mark.parametrize(("draw_sd", "seed_sd"), [(1, 0), (2, 0.5), (0.5, 1), (0, 2)])
def test_crossed_intervals_cover_where_draws_alone_do_not(draw_sd: float, seed_sd: float) -> None:
    """95% intervals: 95 to 99% over 3000 tables, where intervals over draws alone cover 43 to 95%."""
    tables = crossed(1500, draw_sd, seed_sd)
    found = [crossed_interval(table.tolist()) for table in tables]
    covered = np.mean([interval.low <= 0 <= interval.high for interval in found])
    naive = np.mean([(alone := t_interval(table.mean(1).tolist())).low <= 0 <= alone.high for table in tables])
    assert covered > 0.935
    if seed_sd >= 1:
        assert naive < 0.8


@pytest.mark.parametrize("value", [0.3, 0.1, -0.07])
def test_equal_values_are_tested_by_their_signs(value: float) -> None:
    """Rounding is no spread: five draws of one sign have p = 1/16, however many seeds repeat them."""
    found = crossed_interval([[value] * 3] * 5)
    assert (found.low, found.mean, found.high) == (value, value, value)
    assert found.p_value == t_interval([value] * 5).p_value == 1 / 16


def test_crossed_intervals_of_one_factor_are_students() -> None:
    table = crossed(1, 1, 1)[0]
    assert crossed_interval(table[:, :1].tolist()).low == pytest.approx(t_interval(table[:, 0].tolist()).low)
    same = np.tile(table[0], (5, 1))  # draws change nothing: three values, not fifteen
    one = t_interval(table[0].tolist())
    both = crossed_interval(same.tolist())
    assert (both.low, both.high, both.p_value) == pytest.approx((one.low, one.high, one.p_value))
    with pytest.raises(InputError, match="every draw needs the same seeds"):
        crossed_interval([[1.0, 2.0], [3.0]])
