"""Rejection: bounded, counted, independent of chunks; calibrated bands; a control that owes nothing to geometry."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor

from unseen_diffusion.priors import DiagonalNormal, FittedPrior
from unseen_diffusion.rejection import (
    AbsoluteTolerances,
    Band,
    CalibratedTolerances,
    NoTolerances,
    RandomControl,
    Selection,
    Tolerances,
    select,
)
from unseen_diffusion.rejection.geometry import CRITERIA, References, draw_references, leave_one_out, statistics
from unseen_diffusion.rejection.tolerances import jointly
from unseen_diffusion.utils.errors import InputError

SHAPE, D = (3, 4, 4), 48
MEAN, SCALE = torch.full(SHAPE, 0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
PRIOR = DiagonalNormal(MEAN, SCALE)
REFERENCES = PRIOR.sample(range(60), seed=1000)
NOTHING: dict[str, float | None] = dict.fromkeys(CRITERIA)
TIGHT = CalibratedTolerances(coverage=0.5, k=5)
MEASURED = AbsoluteTolerances(tolerance={"pair_distance": 0.5}, target=NOTHING, k=5)


def choose(tolerances: Tolerances, count: int = 40, chunk: int = 256, prior: FittedPrior = PRIOR) -> Selection:
    return select(prior, REFERENCES, tolerances, count, seed=0, max_proposals=20000, chunk=chunk)


def within(judged: Tensor, bands: dict[str, Band]) -> dict[str, Tensor]:
    """By criterion: which candidates lie inside the band."""
    values = {name: judged[:, CRITERIA.index(name)] for name in bands}
    return {name: (values[name] >= band.low) & (values[name] <= band.high) for name, band in bands.items()}


@pytest.mark.parametrize(
    "tolerances", [TIGHT, RandomControl(match=TIGHT), CalibratedTolerances(coverage=0.9, k=5), NoTolerances()]
)
@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_the_chunk_changes_nothing(tolerances: Tolerances, chunk: int) -> None:
    """The same candidates with the same accounts, whatever the size of the matrix products."""
    expected, got = choose(tolerances, chunk=64), choose(tolerances, chunk=chunk)
    assert (got.indices, got.proposals, got.passes) == (expected.indices, expected.proposals, expected.passes)
    assert got.bands == expected.bands
    assert torch.equal(got.latents, expected.latents)
    torch.testing.assert_close(got.statistics, expected.statistics, rtol=1e-6, atol=1e-5)


def test_the_account_adds_up() -> None:
    """Proposals end with the last latent accepted; passes are recounted; the kept are those within every band."""
    got = choose(TIGHT)
    inside = within(got.statistics, got.bands)
    accepted = torch.stack(list(inside.values())).all(0).nonzero().flatten().tolist()
    assert got.proposals == len(got.statistics) == got.indices[-1] + 1
    assert got.indices == accepted
    assert len(accepted) == 40
    assert got.passes == {name: int(mask.sum()) for name, mask in inside.items()}
    assert set(got.passes) == set(CRITERIA)
    assert torch.equal(got.latents, PRIOR.sample(got.indices, 0))


def test_the_statistics_are_those_of_the_candidates() -> None:
    """Recomputed from scratch for the kept latents and their own draws of references."""
    got = choose(TIGHT)
    drawn = draw_references(60, 5, 0, got.indices)
    expected = statistics(got.latents, References.of(REFERENCES), drawn)
    torch.testing.assert_close(got.statistics[got.indices], expected, rtol=1e-6, atol=1e-5)


def test_more_latents_extend_the_selection() -> None:
    """The first 10 of 40 are the 10: a larger sample contains the smaller one."""
    few, many = choose(TIGHT, count=10), choose(TIGHT, count=40)
    assert few.indices == many.indices[:10]
    assert torch.equal(few.latents, many.latents[:10])


@dataclass(frozen=True)
class Counting(FittedPrior):
    """N(0, I) far from the references; remembers how many candidates it was asked for."""

    asked: list[int]

    def sample(self, indices: Sequence[int], seed: int) -> Tensor:
        self.asked.append(len(indices))
        return torch.full((len(indices), *SHAPE), 9.0) + torch.tensor(list(indices))[:, None, None, None]


def test_the_loop_is_bounded_and_says_what_it_measured() -> None:
    """One line: what was found, what each statistic measured, what was asked, what to do."""
    prior = Counting([])
    with pytest.raises(InputError) as caught:
        select(prior, REFERENCES, TIGHT, 5, seed=0, max_proposals=50, chunk=16)
    message = str(caught.value)
    assert sum(prior.asked) == 50
    assert "\n" not in message
    assert message.startswith("tolerances=calibrated: 0 of 5 latents accepted after 50 proposals: pair_distance ")
    measured = statistics(prior.sample(range(50), 0), References.of(REFERENCES), draw_references(60, 5, 0, range(50)))
    for i, (name, band) in enumerate(TIGHT.bands(References.of(REFERENCES), 0).items()):
        value = measured[:, i]
        assert f"{name} {float(value.mean()):.2f} +- {float(value.std()):.2f} against" in message
        assert f"[{band.low:.2f}, {band.high:.2f}]" in message
    assert "(0.0% pass)" in message
    assert message.endswith("widen the tolerances (tolerances.coverage) or raise rejection.max_proposals")


def test_fewer_can_be_allowed_but_not_none() -> None:
    full = choose(TIGHT)
    bound = full.indices[9] + 1
    for extra in (0, 1):
        limit = min(bound + extra, full.indices[10])
        got = select(PRIOR, REFERENCES, TIGHT, 40, 0, max_proposals=limit, allow_fewer=True)
        assert got.indices == full.indices[:10]
        assert got.proposals == len(got.statistics) == limit
    advice = r"raise rejection.max_proposals, or set rejection.allow_fewer=true$"
    with pytest.raises(InputError, match=f"10 of 40 latents accepted .*{advice}"):
        select(PRIOR, REFERENCES, TIGHT, 40, 0, max_proposals=bound)
    with pytest.raises(InputError, match=r"0 of 5 latents accepted .* or raise rejection.max_proposals$"):
        select(Counting([]), REFERENCES, TIGHT, 5, 0, max_proposals=50, allow_fewer=True)


def test_no_tolerances_keep_every_candidate() -> None:
    got = choose(NoTolerances())
    assert got.indices == list(range(40))
    assert got.proposals == 40
    assert torch.equal(got.latents, PRIOR.sample(range(40), 0))
    assert (got.bands, got.passes, len(got.statistics)) == ({}, {}, 0)
    assert choose(NoTolerances(), count=0).indices == []


@pytest.mark.parametrize("coverage", [0.5, 0.9, 1.0])
def test_calibrated_bands_cover_what_they_say_of_the_references(coverage: float) -> None:
    """The central quantiles of their own leave-one-out statistics."""
    references = References.of(REFERENCES)
    tolerances = CalibratedTolerances(coverage=coverage, k=5)
    own = leave_one_out(references, 5, 0, tolerances.repeats)
    for mask in within(own, tolerances.bands(references, 0)).values():
        assert float(mask.double().mean()) == pytest.approx(coverage, abs=0.01)


@pytest.mark.parametrize("tolerances", [TIGHT, RandomControl(match=TIGHT), MEASURED])
def test_measured_bands_follow_the_seed(tolerances: Tolerances) -> None:
    """A selection measures its bands with its own seed; those of another seed, and of 0, are others."""
    references = References.of(REFERENCES)
    bands = {seed: tolerances.bands(references, seed) for seed in (0, 1, 2)}
    for criterion in bands[0]:
        assert len({bands[seed][criterion] for seed in bands}) == 3
    for seed in (1, 2):
        got = select(PRIOR, REFERENCES, tolerances, 3, seed=seed, max_proposals=20000)
        assert got.bands == bands[seed] == tolerances.bands(references, seed)


def test_calibrated_acceptance_of_fresh_draws() -> None:
    """Each criterion passes about its coverage; all three together between coverage^3 and coverage."""
    references = PRIOR.sample(range(300), seed=1001)
    got = select(PRIOR, references, CalibratedTolerances(coverage=0.9), 1000, seed=0, max_proposals=4000)
    for passed in got.passes.values():
        assert passed / got.proposals == pytest.approx(0.9, abs=0.05)
    assert 0.9**3 - 0.06 < 1000 / got.proposals < 0.9


@pytest.mark.parametrize("coverage", [0.6, 0.9])
def test_joint_bands_hold_their_share_of_the_references_together(coverage: float) -> None:
    references = References.of(REFERENCES)
    own = leave_one_out(references, 5, 0, 8)

    def together(joint: bool) -> float:
        bands = CalibratedTolerances(coverage=coverage, joint=joint, k=5).bands(references, 0)
        return jointly(own, bands)

    assert together(joint=True) == pytest.approx(coverage, abs=0.01)
    assert together(joint=False) < coverage


def test_calibrated_criteria_can_be_chosen() -> None:
    got = choose(CalibratedTolerances(coverage=0.5, criteria=["origin_angle"], k=5))
    assert list(got.bands) == list(got.passes) == ["origin_angle"]
    assert got.passes["origin_angle"] == 40


def test_the_control_rejects_as_often_as_what_it_matches() -> None:
    """The same decisions: proposals, passes, indices and judged statistics; other latents."""
    matched, control = choose(TIGHT), choose(RandomControl(match=TIGHT))
    assert (control.indices, control.proposals) == (matched.indices, matched.proposals)
    assert (control.passes, control.bands) == (matched.passes, matched.bands)
    assert torch.equal(control.statistics, matched.statistics)
    assert not bool((control.latents == matched.latents).flatten(1).all(1).any())


def test_the_control_owes_nothing_to_the_geometry() -> None:
    """Kolmogorov-Smirnov: its statistics are the prior's unconditional ones; the matched latents' are clearly not.

    Measured against all 60 references, so that no draw of references adds its own scatter.
    """
    count, prepared, strict = 600, References.of(REFERENCES), CalibratedTolerances(coverage=0.4, k=5)
    everyone = torch.arange(60).repeat(count, 1)
    unconditional = statistics(PRIOR.sample(range(count), 55), prepared, everyone)
    kept = {
        name: statistics(choose(tolerances, count).latents, prepared, everyone)
        for name, tolerances in (("matched", strict), ("control", RandomControl(match=strict)))
    }
    pvalues = {
        name: [float(ks_2samp(values[:, i], unconditional[:, i]).pvalue) for i in range(3)]
        for name, values in kept.items()
    }
    assert min(pvalues["control"]) > 0.05
    assert (
        max(pvalues["matched"][:2]) < 1e-6
    )  # distance and pair angle; the origin angle is mostly the references' draw


def test_paper_tolerances_are_centred_on_the_domains_own_values() -> None:
    """A null target is the references' leave-one-out mean; a given one is taken as it is."""
    references = References.of(REFERENCES)
    tolerances = AbsoluteTolerances(
        tolerance={"pair_distance": 0.3, "pair_angle": 2.0, "origin_angle": 0.1},
        target={"pair_distance": None, "pair_angle": 60.0, "origin_angle": None},
        k=5,
    )
    own = leave_one_out(references, 5, 0, tolerances.repeats).mean(0).tolist()
    bands = tolerances.bands(references, 0)
    assert bands["pair_angle"] == Band(58.0, 62.0)
    assert bands["pair_distance"] == pytest.approx((own[0] - 0.3, own[0] + 0.3), abs=1e-12)
    assert bands["origin_angle"] == pytest.approx((own[2] - 0.1, own[2] + 0.1), abs=1e-12)


def test_a_null_tolerance_leaves_its_criterion_out() -> None:
    tolerances = AbsoluteTolerances(tolerance=NOTHING | {"pair_angle": 3.0}, target=NOTHING, k=5)
    got = choose(tolerances)
    assert list(got.passes) == ["pair_angle"]
    assert torch.stack(list(within(got.statistics, got.bands).values())).sum() == 40


def test_all_tolerances_null_accept_everything() -> None:
    got = choose(AbsoluteTolerances(tolerance=NOTHING, target=NOTHING, k=5))
    assert (got.indices, got.proposals, got.passes) == (list(range(40)), 40, {})
    control = choose(RandomControl(match=NoTolerances(k=5)))
    assert (control.indices, control.passes) == (list(range(40)), {})


def test_band_ends_are_inside() -> None:
    """A zero-width band about a candidate's own value keeps it."""
    tolerances = AbsoluteTolerances(tolerance=NOTHING | {"pair_distance": 0.0}, target=NOTHING, k=5)
    value = float(choose(AbsoluteTolerances(tolerance=NOTHING, target=NOTHING, k=5), 1).statistics[0, 0])
    got = choose(replace(tolerances, target=NOTHING | {"pair_distance": value}), 1)
    assert (got.indices, float(got.statistics[0, 0])) == ([0], value)


def test_refusals_name_the_setting() -> None:
    with pytest.raises(InputError, match=r"tolerances\.coverage=0\.0: give a number above 0, up to 1"):
        CalibratedTolerances(coverage=0.0)
    with pytest.raises(InputError, match=r"tolerances\.criteria=\[volume\]: give a list .* one of pair_distance"):
        CalibratedTolerances(coverage=0.9, criteria=["volume"])
    with pytest.raises(InputError, match="unknown criterion volume"):
        AbsoluteTolerances(tolerance={"volume": 1.0}, target=NOTHING)
    with pytest.raises(InputError, match=r"pair_angle=-1\.0: give a number of 0 or more or null"):
        AbsoluteTolerances(tolerance={"pair_angle": -1.0}, target=NOTHING)
    with pytest.raises(InputError, match="leave-one-out needs k"):
        select(PRIOR, REFERENCES[:5], CalibratedTolerances(), 5, 0, 100)
    with pytest.raises(InputError, match=r"tolerances\.k=10: with 5 references"):
        select(
            PRIOR,
            REFERENCES[:5],
            AbsoluteTolerances(tolerance={"pair_angle": 1.0}, target={"pair_angle": 60.0}),
            5,
            0,
            100,
        )


def test_settings_need_no_torch() -> None:
    """The command's help and the keys of a run read them."""
    code = "import sys, unseen_diffusion.rejection.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0
