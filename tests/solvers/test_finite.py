"""Inversion, denoising and grids refuse what is not finite or does not fit, and name the step and the rows."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from unseen_diffusion.models import GaussianModel
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.models.base import Prediction
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers import sampling
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.methods import solvers
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.utils.errors import InputError

SCHEDULE = linear_schedule()
SHAPE = (1, 2, 2)
GRID = make_grid(SCHEDULE, "uniform_t", 4, 400.0)


class Overflowing(GaussianModel):
    """Gives ``value`` for one row, where ``broken`` says so of t: row 3 of 5, or that of the largest coordinate."""

    def __init__(self, value: float = math.nan, broken: Callable[[float], bool] = lambda t: False) -> None:
        super().__init__(torch.zeros(SHAPE), None, torch.ones(4), SCHEDULE)
        self.value, self.broken = value, broken

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        prediction = super()._predict(x, node)
        if self.broken(node.t):
            row = 3 if len(x) == 5 else int(x[:, 0, 0, 0].nan_to_num(1e9).argmax())  # implicit solvers leave rows out
            prediction.eps[row] = self.value
            prediction.denoised[row] = self.value
        return prediction


def rows(count: int = 5) -> Tensor:
    x = torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(0))
    x[3, 0, 0, 0] = 5.0
    return x


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("solver", solvers())
def test_the_step_and_the_rows_are_named(solver: str, value: float) -> None:
    """Nothing is counted, since nothing was made."""
    up = Overflowing(value, lambda t: t > 250)
    with pytest.raises(InputError, match=r"invert: after the step to t=\d+.*model\.dtype=float32, another") as caught:
        invert(up, rows(), GRID, [400.0], solver, batch_size=5, first=10)
    assert "1 of 5 (row 13) is not finite" in str(caught.value)
    assert "\n" not in str(caught.value)
    down = Overflowing(value, lambda t: t < 250)
    with pytest.raises(InputError, match=r"denoise: after the step to t=-?\d+.*1 of 5 \(row 40\) is not"):
        denoise(down, rows(), GRID, 0.5, 0, [10, 20, 30, 40, 50], solver)
    assert up.evaluations == down.evaluations == 0


def test_the_first_broken_step_is_the_one_that_is_named() -> None:
    nodes = [node.t for node in GRID.down]
    with pytest.raises(InputError, match=rf"after the step to t={nodes[3]:g}, ") as caught:
        denoise(Overflowing(math.nan, lambda t: t <= nodes[2]), rows(), GRID, 0.0, 0)
    assert "row 3" in str(caught.value)


def test_a_finite_trajectory_is_evaluated_once() -> None:
    model = Overflowing()
    invert(model, rows(), GRID, [400.0])
    assert model.evaluations == 5 * 4


def broken(value: float) -> Tensor:
    x = rows()
    x[1, 0, 1, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (broken(math.nan), r"1 of 5 \(row 1\) is not finite; repair"),
        (broken(math.inf), r"1 of 5 \(row 1\) is not finite"),
        (torch.full((2, *SHAPE), -math.inf), r"2 of 2 \(rows 0, 1\) are not finite"),
    ],
)
def test_states_that_cannot_be_used_are_refused_before_any_evaluation(x: Tensor, message: str) -> None:
    model = Overflowing()
    for name, call in (
        ("images", lambda: invert(model, x, GRID, [400.0])),
        ("latents", lambda: denoise(model, x, GRID, 0.0, 0)),
    ):
        with pytest.raises(InputError, match=rf"^{name}.*{message}") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert model.evaluations == 0


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_are_no_states(dtype: torch.dtype) -> None:
    """uint8 images would count as values from 0 to 255. Tests check types before the functions themselves do."""
    with pytest.raises(InputError, match=rf"images of {dtype}: give floating-point states; dequantise turns"):
        sampling._check_states("images", torch.zeros(2, *SHAPE, dtype=dtype), Overflowing(), range(2))


@pytest.mark.parametrize("shape", [(2, 1, 3, 3), (2, 3, 2, 2), (2, 1, 2, 4)])
def test_states_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"analytic takes \(n, 1, 2, 2\)"):
        invert(Overflowing(), torch.zeros(shape), GRID, [400.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cosine", 4, 400.0), r"solver\.grid=cosine: choose one of uniform_t"),
        (("", 4, 400.0), r"solver\.grid=.*choose one of"),
        (("karras", 0, 400.0), "steps=0: give a whole number of 2 or more"),
        (("karras", 1, 400.0), "steps=1: give"),
        (("uniform_t", -3, 400.0), "steps=-3: give"),
        (("paper", 1, 400.0), "steps=1: give"),
        (("karras", True, 400.0), "steps=true: give a whole number"),
        (("karras", 4, math.nan), "t=nan lies outside the schedule"),
        (("paper", 4, math.nan), "t=nan lies outside the schedule"),
        (("trailing", 4, math.inf), "t=inf lies outside the schedule"),
        (("karras", 4, 1000.0), "t=1000 lies outside the schedule"),
        (("karras", 4, 0.0), r"mixing\.t=0: choose a mixing step above 0"),
        (("karras", 4, 400.0, [math.nan]), "t=nan lies outside"),
        (("paper", 4, 400.0, [math.inf]), "t=inf lies outside"),
    ],
)
def test_grids_that_do_not_exist_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_grid(SCHEDULE, *arguments)
    assert "\n" not in str(caught.value)
