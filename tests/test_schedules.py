"""Schedules: nodes agree with the table and with each other; grids have the ends, nodes and lengths they promise."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from unseen_diffusion.errors import InputError
from unseen_diffusion.grids import GRIDS, make_grid
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.schedules import CLEAN_NODE, Node, Schedule

LINEAR = linear_schedule()
# Zero terminal signal (Lin et al. 2024, arXiv 2305.08891): the last node is pure noise, alpha = 0.
ZERO_SNR = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64))


def noise(node: Node) -> float:
    """vs = sigma / alpha."""
    return node.sigma / node.alpha if node.alpha else math.inf


def test_whole_timesteps_equal_the_table() -> None:
    """alpha = sqrt(ac_t) and sigma = sqrt(1 - ac_t), without interpolation error."""
    for t, ac in enumerate(LINEAR.alphas_cumprod.tolist()):
        assert LINEAR.node(float(t)) == Node(float(t), math.sqrt(ac), math.sqrt(1 - ac))


def test_the_clean_image_is_the_state_before_t_0() -> None:
    """method.md: ac = 1 at index -1."""
    assert LINEAR.node(-1.0) == CLEAN_NODE == Node(-1.0, 1.0, 0.0)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR])
def test_noise_rises_strictly_and_variance_is_preserved(schedule: Schedule) -> None:
    nodes = [schedule.node(t) for t in np.linspace(-1, schedule.timesteps - 1, 7919).tolist()]
    assert all(noise(low) < noise(high) for low, high in pairwise(nodes))
    assert all(abs(node.alpha**2 + node.sigma**2 - 1) < 1e-14 for node in nodes)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR])
def test_continuous_across_whole_timesteps(schedule: Schedule) -> None:
    """The fractional branch meets the table from both sides, at the lowest and highest steps too."""
    for t in map(float, range(schedule.timesteps)):
        here = schedule.node(t)
        for near in (t - 1e-9, t + 1e-9):
            if near <= schedule.timesteps - 1:
                assert schedule.node(near)[1:] == pytest.approx(here[1:], abs=1e-7)


def test_interpolation_is_linear_in_log_noise_and_in_noise_below_zero() -> None:
    for t in (0.0, 17.0, 500.0, 998.0):
        ends = noise(LINEAR.node(t)) * noise(LINEAR.node(t + 1))
        assert noise(LINEAR.node(t + 0.5)) == pytest.approx(math.sqrt(ends), rel=1e-14)
    assert noise(LINEAR.node(-0.75)) == pytest.approx(noise(LINEAR.node(0.0)) / 4, rel=1e-14)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR])
def test_node_at_noise_inverts_node(schedule: Schedule) -> None:
    """t -> vs -> t to 1e-9 everywhere, between the clean image and t = 0 as well."""
    times = np.concatenate([np.linspace(-1, 0, 101), np.linspace(0, schedule.timesteps - 1, 5003)])
    assert max(abs(schedule.node_at_noise(noise(schedule.node(t))).t - t) for t in times) < 1e-9


def test_node_at_noise_stays_inside_the_schedule() -> None:
    assert LINEAR.node_at_noise(0.0) == CLEAN_NODE
    assert LINEAR.node_at_noise(1e9).t == 999
    assert ZERO_SNR.node_at_noise(math.inf).t == 49


def test_half_log_snr_is_infinite_at_both_ends() -> None:
    node = LINEAR.node(500.0)
    assert node.log_snr_half == pytest.approx(-math.log(noise(node)), rel=1e-14)
    assert CLEAN_NODE.log_snr_half == math.inf
    assert ZERO_SNR.node(49.0).log_snr_half == -math.inf


@pytest.mark.parametrize("t", [-1.5, 999.5, math.nan])
def test_timesteps_outside_the_schedule_are_refused(t: float) -> None:
    with pytest.raises(InputError, match="lies outside the schedule; choose it between -1"):
        LINEAR.node(t)


@pytest.mark.parametrize("table", [[0.9], [0.5, 0.9], [0.9, 0.9, 0.1], [1.0, 0.5], [0.9, -0.1], [[0.9, 0.1]]])
def test_bad_tables_are_refused(table: list[float]) -> None:
    with pytest.raises(InputError, match="alphas_cumprod must be"):
        Schedule(torch.tensor(table))


def test_uniform_grid_has_equal_steps_from_clean() -> None:
    times = [node.t for node in make_grid(LINEAR, "uniform_t", 37, 500.0).up]
    assert times == pytest.approx(np.linspace(-1, 500, 38), abs=1e-10)


def test_karras_grid_follows_equation_5() -> None:
    """Karras et al. 2022: (a^(1/7) + i/(n-1) (b^(1/7) - a^(1/7)))^7 from vs(0) to vs(t_top), below it the clean end."""
    nodes = make_grid(LINEAR, "karras", 23, 600.0).up
    low, high = noise(LINEAR.node(0.0)) ** (1 / 7), noise(LINEAR.node(600.0)) ** (1 / 7)
    expected = [0.0, *((low + (high - low) * i / 22) ** 7 for i in range(23))]
    assert [noise(node) for node in nodes] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("top", [500.0, 600.0, 999.0])
def test_paper_grid_is_the_released_one(top: float) -> None:
    """floor(linspace(0, t, 80)); inversion starts at t = 0 though given a clean image, denoising ends clean."""
    grid = make_grid(LINEAR, "paper", 80, top)
    released = [float(int(t)) for t in np.linspace(0, top, 80)]
    assert [node.t for node in grid.up] == released
    assert [node.t for node in grid.down] == [*reversed(released), -1.0]


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("steps", [2, 10, 80])
@pytest.mark.parametrize("top", [90.0, 567.8, 999.0])
def test_grids_spend_the_steps_they_are_given(kind: str, steps: int, top: float) -> None:
    """Evaluations: ``steps`` in each direction; the paper's inversion one fewer."""
    if kind == "paper":
        top = float(math.floor(top))
    grid = make_grid(LINEAR, kind, steps, top)
    assert len(grid.down) - 1 == steps
    assert len(grid.up) - 1 == (steps - 1 if kind == "paper" else steps)
    assert (grid.up[0].t, grid.up[-1].t) == (0 if kind == "paper" else -1, top)
    assert (grid.down[0].t, grid.down[-1]) == (top, CLEAN_NODE)
    assert all(low.t < high.t for low, high in pairwise(grid.up))
    if kind != "paper":
        assert grid.down == tuple(reversed(grid.up))


@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("through", [(300.0,), (100.0, 250.5, 400.0, 499.0), (500.0,), (13.0, 187.0, 211.0, 402.0)])
def test_mixing_steps_become_nodes_at_no_cost(kind: str, through: tuple[float, ...]) -> None:
    """Every step of ``through`` is a node, the ends stay, and the number of evaluations does not change."""
    plain, grid = make_grid(LINEAR, kind, 40, 500.0), make_grid(LINEAR, kind, 40, 500.0, through)
    times = [node.t for node in grid.up]
    assert set(through) <= set(times)
    assert times == sorted(set(times))
    assert (len(grid.up), len(grid.down)) == (len(plain.up), len(plain.down))
    assert (grid.up[0], grid.up[-1], grid.down[-1]) == (plain.up[0], plain.up[-1], CLEAN_NODE)


def test_a_mixing_step_that_is_a_node_already_is_not_moved_away() -> None:
    """Uniform nodes at -1, 0, 1, ... 100: a wanted 50.25 may not take the node of a wanted 50."""
    times = [node.t for node in make_grid(LINEAR, "uniform_t", 101, 100.0, (50.0, 50.25)).up]
    assert {50, 50.25} <= set(times)


def test_mixing_steps_that_want_one_node_add_one() -> None:
    """More recorded steps than inner nodes: all are kept, and each surplus one costs an evaluation."""
    times = [node.t for node in make_grid(LINEAR, "uniform_t", 2, 500.0, (100.0, 200.0, 300.0)).up]
    assert times == [-1, 100, 200, 300, 500]


@pytest.mark.parametrize("top", [0.0, -1.0, -0.5])
def test_a_mixing_step_must_lie_above_zero(top: float) -> None:
    with pytest.raises(InputError, match="choose a mixing step above 0"):
        make_grid(LINEAR, "karras", 10, top)


@pytest.mark.parametrize(("top", "through"), [(1000.0, ()), (500.0, (501.0,)), (500.0, (-1.5,))])
def test_steps_outside_are_refused(top: float, through: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="lies outside"):
        make_grid(LINEAR, "uniform_t", 10, top, through)


def test_karras_needs_signal_at_the_top() -> None:
    """vs is infinite where alpha is 0: the uniform grid reaches it, Karras's cannot."""
    assert make_grid(ZERO_SNR, "uniform_t", 10, 49.0).up[-1].alpha == 0
    with pytest.raises(InputError, match="uniform_t"):
        make_grid(ZERO_SNR, "karras", 10, 49.0)
