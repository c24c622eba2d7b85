"""Projection: the nearest point within the bands, against general optimisers; what does not converge is rejected."""

import math

import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from unseen_diffusion.priors import DiagonalNormal
from unseen_diffusion.rejection import (
    AbsoluteTolerances,
    CalibratedTolerances,
    NoTolerances,
    Projection,
    RandomControl,
    Selection,
    select,
    within,
)
from unseen_diffusion.rejection.geometry import CRITERIA, References, draw_references, statistics
from unseen_diffusion.rejection.projection import criteria, least_multipliers, nearest
from unseen_diffusion.utils.errors import InputError

SHAPE, D, K = (3, 4, 4), 48, 4
PRIOR = DiagonalNormal(torch.full(SHAPE, 0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64))
REFERENCES = PRIOR.sample(range(60), seed=1000)
PREPARED = References.of(REFERENCES)
TIGHT = CalibratedTolerances(coverage=0.5, k=K)


def project(count: int = 60, tolerances: CalibratedTolerances = TIGHT, chunk: int = 256) -> Selection:
    return select(PRIOR, REFERENCES, Projection(match=tolerances), count, seed=0, max_proposals=2000, chunk=chunk)


def figure(seed: int, count: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates (B, d), their drawn references (B, k, d), and the Gram matrices of both."""
    candidates = PRIOR.sample(range(count), seed).double().flatten(1)
    drawn = PREPARED.flat[draw_references(60, K, seed, range(count))].double()
    rows = torch.cat([candidates[:, None], drawn], 1)
    return candidates, drawn, rows @ rows.mT


def measured(c: Tensor, z: Tensor) -> Tensor:
    """The three statistics written out, differentiable: (d,), (k, d) -> (3,)."""
    legs = z - c
    lengths = legs.norm(dim=1)
    first, second = torch.triu_indices(len(z), len(z), offset=1)
    pair = ((legs @ legs.T)[first, second] / (lengths[first] * lengths[second])).acos().rad2deg().mean()
    return torch.stack([lengths.mean(), pair, ((z @ c) / (z.norm(dim=1) * c.norm())).acos().rad2deg().mean()])


def test_gradients_are_those_of_the_statistics_in_all_coordinates() -> None:
    """Combinations of candidate and references, against automatic differentiation in d coordinates."""
    candidates, drawn, gram = figure(3)
    y = torch.eye(K + 1, dtype=torch.float64)[0] + 0.1 * torch.randn(
        len(gram), K + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    values, slopes = criteria(y, gram)
    rows = torch.cat([candidates[:, None], drawn], 1)
    for i in range(len(gram)):
        point = (y[i] @ rows[i]).requires_grad_()
        expected = measured(point, drawn[i])
        torch.testing.assert_close(values[i], expected.detach(), rtol=1e-9, atol=0)
        for j in range(3):
            (slope,) = torch.autograd.grad(expected[j], point, retain_graph=True)
            torch.testing.assert_close(slopes[i, j] @ rows[i], slope, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_multipliers_solve_the_quadratic_programme(m: int) -> None:
    """Karush-Kuhn-Tucker: feasible, pushing up only at low ends and down only at high ones, 0 in between."""
    rng = torch.Generator().manual_seed(m)
    rows = torch.randn(200, m, 6, generator=rng, dtype=torch.float64)
    rows = rows + 2 * rows[:, :1]  # correlated, as the criteria are
    middle = 3 * torch.randn(200, m, generator=rng, dtype=torch.float64)
    width = torch.rand(200, m, generator=rng, dtype=torch.float64)
    low, high = middle - width, middle + width
    multipliers = least_multipliers(rows @ rows.mT, low, high)
    reached = (rows @ rows.mT @ multipliers[:, :, None])[:, :, 0]
    assert bool(((reached > low - 1e-8) & (reached < high + 1e-8)).all())
    at_low, at_high = (reached - low).abs() < 1e-8, (reached - high).abs() < 1e-8
    assert bool((multipliers[~at_low & ~at_high] == 0).all())
    assert bool((multipliers[at_low] >= -1e-12).all())
    assert bool((multipliers[at_high] <= 1e-12).all())


def test_the_nearest_point_is_that_of_a_general_optimiser() -> None:
    """scipy's SLSQP in all 48 coordinates finds no nearer point within the bands, and no other."""
    candidates, drawn, gram = figure(5, 6)
    bands = CalibratedTolerances(coverage=0.7, k=K).bands(PREPARED, 0)
    low, high = (
        torch.tensor([getattr(bands[n], end) for n in CRITERIA], dtype=torch.float64) for end in ("low", "high")
    )
    y, converged = nearest(gram, low, high, 40)
    assert bool(converged.all())
    margin = 1e-3 * (high - low)

    def gap(x: Tensor, z: Tensor) -> Tensor:
        values = measured(x, z)
        return torch.cat([values - low - margin, high - margin - values])

    compared = 0
    for i, (c, z) in enumerate(zip(candidates, drawn, strict=True)):
        ours = y[i, 0] * c + y[i, 1:] @ z
        if bool((gap(c, z) >= 0).all()):
            continue
        found = minimize(
            lambda x, c=c: (float((torch.from_numpy(x) - c).square().sum()), 2 * (x - c.numpy())),
            c.numpy(),
            jac=True,
            method="SLSQP",
            constraints={
                "type": "ineq",
                "fun": lambda x, z=z: gap(torch.from_numpy(x), z).numpy(),
                "jac": lambda x, z=z: torch.autograd.functional.jacobian(
                    lambda p: gap(p, z), torch.from_numpy(x.copy())
                ).numpy(),
            },
            options={"ftol": 1e-14, "maxiter": 200},
        )
        assert found.success
        assert float((ours - c).norm()) == pytest.approx(math.sqrt(found.fun), rel=1e-5)
        torch.testing.assert_close(ours, torch.from_numpy(found.x), rtol=0, atol=1e-3)
        compared += 1
    assert compared >= 3


def test_every_latent_lies_within_the_bands() -> None:
    """Measured again from the float32 latents and their own draws of references; the account adds up."""
    got = project()
    again = statistics(got.latents, PREPARED, draw_references(60, K, 0, got.indices))
    assert bool(within(again, got.bands).all())
    assert got.proposals == len(got.statistics) == len(got.drawn_statistics) == got.indices[-1] + 1
    inside = within(got.statistics, got.bands)
    assert got.passes == dict(zip(got.bands, inside.sum(0).tolist(), strict=True))
    assert got.indices == inside.all(1).nonzero().flatten().tolist()
    assert len(got.distances) == 60


def test_candidates_within_the_bands_stay() -> None:
    """What rejection accepts is not moved at all; all others move, by the distance reported."""
    got, rejected = project(), select(PRIOR, REFERENCES, TIGHT, 20, seed=0, max_proposals=5000)
    drawn = PRIOR.sample(got.indices, 0)
    stayed = (drawn == got.latents).flatten(1).all(1)
    inside = within(got.drawn_statistics, got.bands).all(1)[got.indices]
    assert torch.equal(stayed, inside)
    assert torch.equal(got.distances == 0, inside)
    both = [i for i in rejected.indices if i < got.proposals]
    assert [i for i, same in zip(got.indices, stayed.tolist(), strict=True) if same] == both
    distances = (drawn.double() - got.latents.double()).flatten(1).norm(dim=1)
    torch.testing.assert_close(got.distances, distances, rtol=1e-4, atol=1e-5)


def test_nearly_all_converge_where_bands_are_as_wide_as_the_references() -> None:
    """Coverage 0.9: every candidate arrives, and goes a small part of its residual's norm s sqrt(d)."""
    got = project(100, CalibratedTolerances(coverage=0.9, k=K))
    assert got.proposals <= 102
    assert float(got.distances.mean()) < 0.1 * 0.7 * math.sqrt(D)


def test_projection_accepts_more_often_and_crowds_the_ends() -> None:
    """Against rejection: many times its acceptance; but statistics pile up at the ends of the bands."""
    got = project(80)
    rejected = select(PRIOR, REFERENCES, TIGHT, 80, seed=0, max_proposals=5000)
    assert 80 / got.proposals > 2 * 80 / rejected.proposals
    ends = torch.tensor([tuple(band) for band in got.bands.values()], dtype=torch.float64)
    width = ends[:, 1] - ends[:, 0]

    def at_ends(found: Selection) -> Tensor:
        kept = found.statistics[found.indices]
        return (torch.minimum(kept - ends[:, 0], ends[:, 1] - kept) < 0.01 * width).any(1).double().mean()

    assert float(at_ends(got)) > 0.5
    assert float(at_ends(rejected)) < 0.2


def test_impossible_bands_are_rejected_and_said() -> None:
    """Distances of 0 to k different references: nothing converges, and the message counts."""
    nothing: dict[str, float | None] = dict.fromkeys(CRITERIA)
    impossible = AbsoluteTolerances(
        tolerance=nothing | {"pair_distance": 0.01}, target=nothing | {"pair_distance": 0.1}, k=K
    )
    with pytest.raises(InputError, match="tolerances=projection: 0 of 5 latents accepted after 12 proposals"):
        select(PRIOR, REFERENCES, Projection(match=impossible), 5, 0, max_proposals=12)


def test_one_criterion_alone_moves_along_its_gradient() -> None:
    """Only the origin angle: it ends at its band, whatever the others do."""
    got = project(30, CalibratedTolerances(coverage=0.3, criteria=["origin_angle"], k=K))
    assert list(got.passes) == ["origin_angle"]
    assert got.proposals == 30


def test_the_chunk_changes_nothing() -> None:
    expected, got = project(12), project(12, chunk=5)
    assert (got.indices, got.proposals, got.passes) == (expected.indices, expected.proposals, expected.passes)
    torch.testing.assert_close(got.latents, expected.latents, rtol=0, atol=1e-4)


def test_a_projection_needs_bands() -> None:
    for match in (NoTolerances(), RandomControl(match=TIGHT), Projection(match=TIGHT)):
        with pytest.raises(InputError, match=f"tolerances.match={match.name}: a projection needs bands"):
            Projection(match=match)
    with pytest.raises(InputError, match=r"tolerances\.iterations=0: give a whole number of 1 or more"):
        Projection(match=TIGHT, iterations=0)
    with pytest.raises(InputError, match="choose direct with tolerances=projection"):
        select(PRIOR, REFERENCES, Projection(match=TIGHT), 5, 0, 100, route="exact_statistics")
