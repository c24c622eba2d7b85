"""Progress bars in steps of images, with the time left."""

import sys
from contextlib import AbstractContextManager, nullcontext

from tqdm import tqdm


def steps_bar(
    label: str, images: int, steps: int, shown: "bool | tqdm[None]", delay: float = 0.0
) -> "AbstractContextManager[tqdm[None]]":
    """Progress in steps of images, with the time left; a line every 20 s where it goes to a file.

    Args:
        label: what is done.
        images: how many.
        steps: of each.
        shown: whether to show it; a bar that exists already is used on.
        delay: seconds before which nothing is shown.
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
    """Steps that were done elsewhere: they count as progress, but not for the speed."""
    if not bar.disable:
        bar.n += steps
        bar.initial += steps
