"""The paper's tables: every cell composes, the cost is printed first, and a cell runs from end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, ScoreSdeVeScheduler, UNet2DModel
from omegaconf import DictConfig
from PIL import Image

from support.commands import run
from support.families import save
from unseen_diffusion.domains.base import Domain
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import Tolerances
from unseen_diffusion.runs.methods.base import Method
from unseen_diffusion.scores.suite import ScoreSettings
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.sweeps.catalogue import entry
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.sweeps.cost import cost_of
from unseen_diffusion.utils.configs import build, check_arguments, resolve_plain

TABLES = ("paper_table1", "paper_table2")
KINDS = {
    "domain": Domain,
    "method": Method,
    "prior": Prior,
    "tolerances": Tolerances,
    "solver": SolverSettings,
    "scores": ScoreSettings,
}
SMALL = (
    "domain=folder",
    "domain.path=images",
    "domain.references=12",
    "domain.validation=0",
    "domain.heldout=12",
    "samples=8",
    "solver.steps=6",
    "solver.denoising_steps=4",
    "mixing.record=null",
    "features=pixels",
    "progress=false",
    "hydra.sweep.dir=swept",
)


def cells(table: str) -> list[DictConfig]:
    return expand("run", ["-m", f"experiment={table}"]).points


@pytest.mark.parametrize("table", TABLES)
def test_every_cell_composes(here: Path, table: str) -> None:
    """Four bases on all unseen domains, none on its own; every object that reads no files is built."""
    points = cells(table)
    pairs = [(point.hydra.runtime.choices["model"], point.hydra.runtime.choices["domain"]) for point in points]
    assert len(set(pairs)) == len(pairs) == 20
    for model, domain in pairs:
        assert entry("model", model).note("Trained on") not in ("", domain)
    for point in points:
        for group, kind in KINDS.items():
            build(point[group], group, kind=kind)
        check_arguments(resolve_plain(point)["model"], "model")
        assert point.domain.references == 1000
        assert point.domain.resize == "stretch"


def test_the_command_line_narrows_both_keys_of_a_joint_sweep(here: Path) -> None:
    """One base keeps its own five domains; a base that is not in the table gets all six."""
    for words, count in ((["model=afhqdog_p2"], 5), (["domain=gz2"], 4), (["model=photos32"], 6)):
        points = expand("run", ["-m", "experiment=paper_table2", *words]).points
        assert len(points) == count
    assert len({point.domain.name for point in points}) == 6
    one = expand("run", ["-m", "experiment=paper_table2", "model=afhqdog_p2", "domain=gz2", "samples=3,4"])
    assert [point.samples for point in one.points] == [3, 4]


def test_the_dry_run_prints_the_cost_and_starts_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1000 references at 80 NFE and 5000 samples at 40, for each cell; no weights are needed."""
    assert run("run", "experiment=paper_table2", "--dry-run", "--tflops=100", "model=afhqdog_p2", "domain=gz2") == 0
    said = capsys.readouterr().out
    assert "1 run, about 292,480 NFE" in said
    assert "80,000  inversion of references" in said
    assert "200,000  samples" in said
    assert "by afhqdog_p2: 0.3 h" in said
    assert list(here.iterdir()) == []
    assert run("run", "--dry-run", "--tflops=none") == 2


def test_shared_stages_cost_once_and_the_estimate_is_what_a_run_spends(here: Path) -> None:
    """Two priors share one inversion; a run's own count of NFE is the estimate."""
    words = ["-m", "domain=noise", "domain.references=10", "domain.heldout=12", "samples=8", "solver=ddim"]
    words += ["solver.steps=5", "scores=lean", "features=pixels", "tolerances=none", "tracking=none", "progress=false"]
    words += ["model=analytic", "hydra.sweep.dir=swept"]
    cost = cost_of(expand("run", [*words, "prior=isotropic,diagonal"]).points)
    assert cost.stages == {"inversion of references": 50, "samples": 80}
    assert run("run", *words, "prior=isotropic,diagonal") == 0
    spent = [json.loads(path.read_text())["evaluations"]["total"] for path in Path("swept").glob("*/results.json")]
    assert sum(spent) == cost.nfe


@pytest.fixture
def images(here: Path) -> Path:
    """Pictures that are not square, as those of a domain of the paper."""
    folder = here / "images"
    folder.mkdir()
    for number in range(30):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 18, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((72, 48)).save(folder / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize("table", TABLES)
def test_a_cell_runs_from_end_to_end(
    images: Path, tiny_model_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], table: str
) -> None:
    """A small random network with a learned variance, as the paper's; the sweep resumes; the table compares."""
    model = tiny_model_folder(size=16, learned_variance=True)
    more = [] if table == "paper_table1" else ["prior.id_count=6", "tolerances=none", "bandwidth=fixed"]
    arguments = ["-m", f"experiment={table}", f"model.path={model}", "model=afhqdog_p2", *SMALL, *more]
    assert run("run", *arguments) == 0
    assert run("resume", "swept") == 0
    assert "nothing to resume" in capsys.readouterr().out
    found = json.loads(Path("swept/0/results.json").read_text())
    assert found["settings"]["model"] == "afhqdog_p2"
    assert found["geometry"]["pair_distance"]["mean"] > 0
    assert run("table", "swept", "--published") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "never stands beside published FID" in said
    assert "611.4" in said


def at_256(scheduler: object, **changes: object) -> Callable[[Path], Path]:
    """A random network for 256 pixels of the paper's shape, with 8 channels in place of 128."""

    def make(folder: Path) -> Path:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            settings = {
                "sample_size": 256,
                "block_out_channels": (8, 8, 8, 8, 8, 8),
                "down_block_types": ("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
                "layers_per_block": 1,
                "attention_head_dim": 8,
                "norm_num_groups": 4,
            }
            return save(folder, unet=UNet2DModel(**(settings | changes)), scheduler=scheduler)

    return make


FAMILIES = {
    "ddpm": at_256(DDPMScheduler()),
    "adm": at_256(DDPMScheduler(variance_type="learned_range"), out_channels=6, resnet_time_scale_shift="scale_shift"),
    "ncsnpp": at_256(ScoreSdeVeScheduler()),
    "edm": at_256(EDMEulerScheduler()),
}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_cell_of_each_family_runs_at_256_pixels(images: Path, family: str) -> None:
    """3x256x256 from end to end with a random network of the paper's shape."""
    model = FAMILIES[family](Path("model"))
    more = ["prior.id_count=4", "tolerances=none", "bandwidth=fixed", "samples=6", "solver=ddim", "solver.steps=3"]
    words = [word for word in SMALL if not word.startswith(("solver", "samples"))]
    arguments = [
        "-m",
        "experiment=paper_table2",
        f"model.path={model}",
        "model=diffusers",
        "scores=lean",
        *words,
        *more,
    ]
    assert run("run", *arguments, "batch_size=2") == 0
    assert json.loads(Path("swept/0/results.json").read_text())["rows"][0]["n"] == 6
