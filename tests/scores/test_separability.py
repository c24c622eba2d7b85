"""Separability: unbiased estimates, exact permutations, rules against their theory, independent implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import binom, norm
from sklearn.linear_model import Ridge
from sklearn.metrics import roc_auc_score
from torch import Tensor

from unseen_diffusion.scores.intervals import two_sided_p, upper_p
from unseen_diffusion.scores.kernel import discrepancy
from unseen_diffusion.scores.latents import gram, linear, separability
from unseen_diffusion.scores.latents.gram import Pooled
from unseen_diffusion.scores.latents.rates import error_rate
from unseen_diffusion.scores.latents.separability import distance_separation, energy_distance
from unseen_diffusion.scores.latents.separability import separability as compare
from unseen_diffusion.scores.latents.theory import Moments, centre_margin, distance_margin
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator


def normal(count: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """N(shift e_1, scale^2 I), float64."""
    z = scale * torch.randn(count, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z[:, 0] += shift
    return z


def test_gram_is_about_the_pooled_mean_and_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against numpy, with latents of image shape and columns taken 7 at a time."""
    x, y = 5 + normal(6, 48, 0).reshape(6, 3, 4, 4).float(), normal(4, 48, 1).reshape(4, 3, 4, 4).float()
    monkeypatch.setattr(gram, "COLUMNS", 7)
    pooled = Pooled.of(x, y)
    rows = torch.cat([x, y]).flatten(1).double().numpy()
    centred = rows - rows.mean(0)
    np.testing.assert_allclose(pooled.gram.numpy(), centred @ centred.T, rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(pooled.squared_distances().sqrt().numpy(), cdist(rows, rows), atol=1e-6)
    assert (pooled.first, pooled.second, pooled.dimension) == (6, 4, 48)


def test_centres_and_variances_are_unbiased() -> None:
    """Means over 400 pairs of sets of |m1 - m2|^2 = 4 and both variances, within 4 standard errors; d = 60, n = 8, 5.

    The raw squared distance is off by tr S1 / 8 + tr S2 / 5 = 60 / 8 + 15 / 5.
    """
    found = [
        distance_separation(normal(8, 60, 2 * i, shift=2.0), normal(5, 60, 2 * i + 1, scale=0.5), 0, 1)
        for i in range(400)
    ]
    cases = {
        "centres": ([one.centres.value for one in found], 4.0),
        "raw": ([one.raw_distance**2 for one in found], 4.0 + 60 / 8 + 15 / 5),
        "first": ([one.spreads[0] ** 2 for one in found], 1.0),
        "second": ([one.spreads[1] ** 2 for one in found], 0.25),
    }
    for values, expected in cases.values():
        measured = torch.tensor(values)
        assert abs(float(measured.mean()) - expected) < 4 * float(measured.std()) / 20
    # The jackknife is never too narrow in the mean, and at most sqrt(2) too wide for a U-statistic of pairs.
    errors = torch.tensor([one.centres.standard_error for one in found])
    spread = torch.tensor(cases["centres"][0]).std()
    assert 0.9 < float(errors.square().mean().sqrt() / spread) < 1.1 * math.sqrt(2)


def test_trace_of_the_squared_covariance_is_unbiased() -> None:
    """Variances 4 (5 times) and 1 (15 times): tr S^2 = 95, from 10 draws each, 800 times."""
    scale = torch.tensor([2.0] * 5 + [1.0] * 15, dtype=torch.float64)
    values = []
    for seed in range(800):
        rows = normal(10, 20, seed) * scale
        values.append(separability._trace_of_square(rows @ rows.T))
    measured = torch.tensor(values)
    assert abs(float(measured.mean()) - 95) < 4 * float(measured.std()) / math.sqrt(800)


def test_thresholds_of_spherical_sets_agree() -> None:
    """d^(1/4) max(s) is what (tr S^2)^(1/4) gives for S = s^2 I."""
    found = distance_separation(normal(200, 400, 0), normal(200, 400, 1, scale=2.0), 0, 9)
    assert found.threshold == pytest.approx(400**0.25 * 2, rel=0.01)
    assert found.effective_threshold == pytest.approx(found.threshold, rel=0.01)
    uneven = normal(200, 400, 2) * torch.cat([torch.full((4,), 9.0), torch.full((396,), 0.5)]).double()
    found = distance_separation(uneven, normal(200, 400, 3), 0, 9)
    assert found.effective_threshold > 1.5 * found.threshold


def test_rules_make_the_errors_that_theory_says() -> None:
    """theory.md (13), (14): d = 400, n = m = 40, centres one d^(1/4) apart; 40 pairs of sets, 4 standard errors."""
    d, n, shift = 400, 40, 400**0.25
    eye, zero = torch.eye(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64)
    apart = zero.clone()
    apart[0] = shift
    first, second = Moments(zero, eye), Moments(apart, eye)
    expected = {
        "own_distances": distance_margin(first, second, n - 1, n).error,
        "centres": centre_margin(first, second, n - 1, n).error,
    }
    found = [distance_separation(normal(n, d, 2 * i), normal(n, d, 2 * i + 1, shift=shift), 0, 1) for i in range(40)]
    for rule, error in expected.items():
        values = torch.tensor([one.errors[rule].value for one in found])
        # The normal law is itself an approximation at 400 coordinates: 0.01 for its skewness.
        assert abs(float(values.mean()) - error) < 4 * float(values.std()) / math.sqrt(40) + 0.01


def test_what_each_rule_can_and_cannot_see() -> None:
    """Equal centres, spreads 1 and 1.2, d = 400: shells see all, centres nothing, own distances fail the wider set."""
    errors = distance_separation(normal(100, 400, 0), normal(100, 400, 1, scale=1.2), 0, 9).errors
    assert errors["shells"].value < 0.02
    assert errors["centres"].low < 0.5 < errors["centres"].high
    assert errors["own_distances"].second.share > 0.98
    assert errors["own_distances"].first.share < 0.02


def rule_by_loops(x: np.ndarray, y: np.ndarray) -> dict[str, int]:
    """Errors on x with the three rules, written out."""
    wrong = dict.fromkeys(separability.RULES, 0)
    d = x.shape[1]
    variance = lambda rows: float(rows.var(axis=0, ddof=1).sum())  # noqa: E731
    for i, one in enumerate(x):
        rest = np.delete(x, i, axis=0)
        own, other = ((rest - one) ** 2).sum(1).mean(), ((y - one) ** 2).sum(1).mean()
        wrong["own_distances"] += own >= other
        to_own = ((one - rest.mean(0)) ** 2).sum() - variance(rest) / len(rest)
        to_other = ((one - y.mean(0)) ** 2).sum() - variance(y) / len(y)
        wrong["centres"] += to_own >= to_other
        shell = to_own / variance(rest) + math.log(variance(rest) / d)
        wrong["shells"] += shell >= to_other / variance(y) + math.log(variance(y) / d)
    return {rule: int(count) for rule, count in wrong.items()}


def test_rules_agree_with_loops() -> None:
    x, y = normal(30, 40, 0), normal(22, 40, 1, scale=1.1, shift=2.0)
    errors = distance_separation(x, y, 0, 1).errors
    first, second = rule_by_loops(x.numpy(), y.numpy()), rule_by_loops(y.numpy(), x.numpy())
    assert {rule: rate.first.count for rule, rate in errors.items()} == first
    assert {rule: rate.second.count for rule, rate in errors.items()} == second


def test_energy_distance_against_scipy_and_its_jackknife() -> None:
    """The U-statistic from cdist, and the standard error by really leaving latents out."""
    x, y = normal(12, 5, 0), normal(9, 5, 1, shift=1.0)

    def by_hand(a: np.ndarray, b: np.ndarray) -> float:
        n, m = len(a), len(b)
        own = cdist(a, a).sum() / (n * (n - 1)) + cdist(b, b).sum() / (m * (m - 1))
        return float(2 * cdist(a, b).mean() - own)

    a, b = x.numpy(), y.numpy()
    found = energy_distance(x, y, 0, 9)
    assert found.value == pytest.approx(by_hand(a, b), rel=1e-10)
    parts = [
        [by_hand(np.delete(a, i, 0), b) for i in range(12)],
        [by_hand(a, np.delete(b, i, 0)) for i in range(9)],
    ]
    squared = sum((len(part) - 1) * np.var(part) for part in parts)
    assert found.standard_error == pytest.approx(math.sqrt(squared), rel=1e-10)
    assert (found.low + found.high) / 2 == pytest.approx(found.value)


def test_the_sums_trick_agrees_with_relabelling() -> None:
    """Each permutation of ``discrepancy`` is the statistic of the relabelled sets."""
    x, y = normal(8, 4, 2), normal(7, 4, 3, shift=0.7)
    kernel = -Pooled.of(x, y).squared_distances().sqrt()
    rows = torch.cat([x, y])
    null = []
    for index in range(19):
        order = torch.randperm(15, generator=generator(5, "permutation", index))
        null.append(energy_distance(rows[order[:8]], rows[order[8:]], 0, 1).value)
    observed = discrepancy(kernel, 8, 19, seed=5)
    assert observed.p_value == (1 + sum(value >= observed.value - 1e-12 for value in null)) / 20


def within_binomial(p_values: list[float], level: float) -> bool:
    """The number of rejections lies in the central 99.8% of its binomial law."""
    rejected = sum(p <= level for p in p_values)
    return bool(binom.ppf(0.001, len(p_values), level) <= rejected <= binom.ppf(0.999, len(p_values), level))


def test_p_values_keep_their_level() -> None:
    """200 pairs of one N(0, I_30), sets of 16 and 12: rejections at 5% and 50% are binomial, for all three tests."""
    found = [compare(normal(16, 30, 2 * i), normal(12, 30, 2 * i + 1), i, 39, 4) for i in range(200)]
    for p_values in (
        [one.linear.p_value for one in found],
        [one.energy.p_value for one in found],
        [one.distances.centres.p_value for one in found],
    ):
        assert within_binomial(p_values, 0.05)
        assert within_binomial(p_values, 0.5)
    # Chance is 1/2 for every estimate, at unequal sizes too.
    for values in (
        [one.linear.auc for one in found],
        [one.linear.error.value for one in found],
        [one.distances.errors["centres"].value for one in found],
    ):
        measured = torch.tensor(values, dtype=torch.float64)
        assert abs(float(measured.mean()) - 0.5) < 4 * float(measured.std()) / math.sqrt(200) + 0.005


def test_power_grows_with_what_each_test_sees() -> None:
    """A shift: all three. A scale only: the energy distance and not the hyperplane."""
    shifted = compare(normal(60, 50, 0), normal(60, 50, 1, shift=3.0), 0, 199)
    assert shifted.linear.p_value == shifted.energy.p_value == shifted.distances.centres.p_value == 1 / 200
    assert shifted.linear.auc > 0.9
    assert shifted.linear.error.high < 0.3
    scaled = compare(normal(60, 50, 2), normal(60, 50, 3, scale=1.5), 0, 199)
    assert scaled.energy.p_value == 1 / 200
    assert scaled.linear.p_value > 0.05


def test_the_classifier_uses_the_covariance() -> None:
    """A shift of 1.5 in a direction of sd 0.3 under others of sd 3: centres see chance, the hyperplane sees it.

    The best error is Phi(-1.5 / 0.6) = 0.6%.
    """
    scale = torch.cat([torch.tensor([0.3]), torch.full((19,), 3.0)]).double()
    x, y = normal(150, 20, 0) * scale, normal(150, 20, 1) * scale
    y[:, 0] += 1.5
    found = compare(x, y, 0, 99)
    assert found.linear.error.value < 0.05
    assert found.linear.error.value >= norm.cdf(-2.5) - 0.01
    assert found.distances.errors["centres"].value > 0.3


def test_ridge_agrees_with_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One penalty, d > n and d < n: held-out scores of Ridge(alpha) with an intercept, and their AUC."""
    monkeypatch.setattr(linear, "PENALTIES", (0.3,))
    for d in (8, 60):
        x, y = normal(20, d, 4, shift=1.0), normal(14, d, 5)
        pooled, rows = Pooled.of(x, y), torch.cat([x, y]).numpy()
        labels = torch.tensor([1.0] * 20 + [-1.0] * 14, dtype=torch.float64)[:, None]
        train, test = torch.tensor([*range(15), *range(20, 30)]), torch.tensor([*range(15, 20), *range(30, 34)])
        scores, _ = linear._scores(pooled.gram, labels, train, test)
        centred = rows[train] - rows[train].mean(0)
        ridge = Ridge(0.3 * float((centred**2).sum()) / len(train)).fit(rows[train], labels[train, 0].numpy())
        expected = ridge.predict(rows[test])
        np.testing.assert_allclose(scores[:, 0].numpy(), expected, rtol=1e-8, atol=1e-10)
        auc = linear._auc(scores, labels[test] > 0)
        assert float(auc[0]) == pytest.approx(roc_auc_score(labels[test, 0].numpy() > 0, expected))


def test_ties_count_a_half() -> None:
    scores = torch.tensor([[1.0, 1.0, 1.0, 0.0, 2.0]], dtype=torch.float64).T
    positive = torch.tensor([[True, True, False, False, False]]).T
    assert float(linear._auc(scores, positive)[0]) == pytest.approx((0.5 + 1 + 0 + 0.5 + 1 + 0) / 6)


def test_every_fold_holds_both_sets_and_relabelling_keeps_their_numbers() -> None:
    fold = linear._folds(13, 7, 5, seed=0)
    labels = linear._relabelled(13, fold, 20, seed=0)
    for part in range(5):
        inside = (labels[fold == part] > 0).sum(0)
        assert bool((inside == inside[0]).all())
        assert 0 < int(inside[0]) < int((fold == part).sum())
    assert not torch.equal(labels[:, 1], labels[:, 2])


def test_a_rotation_a_scale_and_a_shift_change_nothing() -> None:
    """Statistics depend on inner products of differences: rates and p-values stay, distances scale."""
    x, y = normal(30, 20, 6), normal(25, 20, 7, shift=1.5, scale=1.1)
    basis = torch.linalg.qr(normal(20, 20, 8)).Q
    one, other = compare(x, y, 3, 49), compare(2 * x @ basis + 7, 2 * y @ basis + 7, 3, 49)
    assert other.linear == one.linear
    assert other.distances.errors == one.distances.errors
    assert other.energy.p_value == one.energy.p_value
    assert other.energy.value == pytest.approx(2 * one.energy.value)
    assert other.distances.distance == pytest.approx(2 * one.distances.distance)
    assert other.distances.threshold == pytest.approx(2 * one.distances.threshold)


def test_the_same_seed_gives_the_same_result() -> None:
    x, y = normal(20, 10, 9).float(), normal(20, 10, 10, shift=0.5).float()
    assert compare(x, y, 1, 19) == compare(x, y, 1, 19)
    # Another seed shuffles anew, and leaves alone what does not depend on it.
    assert compare(x, y, 2, 19).energy.value == compare(x, y, 1, 19).energy.value


def test_p_values_by_hand() -> None:
    null = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert upper_p(null, 2.0) == 3 / 4
    assert two_sided_p(null, 4.0) == 2 / 4
    assert two_sided_p(null, 2.0) == 1.0


def test_error_rate_keeps_an_interval_at_zero() -> None:
    none = error_rate(0, 50, 0, 50)
    assert (none.value, none.low) == (0, 0)
    assert 0 < none.high < 0.06
    assert error_rate(10, 20, 0, 20).value == 0.25


def test_refusals_name_the_value() -> None:
    x, y = normal(10, 4, 0), normal(10, 4, 1)
    with pytest.raises(InputError, match=r"second set of latents: 2 latents; give 3 or more"):
        compare(x, y[:2], 0)
    with pytest.raises(InputError, match=r"latents of 4 and of 3 coordinates"):
        compare(x, y[:, :3], 0)
    with pytest.raises(InputError, match=r"folds=11: with 10 and 10 latents give a number between 2 and 10"):
        compare(x, y, 0, folds=11)
    with pytest.raises(InputError, match=r"permutations=0"):
        compare(x, y, 0, permutations=0)
    with pytest.raises(InputError, match=r"no spread to compare with"):
        compare(x[:1].expand(10, -1), x[:1].expand(10, -1), 0)
    broken = x.clone()
    broken[3, 1] = math.nan
    with pytest.raises(InputError, match=r"first set of latents: 1 of 10 latents are not finite"):
        compare(broken, y, 0)
