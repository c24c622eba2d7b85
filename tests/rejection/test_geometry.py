"""Geometry: exact angles of known figures, the statistics of Gaussians in high dimension, and rounding errors."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from unseen_diffusion.rejection import AbsoluteTolerances, geometry
from unseen_diffusion.rejection.geometry import (
    CRITERIA,
    References,
    draw_references,
    leave_one_out,
    sampled_products,
    statistics,
    summarise,
)
from unseen_diffusion.utils.errors import InputError

SHAPE = (3, 16, 16)
D = 768


def normal(count: int, seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def angle(u: Tensor, v: Tensor) -> float:
    """Degrees between two float64 vectors; 0 where one is zero."""
    lengths = float(u.norm() * v.norm())
    return math.degrees(math.acos(max(-1.0, min(1.0, float(u @ v) / lengths)))) if lengths else 0.0


def brute_force(candidates: Tensor, references: Tensor, drawn: Tensor) -> Tensor:
    """The three definitions written out in float64, one candidate and one pair at a time."""
    rows = []
    for c, chosen in zip(candidates.flatten(1).double(), drawn.tolist(), strict=True):
        z = [references[i].flatten().double() for i in chosen]
        distances = [float((c - one).norm()) for one in z]
        pairs = [angle(a - c, b - c) for a, b in combinations(z, 2)]
        origins = [angle(c, one) for one in z]
        rows.append([sum(values) / len(values) for values in (distances, pairs, origins)])
    return torch.tensor(rows, dtype=torch.float64)


def test_orthonormal_vectors_give_sqrt_2_60_and_90() -> None:
    """conventions.md, 9: every pair of unit vectors forms an equilateral triangle and a right angle at the origin."""
    unit = torch.eye(12).reshape(12, 3, 2, 2)
    drawn = draw_references(11, 10, 0, [0])
    measured = statistics(unit[11:], References.of(unit[:11]), drawn)
    expected = torch.tensor([[math.sqrt(2), 60.0, 90.0]], dtype=torch.float64)
    torch.testing.assert_close(measured, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 10])
def test_gaussian_sets_show_what_theory_says(k: int) -> None:
    """x, y, z ~ N(0, s^2 I_d): distance s sqrt(2 d), pair angle 60, origin angle 90 degrees, to first order in 1/d.

    Averages over k references: sd of the distance s sqrt(1/4 + 3/(4 k)); of the angles, in radians times sqrt(d),
    sqrt((1/2 + 3/(2 k) + 2/(k (k - 1))) / 3) and 1/sqrt(k). (The first two by linearising about |x|^2 = d.)
    """
    s, count = 1.7, 4000
    drawn = draw_references(1000, k, 0, range(count))
    measured = statistics(s * normal(count, 1), References.of(s * normal(1000, 2)), drawn)
    mean, sd = measured.mean(0), measured.std(0)
    expected = [s * math.sqrt(2 * D), 60.0, 90.0]
    distance_sd = s * math.sqrt(0.25 + 0.75 / k)
    pair_sd = math.degrees(math.sqrt((0.5 + 1.5 / k + 2 / (k * (k - 1))) / 3 / D))
    origin_sd = math.degrees(1 / math.sqrt(k * D))
    for i, (target, width) in enumerate(zip(expected, [distance_sd, pair_sd, origin_sd], strict=True)):
        # The mean is biased by O(1/d) (relative 1/4d for the distance) and by the 1000 shared references.
        assert float(mean[i]) == pytest.approx(target, abs=0.1 * width)
        assert float(sd[i]) == pytest.approx(width, rel=0.05)


@pytest.mark.parametrize("norm", [0.0, 8.0, 20.0])
def test_a_mean_vector_lowers_the_origin_angle(norm: float) -> None:
    """cos = |m|^2 / (|m|^2 + s^2 d); distance and pair angle do not notice it."""
    s = 0.8
    mean = torch.full(SHAPE, norm / math.sqrt(D))
    drawn = draw_references(300, 10, 0, range(600))
    measured = statistics(mean + s * normal(600, 3), References.of(mean + s * normal(300, 4)), drawn).mean(0)
    square = norm**2 + s**2 * D
    expected = math.degrees(math.acos(norm**2 / square))
    # Standard error: both samples' means along m, and 600 * 10 products of independent residuals.
    error = math.degrees(math.sqrt((s * norm) ** 2 * (1 / 300 + 1 / 600) + s**4 * D / 6000) / square)
    assert float(measured[2]) == pytest.approx(expected, abs=4 * error)
    assert float(measured[0]) == pytest.approx(s * math.sqrt(2 * D), rel=3e-3)
    assert float(measured[1]) == pytest.approx(60, abs=0.1)


# Candidates and references as functions of independent normal ones, with the greatest errors allowed in distance
# (relative) and in both angles (degrees). Measured at d = 768: plain 2e-9 and 2e-7; offset 30, where the cosine
# is just below the threshold of recomputation, 2e-5 and 2e-3; the recomputed cases 1e-15 and 5e-7.
CASES = {
    "plain": (0.0, None, 1e-7, 1e-5),
    "common mean of 10 sd": (10.0, None, 1e-5, 1e-3),
    "common mean of 30 sd": (30.0, None, 1e-4, 5e-3),
    "common mean of 50 sd": (50.0, None, 1e-12, 1e-6),
    "common mean of 1000 sd": (1000.0, None, 1e-12, 1e-6),
    "near-duplicates, 0.1": (0.0, 0.1, 1e-6, 1e-4),
    "near-duplicates, 1e-3": (0.0, 1e-3, 1e-12, 1e-6),
    "near-duplicates, 1e-5": (0.0, 1e-5, 1e-12, 1e-6),
    "copies": (0.0, 0.0, 1e-12, 1e-5),
}


def figure(mean: float, near: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """(candidates, references, drawn); ``near``: candidates lie that far from their first drawn reference."""
    references = normal(40, 5) + mean
    drawn = draw_references(40, 10, 0, range(50))
    candidates = normal(50, 6) + mean if near is None else references[drawn[:, 0]] + near * normal(50, 6)
    return candidates, references, drawn


@pytest.mark.parametrize("case", CASES)
def test_the_matrix_product_agrees_with_float64_loops(case: str) -> None:
    mean, near, distance_error, angle_error = CASES[case]
    candidates, references, drawn = figure(mean, near)
    measured = statistics(candidates, References.of(references), drawn)
    exact = brute_force(candidates, references, drawn)
    assert float((measured / exact - 1)[:, 0].abs().max()) < distance_error
    assert float((measured - exact)[:, 1:].abs().max()) < angle_error


@pytest.mark.parametrize(
    ("case", "column", "at_least"),
    [("common mean of 1000 sd", 0, 1.0), ("near-duplicates, 1e-5", 1, 1.0), ("copies", 2, 1e-3)],
)
def test_without_recomputation_cancellation_would_show(
    monkeypatch: pytest.MonkeyPatch, case: str, column: int, at_least: float
) -> None:
    """The float32 products alone are off by L2 1, by degrees between pairs, by a per mille of one to the origin."""
    monkeypatch.setattr(geometry, "CANCELLATION", -1.0)
    candidates, references, drawn = figure(*CASES[case][:2])
    measured = statistics(candidates, References.of(references), drawn)
    exact = brute_force(candidates, references, drawn)
    assert float((measured - exact)[:, column].abs().max()) > at_least


def test_parallel_vectors_of_other_length_are_recomputed_too() -> None:
    """Where c = 1.5 z or -z no distance vanishes, but an arc cosine near 1 or -1 amplifies rounding."""
    references = normal(40, 5)
    drawn = draw_references(40, 3, 0, range(20))
    for factor in (1.5, -1.0):
        candidates = factor * references[drawn[:, 0]]
        measured = statistics(candidates, References.of(references), drawn)
        exact = brute_force(candidates, references, drawn)
        torch.testing.assert_close(measured, exact, rtol=0, atol=1e-5)


def test_degenerate_candidates_stay_finite() -> None:
    """A copy of a reference, all references alike, the origin itself: finite, angles within [0, 180]."""
    references = normal(5, 7)
    same = references[:1].expand(5, -1, -1, -1)
    drawn = draw_references(5, 5, 0, [0])
    for candidate, pool in (
        (references[:1], references),
        (same[:1], same),
        (torch.zeros(1, *SHAPE), references),
    ):
        measured = statistics(candidate, References.of(pool), drawn)
        assert bool(measured.isfinite().all())
        assert bool(((measured[:, 1:] >= 0) & (measured[:, 1:] <= 180)).all())
    assert statistics(same[:1], References.of(same), drawn)[0, :2].tolist() == [0, 0]


def test_statistics_do_not_depend_on_the_batch() -> None:
    candidates, references, drawn = figure(0.0, None)
    prepared = References.of(references)
    whole = statistics(candidates, prepared, drawn)
    rows = [statistics(candidates[i : i + 1], prepared, drawn[i : i + 1]) for i in range(50)]
    torch.testing.assert_close(torch.cat(rows), whole, rtol=0, atol=1e-5)


def test_drawn_references_are_distinct_and_belong_to_seed_and_index() -> None:
    drawn = draw_references(30, 10, 1, range(200))
    assert all(len(set(row)) == 10 for row in drawn.tolist())
    assert torch.equal(draw_references(30, 10, 1, [150, 7]), drawn[[150, 7]])
    assert not torch.equal(draw_references(30, 10, 2, range(200)), drawn)
    # Each reference is drawn 200 * 10 / 30 = 67 times on average, with a binomial sd of 6.7.
    counts = drawn.flatten().bincount(minlength=30)
    assert int(counts.min()) > 37
    assert int(counts.max()) < 97


def test_leave_one_out_never_uses_the_reference_itself() -> None:
    """With k = N - 1 each row must be the statistics against exactly all others."""
    references = normal(6, 8, (1, 4, 4))
    own = leave_one_out(References.of(references), k=5, seed=0, repeats=2)
    others = torch.tensor([[j for j in range(6) if j != i] for i in range(6)])
    exact = brute_force(references, references, others)
    assert own.shape == (12, 3)
    torch.testing.assert_close(own, exact.repeat_interleave(2, dim=0), rtol=1e-5, atol=1e-5)


def test_repeats_of_leave_one_out_are_different_draws() -> None:
    """Each from its own stream, so that more repeats add draws and change none; another seed draws others."""
    references = References.of(normal(12, 8, (1, 4, 4)))
    own = leave_one_out(references, 4, 3, repeats=6).reshape(12, 6, 3)
    assert all(len({float(value) for value in row[:, 0]}) == 6 for row in own)
    assert torch.equal(leave_one_out(references, 4, 3, repeats=2).reshape(12, 2, 3), own[:, :2])
    other = leave_one_out(references, 4, 4, repeats=6).reshape(12, 6, 3)
    assert not (other == own).all(2).any()


def test_references_are_drawn_by_seed_and_index() -> None:
    drawn = draw_references(50, 5, 3, range(9))
    assert torch.equal(draw_references(50, 5, 3, [7, 2]), drawn[[7, 2]])
    assert len({tuple(row) for row in drawn.tolist()}) == 9
    assert not (draw_references(50, 5, 4, range(9)) == drawn).all(1).any()


def test_leave_one_out_shows_what_a_fresh_latent_would() -> None:
    """Its mean over Gaussian references agrees with that of new draws, within their sampling error."""
    references = References.of(normal(200, 9))
    own = leave_one_out(references, 10, 0, repeats=4)
    fresh = statistics(normal(2000, 10), references, draw_references(200, 10, 0, range(2000)))
    assert bool(((own.mean(0) - fresh.mean(0)).abs() < 4 * fresh.std(0) / math.sqrt(200)).all())
    assert torch.allclose(own.std(0), fresh.std(0), rtol=0.2)


def test_summary_of_a_known_gaussian() -> None:
    """residual_sd is the spread around the mean vector, not including it; radius and mean norm as in theory."""
    mean = torch.full(SHAPE, 0.5)
    summary = summarise(mean + 0.3 * normal(400, 11), seed=0)
    assert summary["residual_sd"].mean == pytest.approx(0.3, rel=0.01)
    assert summary["mean_norm"].mean == pytest.approx(math.sqrt(D * (0.25 + 0.09 / 400)), rel=0.01)
    assert summary["radius"].mean == pytest.approx(math.sqrt(D * (0.25 + 0.09)), rel=0.01)
    assert summary["pair_distance"].mean == pytest.approx(0.3 * math.sqrt(2 * D), rel=0.01)
    assert summary["pair_angle"].mean == pytest.approx(60, abs=0.3)
    assert summary["origin_angle"].mean == pytest.approx(math.degrees(math.acos(0.25 / 0.34)), abs=0.3)
    assert set(summary) == {*CRITERIA, "radius", "residual_sd", "mean_norm"}


def test_a_handful_of_latents_has_a_summary_too() -> None:
    """Fewer than k + 1 references: as many as there are."""
    assert all(math.isfinite(value.mean) for value in summarise(normal(3, 12), seed=0).values())


@pytest.mark.parametrize(
    ("shape", "count", "low", "high"), [((3, 32, 32), 6000, 0.018, 0.032), ((3, 64, 64), 2000, 0.075, 0.125)]
)
def test_acceptance_of_the_released_tolerances(
    shape: tuple[int, int, int], count: int, low: float, high: float
) -> None:
    """0.3, 0.1 and 0.1 degrees around theory accept 2.5% of perfect draws at d = 3072, 10% at 12288."""
    d = math.prod(shape)
    references = References.of(normal(300, 13, shape))
    tolerances = AbsoluteTolerances(
        tolerance={"pair_distance": 0.3, "pair_angle": 0.1, "origin_angle": 0.1},
        target={"pair_distance": math.sqrt(2 * d), "pair_angle": 60.0, "origin_angle": 90.0},
    )
    bands = tolerances.bands(references, seed=0)
    accepted, chunk = 0, 500
    for start in range(0, count, chunk):
        drawn = draw_references(300, 10, 0, range(start, start + chunk))
        measured = statistics(normal(chunk, 1000 + start, shape), references, drawn)
        inside = [
            (measured[:, i] >= bands[name].low) & (measured[:, i] <= bands[name].high)
            for i, name in enumerate(CRITERIA)
        ]
        accepted += int(torch.stack(inside).all(0).sum())
    assert low < accepted / count < high


def test_too_few_references_are_refused() -> None:
    references = References.of(normal(5, 14))
    with pytest.raises(InputError, match=r"tolerances\.k=6: with 5 references give a number between 2 and 5"):
        draw_references(5, 6, 0, [0])
    with pytest.raises(InputError, match=r"tolerances\.k=1: "):
        draw_references(5, 1, 0, [0])
    with pytest.raises(InputError, match=r"leave-one-out needs k \+ 1 references, but there are 5"):
        leave_one_out(references, 5, 0, 1)


def test_sampled_products_are_silent_and_those_of_the_whole_matrix(recwarn: pytest.WarningsRecorder) -> None:
    """In float64, unsorted draws included; without torch's line on CSR tensors, which it would say here each time."""
    rows, points = normal(7, 0).double().flatten(1), normal(9, 1).double().flatten(1)
    drawn = draw_references(9, 4, 0, range(7))
    torch.set_warn_always(True)
    try:
        found = sampled_products(rows, points, drawn)
    finally:
        torch.set_warn_always(False)
    assert not recwarn.list
    torch.testing.assert_close(found, (rows @ points.T).gather(1, drawn))
