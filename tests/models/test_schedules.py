"""Schedules: nodes agree with the table and with each other."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.schedules import CLEAN_NODE, Node, Schedule
from unseen_diffusion.utils.errors import InputError

LINEAR = linear_schedule()
# Zero terminal signal (Lin et al. 2024, arXiv 2305.08891): the last node is pure noise, alpha = 0.
ZERO_SNR = Schedule(torch.linspace(0.99, 0.0, 50, dtype=torch.float64))
# NCSN++ (Song et al. 2021) and rectified flow with shift 3 (Esser et al. 2024).
EXPLODING = Schedule(torch.logspace(-2, math.log10(1348), 200, dtype=torch.float64), "ve")
FLOW = Schedule(torch.tensor([3 * s / (1 + 2 * s) for s in np.linspace(0.01, 1, 100)], dtype=torch.float64), "flow")


def noise(node: Node) -> float:
    """vs = sigma / alpha."""
    return node.sigma / node.alpha if node.alpha else math.inf


def test_whole_timesteps_equal_the_table() -> None:
    """alpha = sqrt(ac_t) and sigma = sqrt(1 - ac_t), without interpolation error."""
    for t, ac in enumerate(LINEAR.alphas_cumprod.tolist()):
        assert LINEAR.node(float(t)) == Node(float(t), math.sqrt(ac), math.sqrt(1 - ac))


def test_the_clean_image_is_the_state_before_t_0() -> None:
    """ac = 1 at index -1."""
    assert LINEAR.node(-1.0) == CLEAN_NODE == Node(-1.0, 1.0, 0.0)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR, EXPLODING, FLOW])
def test_noise_rises_strictly_and_each_kind_keeps_its_constraint(schedule: Schedule) -> None:
    """vp: alpha^2 + sigma^2 = 1; ve: alpha = 1; flow: alpha + sigma = 1."""
    nodes = [schedule.node(t) for t in np.linspace(-1, schedule.timesteps - 1, 7919).tolist()]
    assert all(noise(low) < noise(high) for low, high in pairwise(nodes))
    kept = {"vp": lambda n: n.alpha**2 + n.sigma**2, "ve": lambda n: n.alpha, "flow": lambda n: n.alpha + n.sigma}
    assert all(abs(kept[schedule.kind](node) - 1) < 1e-14 for node in nodes)


def test_sigmas_are_the_table_of_the_other_kinds() -> None:
    """Whole timesteps without interpolation error; pure noise ends the flow."""
    for t, sigma in enumerate(EXPLODING.table.tolist()):
        assert EXPLODING.node(float(t)) == Node(float(t), 1.0, sigma)
    for t, sigma in enumerate(FLOW.table.tolist()):
        assert FLOW.node(float(t)) == Node(float(t), 1 - sigma, sigma)
    assert FLOW.node(99.0).alpha == 0


@pytest.mark.parametrize("schedule", [LINEAR, EXPLODING, FLOW])
def test_alphas_cumprod_is_the_share_of_the_signal(schedule: Schedule) -> None:
    """alpha^2 / (alpha^2 + sigma^2) in every kind."""
    nodes = [schedule.node(float(t)) for t in range(schedule.timesteps)]
    shares = torch.tensor([n.alpha**2 / (n.alpha**2 + n.sigma**2) for n in nodes], dtype=torch.float64)
    torch.testing.assert_close(schedule.alphas_cumprod, shares, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("schedule", [LINEAR, EXPLODING, FLOW])
def test_state_std_is_that_of_data_with_unit_variance(schedule: Schedule) -> None:
    for t in (-1.0, 0.25, schedule.timesteps / 3, schedule.timesteps - 1.0):
        node = schedule.node(t)
        assert schedule.state_std(t) == pytest.approx(math.sqrt(node.alpha**2 + node.sigma**2), rel=1e-14)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR, EXPLODING, FLOW])
def test_continuous_across_whole_timesteps(schedule: Schedule) -> None:
    """The fractional branch meets the table from both sides, at the lowest and highest steps too."""
    for t in map(float, range(schedule.timesteps)):
        here = schedule.node(t)
        for near in (t - 1e-9, t + 1e-9):
            if near <= schedule.timesteps - 1:
                assert schedule.node(near)[1:] == pytest.approx(here[1:], rel=1e-7, abs=1e-7)


def test_interpolation_is_linear_in_log_noise_and_in_noise_below_zero() -> None:
    for t in (0.0, 17.0, 500.0, 998.0):
        ends = noise(LINEAR.node(t)) * noise(LINEAR.node(t + 1))
        assert noise(LINEAR.node(t + 0.5)) == pytest.approx(math.sqrt(ends), rel=1e-14)
    assert noise(LINEAR.node(-0.75)) == pytest.approx(noise(LINEAR.node(0.0)) / 4, rel=1e-14)


@pytest.mark.parametrize("schedule", [LINEAR, ZERO_SNR, EXPLODING, FLOW])
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
