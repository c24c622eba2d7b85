"""Studies: each runs tiny and makes its table, figure and verdicts; the functions that studies share."""

import io
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from scipy.stats import qmc

from experiments import studies
from experiments.base_quality.analyse import KEPT
from experiments.common import BEGIN, END, bootstrap, fill, read_answers
from experiments.scoreboard import QUESTIONS, scoreboard
from experiments.sweeps import sweep
from support import ROOT, TinyModelFolder
from support.commands import TINY
from support.options import option
from support.studies import OneAfterAnother
from unseen_diffusion.rejection.geometry import CRITERIA, References
from unseen_diffusion.runs.mixing import PERMUTATIONS
from unseen_diffusion.runs.results import execute
from unseen_diffusion.runs.run import Run
from unseen_diffusion.runs.settings import check
from unseen_diffusion.scores.latents.gaussianity import gaussianity
from unseen_diffusion.scores.latents.separability import separability
from unseen_diffusion.sweeps.composition import expand, sobol
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

STUDIES = studies.studies()


@pytest.fixture(scope="module")
def working(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: TinyModelFolder) -> Path:
    """A working folder whose configs replace the bundled networks by tiny random ones."""
    folder = tmp_path_factory.mktemp("studies")
    (folder / "conf" / "model").mkdir(parents=True)
    for name, channels in (("photos32", 3), ("digits32", 1), ("untrained", 3)):
        path = tiny_model_folder(channels=channels, seed=len(name))
        config = {"_target_": "unseen_diffusion.models.DiffusersModel", "name": name, "path": str(path)}
        OmegaConf.save(OmegaConf.create(config), folder / "conf" / "model" / f"{name}.yaml")
    for seed, kept in enumerate((KEPT[0], KEPT[-1])):
        shutil.copytree(tiny_model_folder(channels=3, seed=seed), folder / kept)
    photographs(folder)
    return folder


def photographs(folder: Path) -> None:
    """Makes `domain=cifar10` read 40 pictures of noise, labelled with the classes that the study uses."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3), dtype=np.uint8)
    pictures = [io.BytesIO() for _ in pixels]
    for picture, values in zip(pictures, pixels, strict=True):
        Image.fromarray(values).save(picture, format="png")
    table = {"image": [picture.getvalue() for picture in pictures], "label": [1, 5, 7, 8] * 10}
    pd.DataFrame(table).to_parquet(folder / "photographs.parquet")
    (folder / "conf" / "domain").mkdir()
    config = OmegaConf.load(ROOT / "conf" / "domain" / "cifar10.yaml")
    config.path = str(folder / "photographs.parquet")
    OmegaConf.save(config, folder / "conf" / "domain" / "cifar10.yaml")


@pytest.fixture(scope="module")
def study(working: Path) -> Iterator[Callable[[str], Path]]:
    """Runs a study's tiny sweeps that have not run yet and analyses them; returns its folder of results.

    Sweeps run in forks of this process, which has imported everything; intervals are of fewer draws than a study's.
    """

    def results_of(name: str) -> Path:
        monkeypatch.setattr("sys.argv", ["studies", name, "--tiny", "--jobs=1"])
        assert studies.main() == 0
        return working / "outputs" / "tiny" / name

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(working)
        monkeypatch.setattr(studies, "PROCESSES", get_context("fork"))
        monkeypatch.setattr(studies, "ThreadPoolExecutor", OneAfterAnother)
        monkeypatch.setattr(bootstrap, "__defaults__", (0, 100))
        for key, value in {"UNSEEN_CONF": "conf", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}.items():
            monkeypatch.setenv(key, value)
        yield results_of


LONG = (
    "bandwidth_vs_gap",
    "comparison",
    "criteria_ablation",
    "novelty",
    "prior_choice",
    "priors",
    "reconstruct",
    "separability",
    "tuning",
)  # 16 runs or more, even when tiny


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in STUDIES])
def test_a_study_makes_its_table_figure_and_answers_from_artefacts(study: Callable[[str], Path], name: str) -> None:
    folder = study(name)
    answers, where = read_answers(folder)
    assert where
    assert {answer.question for answer in answers} <= set(QUESTIONS)
    assert all(answer.verdict and "nan" not in answer.verdict.split() for answer in answers)
    if studies.sweeps_of(name):
        assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
        assert len((folder / "table.md").read_text(encoding="utf-8").splitlines()) > 2
        assert len((folder / "results.csv").read_text(encoding="utf-8").splitlines()) > 1


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_what_it_asks_and_how(name: str) -> None:
    text = (ROOT / "experiments" / name / "README.md").read_text(encoding="utf-8")
    assert all(part in text for part in ("Protocol", "Command", BEGIN, END)), name
    assert read_answers(ROOT / "experiments" / name)[0]


def test_the_scoreboard_has_every_question(study: Callable[[str], Path]) -> None:
    text = scoreboard(study("paths").parent)
    assert all(f"| **{key}** |" in text for key in QUESTIONS)
    assert all(line.count("|") == 6 for line in text.splitlines())
    committed = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    assert scoreboard(ROOT / "experiments") in committed


def test_an_interrupted_sweep_continues_with_what_was_finished(study: Callable[[str], Path]) -> None:
    study("paths")
    where = studies.folder(studies.sweeps_of("paths")[0], True)
    before = read_json(where / "0" / "results.json")
    for path in (where / studies.ENDED, where / "0" / "results.json", where / "0" / "status.json"):
        path.unlink()
    study("paths")
    after = read_json(where / "0" / "results.json")
    assert after["rows"][0]["kid_h"] == before["rows"][0]["kid_h"]
    assert after["evaluations"]["total"] == 0
    assert (where / studies.ENDED).exists()


def test_a_sweep_whose_definition_changed_is_run_again(
    study: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    study("paths")
    capsys.readouterr()
    (one,) = studies.sweeps_of("paths")
    ended = studies.folder(one, True) / studies.ENDED
    before = ended.read_text(encoding="utf-8")
    assert studies.run(one, True)
    assert capsys.readouterr().out == ""
    assert not studies.run(sweep("paths", "absent"), True)
    assert "unseen run -m experiment=absent" in capsys.readouterr().out
    ended.write_text(before, encoding="utf-8")


def test_a_study_that_does_not_exist_and_a_sweep_that_fails_are_reported(
    study: Callable[[str], Path], working: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        study("absent")
    assert "absent: no such study; choose among bandwidth_vs_gap" in " ".join(capsys.readouterr().err.split())
    assert not studies.run(sweep("bad", "absent"), tiny=False)
    assert "bad: exit code 2; see outputs/sweeps/study_bad/studies.log" in capsys.readouterr().out
    assert not (working / "outputs" / "sweeps" / "study_bad" / studies.ENDED).exists()


@pytest.mark.slow
def test_studies_run_as_a_program(working: Path) -> None:
    """`python -m experiments.studies` runs two sweeps at a time, in processes of a fork server."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "UNSEEN_CONF": "conf"}
    command = [sys.executable, "-m", "experiments.studies", "paths", "bandwidth_vs_gap", "--tiny"]
    found = subprocess.run(command, cwd=working, env=environment, capture_output=True, text=True, timeout=280)
    assert found.returncode == 0, found.stdout + found.stderr
    assert all((working / "outputs" / "tiny" / name / "figure.png").is_file() for name in command[3:5])


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    fill(path, "new")
    fill(path, "newer")
    assert path.read_text(encoding="utf-8") == f"before\n{BEGIN}\nnewer\n{END}\nafter\n"
    path.write_text("no marks\n", encoding="utf-8")
    fill(path, "new")
    assert path.read_text(encoding="utf-8") == "no marks\n"


# ---------------------------------------------------------------- blocks


def test_sobol_points_are_scipys_and_balanced() -> None:
    points = qmc.Sobol(10, seed=0).random_base2(4)
    for index in range(16):
        assert sobol(index, 2, 0.0, 1.0) == round(float(points[index, 2]), 3)
        assert sobol(index, 3, 25, 200) == round(25 + 175 * float(points[index, 3]))
    halves = [sobol(index, 0, 0.0, 1.0) < 0.5 for index in range(16)]
    assert sum(halves) == 8


def test_a_sweep_over_the_seed_is_a_joint_sweep() -> None:
    points = expand("run", ["-m", "experiment=robustness", "seed=range(0,8)"]).points
    drawn = {(p.domain.references, p.mixing.t, p.bandwidth.eta, p.solver.steps, p.tolerances.k) for p in points}
    assert len(drawn) == 8
    assert all(25 <= p.domain.references <= 120 and 250 <= p.mixing.t <= 750 for p in points)


@pytest.mark.parametrize(
    ("name", "applied"),
    [
        ("pair_distance", ["pair_distance"]),
        ("pair_angle", ["pair_angle"]),
        ("origin_angle", ["origin_angle"]),
        ("distance_pair", ["pair_distance", "pair_angle"]),
        ("distance_origin", ["pair_distance", "origin_angle"]),
        ("pair_origin", ["pair_angle", "origin_angle"]),
    ],
)
def test_single_criteria_are_those_of_the_calibrated_tolerances(name: str, applied: Sequence[str]) -> None:
    references = References.of(torch.randn(12, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    single, every = (build(expand("run", [f"tolerances={one}"]).points[0].tolerances) for one in (name, "calibrated"))
    assert single.name == name
    bands = every.bands(references, 0)
    assert single.bands(references, 0) == {one: bands[one] for one in CRITERIA if one in applied}


def test_findings_of_latents_are_the_tests_of_latents(here: Path) -> None:
    """At every recorded step, references are compared with inverted samples of the model."""
    lean = [a for a in TINY if not a.startswith("scores")]
    point = expand("run", [*lean, "scores=lean", "scores.latents=8", "mixing.t=500", "mixing.record=[300]"]).points[0]
    settings = check(point)
    found = execute(settings, here, "test").latents
    assert found
    assert [one["t"] for one in found] == [300, 500]
    run = Run(settings)
    own = run.at(samples=8).own_images().tensors["images"]
    for one in found:
        references = run.at(t=one["t"]).references.first(8).latents
        inverted = run.stages.inversion(run.model, own, settings.solver, one["t"], [300, 500])[1].latents
        direct = separability(references, inverted, settings.seed, PERMUTATIONS)
        assert one["separability"]["distances"]["distance"] == direct.distances.distance
        assert one["separability"]["energy"]["p_value"] == direct.energy.p_value
        assert one["gaussianity"]["radius"]["value"] == gaussianity(references, settings.seed).findings["radius"].value
    assert {a.key for stage, a in run.stages.used if stage == "invert"} == {
        a.key for stage, a in run.stages.used if stage == "invert" and a.reused
    }


def test_too_few_latents_to_test_are_refused() -> None:
    with pytest.raises(InputError, match=r"scores.latents=5: give 0 or a whole number of 8 or more"):
        build(expand("run", ["scores.latents=5"]).points[0].scores)


def test_snr_is_psnr_less_the_contrast_of_the_domain() -> None:
    own = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (200, 1, 8, 8), generator=own, dtype=torch.uint8)
    search = option("bandwidth", "search", minimum_psnr=None, minimum_snr=10.0)
    assert search.criterion == "mean SNR of 10 dB or more"
    variance = images.double().var(0).mean()
    noisy = images.double() + (variance / 10).sqrt() * torch.randn(images.shape, generator=own, dtype=torch.float64)
    psnr = 10 * torch.log10(255**2 / (noisy - images).square().mean())
    assert abs(search.on(images).minimum_psnr - float(psnr)) < 0.3
    halved = (images // 2).to(torch.uint8)
    assert abs(search.on(halved).minimum_psnr - search.on(images).minimum_psnr - 20 * math.log10(2)) < 0.1
    assert option("bandwidth", "search", minimum_psnr=20).on(images).minimum_psnr == 20
    with pytest.raises(InputError, match=r"minimum_snr=10.0: the references do not differ"):
        search.on(images[:1].expand(3, -1, -1, -1))
