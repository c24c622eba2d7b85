"""The verdict on the sampler (reviewer 9), from results.csv of measure.py and separation.csv of separation.py.

`python -m experiments.studies solvers --analyse`
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from experiments.common import Answer, write_answers
from experiments.sweeps import Sweep

SWEEPS: tuple[Sweep, ...] = ()  # no sweeps: its README explains how its tables are computed; the analysis reads those

HERE = Path(__file__).parent
STEPS = 16  # evaluations per direction, the default of `unseen run`
CONTROL = "ddim_implicit"  # inverts another map: its latents are no approximation of the others'


def analyse(folders: Sequence[Path], out: Path) -> None:
    """Writes the study's answers; ``folders`` is empty."""
    errors, gaps = pd.read_csv(HERE / "results.csv"), pd.read_csv(HERE / "separation.csv")
    where = "results.csv and separation.csv of this folder: photos32, 8 images; hardware and time above"
    write_answers(out, [sensitivity(errors, gaps)], where)


def spread(values: pd.Series) -> float:
    """Largest over smallest."""
    return float(values.max() / values.min())


def sensitivity(errors: pd.DataFrame, gaps: pd.DataFrame) -> Answer:
    """The effect of grid and solver on latents, round trips, and the RMS difference of unseen and own latents."""
    rows = errors[(errors["steps"] == STEPS) & (errors["clean_end"] == "full") & (errors["solver"] != CONTROL)]
    # A solver on its grids, and the solvers on one grid: the median of what exchanging one of the two changes.
    grids = rows.groupby("solver").filter(lambda group: len(group) > 1).groupby("solver")["latent_rms"].apply(spread)
    solvers = rows.groupby("grid").filter(lambda group: len(group) > 1).groupby("grid")["latent_rms"].apply(spread)
    larger = "grid" if grids.median() > solvers.median() else "solver"
    other = "solver" if larger == "grid" else "grid"
    at = gaps[(gaps["t"] == 500) & (gaps["clean_end"] == "full")]["gap"]
    return Answer(
        "reviewer 9",
        f"Latents and round trips depend on the sampler, on its {larger} more than on its {other}; the gap between "
        f"unseen and own latents changes by {100 * (at.max() - at.min()) / at.max():.0f}% of its largest value and "
        f"{'stays' if at.min() > 0 else 'does not stay'} above zero with every sampler.",
        f"{STEPS} evaluations, 8 images: another grid changes the latents' error by a factor of {grids.median():.1f}, "
        f"another solver by {solvers.median():.1f} (medians); round trips {rows['pair_psnr'].min():.1f} to "
        f"{rows['pair_psnr'].max():.1f} dB; gap {at.min():.3f} to {at.max():.3f} in RMS; no interval, the tables hold "
        "means",
    )
