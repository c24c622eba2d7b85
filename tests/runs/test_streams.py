"""What a run draws and keeps: which seed each random stream has, and which settings make other artefacts."""

from collections import defaultdict
from pathlib import Path

import pytest

from support.commands import ALONE, run
from unseen_diffusion.utils import seeds

RUN = (
    *ALONE,
    "tolerances=random",
    "prior=gmm",
    "domain.references=36",
    "bandwidth.eta=0.5",
    "seed=7",
    "domain.split_seed=5",
    "domain.draw=6",
)
# Streams whose seed is no setting, because their numbers are part of a definition.
FIXED = {
    "leave_one_out": "the summary of an inversion's latents, whose key has no seed",
    "permutation": "relabellings of the test of KID-H",
    "texture": "what the extractor is tried on: a fact of the held-out images",
    "yardstick": "halves of the held-out images, for the same",
    "denoise": "paths are denoised without noise: nothing is drawn from their streams",
}


@pytest.fixture(scope="module")
def drawn(shared_folder: Path) -> dict[int, set[str]]:
    """Seed -> purposes of the streams that a run draws from."""
    found: dict[int, set[str]] = defaultdict(set)
    state = seeds._state

    def recorded(seed: int, *stream: str | int) -> int:
        found[seed].add(str(stream[0]))
        return state(seed, *stream)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(seeds, "_state", recorded)
        assert run("run", *RUN, "hydra.run.dir=first") == 0
    return found


def artefacts() -> dict[str, int]:
    """The number of artefacts in the store, by stage."""
    counts: dict[str, int] = defaultdict(int)
    for record in Path("outputs/artefacts").glob("*/*/artefact.json"):
        counts[record.parent.parent.name] += 1
    return dict(counts)


def test_every_stream_has_the_seed_of_its_setting(drawn: dict[int, set[str]]) -> None:
    """The split has the domain's seeds, all else the run's: the bands too, which a fixed seed would make equal."""
    run_seed = next(seed for seed, purposes in drawn.items() if "candidate" in purposes)
    control = {seed for seed, purposes in drawn.items() if purposes == {"candidate", "component"}}
    assert drawn[5] | drawn[6] == {"split"}
    assert drawn[7] >= {
        "candidate",
        "component",
        "base",
        "denoise",
        "criteria",
        "leave_one_out",
        "control",
        "projection",
    }
    assert drawn[0] <= FIXED.keys() | {"anderson_darling"}
    assert run_seed == 7
    assert drawn.keys() == {0, 5, 6, 7} | control
    assert len(control) == 1  # the kept draws of a random control have a seed of their own


def test_settings_that_change_no_result_make_no_artefact(drawn: dict[int, set[str]]) -> None:
    before = artefacts()
    how = ("batch_size=5", "features.batch_size=3", "device=cpu", "progress=true")
    assert run("run", *RUN, *how, "hydra.run.dir=second") == 0
    assert artefacts() == before


def test_the_seed_makes_other_artefacts(drawn: dict[int, set[str]]) -> None:
    """All but the split, the references' latents, the prior fitted to them, and what was measured on these alone."""
    before = artefacts()
    assert run("run", *RUN, "seed=8", "hydra.run.dir=third") == 0
    after = artefacts()
    new = {stage for stage in after if after[stage] > before.get(stage, 0)}
    kept = {stage for stage in after if after[stage] == before.get(stage, 0)}
    assert kept == {"split", "prior", "paths"}
    assert new == {
        "invert",
        "base_latents",
        "select",
        "denoise",
        "features",
        "nearest",
        "fidelity",
        "geometry",
        "latent_findings",
    }
