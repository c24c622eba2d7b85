"""Searches for bandwidth and mixing step, against dense scans, explicit jackknives and constructed data."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from support.commands import TINY
from support.options import option
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.runs.bandwidth import BandwidthSearch, crossings, find_bandwidth
from unseen_diffusion.runs.mixing import CRITERIA, STATISTICS, Candidate, MixingSearch, departure, find_step, separation
from unseen_diffusion.runs.results import execute
from unseen_diffusion.runs.settings import check
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.intervals import t_interval
from unseen_diffusion.scores.latents.gaussianity import gaussianity
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json
from unseen_diffusion.utils.seeds import generator

SOLVER = SolverSettings(name="ddim", grid="uniform_t", steps=6)
PsnrAt = Callable[[float], Tensor]


def bandwidth(**changes: Any) -> BandwidthSearch:
    return option("bandwidth", "search", **changes)


def mixing(**changes: Any) -> MixingSearch:
    return option("mixing", "search", **{"criterion": "gaussianity", **changes})


def normal(*shape: int, stream: str = "x") -> Tensor:
    return torch.randn(*shape, generator=generator(5, stream), dtype=torch.float64)


# ---------------------------------------------------------------- bandwidth


class RoundTrip:
    """PSNR of 10 random images through the analytic model; counts the network's evaluations."""

    def __init__(self, folder: Path, t: float = 500.0):
        self.stages, self.model = Stages(Store(folder)), natural_gaussian(8, 1, 0.5, 2.0)
        self.images = torch.randint(0, 256, (10, 1, 8, 8), generator=generator(1, "images"), dtype=torch.uint8)
        self.latents = self.stages.inversion(self.model, self.images, SOLVER, t, [300.0, 500.0])[1]

    def __call__(self, eta: float, seed: int = 3) -> Tensor:
        made = self.stages.denoising(self.model, self.latents, SOLVER, eta, seed)
        return self.stages.fidelity(self.images, made).tensors["psnr"]


@pytest.mark.parametrize(
    "search",
    [
        bandwidth(minimum_psnr=15.0, resolution=0.02),
        bandwidth(minimum_psnr=None, drop=2.0, resolution=0.04),
    ],
)
def test_bisection_finds_what_a_dense_scan_finds(tmp_path: Path, search: BandwidthSearch) -> None:
    """Bisection finds the eta of a dense scan with logarithmically many evaluations; the curve falls."""
    trip = RoundTrip(tmp_path / "scan")
    etas = [index / search.intervals for index in range(search.intervals + 1)]
    means = np.array([float(trip(eta).mean()) for eta in etas])
    assert np.diff(means).max() < 0.02  # it may rise by the rounding to grey levels
    least = means[0] - search.drop if search.drop else search.minimum_psnr
    scanned = max(eta for eta, mean in zip(etas, means, strict=True) if mean >= least)

    fresh = RoundTrip(tmp_path / "search")
    before = fresh.model.evaluations
    found = find_bandwidth(search, fresh)
    assert 0 < found.eta < 1
    assert found.eta == scanned
    assert found.low <= found.eta <= found.crossing <= found.eta + search.resolution <= found.high + 1e-12
    assert len(found.curve) == 2 + math.ceil(math.log2(search.intervals))
    assert fresh.model.evaluations - before == len(found.curve) * 10 * SOLVER.steps
    spent = fresh.model.evaluations
    assert find_bandwidth(search, fresh) == found
    assert fresh.model.evaluations == spent


def test_common_random_numbers_make_the_curve_fall(tmp_path: Path) -> None:
    """With common noise PSNR falls at every step of 0.01; with independent noise it does not."""
    trip, etas = RoundTrip(tmp_path), [0.3 + index / 100 for index in range(10)]
    common = np.array([float(trip(eta).mean()) for eta in etas])
    fresh = np.array([float(trip(eta, seed=index).mean()) for index, eta in enumerate(etas)])
    assert (np.diff(common) < 0).all()
    assert np.diff(fresh).max() > 0.1


def test_one_inversion_serves_every_mixing_step(tmp_path: Path) -> None:
    """The bandwidth falls with t; the second mixing step inverts nothing."""
    search = bandwidth(minimum_psnr=None, drop=1.0)
    late, early = RoundTrip(tmp_path), RoundTrip(tmp_path, 300.0)
    assert early.model.evaluations == 0
    assert find_bandwidth(search, early).eta != find_bandwidth(search, late).eta


@pytest.mark.parametrize("drop", [None, 4.0])
def test_the_interval_is_the_jackknife_of_the_crossing(drop: float | None) -> None:
    """The interval is Student's, of pseudo-values from mean curves without one reference each."""
    search = bandwidth(minimum_psnr=None if drop else 22.0, drop=drop, resolution=0.125)
    offset, slope = 30 + 2 * normal(12), 14 + normal(12, stream="slope").abs()
    found = find_bandwidth(search, lambda eta: offset - slope * eta**1.5)
    etas = np.array([point.eta for point in found.curve])
    psnr = (offset[:, None] - slope[:, None] * torch.from_numpy(etas) ** 1.5).numpy()

    def crossing(rows: np.ndarray) -> float:
        mean = rows.mean(0)
        least = mean[0] - drop if drop else 22.0
        return float(np.interp(-least, -mean, etas))

    theta = crossing(psnr)
    assert found.crossing == pytest.approx(theta)
    pseudo = t_interval([12 * theta - 11 * crossing(np.delete(psnr, i, 0)) for i in range(12)])
    half = (pseudo.high - pseudo.low) / 2
    assert found.low == pytest.approx(min(found.eta, theta - half))
    assert found.high == pytest.approx(max(found.eta + 0.125, theta + half))


@pytest.mark.parametrize("power", [1.0, 2.0, 0.5])
def test_the_interval_covers_the_crossing_of_the_population(power: float) -> None:
    """200 draws of 20 references whose curves a_i - b_i eta^p are straight, concave or convex: about 95% cover."""
    search = bandwidth(minimum_psnr=20.0, resolution=0.01)
    truth = (8 / 20) ** (1 / power)
    covered = 0
    for index in range(200):
        rng = generator(index, "references")
        offset = 28 + 3 * torch.randn(20, generator=rng, dtype=torch.float64)
        slope = 20 + 2 * torch.randn(20, generator=rng, dtype=torch.float64)
        found = find_bandwidth(search, lambda eta, a=offset, b=slope: a - b * eta**power)
        covered += found.low <= truth <= found.high
    assert 0.91 <= covered / 200 <= 0.99


def line(at_zero: float, at_one: float, noise: float = 0.0) -> PsnrAt:
    """References whose mean PSNR is a straight line; each has its own offset."""
    offset = noise * torch.linspace(-1, 1, 9, dtype=torch.float64)
    return lambda eta: at_zero + (at_one - at_zero) * eta + offset


def test_censored_searches_say_so() -> None:
    """eta is 1 if PSNR never falls below, 0 if it starts below; the interval has the references' spread."""
    search = bandwidth(minimum_psnr=20.0)
    above = find_bandwidth(search, line(40, 30))
    assert (above.eta, above.low, above.high, above.censored) == (1, 1, 1, "above")
    assert len(above.curve) == 2
    assert "1 or more" in str(above)
    barely = find_bandwidth(search, line(40, 20.1, noise=3))
    assert (barely.eta, barely.high, barely.censored) == (1, 1, "above")
    assert 0.8 < barely.low < 1
    below = find_bandwidth(search, line(15, 5))
    assert (below.eta, below.low, below.high, below.censored) == (0, 0, 0, "below")
    assert "fails at eta 0" in str(below)
    barely = find_bandwidth(search, line(19.9, 5, noise=3))
    assert (barely.eta, barely.low, barely.censored) == (0, 0, "below")
    assert 0 < barely.high < 0.3
    # A curve that does not depend on eta has no crossing at all.
    flat = find_bandwidth(search, line(30, 30, noise=1))
    assert (flat.eta, flat.low, flat.censored) == (1, 1, "above")
    assert find_bandwidth(bandwidth(minimum_psnr=None, drop=2.0), line(40, 39, noise=3)).censored == "above"


def test_crossings_of_many_curves_at_once() -> None:
    etas = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    curves = [[2, 1, -1], [1, -1, -3], [3, 2, 1], [-1, -3, -4], [1, 1, 1], [-1, -1, -1], [1, 0, -1], [40, 39, 38]]
    found = crossings(etas, torch.tensor(curves, dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.75, 0.25, 1.5, -0.25, 2, -1, 0.5, 2])


@pytest.mark.parametrize("resolution", [0.5, 0.3, 0.01, 0.007])
def test_any_resolution_is_kept(resolution: float) -> None:
    found = find_bandwidth(bandwidth(minimum_psnr=20.0, resolution=resolution), line(33, 13))
    assert found.eta <= 0.65 <= found.eta + resolution + 1e-12
    assert found.high - found.low <= resolution + 1e-9


# ---------------------------------------------------------------- mixing step


def latent_set(t: float, latents: Tensor) -> LatentSet:
    return LatentSet(t, latents.float().reshape(len(latents), 1, 8, 8), list(range(len(latents))))


def test_the_most_gaussian_step_wins(tmp_path: Path) -> None:
    """Latents are Gaussian only at t = 400, which every statistic finds from one stored analysis."""
    white = normal(60, 64)
    scale = (normal(60, 1, stream="scale")).exp()
    sets = {
        200.0: latent_set(200.0, white * scale),
        400.0: latent_set(400.0, normal(60, 64, stream="other") * 0.3 + 2),
        600.0: latent_set(600.0, white + 4 * normal(60, 1, stream="side").sign()),
    }
    stages = Stages(Store(tmp_path))
    for statistic in ("components", "isotropic_radius", "sphericity"):
        search = mixing(candidates=[600, 200, 400], statistic=statistic)
        found = find_step(search, lambda t, name=statistic: Candidate(t, departure(stages, sets[t], name, seed=0)))
        assert found.t == 400, statistic
        assert [one.t for one in found.candidates] == [200, 400, 600]
        assert found.candidates[1].value < 2 < found.candidates[0 if statistic != "components" else 2].value
    assert sum(not artefact.reused for _, artefact in stages.used) == 3
    known = {name for name in gaussianity(white, 0, 9).findings if name != "outside_edges"}
    assert set(STATISTICS) == known


def test_separation_is_in_units_of_the_theory() -> None:
    """Spherical sets at distance D have separation D / (s d^(1/4)), equal sets about 0."""
    one, two = normal(400, 64), normal(400, 64, stream="y")
    for apart in (3.0, 12.0):
        shift = torch.zeros(64, dtype=torch.float64)
        shift[0] = apart
        value = separation(latent_set(1, one), latent_set(1, two + shift), seed=0)
        assert value == pytest.approx(apart / 64**0.25, rel=0.08)
    assert separation(latent_set(1, one), latent_set(1, two), seed=0) < 0.3
    search = mixing(candidates=[100, 300, 200], criterion="separability")
    found = find_step(search, lambda t: Candidate(t, separation(latent_set(t, one), latent_set(t, two + t), 0)))
    assert (found.t, found.at_end) == (300, True)


def test_ties_and_failures_take_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Takes the lowest of tied steps, skips candidates that fail or are not finite, raises if all fail."""
    search = mixing(candidates=[300, 100, 200, 400], criterion="validation")
    values = {100.0: 2.0, 200.0: 1.0, 300.0: 1.0}

    def judge(t: float) -> Candidate:
        if t not in values:
            raise InputError("too few accepted")
        return Candidate(t, values[t], 0.1)

    found = find_step(search, judge)
    assert (found.t, found.tied, found.at_end) == (200, [200, 300], False)
    assert found.candidates[-1] == Candidate(400, None)
    assert [record.getMessage() for record in caplog.records] == [
        "mixing.candidates: skipped t=400: too few accepted",
        "mixing.criterion=validation: t = 200, 300 are equally good; the lowest is used",
    ]
    values = {100.0: math.nan, 200.0: 3.0}
    assert find_step(search, judge).t == 200
    values = {100.0: math.nan}
    with pytest.raises(InputError, match=r"no candidate could be judged \(t=100: its value is not finite") as error:
        find_step(search, judge)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- runs

SMALL = (*(word for word in TINY if not word.startswith("scores.")), "scores=lean")
BOTH = (
    "mixing=search",
    "mixing.criterion=gaussianity",
    "mixing.candidates=[300,600]",
    "bandwidth=search",
    "bandwidth.references=6",
)
COARSE = {
    f"bandwidth.{key}": value
    for key, value in {"resolution": 0.1, "minimum_psnr": None, "drop": 3, "recorded": True}.items()
}


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    """One config with both searches, composed once because that is slow."""
    return expand("run", [*SMALL, *BOTH, "tolerances=none"]).points[0]


def changed(config: DictConfig, changes: dict) -> DictConfig:
    """A copy with other values."""
    config = copy.deepcopy(config)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    return config


def executed(folder: Path, config: DictConfig) -> dict:
    """Executes one run; its results.json."""
    execute(check(config), folder, "group")
    return read_json(folder / "results.json")


def test_a_run_goes_on_with_what_it_found_and_again_costs_nothing(
    here: Path,
    composed: DictConfig,
) -> None:
    """A run uses the values that it found and keeps the searches in its config; a repetition evaluates no network."""
    config = changed(composed, COARSE)
    first = executed(here / "first", config)
    t, eta = first["mixing"]["t"], first["bandwidth"]["eta"]
    assert t in (300, 600)
    assert 0 < eta < 1
    assert (first["settings"]["t"], first["settings"]["eta"]) == (t, eta)
    assert first["config"]["bandwidth"]["drop"] == 3
    assert [one["t"] for one in first["mixing"]["candidates"]] == [300, 600]
    assert [one["t"] for one in first["bandwidth"]["recorded"]] == [900 - t]
    curve = {point["eta"]: point["psnr_mean"] for point in first["bandwidth"]["curve"]}
    assert curve[eta] >= curve[0] - 3 > min(value for other, value in curve.items() if other > eta)
    assert (here / "first" / "bandwidth.png").is_file()
    steps, etas = 5, len(curve) + len(first["bandwidth"]["recorded"][0]["curve"])
    assert first["evaluations"] == {
        "invert": 24 * steps,
        "denoise": (6 * etas + 12) * steps,
        "total": (24 + 6 * etas + 12) * steps,
    }
    again = executed(here / "again", config)
    assert again["evaluations"] == {"total": 0}
    for key in ("settings", "mixing", "bandwidth", "rows"):
        assert again[key] == first[key]
    # The same settings, given: the same images.
    words = ("tolerances=none", "mixing.record=[300,600]", f"mixing.t={t:g}", f"bandwidth.eta={eta}")
    given = executed(here / "given", expand("run", [*SMALL, *words]).points[0])
    assert given["evaluations"] == {"total": 0}
    assert given["rows"][0]["kid_h"] == first["rows"][0]["kid_h"]
    assert given["settings"] == first["settings"]
    assert "bandwidth" not in given


def test_every_criterion_takes_its_best_candidate(here: Path, composed: DictConfig) -> None:
    """Each criterion takes the candidate with the best value; all share one inversion of the references."""
    found = {}
    for criterion in CRITERIA:
        changes = {"mixing.criterion": criterion, "mixing.samples": 6, "bandwidth.resolution": 0.5}
        result = found[criterion] = execute(check(changed(composed, changes)), here / criterion, "group")
        assert result.mixing
        values = {one["t"]: one["value"] for one in result.mixing["candidates"]}
        best = max if criterion == "separability" else min
        assert values[result.mixing["t"]] == best(values.values())
        assert result.settings["t"] == result.mixing["t"]
        assert result.geometry["radius"]["mean"] > 0
    inverted = [read_json(path) for path in here.rglob("invert/*/artefact.json")]
    assert sorted(one["facts"]["evaluations"] for one in inverted) == [6 * 5, 24 * 5]
    mixing = found["validation"].mixing
    assert mixing
    errors = [one["standard_error"] for one in mixing["candidates"]]
    assert all(error > 0 for error in errors)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: bandwidth(minimum_psnr=20, drop=3), "minimum_psnr=20, bandwidth.drop=3: give one of them in dB"),
        (lambda: bandwidth(minimum_psnr=None), "give one of them in dB, and null for the other"),
        (lambda: bandwidth(minimum_psnr=math.nan), "bandwidth.minimum_psnr=nan: give a number above 0"),
        (lambda: bandwidth(minimum_psnr=None, drop=-1), "bandwidth.drop=-1: give a number above 0"),
        (lambda: bandwidth(resolution=0), "bandwidth.resolution=0: give a number above 0, up to 0.5"),
        (lambda: bandwidth(references=1), "bandwidth.references=1: give a whole number of 2 or more"),
        (lambda: mixing(candidates=[500]), "mixing.candidates=[500]: give 2 or more different timesteps"),
        (lambda: mixing(candidates=[500, 300, 500]), "give 2 or more different timesteps"),
        (
            lambda: mixing(criterion="taste"),
            "mixing.criterion=taste: choose one of gaussianity, separability, val",
        ),
        (lambda: mixing(statistic="outside_edges"), "mixing.statistic=outside_edges: choose one of radius,"),
        (lambda: mixing(samples=2), "mixing.samples=2: give a whole number of 3 or more"),
    ],
)
def test_bad_searches_name_value_and_remedy(make: Callable[[], object], expected: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


VALIDATION = {"mixing.criterion": "validation"}
REAL = "unseen_diffusion.runs.methods.real.RealImages"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"bandwidth.references": 2.5}, "bandwidth.references=2.5: give a whole number"),
        ({"bandwidth.drop": 3}, "bandwidth.drop=3: give one of them in dB, and null for the other"),
        ({"mixing.candidates": 500}, "mixing.candidates=500: give a list whose entries are each a number of 0 or more"),
        ({"mixing.candidates": [500, 1000]}, "mixing.candidates=1000: give a number between 0 and 999"),
        (
            {"mixing.candidates": [500, "high"]},
            "mixing.candidates=[500, high]: give a list whose",
        ),
        ({"mixing.candidates": [0, 500]}, "t=0 is the image itself"),
        ({"mixing.candidates": [1.5, 9], "solver.grid": "paper"}, "mixing.t=1.5: solver.grid=paper has whole"),
        ({"domain.references": 7}, "domain.references=7: mixing.criterion=gaussianity needs 8 or more"),
        ({**VALIDATION, "method._target_": REAL}, "method=full generates nothing; choose another criterion"),
        ({**VALIDATION, "domain.validation": 2}, "domain.validation=2: mixing.criterion=validation needs 3 or more"),
        ({**VALIDATION, "rejection.max_proposals": 50}, "max_proposals=50: give mixing.samples=100 or more"),
        ({**VALIDATION, "rejection.max_proposals": 99}, "max_proposals=99: give mixing.samples=100 or more"),
        ({"rejection.max_proposals": 11}, "rejection.max_proposals=11: give samples=12 or more"),
    ],
)
def test_bad_configs_are_one_line_before_anything_starts(composed: DictConfig, changes: dict, expected: str) -> None:
    with pytest.raises(InputError) as error:
        check(changed(composed, changes))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"rejection.max_proposals": 12},
        {"mixing.candidates": [0.5, 999]},
        {**VALIDATION, "rejection.max_proposals": 100},
    ],
)
def test_limits_themselves_are_accepted(composed: DictConfig, changes: dict) -> None:
    assert check(changed(composed, changes)).samples == 12


def test_searches_stay_out_of_given_settings(composed: DictConfig) -> None:
    """Until a search has run, settings hold its highest candidate and eta 0."""
    found = check(composed)
    assert (found.t, found.record, found.eta) == (600, (300, 600), 0)
    assert found.mixing_search == mixing(candidates=[300, 600])
    given = check(expand("run", [*SMALL, "mixing.t=300", "bandwidth.eta=0.2"]).points[0])
    assert (given.mixing_search, given.bandwidth_search, given.t, given.eta) == (None, None, 300, 0.2)
