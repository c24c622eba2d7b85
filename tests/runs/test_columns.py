"""Columns mean what they say: each column of a run's table equals its score function called by hand."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from support.commands import TINY, run
from unseen_diffusion.reports.rows import GENERATED, SETTINGS
from unseen_diffusion.reports.tables import load_results
from unseen_diffusion.scores.diversity import vendi_ratio
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.scores.frechet import frechet_distance
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.scores.membership import classifier_share, conformal_share
from unseen_diffusion.scores.memorisation import copy_rate
from unseen_diffusion.scores.metrics import METRICS, P_VALUE
from unseen_diffusion.scores.novelty import novelty_ratio, patch_copy_rate, symmetric_copy_rate
from unseen_diffusion.scores.reconstruction import psnr
from unseen_diffusion.store.artefacts import load_tensor

# R, H and V of different sizes, none equal to the number of samples; every setting of a score is unlike its default.
SIZES = {"references": 26, "validation": 21, "heldout": 23}
SAMPLES, K, QUANTILE, PERMUTATIONS, SIDE, STEPS, RECONSTRUCTIONS = 13, 3, 0.7, 30, 2, 4, 7
RUN = {"seed": 3, "draw": 2, "t": 400.0, "eta": 0.7}
COMMAND = (
    *TINY,
    *(f"domain.{part}={count}" for part, count in SIZES.items()),
    *(f"samples={SAMPLES}", f"solver.steps={STEPS}", f"features.side={SIDE}", "tolerances=calibrated"),
    *(f"scores.neighbours={K}", f"scores.copy_quantile={QUANTILE}", f"scores.permutations={PERMUTATIONS}"),
    *(f"scores.reconstructions={RECONSTRUCTIONS}", "scores.paths=0", "scores.geometry=0"),
    *("domain.symmetries=mirror", "scores.shifted_patches=true"),
    *(f"seed={RUN['seed']}", f"domain.draw={RUN['draw']}", f"mixing.t={RUN['t']}", f"bandwidth.eta={RUN['eta']}"),
    "hydra.sweep.dir=swept",
    "scores.target=heldout,validation",
)
TARGETS = ("heldout", "validation")


@dataclass(frozen=True)
class Images:
    """One set of images (n, C, H, W) uint8, as the scores see it."""

    images: Tensor

    @property
    def features(self) -> Tensor:
        """By the extractor that the run names."""
        return Pixels(side=SIDE)(self.images)

    @property
    def pixels(self) -> Tensor:
        """For copies; of another dimension than the features."""
        return Pixels()(self.images)

    def first(self, count: int) -> "Images":
        return Images(self.images[:count])


@dataclass(frozen=True)
class Row:
    """One row of a run: the images that are scored, those that they are compared with, and the run itself."""

    x: Images
    references: Images
    target: Images
    base: Images
    run: "Finished"
    rate: Images | None = None  # where the copy rate is that of other images


@dataclass(frozen=True)
class Finished:
    """A run's results.json."""

    results: Mapping[str, Any]

    def tensor(self, stage: str, name: str, index: int = 0) -> Tensor:
        """A tensor of the artefact that the run used first (second, ...) of a stage."""
        return load_tensor(self.folders(stage)[index], name)

    def folders(self, stage: str) -> list[str]:
        return [used["folder"] for used in self.results["artefacts"] if used["stage"] == stage]

    def images(self, row: Mapping[str, Any]) -> Images:
        """The images of a row, which names their artefact."""
        (folder,) = Path("outputs/artefacts").glob(f"*/{row['images'][:24]}")
        return Images(load_tensor(folder, "images"))

    def seconds(self) -> float:
        """Of the stages behind the generated images."""
        first = [self.folders(stage)[0] for stage in ("invert", "prior", "select", "denoise")]
        return sum(json.loads(Path(folder, "artefact.json").read_text())["seconds"] for folder in first)


def parts(name: str, score: Callable[[Row], Any], **fields: str) -> dict[str, Callable[[Row], float]]:
    """Columns of a score with several numbers: NAME_PART by the attribute that holds it."""
    return {
        name if column == "value" else f"{name}_{column}": lambda row, field=field: getattr(score(row), field)
        for column, field in ({"value": "value", "low": "low", "high": "high"} | fields).items()
    }


def copies(row: Row) -> Any:
    return copy_rate(row.x.pixels, row.references.pixels, row.target.pixels, QUANTILE)


def turned_copies(row: Row) -> Any:
    return symmetric_copy_rate(row.x.pixels, row.references.pixels, row.target.pixels, "mirror", QUANTILE)


def patches(row: Row, where: Any) -> float:
    return patch_copy_rate(row.x.pixels, row.references.pixels, row.target.pixels, where, QUANTILE)


def manifold(row: Row) -> Any:
    return prdc(row.x.features, row.target.features, K)


def acceptance(row: Row) -> float:
    """Accepted candidates over proposed ones, as the selection's own record has them."""
    return len(row.run.tensor("select", "indices")) / len(row.run.tensor("select", "statistics"))


def restored(row: Row) -> float:
    """PSNR of the first references, inverted and denoised at the run's eta."""
    folder = row.run.results["reconstruction"][f"eta{RUN['eta']:g}"]["images"]
    n = RECONSTRUCTIONS
    return float(psnr(row.references.images[:n], load_tensor(folder, "images")[:n]).mean())


EVERY: dict[str, Callable[[Row], float]] = {  # columns of every row
    "n": lambda row: len(row.x.images),
    **parts("kid_h", lambda row: kid(row.x.features, row.target.features), standard_error="standard_error"),
    **parts("kid_r", lambda row: kid(row.x.features, row.references.features), standard_error="standard_error"),
    "kid_h_p": lambda row: permutation_p_value(row.x.features, row.target.features, PERMUTATIONS, seed=0),
    "fid_h": lambda row: frechet_distance(row.x.features, row.target.features),
    "fid_floor": lambda row: frechet_distance(row.references.first(len(row.x.images)).features, row.target.features),
    "fid_r": lambda row: frechet_distance(row.x.features, row.references.features),
    **parts("copy_rate", copies, value="share", p="p_value", expected="expected"),
    "novelty": lambda row: novelty_ratio(row.x.pixels, row.references.pixels, row.target.pixels),
    "novelty_features": lambda row: novelty_ratio(row.x.features, row.references.features, row.target.features),
    **parts("symmetric_copies", turned_copies, value="share", p="p_value", expected="expected"),
    "patch_copies": lambda row: patches(row, "in_place"),
    "shifted_patch_copies": lambda row: patches(row, "shifted"),
    **{name: lambda row, name=name: getattr(manifold(row), name) for name in ("precision", "recall")},
    **{name: lambda row, name=name: getattr(manifold(row), name) for name in ("density", "coverage")},
    "vendi": lambda row: vendi_ratio(row.x.features, row.target.features).value,
    **parts("target_conformal", lambda row: conformal_share(row.x.features, row.target.features, K)),
    **parts(
        "target_classifier",
        lambda row: classifier_share(row.x.features, row.target.features, row.base.features),
        raw="raw",
        tpr="tpr",
        fpr="fpr",
    ),
}
OF_GENERATED: dict[str, Callable[[Row], float]] = {  # what the generated images cost
    "acceptance": acceptance,
    "evaluations_per_image": lambda row: (SIZES["references"] + SAMPLES) * STEPS / SAMPLES,
    "seconds_per_image": lambda row: row.run.seconds() / SAMPLES,
    "psnr": restored,
}
NAMES = ("row", "images")
NOT_OF_THE_BASE_MODEL = {name for name in EVERY if name.startswith("target_classifier")}
NOT_OF_REAL_IMAGES = {name for name in EVERY if name.startswith(("copy_rate_", "symmetric_copies_"))}
AGAINST_R = ("kid_r", "fid_r", "novelty", "patch_", "shifted_")


@pytest.fixture(scope="module")
def finished(shared_folder: Path) -> dict[str, Finished]:
    """A run against the held-out images and one against the validation images, by target."""
    assert run("run", "-m", *COMMAND) == 0
    files = [Path("swept", str(index), "results.json") for index in range(len(TARGETS))]
    return {target: Finished(json.loads(file.read_text())) for target, file in zip(TARGETS, files, strict=True)}


@pytest.fixture(autouse=True)
def in_the_folder(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_folder)


def expected(finished: Finished, target: str, row: Mapping[str, Any]) -> dict[str, float]:
    """Every column of a row, by hand."""
    r, aim = (Images(finished.tensor("split", part)) for part in ("references", target))
    (own,) = [one for one in finished.results["rows"] if one["row"] == "base_samples"]
    here = Row(r, r, aim, finished.images(own), finished)
    if row["row"] == "held_out":  # R as if it had been generated; against R itself, H takes its place
        as_r, as_h = replace(here, x=r.first(SAMPLES)), replace(here, x=aim.first(SAMPLES))
        scores = {name: score(as_h if name.startswith(AGAINST_R) else as_r) for name, score in EVERY.items()}
        for name in ("copy_rate", "symmetric_copies"):
            scores[name] = scores[f"{name}_expected"]
        return {name: value for name, value in scores.items() if name not in NOT_OF_REAL_IMAGES}
    here = replace(here, x=finished.images(row))
    columns = EVERY | (OF_GENERATED if row["row"] == GENERATED else {})
    left_out = NOT_OF_THE_BASE_MODEL if row["row"] == "base_samples" else set()
    return {name: score(here) for name, score in columns.items() if name not in left_out}


@pytest.mark.parametrize("target", TARGETS)
def test_every_column_is_its_score_by_hand(finished: dict[str, Finished], target: str) -> None:
    """Of every row; a column that this file does not know fails."""
    for row in finished[target].results["rows"]:
        by_hand = expected(finished[target], target, row)
        assert {*by_hand, *NAMES} == row.keys()
        for name, value in by_hand.items():
            found = float("nan") if row[name] is None else row[name]
            assert found == pytest.approx(value, rel=1e-9, abs=1e-9, nan_ok=True), (row["row"], name)


def test_the_sets_of_this_run_tell_scores_apart(finished: dict[str, Finished]) -> None:
    """No two rows agree, nor the two targets, R and H, or features and pixels: a confusion would show."""
    for result in finished.values():
        rows = result.results["rows"]
        assert [row["row"] for row in rows] == [GENERATED, "held_out", "replay", "standard", "base_samples"]
        for name in ("kid_h", "fid_h", "kid_r", "fid_r"):
            assert len({row[name] for row in rows}) == len(rows)
    first, second = (finished[target].results["rows"][0] for target in TARGETS)
    assert first["images"] == second["images"]
    for name in ("kid_h", "fid_h", "vendi", "kid_h_p", "coverage"):
        assert first[name] != second[name], name
    run_ = finished["heldout"]
    r, h = (Images(run_.tensor("split", part)) for part in ("references", "heldout"))
    rows = [row for row in run_.results["rows"] if row["row"] != "held_out"]
    sets = [run_.images(row) for row in rows]
    by_features = [copy_rate(x.features, r.features, h.features, QUANTILE).share for x in sets]
    assert by_features != [row["copy_rate"] for row in rows]
    assert all(prdc(x.features, h.features, 5) != prdc(x.features, h.features, K) for x in sets)


def test_every_metric_of_tables_is_a_column(finished: dict[str, Finished]) -> None:
    """And every score of a row is known to tables, but for the ends of its interval."""
    columns = {*EVERY, *OF_GENERATED}
    assert {*METRICS, P_VALUE} <= columns
    heads = {name for name in columns if not any(name.startswith(f"{metric}_") for metric in METRICS)}
    assert heads - {"n"} == {*METRICS}


@pytest.mark.parametrize("target", TARGETS)
def test_settings_are_columns(finished: dict[str, Finished], target: str) -> None:
    """The table has each row with the settings of its run."""
    settings = {
        "domain": "digits8",
        "method": "full",
        "prior": "sample_covariance",
        "tolerances": "calibrated",
        "selection": None,
        "model": "analytic",
        "solver": f"dpmpp_2m/karras/{STEPS}",
        "features": "pixels",
        "target": target,
        **RUN,
    }
    assert set(settings) == set(SETTINGS)
    folder = Path("swept", str(TARGETS.index(target)))
    table, rows = pd.read_parquet(folder / "results.parquet"), finished[target].results["rows"]
    assert table[list(settings)].to_dict("records") == [settings] * len(rows)
    shown = load_results([folder])
    for frame in (table, shown):
        for name in rows[0]:
            for value, row in zip(frame[name], rows, strict=True):
                assert value == row.get(name) or (pd.isna(value) and row.get(name) is None)
    assert torch.equal(torch.tensor(table["n"].tolist()), torch.tensor([SAMPLES] * 5))
