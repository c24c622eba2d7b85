"""The exact shortcut: the distribution of the direct route, by Kolmogorov-Smirnov and moments; formed candidates."""

import math

import pytest
import torch
from scipy.stats import chi2, chisquare, ks_2samp, kstest
from torch import Tensor

from unseen_diffusion.priors import (
    Diagonal,
    FittedPrior,
    Isotropic,
    KernelDensity,
    LowRank,
    Mixture,
    Prior,
    SampleCovariance,
    Shrinkage,
    Slerp,
    Standard,
    Stationary,
    SubspaceKernelDensity,
)
from unseen_diffusion.rejection import (
    CalibratedTolerances,
    NoTolerances,
    Projection,
    RandomControl,
    Selection,
    check_route,
    select,
)
from unseen_diffusion.rejection.geometry import References, draw_references, statistics
from unseen_diffusion.rejection.reduced import BLOCK, ExactStatistics, chi_squared, distinct
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SHAPE, D, N, K = (3, 6, 6), 108, 24, 5
PRIORS: dict[str, Prior] = {
    "isotropic": Isotropic(),
    "standard": Standard(),
    "low_rank": LowRank(rank=4),
    "sample_covariance": SampleCovariance(),
    "shrinkage": Shrinkage(),
    "gmm": Mixture(rank=4, components=3),
    "kde": KernelDensity(),
    "kde_subspace": SubspaceKernelDensity(rank=4),
}


def make_references(count: int = N) -> Tensor:
    """Correlated references around a mean that is not 0."""
    rng = torch.Generator().manual_seed(0)
    return 0.4 + torch.randn(count, *SHAPE, generator=rng) * torch.linspace(0.3, 1.5, 6)


REFERENCES = make_references()
PREPARED = References.of(REFERENCES)
HALF = CalibratedTolerances(coverage=0.6, k=K)


def judged_directly(fitted: FittedPrior, prepared: References, seed: int = 7) -> Tensor:
    drawn = draw_references(len(prepared), K, seed, range(BLOCK))
    return statistics(fitted.sample(range(BLOCK), seed), prepared, drawn)


def choose(
    route: str, tolerances: CalibratedTolerances | RandomControl = HALF, count: int = 50, bound: int = 20000
) -> Selection:
    fitted = Isotropic().fit(REFERENCES)
    return select(fitted, REFERENCES, tolerances, count, seed=0, max_proposals=bound, route=route)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("own", [True, False])
def test_the_statistics_have_the_distribution_of_the_direct_route(name: str, own: bool) -> None:
    """Each statistic, their sums two by two (so that the joint law counts too), and the acceptance.

    ``own``: references that the prior was fitted to, or others. 4096 draws by each route.
    """
    fitted = PRIORS[name].fit(make_references() if own else make_references(60)[30:])
    ours = ExactStatistics(fitted, PREPARED, K, 0, SHAPE).judge(0, BLOCK)
    theirs = judged_directly(fitted, PREPARED)
    scale = theirs.std(0)
    for weights in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, -1, 0], [1, 0, 1], [0, 1, -1]):
        mixed = torch.tensor(weights, dtype=torch.float64) / scale
        # 112 comparisons: the least of 112 uniform p-values is below 1e-4 in 1 of 90 such tables.
        assert ks_2samp(ours @ mixed, theirs @ mixed).pvalue > 1e-4
    ends = torch.quantile(theirs, torch.tensor([0.2, 0.8], dtype=torch.float64), dim=0)
    shares = [((x >= ends[0]) & (x <= ends[1])).all(1).double().mean() for x in (ours, theirs)]
    assert abs(float(shares[0] - shares[1])) < 4 * math.sqrt(2 * float(shares[1]) / BLOCK)


@pytest.mark.parametrize("name", PRIORS)
def test_formed_candidates_have_the_statistics_proposed(name: str) -> None:
    """The latent in full, measured against its drawn references, is what was judged in a few numbers."""
    way = ExactStatistics(PRIORS[name].fit(REFERENCES), PREPARED, K, 0, SHAPE)
    proposed = way.judge(0, BLOCK)[:40]
    for i in range(40):
        way.keep(i)
    latents = way.latents(list(range(40)), 0)
    torch.testing.assert_close(statistics(latents, PREPARED, way.block.drawn[:40]), proposed, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_formed_candidates_have_the_distribution_of_the_prior(name: str) -> None:
    """Without rejection: coordinates along random and along leading directions, and norms (Kolmogorov-Smirnov)."""
    fitted = PRIORS[name].fit(REFERENCES)
    way = ExactStatistics(fitted, PREPARED, K, 1, SHAPE)
    way.judge(0, BLOCK)
    for i in range(300):
        way.keep(i)
    ours, theirs = (x.double().flatten(1) for x in (way.latents(list(range(300)), 1), fitted.sample(range(300), 9)))
    rng = torch.Generator().manual_seed(2)
    flat = REFERENCES.double().flatten(1)
    axes = torch.cat([torch.randn(6, D, generator=rng).double(), flat.mean(0)[None], flat[:3]])
    for a, b in zip((ours @ axes.T).T, (theirs @ axes.T).T, strict=True):
        assert ks_2samp(a, b).pvalue > 1e-4
    assert ks_2samp(ours.norm(dim=1), theirs.norm(dim=1)).pvalue > 1e-4
    error = math.sqrt(2 * float(theirs.T.cov().trace() ** 2 + theirs.T.cov().square().sum()) / 300)
    assert float((ours.T.cov() - theirs.T.cov()).norm()) < 1.3 * error


def test_repeated_references_are_no_obstacle() -> None:
    """Singular Gram matrices: the same distribution, and formed candidates as proposed."""
    prepared = References.of(REFERENCES[:4].repeat(3, 1, 1, 1))
    fitted = Isotropic().fit(REFERENCES)
    way = ExactStatistics(fitted, prepared, K, 0, SHAPE)
    ours, theirs = way.judge(0, BLOCK), judged_directly(fitted, prepared)
    assert min(ks_2samp(ours[:, i], theirs[:, i]).pvalue for i in range(3)) > 1e-4
    for i in range(30):
        way.keep(i)
    formed = statistics(way.latents(list(range(30)), 0), prepared, way.block.drawn[:30])
    torch.testing.assert_close(formed, ours[:30], rtol=1e-5, atol=1e-4)


def test_the_account_adds_up_and_the_acceptance_agrees() -> None:
    exact, direct = choose("exact_statistics", count=400), choose("direct", count=400)
    assert exact.indices != direct.indices
    shares = [400 / found.proposals for found in (exact, direct)]
    # A share found by waiting for 400 has the relative standard error sqrt((1 - share) / 400).
    assert abs(shares[0] / shares[1] - 1) < 4 * math.sqrt(2 / 400)
    assert exact.proposals == len(exact.statistics) == exact.indices[-1] + 1
    assert exact.bands == direct.bands
    assert set(exact.passes) == set(direct.passes)


def test_more_latents_extend_the_selection_and_bounds_cut_it() -> None:
    """One stream per block and latent: neither the count nor the bound changes what comes before."""
    many, few = choose("exact_statistics", count=40), choose("exact_statistics", count=10)
    assert few.indices == many.indices[:10]
    assert torch.equal(few.latents, many.latents[:10])
    bounded = choose("exact_statistics", count=40, bound=many.proposals)
    assert torch.equal(bounded.latents, many.latents)
    with pytest.raises(InputError, match=f"39 of 40 latents accepted after {many.proposals - 1} proposals"):
        choose("exact_statistics", count=40, bound=many.proposals - 1)
    beyond = choose("exact_statistics", CalibratedTolerances(coverage=0.1, k=K), count=30, bound=10**6)
    assert beyond.proposals > BLOCK
    drawn = beyond.statistics[beyond.indices]
    assert bool((drawn >= torch.tensor([b.low for b in beyond.bands.values()])).all())


def test_the_control_owes_nothing_to_the_geometry() -> None:
    """The decisions of what it matches, and independent draws of the prior."""
    matched, control = choose("exact_statistics"), choose("exact_statistics", RandomControl(match=HALF))
    assert (control.indices, control.passes) == (matched.indices, matched.passes)
    fitted, kept_seed = Isotropic().fit(REFERENCES), generator(0, "control").initial_seed()
    torch.testing.assert_close(control.latents, fitted.sample(control.indices, kept_seed))
    assert not bool((control.latents == matched.latents).flatten(1).all(1).any())


def test_drawn_references_are_distinct_and_all_sets_alike() -> None:
    """Each of the 4 * 3 ordered pairs of 4 equally often; k = count gives permutations."""
    rng = torch.Generator().manual_seed(0)
    pairs = distinct(12000, 2, 4, rng)
    counts = (4 * pairs[:, 0] + pairs[:, 1]).bincount(minlength=16).reshape(4, 4)
    assert counts.diagonal().tolist() == [0] * 4
    assert chisquare(counts[~torch.eye(4, dtype=torch.bool)]).pvalue > 1e-3
    whole = distinct(2400, 4, 4, rng)
    assert torch.equal(whole.sort(1).values, torch.arange(4).expand(2400, 4))
    orders = (whole @ torch.tensor([64, 16, 4, 1])).unique(return_counts=True)[1]
    assert len(orders) == 24
    assert chisquare(orders).pvalue > 1e-3


@pytest.mark.parametrize("freedom", [1, 7, 196598])
def test_chi_squared_draws(freedom: int) -> None:
    drawn = chi_squared(2000, freedom, torch.Generator().manual_seed(0))
    assert kstest(drawn, chi2(freedom).cdf).pvalue > 1e-3
    assert not bool(chi_squared(5, 0, torch.Generator()).any())


def test_routes_are_checked_before_anything_is_fitted() -> None:
    for prior in (Diagonal(), Stationary(), Slerp()):
        with pytest.raises(InputError, match=f"prior={prior.name} has no spherical rest; set rejection.route=direct"):
            check_route("exact_statistics", prior, HALF)
        check_route("exact_statistics", prior, NoTolerances())
        check_route("direct", prior, HALF)
        with pytest.raises(InputError, match="has no spherical rest"):
            select(prior.fit(REFERENCES), REFERENCES, HALF, 5, 0, 100, route="exact_statistics")
    for prior in PRIORS.values():
        check_route("exact_statistics", prior, RandomControl(match=HALF))
    with pytest.raises(InputError, match=r"rejection\.route=fast: choose direct or exact_statistics"):
        check_route("fast", Isotropic(), HALF)
    with pytest.raises(InputError, match=r"rejection\.route=fast: choose direct or exact_statistics"):
        choose("fast")
    with pytest.raises(InputError, match="choose direct with tolerances=projection"):
        check_route("exact_statistics", Isotropic(), Projection(match=HALF))
    with pytest.raises(InputError, match=r"tolerances\.k=25: with 24 references"):
        ExactStatistics(Isotropic().fit(REFERENCES), PREPARED, 25, 0, SHAPE)


def test_too_few_coordinates_are_refused() -> None:
    """k references and the mean leave no freedom in 5 coordinates."""
    small = torch.randn(20, 1, 1, 5, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=r"4 coordinates beyond the prior's axes are fewer than tolerances\.k=5"):
        ExactStatistics(Isotropic().fit(small), References.of(small), 5, 0, (1, 1, 5))
