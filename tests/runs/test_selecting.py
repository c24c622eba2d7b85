"""Selection by images in a run: bounded, counted, resumable, and nothing changes without it."""

import json
from pathlib import Path

import pytest
import torch

from support.commands import TINY, run
from unseen_diffusion.store.artefacts import load_tensor

PAIRS = ("prior=linear_combination", "prior.k=2", "tolerances=none")
NETWORK = ("model=untrained", *(word for word in TINY if not word.startswith("model")))


def result(folder: Path) -> dict:
    (path,) = folder.rglob("results.json")
    return json.loads(path.read_text())


def images(found: dict) -> torch.Tensor:
    return load_tensor(found["details"]["generated"], "images")


def test_a_selection_chooses_among_the_images_of_the_same_run_without_it(here: Path) -> None:
    """Copies are dropped until enough images are left; the first ones are those of selection=none; all is counted."""
    for name in ("none", "copies"):
        words = (*TINY, *PAIRS, f"selection={name}", f"hydra.run.dir={here / name}")
        assert run("run", *words) == 0
    plain, chosen = result(here / "none"), result(here / "copies")
    record = chosen["selection"]["images"]
    assert len(images(chosen)) == 12
    assert record["judged"] > 12
    assert record["near_copies"] > 0
    assert record["acceptance"]["share"] == pytest.approx(12 / record["judged"])
    assert chosen["rows"][0]["acceptance"] == pytest.approx(12 / record["judged"])
    assert "images" not in plain["selection"]
    # The images that are kept of the first 12 candidates are those of the run without a selection.
    first = load_tensor(chosen["details"]["generated"], "positions").tolist()
    first = [position for position in first if position < 12]
    assert torch.equal(images(chosen)[: len(first)], images(plain)[first])
    assert chosen["rows"][0]["evaluations_per_image"] > plain["rows"][0]["evaluations_per_image"]
    # A second run of the same selection computes nothing again.
    words = (*TINY, *PAIRS, "selection=copies", f"hydra.run.dir={here / 'again'}")
    assert run("run", *words) == 0
    assert all(one["reused"] for one in result(here / "again")["artefacts"])


def test_a_selection_in_the_networks_features(here: Path) -> None:
    """On an untrained network: candidates and their features are evaluated, and the control takes as many of them."""
    small = (*NETWORK, *PAIRS, "samples=16", "solver.steps=2", "scores=lean", "scores.reconstructions=0")
    small = (*small, "scores.rows=[]", "scores.paths=0", "scores.geometry=0", "scores.membership=false")
    found = {}
    for name, more in (("features", ()), ("random", ()), ("herding", ())):
        words = (*small, f"selection={name}", *more, f"hydra.run.dir={here / name}")
        assert run("run", *words) == 0
        found[name] = result(here / name)
    records = {name: one["selection"]["images"] for name, one in found.items()}
    assert records["random"]["acceptance"] == records["features"]["acceptance"]
    assert not torch.equal(images(found["random"]), images(found["features"]))
    assert records["features"]["independent"]
    assert not records["herding"]["independent"]
    assert records["features"]["before"]["name"] == "copies"
    spent = found["features"]["evaluations"]
    # Of the references and of every candidate, one evaluation each.
    assert spent["network_features"] >= 24 + records["features"]["judged"]


def test_a_selection_is_bounded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One reference in each candidate: all are copies, and the run says how many were kept."""
    words = (*TINY, "prior=linear_combination", "prior.k=1", "tolerances=none", "selection=copies")
    assert run("run", *words, "rejection.max_images=20") != 0
    said = "".join(capsys.readouterr())
    assert "selection=copies: 0 of 12 images kept after 20 candidates; raise rejection.max_images" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("selection=features",), "model=analytic: has no network whose blocks give features"),
        (("selection=copies", "rejection.max_images=5"), "rejection.max_images=5: give samples=12 or more"),
        (("selection=copies", "prior=replay"), "selection=copies: prior=replay draws nothing; set selection=none"),
        (("selection=copies", "selection.quantile=2"), "selection.quantile=2: give a number between 0 and 1"),
    ],
)
def test_selections_that_do_not_fit_are_refused(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    assert run("run", *TINY, "tolerances=none", *words) == 2
    assert message in capsys.readouterr().err
    assert list(here.iterdir()) == []
