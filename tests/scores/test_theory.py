"""docs/theory.md: every numbered formula against the Gaussian oracle, the solvers, or random draws."""

import math
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from support import ROOT
from unseen_diffusion.models import GaussianModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.schedules import CLEAN_NODE, Node, Schedule
from unseen_diffusion.scores.latents import theory
from unseen_diffusion.scores.latents.theory import (
    Moments,
    centre_margin,
    ddim_multiplier,
    ddim_share,
    distance_margin,
    flow_multiplier,
    kl_divergence,
    latent_moments,
    separation,
)
from unseen_diffusion.solvers.grids import GRIDS, make_grid
from unseen_diffusion.solvers.sampling import invert, trajectory
from unseen_diffusion.utils.errors import InputError

SCHEDULE = linear_schedule()
SHAPE, D = (3, 2, 2), 12
PAGE = ROOT / "docs" / "theory.md"


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VARIANCES = torch.logspace(-3, 0.6, D, dtype=torch.float64)
BASIS = torch.linalg.qr(normal(D, D, seed=0)).Q
MEAN = normal(*SHAPE, seed=1)
MODEL = GaussianModel(MEAN, BASIS, VARIANCES, SCHEDULE)
OFFSET = normal(D, seed=2)
FACTOR = normal(D, D, seed=3) / 3
UNSEEN = FACTOR @ FACTOR.T + 0.05 * torch.eye(D, dtype=torch.float64)  # covariance S' in the eigenbasis
OWN = torch.diag(VARIANCES)
ZERO = torch.zeros(D, dtype=torch.float64)
CLEAN_OWN, CLEAN_UNSEEN = Moments(ZERO, OWN), Moments(OFFSET, UNSEEN)


def level(node: Node) -> float:
    return node.sigma / node.alpha


def images(coordinates: Tensor) -> Tensor:
    """Clean images m + V y for rows y."""
    return MEAN + (coordinates @ BASIS.T).reshape(-1, *SHAPE)


def along(x: Tensor, node: Node) -> Tensor:
    """Coordinates of x - alpha m in the eigenbasis."""
    return (x - node.alpha * MEAN).flatten(1) @ BASIS


def through_ddim(coordinates: Tensor, nodes: tuple[Node, ...]) -> Tensor:
    """Where the package's own DDIM sends rows of coordinates about alpha m, in float64."""
    x = nodes[0].alpha * MEAN + (coordinates @ BASIS.T).reshape(-1, *SHAPE)
    for _, state in trajectory(MODEL, x, nodes, "ddim"):
        x = state
    return along(x, nodes[-1])


def pushed(mapped: Tensor, origin: Tensor, domain: Moments) -> Moments:
    """Moments of a domain under the affine map that sends e_i to row i of ``mapped`` and 0 to ``origin``."""
    linear = (mapped - origin).T
    return Moments(origin + linear @ domain.mean, linear @ domain.covariance @ linear.T)


def test_every_formula_is_numbered_once_and_tested_here() -> None:
    """Tags 1 to 20, and each one named in a docstring of this file."""
    tags = re.findall(r"\\tag\{(\d+)\}", PAGE.read_text(encoding="utf-8"))
    assert sorted(map(int, tags)) == list(range(1, 21))
    named = set(re.findall(r"\((\d+)\)", Path(__file__).read_text(encoding="utf-8")))
    assert set(tags) <= named


def test_noise_prediction_and_flow() -> None:
    """Formulas (1) and (2): eps in matrix form; Runge-Kutta on the oracle's eps alone gives the square roots."""
    low, high = SCHEDULE.node(20.0), SCHEDULE.node(600.0)
    covariance = BASIS @ OWN @ BASIS.T
    y = normal(4, D, seed=4)

    def slope(bar: Tensor, v: float) -> Tensor:
        """The oracle's eps at x-bar = m + V y, by rows of y."""
        node = SCHEDULE.node_at_noise(v)
        state = node.alpha * (MEAN + (bar @ BASIS.T).reshape(-1, *SHAPE))
        return MODEL.predict(state, node).eps.flatten(1) @ BASIS

    v = level(low)
    expected = y @ BASIS.T @ (v * torch.linalg.inv(covariance + v**2 * torch.eye(D, dtype=torch.float64)))
    torch.testing.assert_close(slope(y, v) @ BASIS.T, expected, rtol=1e-8, atol=1e-8)
    steps = torch.logspace(math.log10(v), math.log10(level(high)), 200, dtype=torch.float64).tolist()
    moved = y
    for here, there in pairwise(steps):
        h = there - here
        k1 = slope(moved, here)
        k2 = slope(moved + h / 2 * k1, here + h / 2)
        k3 = slope(moved + h / 2 * k2, here + h / 2)
        moved = moved + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(moved + h * k3, there))
    ratio = ((VARIANCES + level(high) ** 2) / (VARIANCES + v**2)).sqrt()
    torch.testing.assert_close(moved, y * ratio, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("t", [0.0, 250.5, 999.0])
def test_exact_latents(t: float) -> None:
    """Formulas (3) and (4): against the oracle's flow map, applied to the clean domain as an affine map."""
    node = SCHEDULE.node(t)
    eye = torch.eye(D, dtype=torch.float64)
    mapped = along(MODEL.flow(images(eye), CLEAN_NODE, node), node)
    origin = along(MODEL.flow(images(ZERO[None]), CLEAN_NODE, node), node)[0]
    multiplier = flow_multiplier(VARIANCES, node)
    torch.testing.assert_close(mapped - origin, torch.diag(multiplier), rtol=1e-10, atol=1e-10)
    expected, got = pushed(mapped, origin, CLEAN_UNSEEN), latent_moments(multiplier, OFFSET, UNSEEN)
    torch.testing.assert_close(got.mean, expected.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.covariance, expected.covariance, rtol=1e-10, atol=1e-9)
    own = latent_moments(multiplier, ZERO, OWN)
    levels = torch.diag(node.alpha**2 * VARIANCES + node.sigma**2)
    torch.testing.assert_close(own.covariance, levels, rtol=1e-12, atol=1e-12)


def test_no_solver_changes_what_can_be_known() -> None:
    """Formula (5): KL of the latents is KL of the images for the flow at every t and for DDIM, both ways round.

    So is the law of the likelihood ratio; and whitened latents are whitened images.
    """
    clean = (kl_divergence(CLEAN_UNSEEN, CLEAN_OWN), kl_divergence(CLEAN_OWN, CLEAN_UNSEEN))
    grid = make_grid(SCHEDULE, "karras", 5, 700.0)
    node = SCHEDULE.node(500.0)
    multipliers = [flow_multiplier(VARIANCES, SCHEDULE.node(t)) for t in (0.0, 100.0, 500.0, 999.0)]
    for multiplier in [*multipliers, ddim_multiplier(VARIANCES, grid.up)]:
        own, unseen = latent_moments(multiplier, ZERO, OWN), latent_moments(multiplier, OFFSET, UNSEEN)
        assert kl_divergence(unseen, own) == pytest.approx(clean[0], rel=1e-9)
        assert kl_divergence(own, unseen) == pytest.approx(clean[1], rel=1e-9)
    y = normal(3, D, seed=5)
    latents = along(MODEL.flow(images(y), CLEAN_NODE, node), node)
    whitened = latents / (node.alpha**2 * VARIANCES + node.sigma**2).sqrt()
    torch.testing.assert_close(whitened, y / VARIANCES.sqrt(), rtol=1e-10, atol=1e-10)


def test_kl_divergence_against_torch() -> None:
    law = torch.distributions.MultivariateNormal
    first, second = law(OFFSET, UNSEEN), law(ZERO, OWN)
    expected = float(torch.distributions.kl_divergence(first, second))
    assert kl_divergence(CLEAN_UNSEEN, CLEAN_OWN) == pytest.approx(expected)
    assert kl_divergence(CLEAN_OWN, CLEAN_OWN) == pytest.approx(0, abs=1e-12)


def test_pure_noise_is_mahalanobis_geometry() -> None:
    """Formula (6): with alpha = 0 at the top, own latents are N(0, I) and unseen ones S^(-1/2) times the images."""
    top = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64)).node(49.0)
    assert (top.alpha, top.sigma) == (0, 1)
    multiplier = flow_multiplier(VARIANCES, top)
    own, unseen = latent_moments(multiplier, ZERO, OWN), latent_moments(multiplier, OFFSET, UNSEEN)
    torch.testing.assert_close(own.covariance, torch.eye(D, dtype=torch.float64))
    mahalanobis = math.sqrt(float(OFFSET @ torch.linalg.solve(OWN, OFFSET)))
    assert separation(own, unseen).distance == pytest.approx(mahalanobis)
    white = torch.diag(VARIANCES.rsqrt())
    torch.testing.assert_close(unseen.covariance, white @ UNSEEN @ white)


def excess(multiplier: Tensor) -> float:
    """Sum of multiplier^2 (e - s^2), e = S'_ii + delta^2."""
    return float((multiplier.square() * (UNSEEN.diagonal() + OFFSET.square() - VARIANCES)).sum())


def test_the_excess_of_the_radius() -> None:
    """Formulas (7) and (16): energy by energy; ``shell`` is the excess over the sd of a squared radius, by draws."""
    multiplier = flow_multiplier(VARIANCES, SCHEDULE.node(300.0))
    own, unseen = latent_moments(multiplier, ZERO, OWN), latent_moments(multiplier, OFFSET, UNSEEN)
    radii = []
    for moments, seed in ((own, 6), (unseen, 7)):
        z = normal(40_000, D, seed=seed) @ torch.linalg.cholesky(moments.covariance).T + moments.mean
        radii.append(z.square().sum(1))
    error = math.sqrt(float(radii[0].var() + radii[1].var()) / 40_000)
    assert abs(float(radii[1].mean() - radii[0].mean()) - excess(multiplier)) < 4 * error
    shell = separation(own, unseen).shell
    assert shell == pytest.approx(excess(multiplier) / float(radii[0].std()), rel=0.03)


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("upwards", [True, False])
def test_ddim_multiplier_is_the_solvers(kind: str, upwards: bool) -> None:
    """Formula (8): ``trajectory`` in float64 to 1e-10; ``invert``, which returns float32, to its rounding."""
    grid = make_grid(SCHEDULE, kind, 17, 650.0)
    nodes = grid.up if upwards else grid.down
    y = normal(5, D, seed=8)
    multiplier = ddim_multiplier(VARIANCES, nodes)
    torch.testing.assert_close(through_ddim(y, nodes), multiplier * y, rtol=1e-10, atol=1e-10)
    if upwards and kind != "paper":
        latents = invert(MODEL, images(y), grid, [650.0])[650.0]
        torch.testing.assert_close(along(latents.double(), nodes[-1]), multiplier * y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", GRIDS)
def test_ddim_keeps_a_product_of_cosines(kind: str) -> None:
    """Formula (9): DDIM over the exact flow, upwards and downwards, to 1e-12; never above 1."""
    grid = make_grid(SCHEDULE, kind, 13, 800.0)
    for nodes in (grid.up, tuple(reversed(grid.up))):
        flow = flow_multiplier(VARIANCES, nodes[-1]) / flow_multiplier(VARIANCES, nodes[0])
        share = ddim_share(VARIANCES, nodes)
        torch.testing.assert_close(ddim_multiplier(VARIANCES, nodes) / flow, share, rtol=1e-12, atol=1e-12)
        assert bool(((share > 0) & (share < 1)).all())
    torch.testing.assert_close(share, ddim_share(VARIANCES, grid.up), rtol=1e-12, atol=1e-12)


def test_the_first_step_from_the_clean_image_is_a_floor() -> None:
    """Its cosine is s / sqrt(s^2 + v_1^2), however many steps follow; with the steps, only the rest tends to 1."""
    shares = []
    for steps in (50, 200, 800):
        grid = make_grid(SCHEDULE, "karras", steps, 500.0)
        v = level(grid.up[1])
        floor = (VARIANCES / (VARIANCES + v**2)).sqrt()
        torch.testing.assert_close(ddim_share(VARIANCES, grid.up[:2]), floor, rtol=1e-12, atol=1e-12)
        assert bool((ddim_share(VARIANCES, grid.up) < floor).all())
        shares.append(float(ddim_share(VARIANCES, grid.up)[0] / floor[0]))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1, abs=0.01)


def test_equal_angles_are_the_best_grid() -> None:
    """Formula (10): attained by equal angles, not exceeded by 200 random grids, and 1 - Phi^2 / 2N to second order."""
    sd, top = 0.3, 5.0
    total = math.atan(top / sd)
    variance = torch.tensor([sd**2], dtype=torch.float64)

    def share(levels: list[float]) -> float:
        nodes = [Node(float(i), 1 / math.hypot(1, v), v / math.hypot(1, v)) for i, v in enumerate(levels)]
        return float(ddim_share(variance, nodes)[0])

    for steps in (2, 7, 50):
        best = math.cos(total / steps) ** steps
        equal = [sd * math.tan(total * i / steps) for i in range(steps + 1)]
        assert share(equal) == pytest.approx(best, rel=1e-12)
        for seed in range(67):
            cuts = torch.rand(steps - 1, generator=torch.Generator().manual_seed(seed)).sort().values * top
            assert share([0.0, *cuts.tolist(), top]) <= best
    errors = [abs(math.cos(total / n) ** n - 1 + total**2 / (2 * n)) for n in (100, 200)]
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize(("n", "m"), [(1, 1), (6, 3)])
def test_margins(n: int, m: int) -> None:
    """Formulas (13) and (14): mean and variance over 30000 drawn constellations, within 4 standard errors."""
    draws = 30_000
    first, second = CLEAN_UNSEEN, CLEAN_OWN
    root_a, root_b = torch.linalg.cholesky(first.covariance), torch.linalg.cholesky(second.covariance)
    x = first.mean + normal(draws, 1, D, seed=10) @ root_a.T
    own = first.mean + normal(draws, n, D, seed=11) @ root_a.T
    other = second.mean + normal(draws, m, D, seed=12) @ root_b.T
    pair = (x - other).square().sum(2).mean(1) - (x - own).square().sum(2).mean(1)
    noise = float(second.covariance.trace()) / m - float(first.covariance.trace()) / n
    centre = (x[:, 0] - other.mean(1)).square().sum(1) - (x[:, 0] - own.mean(1)).square().sum(1) - noise
    for sample, margin in (
        (pair, distance_margin(first, second, n, m)),
        (centre, centre_margin(first, second, n, m)),
    ):
        assert abs(float(sample.mean()) - margin.mean) < 4 * margin.sd / math.sqrt(draws)
        squares = (sample - sample.mean()).square()
        assert abs(float(squares.mean()) - margin.sd**2) < 4 * float(squares.std()) / math.sqrt(draws)


def spheres(d: int, kappa: float) -> tuple[Moments, Moments]:
    """Two unit spheres whose centres are kappa d^(1/4) apart."""
    apart = torch.zeros(d, dtype=torch.float64)
    apart[0] = kappa * d**0.25
    eye = torch.eye(d, dtype=torch.float64)
    return Moments(torch.zeros_like(apart), eye), Moments(apart, eye)


def test_the_condition_of_the_fourth_root() -> None:
    """Formula (15): both thresholds of spheres, their error against draws, and the constants of the corollary."""
    first, second = spheres(1000, 1.5)
    found = separation(first, second)
    assert found.threshold == pytest.approx(1000**0.25)
    assert found.effective_threshold == pytest.approx(found.threshold)
    assert found.distance == pytest.approx(1.5 * found.threshold)
    uneven = separation(CLEAN_OWN, CLEAN_UNSEEN)
    assert uneven.effective_threshold > uneven.threshold
    x, own, other = (normal(4000, 1000, seed=seed) for seed in (20, 21, 22))
    wrong = (x - own).square().sum(1) >= (x - other - second.mean).square().sum(1)
    error = distance_margin(first, second, 1, 1).error
    assert abs(float(wrong.double().mean()) - error) < 4 * math.sqrt(error * (1 - error) / 4000) + 0.005

    def limit(kappa: float, d: float, n: int) -> float:
        """Spheres by the corollary's variance, for a d too great for a matrix."""
        mean = kappa**2 * math.sqrt(d)
        return theory.Margin(mean, math.sqrt(4 * mean * (1 + 1 / n) + 12 * d / n)).error

    margin = distance_margin(first, second, 5, 5)
    assert limit(1.5, 1000, 5) == pytest.approx(margin.error, rel=1e-12)
    assert limit(1.0, 1e16, 1) == pytest.approx(0.386, abs=1e-3)
    assert limit(2.84, 1e16, 1) == pytest.approx(0.010, abs=1e-3)
    assert limit(0.5, 1e16, 4) == pytest.approx(theory.Margin(0.25, math.sqrt(12 / 4)).error, rel=1e-3)
    # With n far above sqrt(d) the centres are as good as known: Phi(-Delta / 2).
    assert limit(0.5, 1e4, 10**9) == pytest.approx(theory.Margin(0.5 * 10, 2).error, rel=1e-3)


def test_when_a_later_step_separates_better() -> None:
    """Formula (17): the sign of the slope of R, by differences, in every direction and at five noise levels."""

    def ratio(v: float, i: int) -> float:
        node = Node(0.0, 1 / math.hypot(1, v), v / math.hypot(1, v))
        multiplier = flow_multiplier(VARIANCES, node)
        offset = torch.zeros(D, dtype=torch.float64)
        offset[i] = 0.7
        own, unseen = latent_moments(multiplier, ZERO, OWN), latent_moments(multiplier, offset, OWN)
        found = separation(own, unseen)
        return (found.distance / found.effective_threshold) ** 2

    signs = set()
    for v in (0.05, 0.2, 0.7, 2.0, 8.0):
        total = VARIANCES + v**2
        mean = float(total.square().sum() / total.sum())
        for i in range(D):
            rises = ratio(v * 1.001, i) > ratio(v, i)
            assert rises == (float(total[i]) < mean)
            signs.add(rises)
        assert ratio(v * 1.001, 0) > ratio(v, 0)  # the least variance
        assert ratio(v * 1.001, D - 1) < ratio(v, D - 1)  # the greatest
    assert signs == {True, False}
    assert ratio(1e-9, 3) == pytest.approx(0.49 / math.sqrt(float(VARIANCES.square().sum())))
    assert ratio(1e9, 3) == pytest.approx(0.49 / float(VARIANCES[3]) / math.sqrt(D))


@pytest.mark.parametrize("kind", ["uniform_t", "karras"])
def test_the_solvers_term(kind: str) -> None:
    """Formula (11): moments of latents through the package's DDIM, minus the exact ones; it falls as 1 / N."""
    node, eye = SCHEDULE.node(500.0), torch.eye(D, dtype=torch.float64)
    exact = flow_multiplier(VARIANCES, node)
    terms = []
    for steps in (10, 200, 400):
        grid = make_grid(SCHEDULE, kind, steps, 500.0)
        mapped, origin = through_ddim(eye, grid.up), through_ddim(ZERO[None], grid.up)[0]
        own, unseen = pushed(mapped, origin, CLEAN_OWN), pushed(mapped, origin, CLEAN_UNSEEN)
        lost = 1 - ddim_share(VARIANCES, grid.up).square()
        centres = float((unseen.mean - own.mean).square().sum() - (exact * OFFSET).square().sum())
        assert centres == pytest.approx(-float((lost * (exact * OFFSET).square()).sum()), rel=1e-9)
        assert centres < 0
        radius = float((unseen.mean - own.mean).square().sum() + unseen.covariance.trace() - own.covariance.trace())
        energies = UNSEEN.diagonal() + OFFSET.square() - VARIANCES
        term = -float((lost * exact.square() * energies).sum())
        assert radius - excess(exact) == pytest.approx(term, rel=1e-7)
        # Without the first step, whose cosine is a floor, the rest falls with the steps.
        rest = 1 - ddim_share(VARIANCES, grid.up[1:])[-3:]
        terms.append(float(rest.max()))
    assert terms[0] > terms[1] > terms[2]
    if kind == "karras":
        assert 1.8 < terms[1] / terms[2] < 2.2


def test_two_inversions_make_false_separation() -> None:
    """Formula (12): one domain, inverted to t = 500 and sampled down to it, has two covariances; and two centres."""
    up = make_grid(SCHEDULE, "karras", 8, 500.0).up
    down = make_grid(SCHEDULE, "karras", 16, 999.0, (500.0,)).down
    down = down[: [node.t for node in down].index(500.0) + 1]
    eye = torch.eye(D, dtype=torch.float64)
    inverted = pushed(through_ddim(eye, up), through_ddim(ZERO[None], up)[0], CLEAN_OWN)
    # Noise N(0, I) has the mean -alpha m about alpha m.
    top = -down[0].alpha * MEAN.flatten() @ BASIS
    sampled = pushed(through_ddim(eye, down), through_ddim(ZERO[None], down)[0], Moments(top, eye))
    here = up[-1].alpha ** 2 * VARIANCES + up[-1].sigma ** 2
    start = down[0].alpha ** 2 * VARIANCES + down[0].sigma ** 2
    expected = ddim_share(VARIANCES, up).square() * here, ddim_share(VARIANCES, down).square() * here / start
    torch.testing.assert_close(inverted.covariance, torch.diag(expected[0]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sampled.covariance, torch.diag(expected[1]), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(sampled.mean, ddim_multiplier(VARIANCES, down) * top, rtol=1e-9, atol=1e-9)
    assert kl_divergence(inverted, sampled) > 0.01
    # The control, both inverted alike, has none.
    assert kl_divergence(inverted, inverted) == pytest.approx(0, abs=1e-12)


def test_what_the_criteria_see() -> None:
    """Formulas (18) to (20), (19) and (20) by ``variance``: moments over 60000 draws."""
    draws = 60_000
    a, b = normal(D, seed=30) / 2, normal(D, seed=31) / 2
    c = a + normal(draws, D, seed=32) @ torch.linalg.cholesky(UNSEEN).T
    z, other = (b + normal(draws, D, seed=seed) * VARIANCES.sqrt() for seed in (33, 34))
    squared = (c - z).square().sum(1)
    apart, traces = float((a - b).square().sum()), (float(UNSEEN.trace()), float(VARIANCES.sum()))
    for sample, mean in (
        (squared, apart + sum(traces)),
        (((z - c) * (other - c)).sum(1), apart + traces[0]),
        ((c * z).sum(1), float(a @ b)),
    ):
        assert abs(float(sample.mean()) - mean) < 4 * float(sample.std()) / math.sqrt(draws)

    def variance(candidates: Tensor, shift: Tensor) -> float:
        both = candidates + OWN
        return 2 * float(both.square().sum()) + 4 * float(shift @ both @ shift)

    squares = (squared - squared.mean()).square()
    assert abs(float(squares.mean()) - variance(UNSEEN, a - b)) < 4 * float(squares.std()) / math.sqrt(draws)
    isotropic = torch.eye(D, dtype=torch.float64) * traces[1] / D
    ratio = variance(isotropic, ZERO) / variance(OWN, ZERO)
    assert ratio == pytest.approx(0.25 + 0.75 * traces[1] ** 2 / (D * float(VARIANCES.square().sum())))
    assert 0.25 < ratio < 1


def test_a_domain_without_spread_is_refused() -> None:
    flat = torch.tensor([1.0, 0.0], dtype=torch.float64)
    grid = make_grid(SCHEDULE, "karras", 4, 500.0)
    with pytest.raises(InputError, match=r"give numbers above 0"):
        flow_multiplier(flat, SCHEDULE.node(10.0))
    with pytest.raises(InputError, match=r"give numbers above 0"):
        ddim_multiplier(flat, grid.up)
    with pytest.raises(InputError, match=r"give numbers above 0"):
        ddim_share(flat, grid.up)


def test_a_margin_without_noise_decides_by_its_sign() -> None:
    assert theory.Margin(1.0, 0.0).error == 0
    assert theory.Margin(0.0, 0.0).error == 1
