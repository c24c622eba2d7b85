"""The study of `photos32`'s recipe: every training composes; its tables are made from weights and curves."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from experiments.base_model import analyse
from experiments.base_model.measure import ALL, CANDIDATES, START, TRAININGS
from experiments.common import BEGIN, END
from support import TinyModelFolder
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.training.loop import seeded
from unseen_diffusion.utils.files import write_json
from unseen_diffusion.utils.seeds import generator

DOMAINS = ("hubble", "faces")


@pytest.mark.parametrize("name", ALL)
def test_every_training_composes(name: str) -> None:
    """Each training's network takes images of 32 x 32."""
    (point,) = expand("train", ["training=photos32", "training.data.path=x", *ALL[name]]).points
    network = seeded(point.training.network, 0)
    factor = point.training.network.pixel_unshuffle
    x = torch.zeros((1, 3 * factor**2, 32 // factor, 32 // factor))
    assert network(x, 5, return_dict=False)[0].shape == x.shape
    assert (name in CANDIDATES) <= (point.training.loop.steps == 1000)


def end_training(name: str, seed: int, steps: Sequence[int], copy: TinyModelFolder, decays: Sequence[float]) -> None:
    """A finished training of a tiny network: weights, their averages and a curve."""
    folder = TRAININGS / name
    shutil.copytree(copy(size=32, seed=seed), folder / "weights")
    (folder / "weights" / "README.md").touch()
    kept = f"weights-{steps[-1]:06d}"
    for number, suffix in enumerate(["", *(f"-ema-{decay}" for decay in decays)]):
        shutil.copytree(copy(size=32, seed=seed + number), folder / f"{kept}{suffix}")
    curve = {"validation_loss": 0.5, "kid": 1.0, "kid_low": 0.9, "kid_high": 1.2}
    others = {f"{analyse.AVERAGE}{decay}": 0.5 for decay in decays}
    pd.DataFrame([{"step": step, **curve, **others} for step in steps]).to_csv(folder / "validation.csv", index=False)


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: TinyModelFolder) -> Path:
    """Finished trainings of tiny networks, and runs on unseen domains."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(analyse, "AT_ONCE", 4)
    monkeypatch.setattr(analyse, "REPEATS", 1)
    shutil.copytree(tiny_model_folder(size=32, seed=9), START)
    for seed, name in enumerate(("photos32", "deep", "photos32_seed_1")):
        end_training(name, seed, [1000], tiny_model_folder, [])
    end_training("longer", 3, [1000, 3000], tiny_model_folder, [0.0, 0.99])
    end_training("longest", 5, [2000, 4500], tiny_model_folder, [0.0])
    interval = {"eta": 0.5, "low": 0.4, "high": 0.6}
    for job, (domain, path) in enumerate((d, p) for d in DOMAINS for p in analyse.MODELS):
        kid_h = 2.0 if (domain, path) == ("hubble", list(analyse.MODELS)[-1]) else 1.0
        row = {"kid_h": kid_h, "kid_h_low": kid_h - 0.2, "kid_h_high": kid_h + 0.2}
        row |= {"copy_rate": 0.0, "copy_rate_low": 0.0, "copy_rate_high": 0.1}
        write_json(
            analyse.SWEEP / str(job) / "results.json",
            {"rows": [row], "bandwidth": interval, "config": {"model": {"path": path}}, "settings": {"domain": domain}},
        )
    return tmp_path


def test_the_study_is_made_from_trainings(trained: Path) -> None:
    """Writes tables, a figure and a README's block about every network, average and domain."""
    images = torch.randint(0, 256, (24, 3, 32, 32), generator=generator(0, "images"), dtype=torch.uint8)
    out = trained / "study"
    out.mkdir()
    (out / "README.md").write_text(f"# a study\n{BEGIN}\n{END}\n")
    analyse.analyse(analyse.Measuring(images[:12], images[12:], images=4, samples=8), out)
    assert {"networks.csv", "longer.csv", "averages.csv", "domains.csv", "figure.png"} < {p.name for p in out.iterdir()}
    networks = pd.read_csv(out / "networks.csv").set_index("training")
    assert networks.loc["photos32", ["difference", "low", "high"]].tolist() == [0, 0, 0]
    assert networks.loc["deep", "low"] < networks.loc["deep", "difference"] < networks.loc["deep", "high"]
    assert pd.read_csv(out / "longer.csv")["step"].tolist() == [7000, 8000, 10000, 12000, 14500]
    averages = pd.read_csv(out / "averages.csv").set_index(["training", "decay"])
    assert list(averages.index) == [
        ("longer", 0),
        ("longer", 0.99),
        ("longer", 0.999),
        ("longest", 0),
        ("longest", 0.999),
    ]
    assert averages.loc[(slice(None), analyse.OWN), "difference"].tolist() == [0, 0]
    said = (out / "README.md").read_text()
    assert "From 7000 to 10000 steps" in said
    assert "From 10000 to 14500 steps" in said
    assert "After 14500 steps: loss of training images" in said
    assert "After 10000 steps KID-H differs from that after 7000 on none of them." in said
    assert "After 14500 steps KID-H differs from that after 7000 on hubble." in said


def test_better_is_beyond_twice_the_seeds_difference() -> None:
    """A better network differs by more than twice the seeds' difference, with an interval on one side of zero."""
    rows = [
        ("photos32", 0, 0),
        ("photos32_seed_1", 1, 2),
        ("deep", -3, -1),
        ("two_levels", -1.5, -1),
        ("wide_end", -5, 1),
    ]
    table = pd.DataFrame([{"training": name, "difference": value, "high": high} for name, value, high in rows])
    assert analyse.better(table) == ["deep"]
