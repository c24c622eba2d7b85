"""Solvers against the Gaussian oracle: exact discrete multipliers, orders, noise recursion, and what may not matter.

For data N(m, S) every step is linear per eigendirection, so inversion and denoising are checked by algebra.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, HeunDiscreteScheduler
from torch import Tensor

from support import TinyModelFolder
from support.options import option
from unseen_diffusion.models import DiffusersModel, GaussianModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.schedules import CLEAN_NODE, Node, Schedule
from unseen_diffusion.solvers.base import Solver
from unseen_diffusion.solvers.fixed_point import FixedPoint
from unseen_diffusion.solvers.grids import GRIDS, make_grid
from unseen_diffusion.solvers.methods import find_solver, solvers
from unseen_diffusion.solvers.methods.ddim_implicit import ImplicitDdim
from unseen_diffusion.solvers.sampling import denoise, invert, split_noise, trajectory
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SCHEDULE = linear_schedule()
SHAPE, D = (3, 4, 4), 48
STEPS = (20, 40, 80, 160)
SOLVERS = list(solvers())
EXPLICIT = [name for name in SOLVERS if name != "ddim_implicit"]


def make_oracle() -> GaussianModel:
    """d = 48, a random eigenbasis, a mean away from 0, standard deviations from 0.1 to 2."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(D, D, dtype=torch.float64, generator=rng)).Q
    mean = torch.randn(SHAPE, dtype=torch.float64, generator=rng)
    return GaussianModel(mean, basis, torch.logspace(-2, 0.6, D, dtype=torch.float64), SCHEDULE)


ORACLE = make_oracle()


def noise(node: Node) -> float:
    """v = sigma / alpha."""
    return node.sigma / node.alpha


def draw(node: Node, count: int = 8, seed: int = 1) -> Tensor:
    """States of the oracle's own distribution at ``node``, float64."""
    rng = torch.Generator().manual_seed(seed)
    spread = (node.alpha**2 * ORACLE.variances + node.sigma**2).sqrt()
    z = torch.randn(count, D, dtype=torch.float64, generator=rng) * spread
    return node.alpha * ORACLE.mean + (z @ ORACLE.basis.T).reshape(-1, *SHAPE)


def along(x: Tensor, node: Node) -> Tensor:
    """Coordinates of x - alpha m in the eigenbasis."""
    return (x - node.alpha * ORACLE.mean).flatten(1) @ ORACLE.basis


def end(
    x: Tensor,
    nodes: Sequence[Node],
    solver: str | SolverSettings | Solver,
    eta: float = 0.0,
    seeds: Sequence[int] = (),
) -> Tensor:
    """The state at ``nodes[-1]``."""
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    for _, state in trajectory(ORACLE, x, nodes, solver, eta, rngs):
        x = state
    return x


def error(got: Tensor, want: Tensor) -> float:
    """Root mean square over the entries."""
    return float((got - want).square().mean().sqrt())


def slope(errors: Sequence[float], steps: Sequence[int] = STEPS) -> float:
    """Order of convergence, by least squares in logarithms."""
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("upwards", [True, False])
def test_ddim_multiplies_each_eigendirection_by_its_euler_factor(kind: str, upwards: bool) -> None:
    """xbar - m is scaled by prod(1 + h v / (s^2 + v^2)), to 1e-12, on every grid, both ways."""
    grid = make_grid(SCHEDULE, kind, 30, 700.0)
    nodes = grid.up if upwards else grid.down
    factor = torch.ones(D, dtype=torch.float64)
    for here, there in pairwise(nodes):
        factor *= 1 + (noise(there) - noise(here)) * noise(here) / (ORACLE.variances + noise(here) ** 2)
    x = draw(nodes[0])
    got = along(end(x, nodes, "ddim"), nodes[-1]) / nodes[-1].alpha
    torch.testing.assert_close(got, factor * along(x, nodes[0]) / nodes[0].alpha, rtol=1e-12, atol=1e-12)


# Where the order shows: the reused evaluations of the trapezoid rule hide it on coarser grids.
CONVERGING = {"ddim_implicit": (10, 20, 40), "trapezoid": (160, 320), "rk4": (10, 20, 40)}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["log_snr", "karras"])
@pytest.mark.parametrize("upwards", [True, False])
def test_order_of_convergence(solver: str, kind: str, upwards: bool) -> None:
    """The order that the class declares, against the exact flow between t = 0 and t = 500.

    The step between t = 0 and the clean image has a fixed length, so it is left out here and pinned below.
    """
    order, steps, errors = find_solver(solver).order, CONVERGING.get(solver, STEPS), []
    for count in steps:
        grid = make_grid(SCHEDULE, kind, count, 500.0)
        nodes = grid.up[1:] if upwards else grid.down[:-1]
        x = draw(nodes[0], 2)
        stepper = ImplicitDdim(FixedPoint(8, 1e-6)) if solver == "ddim_implicit" else solver
        errors.append(error(end(x, nodes, stepper), ORACLE.flow(x, nodes[0], nodes[-1])))
    assert order - 0.15 < slope(errors, steps) < order + 0.5


@pytest.mark.parametrize("solver", EXPLICIT)
def test_the_step_to_the_clean_image_is_its_own_floor(solver: str) -> None:
    """From t = 0 to clean every solver takes one Euler step: s^2 / (s^2 + v_0^2), where the flow has its root.

    No number of steps removes that bias; upwards, the step out of the clean image leaves x / alpha as it is.
    """
    bottom = SCHEDULE.node(0.0)
    shrinking = ORACLE.variances / (ORACLE.variances + noise(bottom) ** 2)
    many = make_grid(SCHEDULE, "karras", 300, 500.0)
    x = draw(many.down[0], 2)
    exact = along(ORACLE.flow(x, many.down[0], bottom), bottom) / bottom.alpha
    step_error = 1.5e-2 if solver == "ddim" else 1e-4
    torch.testing.assert_close(along(end(x, many.down, solver), CLEAN_NODE), shrinking * exact, rtol=step_error, atol=0)
    image = draw(CLEAN_NODE)
    lifted = end(image, many.up[:2], solver)
    torch.testing.assert_close(lifted / bottom.alpha, image, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("solver", EXPLICIT)
def test_half_a_step_at_the_clean_end_is_second_order(solver: str) -> None:
    """Down it multiplies by 1 - q / 2, q = v_0^2 / (s^2 + v_0^2), where the flow has sqrt(1 - q); up by 1 + q / 2."""
    bottom, settings = SCHEDULE.node(0.0), SolverSettings(name=solver, grid="karras", steps=40, clean_end="half")
    q = noise(bottom) ** 2 / (ORACLE.variances + noise(bottom) ** 2)
    image, low = draw(CLEAN_NODE), draw(bottom)
    up, down = end(image, [CLEAN_NODE, bottom], settings), end(low, [bottom, CLEAN_NODE], settings)
    torch.testing.assert_close(along(down, CLEAN_NODE), (1 - q / 2) * along(low, bottom) / bottom.alpha)
    torch.testing.assert_close(along(up, bottom) / bottom.alpha, (1 + q / 2) * along(image, CLEAN_NODE))
    whole = end(low, [bottom, CLEAN_NODE], solver)
    exact = ORACLE.flow(low, bottom, CLEAN_NODE)
    assert error(down, exact) < 0.3 * error(whole, exact)


def test_half_a_clean_end_gives_fresh_latents_back() -> None:
    """A whole step removes the noise of the lowest node, which no inversion can restore; half of it keeps half."""
    gaps = {}
    for clean_end in ("full", "half"):
        settings = SolverSettings(name="dpmpp_2m", grid="karras", steps=80, clean_end=clean_end)
        grid = settings.make_grid(SCHEDULE, 500.0)
        latents = draw(grid.down[0])
        gaps[clean_end] = error(end(end(latents, grid.down, settings), grid.up, settings), latents)
    assert gaps["half"] < 0.3 * gaps["full"]


def test_the_papers_inversion_takes_the_clean_image_for_the_state_at_t_0() -> None:
    """Its limit is the flow from t = 0 of an image that lacks sigma_0 noise: xbar's variance stays short of exact
    by s^2 / (s^2 + v_0^2). One step per timestep comes within half a percent of that.
    """
    dense = make_grid(SCHEDULE, "paper", 501, 500.0).up
    image = draw(CLEAN_NODE)
    ratio = ((ORACLE.variances + noise(dense[-1]) ** 2) / (ORACLE.variances + noise(dense[0]) ** 2)).sqrt()
    mean_shift = (1 / dense[0].alpha - 1) * ORACLE.mean
    start = along(image, CLEAN_NODE) / dense[0].alpha + mean_shift.flatten() @ ORACLE.basis
    got = along(end(image, dense, "dpmpp_2m"), dense[-1]) / dense[-1].alpha
    torch.testing.assert_close(got, ratio * start, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("solver", "low", "high"),
    [("ddim", 0.95, 1.1), ("dpmpp_2m", 1.9, 2.9), ("trapezoid", 1.9, 3.2), ("heun", 1.9, 3.2), ("rk4", 3.9, 5.2)],
)
def test_round_trip_of_fresh_latents(solver: str, low: float, high: float) -> None:
    """Denoise then invert latents that no image was inverted to: the gap closes with the order."""
    errors, budgets = [], (20, 40, 80)
    for steps in budgets:
        grid = make_grid(SCHEDULE, "karras", steps, 500.0)
        latents = draw(grid.down[0], 2)
        state = end(latents, grid.down[:-1], solver)
        errors.append(error(end(state, grid.up[1:], solver), latents))
    assert low < slope(errors, budgets) < high


def test_images_survive_inversion_and_denoising() -> None:
    """The public pair, float32, 160 steps: better than 65 dB of [-1, 1] for the second-order solver (measured: 74)."""
    grid = make_grid(SCHEDULE, "karras", 160, 500.0)
    images = draw(CLEAN_NODE).float()
    latents = invert(ORACLE, images, grid, [500.0], "dpmpp_2m")[500.0]
    back = denoise(ORACLE, latents, grid, eta=0.0, seed=0, solver="dpmpp_2m")
    assert latents.dtype == back.dtype == torch.float32
    assert 20 * math.log10(2 / error(back, images)) > 65


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kind", GRIDS)
def test_split_noise_preserves_the_level(kind: str, eta: float) -> None:
    """sigma_down^2 + tau^2 = sigma'^2, tau of Song et al. 2021, equation 16, and no noise on the clean image."""
    for here, there in pairwise(make_grid(SCHEDULE, kind, 25, 999.0).down):
        target, tau = split_noise(here, there, eta)
        song = (1 - there.alpha**2) / (1 - here.alpha**2) * (1 - (here.alpha / there.alpha) ** 2)
        assert target.sigma**2 + tau**2 == pytest.approx(there.sigma**2, abs=1e-15)
        assert tau == pytest.approx(eta * math.sqrt(song), abs=1e-12)
        assert (target.t, target.alpha) == (there.t, there.alpha)


def test_no_noise_is_split_off_upwards_or_at_the_clean_end() -> None:
    low, high = SCHEDULE.node(100.0), SCHEDULE.node(200.0)
    assert split_noise(low, high, 1.0) == (high, 0.0)
    assert split_noise(low, CLEAN_NODE, 1.0) == (CLEAN_NODE, 0.0)


def noisy_step(variances: Tensor, here: Node, there: Node, eta: float) -> tuple[Tensor, float]:
    """(A, tau) of x' - alpha' m = A (x - alpha m) + tau z per eigendirection, written out from equation 12."""
    tau = eta * there.sigma * math.sqrt(1 - (noise(there) / noise(here)) ** 2)
    kept = math.sqrt(there.sigma**2 - tau**2)
    total = here.alpha**2 * variances + here.sigma**2
    return (there.alpha * here.alpha * variances + kept * here.sigma) / total, tau


@pytest.mark.parametrize("eta", [0.2, 0.6, 1.0])
def test_noisy_denoising_is_the_affine_recursion_of_its_noise_streams(eta: float) -> None:
    """Given the streams, every state follows exactly: x' = A x + tau z, z the next draw of the image's stream."""
    nodes, seeds = make_grid(SCHEDULE, "karras", 25, 700.0).down, [5, 6, 7]
    x = draw(nodes[0], count=3)
    expected = along(x, nodes[0])
    rngs = [torch.Generator().manual_seed(seed) for seed in seeds]
    for here, there in pairwise(nodes):
        factor, tau = noisy_step(ORACLE.variances, here, there, eta)
        expected = factor * expected
        if tau > 0:
            z = torch.stack([torch.randn(SHAPE, generator=rng) for rng in rngs]).double()
            expected = expected + tau * z.flatten(1) @ ORACLE.basis
    torch.testing.assert_close(along(end(x, nodes, "ddim", eta, seeds), CLEAN_NODE), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_variance_of_noisy_denoising(eta: float) -> None:
    """Monte Carlo through ``denoise``: var' = A^2 var + tau^2 step by step, within 4 standard errors."""
    levels, count = torch.tensor([0.01, 0.25, 4.0], dtype=torch.float64), 500
    variances = levels.repeat_interleave(64)
    model = GaussianModel(torch.zeros(3, 8, 8, dtype=torch.float64), None, variances, SCHEDULE)
    grid = make_grid(SCHEDULE, "karras", 25, 999.0)
    top = grid.down[0]
    variance = top.alpha**2 * levels + top.sigma**2
    z = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    latents = (z * variance.sqrt()[:, None, None]).float()
    for here, there in pairwise(grid.down):
        factor, tau = noisy_step(levels, here, there, eta)
        variance = factor**2 * variance + tau**2
    measured = denoise(model, latents, grid, eta, seed=0).double().square().mean((0, 2, 3))
    torch.testing.assert_close(measured, variance, rtol=4 * math.sqrt(2 / (count * 64)), atol=0)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_bias_of_the_variance_falls_with_the_steps(eta: float) -> None:
    """Bias O(1/N): four times the steps, about a quarter of it."""
    biases = []
    for steps in (100, 400):
        nodes = make_grid(SCHEDULE, "karras", steps, 999.0).down
        variance = nodes[0].alpha ** 2 * torch.tensor([0.25, 1.0]) + nodes[0].sigma ** 2
        for here, there in pairwise(nodes):
            factor, tau = noisy_step(torch.tensor([0.25, 1.0]), here, there, eta)
            variance = factor**2 * variance + tau**2
        biases.append(1 - variance / torch.tensor([0.25, 1.0]))
    assert bool((biases[0] > 0).all())
    ratio = biases[0] / biases[1]
    assert bool(((ratio > 3.5) & (ratio < 4.5)).all())


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("t", [950, 500, 50, 0])
def test_one_step_equals_diffusers_ddim(
    tiny_model_folder: TinyModelFolder, prediction_type: str, eta: float, t: int
) -> None:
    """DDIMScheduler.step on whole timesteps, same z, to 1e-5; the last step ends at the clean image (-1)."""
    model = DiffusersModel(str(tiny_model_folder(prediction_type=prediction_type)))
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False, set_alpha_to_one=True)
    scheduler.set_timesteps(20)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    z = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in (8, 9)])
    with torch.inference_mode():
        output = model.unet(x, torch.full((2,), float(t))).sample
        reference = scheduler.step(output, t, x, eta=eta, variance_noise=z).prev_sample
    nodes = [model.schedule.node(float(t)), model.schedule.node(max(t - 50.0, -1.0))]
    rngs = [torch.Generator().manual_seed(seed) for seed in (8, 9)]
    ((_, ours),) = trajectory(model, x, nodes, "ddim", eta, rngs)
    scale = max(1.0, float(reference.abs().max()))
    assert float((ours - reference).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_denoising_equals_diffusers_ddim(tiny_model_folder: TinyModelFolder, eta: float) -> None:
    """The whole trajectory on the trailing grid against DDIMScheduler's own loop, same noise, to 1e-5."""
    model = DiffusersModel(str(tiny_model_folder()))
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing")
    scheduler.set_timesteps(8)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    ours = denoise(model, x, make_grid(model.schedule, "trailing", 8, 999.0), eta, seed=4)
    rngs = [generator(4, "denoise", index) for index in (0, 1)]
    with torch.inference_mode():
        for t in scheduler.timesteps:
            z = torch.stack([torch.randn(3, 8, 8, generator=rng) for rng in rngs]) if t >= 125 else None
            # Without noise for the last step, as ours: diffusers' own variance there is 0 with set_alpha_to_one.
            output = model.unet(x, t.expand(2)).sample
            x = scheduler.step(output, int(t), x, eta=eta if z is not None else 0.0, variance_noise=z).prev_sample
    assert float((ours - x).abs().max()) < 1e-5 * max(1.0, float(x.abs().max()))


@pytest.mark.parametrize(("eta", "algorithm"), [(0.0, "dpmsolver++"), (1.0, "sde-dpmsolver++")])
def test_denoising_equals_diffusers_dpm_solver(eta: float, algorithm: str) -> None:
    """DPMSolverMultistepScheduler (order 2, midpoint) and the oracle's eps: the same timesteps and noise."""
    scheduler = DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        algorithm_type=algorithm,
        solver_order=2,
        lower_order_final=False,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(timesteps=[900, 700, 500, 350, 200, 100, 50, 10])
    nodes = [*(SCHEDULE.node(float(t)) for t in scheduler.timesteps.tolist()), CLEAN_NODE]
    x = draw(nodes[0]).float()
    ours = end(x, nodes, "dpmpp_2m", eta, range(len(x)))
    rngs = [torch.Generator().manual_seed(seed) for seed in range(len(x))]
    for t, node in zip(scheduler.timesteps, nodes, strict=False):
        z = torch.stack([torch.randn(SHAPE, generator=rng) for rng in rngs])
        x = scheduler.step(ORACLE.predict(x, node).eps, t, x, variance_noise=z).prev_sample
    assert float((ours - x).abs().max()) < 1e-5 * float(x.abs().max())


def test_heun_equals_diffusers_heun() -> None:
    """HeunDiscreteScheduler integrates x / alpha on its sigmas (our v): same nodes, same states."""
    scheduler = HeunDiscreteScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    scheduler.set_timesteps(10)
    times = list(dict.fromkeys(scheduler.timesteps.tolist()))
    nodes = [*(SCHEDULE.node(float(t)) for t in times), CLEAN_NODE]
    x = draw(nodes[0]).float()
    ours = end(x, nodes, "heun")
    xbar = x / nodes[0].alpha
    for t in scheduler.timesteps:
        node = SCHEDULE.node(float(t))
        xbar = scheduler.step(ORACLE.predict(xbar * node.alpha, node).eps, t, xbar).prev_sample
    assert float((ours - xbar).abs().max()) < 1e-5 * float(xbar.abs().max())


@pytest.mark.parametrize("solver", ["dpmpp_2m", "trapezoid", "heun", "rk4"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noise_is_added_to_an_accurate_deterministic_part(solver: str, eta: float) -> None:
    """A noisy step of many small ones: the deterministic part reaches the node that eta leaves, not the timestep's.

    Over one short step the exact flow to (alpha', sigma_down) is met far more closely than that to (alpha', sigma').
    """
    here, there = SCHEDULE.node(300.0), SCHEDULE.node(290.0)
    target, tau = split_noise(here, there, eta)
    x = draw(here)
    got = end(x, [here, there], solver, eta, range(8))
    z = torch.stack([torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in range(8)]).double()
    calm = got - tau * z
    right, wrong = ORACLE.flow(x, here, target), ORACLE.flow(x, here, there)
    assert error(calm, right) < 0.1 * error(wrong, right)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "trapezoid"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noisy_steps_keep_the_variance_of_the_data(solver: str, eta: float) -> None:
    """From the oracle's latents at t = 500: of every direction, nearer with more steps, and far nearer than DDIM's."""

    def spread(name: str, steps: int) -> float:
        nodes = make_grid(SCHEDULE, "karras", steps, 500.0).down
        x = end(draw(nodes[0], 2000), nodes, name, eta, range(2000))
        ratio = along(x, nodes[-1]).var(0) / ORACLE.variances
        return float((ratio[ORACLE.variances > 0.05] - 1).abs().mean())

    coarse, fine = spread(solver, 16), spread(solver, 48)
    assert coarse < 0.12
    assert fine < 0.05
    assert coarse < 0.6 * spread("ddim", 16)


@pytest.mark.parametrize("solver", ["dpmpp_2m", "trapezoid", "heun", "rk4"])
def test_a_little_noise_changes_little(solver: str) -> None:
    """No method falls to a lower order as eta leaves 0: the round trip's error is that of eta 0."""
    grid = make_grid(SCHEDULE, "karras", 16, 500.0)
    x = draw(CLEAN_NODE, 32)
    latents = end(x, grid.up, solver)
    calm, noisy = (error(end(latents, grid.down, solver, eta, range(32)), x) for eta in (0.0, 1e-4))
    assert noisy < 1.5 * calm + 2e-4


@pytest.mark.parametrize("eta", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["uniform_t", "karras"])
@pytest.mark.parametrize(
    ("solver", "steps", "up", "down"),
    [
        ("ddim", 12, 12, 12),
        ("dpmpp_2m", 12, 12, 12),
        ("trapezoid", 12, 12, 11),
        ("heun", 12, 11, 11),
        ("heun", 13, 13, 13),
        ("rk4", 12, 9, 9),
        ("rk4", 13, 13, 13),
        ("ddim_implicit", 12, 12, 3),
    ],
)
def test_evaluations_are_what_the_settings_say(
    solver: str, steps: int, up: int, down: int, kind: str, eta: float
) -> None:
    """Per image, never above ``steps``; recording more mixing steps costs nothing."""
    model, settings = make_oracle(), SolverSettings(name=solver, grid=kind, steps=steps)
    grid = settings.make_grid(SCHEDULE, 600.0, (300.0,))
    latents = invert(model, draw(CLEAN_NODE, 5), grid, [300.0, 600.0], settings)
    assert model.evaluations <= 5 * up if solver == "ddim_implicit" else model.evaluations == 5 * up
    model.evaluations = 0
    denoise(model, latents[600.0], grid, eta, 0, solver=settings)
    assert model.evaluations == 5 * down


@pytest.mark.parametrize(
    ("solver", "least"), {"ddim": 2, "dpmpp_2m": 2, "trapezoid": 3, "heun": 3, "rk4": 5, "ddim_implicit": 8}.items()
)
def test_the_fewest_and_the_most_steps(solver: str, least: int) -> None:
    """Two intervals at least, a million evaluations at most; the refusal names the least number."""
    assert set(SOLVERS) == {"ddim", "dpmpp_2m", "trapezoid", "heun", "rk4", "ddim_implicit"}
    assert option("solver", solver, steps=least).intervals == 2
    for steps in (least - 1, 0, -1):
        with pytest.raises(InputError, match=rf"solver\.steps={steps}: give {least} or more to {solver}"):
            option("solver", solver, steps=steps)
    assert option("solver", solver, steps=10**6).intervals > 10**5


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_papers_inversion_spends_one_evaluation_less(solver: str) -> None:
    model, grid = make_oracle(), make_grid(SCHEDULE, "paper", 12, 600.0)
    invert(model, draw(CLEAN_NODE, 5), grid, [600.0], solver)
    assert model.evaluations == 5 * 11


def test_the_papers_solver_is_the_released_arithmetic() -> None:
    """Linspace(0, t, 80) rounded down; the clean image taken for the state at t = 0; DDIM with the network
    at the lower end upwards; downwards to index -1 (ac = 1) with sigma = eta sqrt((1-ac')/(1-ac)) sqrt(1 - ac/ac').
    """
    top, eta = 600, 0.3
    ac = [*SCHEDULE.alphas_cumprod.tolist(), 1.0]  # index -1 is clean
    times = np.linspace(0, top, 80).astype(int).tolist()
    settings = SolverSettings(name="ddim", grid="paper", steps=80)
    grid = settings.make_grid(SCHEDULE, float(top))
    image = draw(CLEAN_NODE, 2)
    x = image
    for t, t_next in pairwise(times):
        eps = ORACLE.predict(x, SCHEDULE.node(float(t))).eps
        denoised = (x - math.sqrt(1 - ac[t]) * eps) / math.sqrt(ac[t])
        x = math.sqrt(ac[t_next]) * denoised + math.sqrt(1 - ac[t_next]) * eps
    torch.testing.assert_close(end(image, grid.up, settings), x, rtol=1e-12, atol=1e-12)
    latent, rngs = x, [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    for t, t_next in pairwise([*reversed(times), -1]):
        eps = ORACLE.predict(x, SCHEDULE.node(float(t))).eps
        denoised = (x - math.sqrt(1 - ac[t]) * eps) / math.sqrt(ac[t])
        sigma = eta * math.sqrt((1 - ac[t_next]) / (1 - ac[t])) * math.sqrt(1 - ac[t] / ac[t_next])
        x = math.sqrt(ac[t_next]) * denoised + math.sqrt(1 - ac[t_next] - sigma**2) * eps
        if t_next >= 0:  # the clean image gets no noise: sigma is 0 there
            x = x + sigma * torch.stack([torch.randn(SHAPE, generator=rng) for rng in rngs]).double()
    torch.testing.assert_close(end(latent, grid.down, settings, eta, [5, 6]), x, rtol=1e-11, atol=1e-11)


def test_fractional_timesteps_lower_the_floor() -> None:
    """Rounding the grid's t to whole timesteps bends it, which costs a second-order solver accuracy."""
    errors = []
    for rounded in (False, True):
        nodes = make_grid(SCHEDULE, "karras", 80, 500.0).up[1:]
        if rounded:
            nodes = tuple(SCHEDULE.node(t) for t in sorted({float(round(node.t)) for node in nodes}))
        x = draw(nodes[0])
        errors.append(error(end(x, nodes, "trapezoid"), ORACLE.flow(x, nodes[0], nodes[-1])))
    assert errors[0] < errors[1]


@pytest.mark.parametrize("solver", SOLVERS)
def test_batch_size_changes_nothing(tiny_model_folder: TinyModelFolder, solver: str) -> None:
    """float32 network: to 1e-5; noise streams belong to images, solver memory to batches."""
    model = DiffusersModel(str(tiny_model_folder()))
    grid = make_grid(model.schedule, "karras", 4, 500.0)
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(4)) * 2 - 1
    whole = invert(model, images, grid, [500.0], solver, batch_size=3)[500.0]
    denoised = denoise(model, whole, grid, 0.7, 11, solver=solver, batch_size=3)
    parts = invert(model, images, grid, [500.0], solver, batch_size=2)[500.0]
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)
    again = denoise(model, whole, grid, 0.7, 11, solver=solver, batch_size=2)
    torch.testing.assert_close(again, denoised, rtol=0, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_recording_several_steps_equals_separate_trajectories(solver: str) -> None:
    """One pass through the common grid leaves what a trajectory that ends at each mixing step leaves, bit for bit."""
    steps = [200.0, 350.0, 500.0]
    grid = make_grid(SCHEDULE, "uniform_t", 10, 500.0, steps)
    images = draw(CLEAN_NODE, 2).float()
    together = invert(ORACLE, images, grid, steps, solver)
    assert list(together) == steps
    for t in steps:
        assert torch.equal(together[t], invert(ORACLE, images, grid, [t], solver)[t])
        nodes = [node for node in grid.up if node.t <= t]
        assert torch.equal(together[t], end(images, nodes, solver))


def test_noise_belongs_to_seed_and_index() -> None:
    """Permuting or leaving out latents with their indices does the same to the images; another seed does not."""
    grid = make_grid(SCHEDULE, "karras", 8, 500.0)
    latents = draw(grid.down[0], 6)
    whole = denoise(ORACLE, latents, grid, 0.8, seed=3)
    assert torch.equal(whole, denoise(ORACLE, latents, grid, 0.8, seed=3, indices=[0, 1, 2, 3, 4, 5]))
    for order in ([5, 3, 1, 0, 2, 4], [4, 1]):
        torch.testing.assert_close(
            denoise(ORACLE, latents[order], grid, 0.8, seed=3, indices=order, batch_size=2), whole[order]
        )
    assert not torch.allclose(whole, denoise(ORACLE, latents, grid, 0.8, seed=4))
    same = denoise(ORACLE, latents[:1].expand(2, -1, -1, -1), grid, 0.8, seed=3, indices=[0, 1])
    assert not torch.allclose(same[0], same[1])


def test_the_noise_stream_is_the_documented_one() -> None:
    """(seed, "denoise", index): one step with eta = 1 adds tau times its first draw."""
    grid = make_grid(SCHEDULE, "karras", 8, 500.0)
    latents = draw(grid.down[0], 1).float()
    stop = grid.down[1]
    noisy = denoise(ORACLE, latents, grid, 1.0, seed=3, indices=[17], stop=stop.t)
    target, tau = split_noise(grid.down[0], stop, 1.0)
    calm = end(latents, [grid.down[0], target], "ddim")
    z = torch.randn(SHAPE, generator=generator(3, "denoise", 17))
    torch.testing.assert_close(noisy, calm + tau * z, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_stopping_early_leaves_the_state_of_that_node(solver: str) -> None:
    grid = make_grid(SCHEDULE, "karras", 12, 500.0, (250.0,))
    latents = draw(grid.down[0]).float()
    nodes = [node for node in grid.down if node.t >= 250]
    stopped = denoise(ORACLE, latents, grid, 0.0, 0, solver=solver, stop=250.0)
    assert torch.equal(stopped, end(latents, nodes, solver))


@pytest.mark.parametrize("solver", SOLVERS)
def test_pure_noise_is_a_state_like_any_other(solver: str) -> None:
    """alpha = 0 at the top: finite both ways, and the exact multiplier of the first step down."""
    schedule = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64))
    model = GaussianModel(ORACLE.mean, ORACLE.basis, ORACLE.variances, schedule)
    grid = make_grid(schedule, "uniform_t", 12, 49.0)
    assert grid.up[-1].alpha == 0
    latents = invert(model, draw(CLEAN_NODE).float(), grid, [49.0], solver)[49.0]
    for eta in (0.0, 1.0):
        assert bool(denoise(model, latents, grid, eta, 0, solver=solver).isfinite().all())
    first = grid.down[1]
    state = denoise(model, latents, grid, 0.0, 0, solver=solver, stop=first.t)
    torch.testing.assert_close(state, (first.alpha * ORACLE.mean + first.sigma * latents).float())


@pytest.mark.parametrize("kind", ["ve", "flow"])
@pytest.mark.parametrize("solver", EXPLICIT)
def test_other_families_take_the_same_steps(kind: str, solver: str) -> None:
    """alpha = 1 with sigma up to 1348, and alpha = 1 - sigma down to 0: the exact flow, from the top's next node."""
    sigmas = torch.logspace(-2, math.log10(1348), 200) if kind == "ve" else torch.linspace(0.005, 1, 200)
    schedule = Schedule(sigmas.double(), kind)
    model = GaussianModel(ORACLE.mean, ORACLE.basis, ORACLE.variances, schedule)
    nodes = make_grid(schedule, "karras", 120, 199.0).down
    assert nodes[0].alpha == (1 if kind == "ve" else 0)
    start = draw(nodes[1], 2)
    *_, (_, got) = trajectory(model, start, nodes[1:-1], solver)
    exact = model.flow(start, nodes[1], nodes[-2])
    assert error(got, exact) < (0.2 if solver == "ddim" else 0.02) * error(exact, torch.zeros_like(exact))
    top = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0)) * nodes[0].sigma
    assert bool(denoise(model, top, make_grid(schedule, "karras", 20, 199.0), 1.0, 0, solver=solver).isfinite().all())


def test_nothing_in_nothing_out() -> None:
    grid = make_grid(SCHEDULE, "karras", 4, 500.0)
    empty = torch.empty(0, *SHAPE)
    assert invert(ORACLE, empty, grid, [500.0])[500.0].shape == (0, *SHAPE)
    assert denoise(ORACLE, empty, grid, 0.5, 0).shape == (0, *SHAPE)


def test_refusals_name_the_setting() -> None:
    """Before any evaluation."""
    grid, model = make_grid(SCHEDULE, "karras", 4, 500.0), make_oracle()
    latents = draw(grid.down[0], 3)
    with pytest.raises(InputError, match=r"mixing\.record=\[123\.0\]: not among the nodes"):
        invert(model, latents, grid, [123.0])
    with pytest.raises(InputError, match=r"bandwidth\.eta=1\.5: give a number between 0 and 1"):
        denoise(model, latents, grid, 1.5, 0)
    with pytest.raises(InputError, match="stop=123: not among the nodes"):
        denoise(model, latents, grid, 0.0, 0, stop=123.0)
    with pytest.raises(InputError, match="indices: 1 for 3 latents"):
        denoise(model, latents, grid, 1.0, 0, indices=[0])
    assert model.evaluations == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SolverSettings(name="euler", grid="karras", steps=10),
            r"solver\.name=euler: choose one of ddim, ddim_implicit",
        ),
        (
            lambda: SolverSettings(name="ddim", grid="cosine", steps=10),
            r"solver\.grid=cosine: choose one of uniform_t, trailing",
        ),
        (
            lambda: SolverSettings(name="ddim", grid="karras", steps=10, clean_end="none"),
            r"solver\.clean_end=none: choose one of full, half",
        ),
        (lambda: SolverSettings(name="ddim", grid="karras", steps=1), r"solver\.steps=1: give 2 or more to ddim"),
        (
            lambda: SolverSettings(name="ddim", grid="karras", steps=10**6 + 1),
            r"solver\.steps=1000001: give a whole number of at most 1e\+06",
        ),
        (
            lambda: SolverSettings(name="trapezoid", grid="karras", steps=2),
            r"solver\.steps=2: give 3 or more to trapezoid",
        ),
        (lambda: SolverSettings(name="heun", grid="karras", steps=2), r"solver\.steps=2: give 3 or more to heun"),
        (lambda: SolverSettings(name="rk4", grid="karras", steps=4), r"solver\.steps=4: give 5 or more to rk4"),
        (
            lambda: SolverSettings(name="ddim_implicit", grid="karras", steps=7),
            r"solver\.steps=7: give 8 or more to ddim_implicit",
        ),
        (
            lambda: SolverSettings(name="ddim_implicit", grid="karras", steps=8, clean_end="half"),
            r"solver\.clean_end=half: ddim_implicit",
        ),
        (
            lambda: option("solver", "ddim_implicit", steps=8, iterations=0),
            r"solver\.iterations=0: give",
        ),
        (
            lambda: option("solver", "ddim_implicit", steps=8, tolerance=0.0),
            r"solver\.tolerance=0\.0: give",
        ),
        (
            lambda: option("solver", "ddim_implicit", steps=8, acceleration="x"),
            r"solver\.acceleration=x: choose",
        ),
        (lambda: option("solver", "ddim_implicit", name="heun", steps=8), r"solver\.name=heun: takes no iterations"),
    ],
)
def test_settings_refuse_in_one_line(make: Callable[[], SolverSettings], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_clean_end_is_no_mixing_step() -> None:
    with pytest.raises(InputError, match=r"mixing.record=\[-1.0\]: not among the nodes"):
        invert(make_oracle(), draw(CLEAN_NODE), make_grid(SCHEDULE, "karras", 4, 500.0), [-1.0])
