"""Progress bars that count the steps of all images and show the time left."""

import sys
from contextlib import AbstractContextManager, nullcontext

from tqdm import tqdm


def steps_bar(
    label: str, images: int, steps: int, shown: "bool | tqdm[None]", delay: float = 0.0
) -> "AbstractContextManager[tqdm[None]]":
    """A progress bar over the steps of all images, with the time left; written to a file it is a line every 20 s.

    Args:
        label: name of the work.
        images: number of images.
        steps: number of steps per image.
        shown: whether to show the bar, or an existing bar to continue.
        delay: seconds before the bar appears.
    """
    if isinstance(shown, tqdm):
        return nullcontext(shown)
    every = 0.2 if sys.stderr.isatty() else 20
    return tqdm(
        total=images * steps,
        desc=label,
        unit="step",
        disable=not shown,
        dynamic_ncols=True,
        leave=False,
        mininterval=every,
        delay=delay,
    )


def skip(bar: "tqdm[None]", steps: int) -> None:
    """Counts steps that were done earlier or elsewhere as progress, but not in the speed.

    A bar that has not counted a step of this process yet measures time from now on.
    """
    if bar.disable:
        return
    if bar.n == bar.initial:
        bar.start_t = bar.last_print_t = bar._time()
    bar.n += steps
    bar.initial += steps
    bar.last_print_n += steps  # tqdm takes the difference to n for steps of its last interval
