"""The sweeps of a study: which commands make its results, and what makes them small enough for a test.

A study is a folder with ``analyse.py``, which names its ``SWEEPS`` and turns their results into a table, a figure and
answers. Studies may share sweeps: those run once.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sweep:
    """One command.

    Attributes:
        name: of its folder below outputs/sweeps.
        overrides: of ``unseen run -m``.
        tiny: the overrides that make it small, beside those of ``experiments.studies.TINY``.
    """

    name: str
    overrides: tuple[str, ...]
    tiny: tuple[str, ...] = ()


def sweep(name: str, experiment: str, *overrides: str, tiny: Sequence[str] = ()) -> Sweep:
    """A sweep of conf/experiment/``experiment``.yaml."""
    return Sweep(name, (f"experiment={experiment}", *overrides), tuple(tiny))


TWO = "domain=hubble,noise"  # domains of tiny sweeps
QUICK = "solver.steps=3"
SEARCH = (QUICK, "bandwidth.references=4", "bandwidth.resolution=0.2")
