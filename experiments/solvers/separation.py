"""How much of the gap between unseen and own latents comes from the solver? Writes separation.csv and separation.md.

python experiments/solvers/separation.py 'photos/*-test.parquet' [images]

The Parquet files hold photographs of the classes that the base model was trained on, kept out of its training.
"""

import sys
from pathlib import Path

import pandas as pd
from torch import Tensor

import unseen_diffusion as ud
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.parquet import Parquet
from unseen_diffusion.solvers.sampling import invert
from unseen_diffusion.solvers.settings import SolverSettings

HERE = Path(__file__).parent
MIXING = (
    *(SolverSettings(name="ddim", grid="uniform_t", steps=steps) for steps in (10, 20, 40, 80)),
    *(SolverSettings(name="dpmpp_2m", grid="karras", steps=steps) for steps in (10, 20, 40)),
    *(SolverSettings(name="trapezoid", grid="karras", steps=steps) for steps in (10, 20, 40)),
    *(SolverSettings(name="dpmpp_2m", grid="karras", steps=steps, clean_end="half") for steps in (20, 40)),
)
# At the schedule's end latents of the model's own domain are N(0, I): their RMS should be 1.
END = tuple(
    SolverSettings(name="dpmpp_2m", grid="karras", steps=40, clean_end=clean_end) for clean_end in ("full", "half")
)


def radius(model: ud.DiffusersModel, images: Tensor, t: float, solver: SolverSettings) -> float:
    """Root mean square of the latents' coordinates at ``t``."""
    latents = invert(model, images, solver.make_grid(model.schedule, t), [t], solver)[t]
    return float(latents.double().square().mean().sqrt())


def main() -> None:
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 16
    model = ud.DiffusersModel("embedded:photos32")
    unseen = ud.load_split(Hubble(references=230, validation=70, heldout=200), size=32, channels=3).references[:count]
    files = Parquet(path=sys.argv[1], name="photographs", references=count, validation=count, heldout=count)
    own = ud.load_split(files, size=32, channels=3).references
    rows = []
    for t, solver in [*((500.0, solver) for solver in MIXING), *((999.0, solver) for solver in END)]:
        a, b = (radius(model, ud.dequantise(images), t, solver) for images in (unseen, own))
        rows.append((t, solver.name, solver.grid, solver.clean_end, solver.steps, a, b, a - b))
        print(rows[-1], flush=True)
    names = ["t", "solver", "grid", "clean_end", "evaluations", "hubble", "photographs", "gap"]
    table = pd.DataFrame(rows, columns=names)
    table.to_csv(HERE / "separation.csv", index=False, float_format="%.4f")
    (HERE / "separation.md").write_text(
        table.to_markdown(index=False, floatfmt=("g", "", "", "", "g", ".3f", ".3f", ".3f")) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
