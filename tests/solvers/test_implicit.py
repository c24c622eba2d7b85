"""The implicit inverse of DDIM: exact round trips, honest residuals, and where the plain iteration fails."""

import logging
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from support.options import option
from unseen_diffusion.models import GaussianModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.base import DiffusionModel, ModelSpec, Prediction
from unseen_diffusion.models.schedules import CLEAN_NODE, Node, Schedule
from unseen_diffusion.solvers.base import to_node
from unseen_diffusion.solvers.fixed_point import ACCELERATIONS, FixedPoint, solve
from unseen_diffusion.solvers.methods.ddim import Ddim
from unseen_diffusion.solvers.methods.ddim_implicit import ImplicitDdim
from unseen_diffusion.solvers.sampling import denoise, invert

SCHEDULE = linear_schedule()
SHAPE = (1, 4, 4)


class TwoPoints(DiffusionModel):
    """Exact predictions for data at +m and -m: the posterior jumps at the plane between them."""

    def __init__(self, norm: float) -> None:
        super().__init__()
        self.name, self.fingerprint, self.device = "two points", "two points", torch.device("cpu")
        self.spec = ModelSpec(1, 4, SCHEDULE)
        self.mean = torch.full(SHAPE, norm / 4, dtype=torch.float64)

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        mean = self.mean.to(x.dtype)
        logit = (x * mean).flatten(1).sum(1) * node.alpha / node.sigma**2
        denoised = torch.tanh(logit)[:, None, None, None] * mean
        return Prediction(denoised, (x - node.alpha * denoised) / node.sigma)


def gaussian() -> GaussianModel:
    variances = torch.logspace(-2, 0.6, 16, dtype=torch.float64)
    return GaussianModel(torch.zeros(SHAPE, dtype=torch.float64), None, variances, SCHEDULE)


def normal(count: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, *SHAPE, dtype=torch.float64, generator=rng)


@pytest.mark.parametrize("acceleration", ACCELERATIONS)
def test_linear_fixed_points_are_solved_to_tolerance(acceleration: str) -> None:
    """r(y) = b - A y, eigenvalues of A in (0, 1.5): every method converges to A^-1 b, Anderson soonest."""
    spectrum = torch.linspace(0.3, 1.5, 16, dtype=torch.float64).reshape(SHAPE)
    b, spent = normal(3), [0]

    def residual(y: Tensor, rows: Tensor) -> Tensor:
        spent[0] += 1
        return b[rows] - spectrum * y

    found = solve(FixedPoint(200, 1e-8, acceleration), residual, torch.zeros_like(b))
    torch.testing.assert_close(found.y, b / spectrum, rtol=1e-6, atol=1e-6)
    assert bool((found.residual <= 1e-8).all())
    assert spent[0] < (25 if acceleration == "anderson" else 80)


@pytest.mark.parametrize("acceleration", ["anderson", "damped"])
def test_a_steep_fixed_point_needs_damping(acceleration: str) -> None:
    """Eigenvalues up to 8: y + r multiplies errors by up to -7; the plain residual grows, the others' falls."""
    spectrum = torch.linspace(0.5, 8, 16, dtype=torch.float64).reshape(SHAPE)
    b = normal(2)

    def residual(y: Tensor, rows: Tensor) -> Tensor:
        return b[rows] - spectrum * y

    start = torch.zeros_like(b) + 1.0
    plain = solve(FixedPoint(20, 1e-8, "plain"), residual, start)
    assert bool((plain.residual > plain.first).all())
    found = solve(FixedPoint(400, 1e-8, acceleration), residual, start)
    torch.testing.assert_close(found.y, b / spectrum, rtol=1e-6, atol=1e-6)


def test_converged_images_are_not_evaluated_again() -> None:
    """Image 0 starts at its solution: one evaluation; image 1 takes more."""
    b, seen = normal(2), torch.zeros(2, dtype=torch.int64)

    def residual(y: Tensor, rows: Tensor) -> Tensor:
        seen[rows] += 1
        return 0.5 * (b[rows] - y)

    start = b.clone()
    start[1] += 1
    found = solve(FixedPoint(100, 1e-6, "plain"), residual, start)
    assert seen[0] == 1
    assert 10 < seen[1] < 30
    torch.testing.assert_close(found.y, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("acceleration", ACCELERATIONS)
def test_round_trip_is_exact_to_the_tolerance(acceleration: str) -> None:
    """Up implicitly, down by DDIM: the image comes back, the clean end included, in float32 as well."""
    model, images = gaussian(), normal(3).float() * 0.3
    settings = option("solver", "ddim_implicit", steps=480, iterations=40, tolerance=1e-6, acceleration=acceleration)
    grid, residuals = settings.make_grid(SCHEDULE, 500.0), []
    latents = invert(model, images, grid, [500.0], settings, residuals=residuals)[500.0]
    back = denoise(model, latents, grid, 0.0, 0, solver=settings)
    assert len(residuals) == 1
    assert residuals[0] <= 1e-6
    assert float((back - images).abs().max()) < 1e-4


def test_more_iterations_close_the_round_trip() -> None:
    """The residual is a measure of it: both fall with the evaluations allowed."""
    model, images = gaussian(), normal(3)
    nodes = option("solver", "ddim_implicit", steps=32).make_grid(SCHEDULE, 500.0).up
    gaps, residuals = [], []
    for iterations in (1, 2, 4, 8):
        stepper, x = ImplicitDdim(FixedPoint(iterations, 1e-12)), images
        for here, there in pairwise(nodes):
            x = stepper(model, x, here, there)
        for here, there in pairwise(reversed(nodes)):
            x = Ddim()(model, x, here, there)
        gaps.append(float((x - images).abs().max()))
        residuals.append(stepper.residual)
    assert all(b < 0.5 * a for a, b in pairwise(gaps))
    assert all(b < a for a, b in pairwise(residuals))


@pytest.mark.parametrize("acceleration", ["anderson", "damped"])
def test_a_sharp_posterior_defeats_the_plain_iteration_only(acceleration: str) -> None:
    """th (|m|^2 / v^2 - 1) = 0.5 (16 / 0.64 - 1) = 12 > 1 on the plane between two points."""
    model = TwoPoints(4.0)
    here, there = SCHEDULE.node_at_noise(0.4), SCHEDULE.node_at_noise(0.8)
    wanted = there.sigma * normal(2)
    wanted -= (wanted * model.mean).flatten(1).sum(1)[:, None, None, None] * model.mean / 16  # onto the plane
    wanted += 0.002 * model.mean
    x = to_node(model.predict(wanted, there), here)
    plain = ImplicitDdim(FixedPoint(100, 1e-9, "plain"))
    plain(model, x, here, there)
    assert plain.residual > 0.1
    stepper = ImplicitDdim(FixedPoint(400, 1e-9, acceleration))
    torch.testing.assert_close(stepper(model, x, here, there), wanted, rtol=1e-6, atol=1e-6)
    assert stepper.residual <= 1e-9
    assert stepper.diverged == 0


def test_divergence_is_counted_and_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Images near the plane between two points; the residuals of both batches are handed on."""
    model, residuals = TwoPoints(8.0), []
    settings = option("solver", "ddim_implicit", steps=60, iterations=20, acceleration="plain")
    images = 0.01 * normal(3).float()
    with caplog.at_level(logging.WARNING):
        grid = settings.make_grid(SCHEDULE, 500.0)
        invert(model, images, grid, [500.0], settings, batch_size=2, residuals=residuals)
    assert len(residuals) == 2
    assert "did not converge" in caplog.text
    assert caplog.text.count("WARNING") == 1


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_iterations_bound_the_cost(iterations: int) -> None:
    """Fixed points that never reach the tolerance: ``steps`` NFE upwards, ``steps / iterations`` downwards."""
    model, images = gaussian(), normal(2).float()
    settings = option("solver", "ddim_implicit", steps=24, iterations=iterations, tolerance=1e-30)
    grid = settings.make_grid(SCHEDULE, 500.0)
    latents = invert(model, images, grid, [500.0], settings)[500.0]
    assert model.evaluations == len(images) * 24
    denoise(model, latents, grid, 0.0, 0, solver=settings)
    assert model.evaluations == len(images) * (24 + 24 // iterations)


@pytest.mark.parametrize("acceleration", ACCELERATIONS)
@pytest.mark.parametrize("iterations", [1, 8])
def test_images_that_are_done_at_once_have_not_diverged(
    iterations: int, acceleration: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first residual is below the tolerance, so none falls below it; nothing is warned of."""
    settings = option(
        "solver",
        "ddim_implicit",
        steps=16 * iterations,
        iterations=iterations,
        tolerance=0.5,
        acceleration=acceleration,
    )
    model, residuals = gaussian(), list[float]()
    with caplog.at_level(logging.WARNING):
        invert(model, normal(3).float(), settings.make_grid(SCHEDULE, 300.0), [300.0], settings, residuals=residuals)
    assert 0 < residuals[0] <= 0.5
    assert model.evaluations == 3 * 16
    assert not caplog.records


def test_the_batch_does_not_matter() -> None:
    """Rows are solved on their own: one at a time or together, to rounding."""
    model, images = gaussian(), normal(4)
    nodes = option("solver", "ddim_implicit", steps=32).make_grid(SCHEDULE, 500.0).up

    def lift(x: Tensor) -> Tensor:
        stepper = ImplicitDdim(FixedPoint(5, 1e-4))
        for here, there in pairwise(nodes):
            x = stepper(model, x, here, there)
        return x

    torch.testing.assert_close(torch.cat([lift(row) for row in images.split(1)]), lift(images), rtol=1e-9, atol=1e-9)


def test_up_to_pure_noise_and_back() -> None:
    """alpha = 0 above: the step's Jacobian is sigma_a / sigma_b, solved in one correction for Gaussian data."""
    schedule = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64))
    model = GaussianModel(torch.zeros(SHAPE, dtype=torch.float64), None, torch.ones(16, dtype=torch.float64), schedule)
    low, top = schedule.node(40.0), schedule.node(49.0)
    x, stepper = normal(2), ImplicitDdim(FixedPoint(2, 1e-10))
    y = stepper(model, x, low, top)
    torch.testing.assert_close(Ddim()(model, y, top, low), x)
    assert bool(stepper(model, normal(2), CLEAN_NODE, top).isfinite().all())
