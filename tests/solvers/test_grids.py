"""Grids have the ends, nodes and lengths they promise, and agree with the papers and libraries that defined them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.schedules import CLEAN_NODE, Node, Schedule
from unseen_diffusion.solvers.grids import GRIDS, WHOLE, make_grid
from unseen_diffusion.utils.errors import InputError

LINEAR = linear_schedule()
# Zero terminal signal (Lin et al. 2024, arXiv 2305.08891): the last node is pure noise, alpha = 0.
ZERO_SNR = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64))


def noise(node: Node) -> float:
    """vs = sigma / alpha."""
    return node.sigma / node.alpha if node.alpha else math.inf


def test_uniform_grid_has_equal_steps_from_clean() -> None:
    times = [node.t for node in make_grid(LINEAR, "uniform_t", 37, 500.0).up]
    assert times == pytest.approx(np.linspace(-1, 500, 38), abs=1e-10)


def test_karras_grid_follows_equation_5() -> None:
    """Karras et al. 2022: (a^(1/7) + i/(n-1) (b^(1/7) - a^(1/7)))^7 from vs(0) to vs(t_top), below it the clean end."""
    nodes = make_grid(LINEAR, "karras", 23, 600.0).up
    low, high = noise(LINEAR.node(0.0)) ** (1 / 7), noise(LINEAR.node(600.0)) ** (1 / 7)
    expected = [0.0, *((low + (high - low) * i / 22) ** 7 for i in range(23))]
    assert [noise(node) for node in nodes] == pytest.approx(expected, rel=1e-12)


def test_log_snr_grid_has_equal_steps_in_log_noise() -> None:
    """From vs(0) to vs(t_top), below it the clean end."""
    nodes = make_grid(LINEAR, "log_snr", 23, 600.0).up
    expected = np.geomspace(noise(LINEAR.node(0.0)), noise(LINEAR.node(600.0)), 23)
    assert [noise(node) for node in nodes] == pytest.approx([0.0, *expected], rel=1e-12)


@pytest.mark.parametrize("steps", [2, 7, 50, 64, 300])
def test_trailing_grid_is_diffusers(steps: int) -> None:
    """Lin et al. 2024, arXiv 2305.08891, table 2, as DDIMScheduler computes it; ours ends at the clean image."""
    scheduler = DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    grid = make_grid(LINEAR, "trailing", steps, 999.0)
    assert [node.t for node in grid.down] == [*map(float, scheduler.timesteps.tolist()), -1.0]
    assert grid.up == tuple(reversed(grid.down))


def test_rounded_timesteps_that_coincide_are_one() -> None:
    """More intervals than timesteps: every timestep once."""
    assert [node.t for node in make_grid(LINEAR, "trailing", 50, 9.0).up] == [float(t) for t in range(-1, 10)]


def test_fractional_timesteps_interpolate_between_whole_ones() -> None:
    """Doubling the intervals keeps every second node; the others lie at half timesteps and between their levels."""
    coarse, fine = (make_grid(LINEAR, "uniform_t", steps, 99.0).up for steps in (100, 200))
    torch.testing.assert_close(torch.tensor(fine[::2]), torch.tensor(coarse))
    assert [node.t % 1 for node in fine[1::2]] == [0.5] * 100
    assert all(noise(a) < noise(b) < noise(c) for a, b, c in zip(coarse, fine[1::2], coarse[1:], strict=False))


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
    if kind in WHOLE:
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
    through = tuple(float(math.floor(t)) for t in through) if kind in WHOLE else through
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


@pytest.mark.parametrize("kind", ["karras", "log_snr"])
@pytest.mark.parametrize("steps", [2, 3, 10])
def test_pure_noise_at_the_top_is_one_more_node(kind: str, steps: int) -> None:
    """vs is infinite where alpha is 0: the spacing in vs ends a timestep below, the number of intervals stays."""
    nodes = make_grid(ZERO_SNR, kind, steps, 49.0).up
    assert (nodes[0], nodes[-2].t, nodes[-1].t, nodes[-1].alpha) == (CLEAN_NODE, 48, 49, 0)
    assert len(nodes) - 1 == steps
    assert nodes[:-1] == make_grid(ZERO_SNR, kind, steps - 1, 48.0).up if steps > 2 else nodes[:1] == (CLEAN_NODE,)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize(("top", "through"), [(500.5, ()), (500.0, (100.25,))])
def test_whole_timesteps_are_refused_fractions(kind: str, top: float, through: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match=rf"solver\.grid={kind} has whole timesteps only"):
        make_grid(LINEAR, kind, 10, top, through)
