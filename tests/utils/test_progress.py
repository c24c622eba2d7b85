"""Progress bars: steps of earlier starts and of other workers count as progress, never in the speed."""

import io
from typing import Any

import pytest
from tqdm import tqdm

from support.clocks import FakeClock
from unseen_diffusion.utils.progress import skip, steps_bar

TOTAL = 1000


@pytest.fixture
def bar_and_clock() -> tuple["tqdm[None]", FakeClock]:
    """A bar of 1000 steps whose time is that of the clock."""
    clock = FakeClock()
    bar: tqdm[None] = tqdm(total=TOTAL, file=io.StringIO(), mininterval=20, miniters=1)
    bar._time = clock.monotonic
    bar.start_t = bar.last_print_t = clock.monotonic()
    return bar, clock


def rate(bar: "tqdm[None]") -> float:
    """The speed from which the bar tells the time left."""
    shown = bar.format_dict
    return shown["rate"] or (shown["n"] - shown["initial"]) / shown["elapsed"]


@pytest.mark.parametrize("waited", [0, 300])
@pytest.mark.parametrize("earlier", [[], [900], [300, 300], [1, 1, 1]])
@pytest.mark.parametrize("seconds", [1.0, 30.0])
def test_the_rate_is_that_of_the_steps_done_here(
    bar_and_clock: Any, earlier: list[int], waited: float, seconds: float
) -> None:
    """A step takes so many seconds, whatever was done before, and however long the bar waited for it."""
    bar, clock = bar_and_clock
    for steps in earlier:
        clock.advance(waited)
        skip(bar, steps)
    for _ in range(50):
        clock.advance(seconds)
        bar.update()
        assert rate(bar) == pytest.approx(1 / seconds, rel=1e-6)
    assert bar.n == sum(earlier) + 50


@pytest.mark.parametrize("others", [1, 400])
def test_steps_of_other_workers_meanwhile_do_not_change_the_rate(bar_and_clock: Any, others: int) -> None:
    bar, clock = bar_and_clock
    for step in range(100):
        clock.advance(2)
        bar.update()
        if step == 50:
            skip(bar, others)
        assert rate(bar) == pytest.approx(0.5, rel=1e-6)
    assert bar.n == 100 + others


def test_a_bar_that_is_not_shown_counts_nothing() -> None:
    with steps_bar("invert", 4, 5, False) as bar:
        skip(bar, 10)
        assert bar.n == 0
    with steps_bar("invert", 4, 5, bar) as same:
        assert same is bar
