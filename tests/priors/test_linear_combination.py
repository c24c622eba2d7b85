"""Linear combinations of references: their moments, their limits, their weights in latents and in pixels."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from unseen_diffusion.priors import (
    FittedPrior,
    LinearCombination,
    Replay,
    SampleCovariance,
    Slerp,
    restore,
)
from unseen_diffusion.priors.linear_combination import log_dirichlet, normalised, smooth_fields
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SETTINGS: dict[str, Any] = {
    "k": 2,
    "weights": "dirichlet",
    "concentration": 1.0,
    "spatial": None,
    "contrast": 3.0,
}
RNG = torch.Generator().manual_seed(0)
SKEWED = torch.randn(7, 2, 4, 4, generator=RNG).exp() + torch.randn(2, 4, 4, generator=RNG)  # 7 references
DRAWS = 4000


def prior(**changes: Any) -> LinearCombination:
    return LinearCombination(**SETTINGS | changes)


def full_weights(fitted: FittedPrior, draws: int, count: int) -> Tensor:
    """Weights (draws, count) over all references, centred."""
    combination = fitted.combination(range(draws), 0)
    assert combination is not None
    weights = torch.zeros(draws, count, dtype=torch.float64).scatter_(1, combination.rows, combination.weights)
    return weights - weights.mean(1, keepdim=True)


CASES = [
    *({"k": k, "concentration": a} for k in (1, 2, 3, 6, 7) for a in (0.05, 1.0, 100.0)),
    *({"k": k, "weights": "gaussian"} for k in (1, 2, 7)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_mean_and_covariance_are_the_references_own(case: dict[str, Any]) -> None:
    """E w w^T is (I - 1/n) / n or / (n - 1), which gives the covariance; and the samples scatter as it says."""
    n, fitted = len(SKEWED), prior(**case).fit(SKEWED)
    divisor = n - 1 if case.get("weights") == "gaussian" else n
    weights = full_weights(fitted, DRAWS, n)
    if divisor == n:  # in every draw, not only on average
        torch.testing.assert_close(weights.square().sum(1), torch.full((DRAWS,), 1 - 1 / n, dtype=torch.float64))
    expected = (torch.eye(n, dtype=torch.float64) - 1 / n) / divisor
    products = weights[:, :, None] * weights[:, None, :]
    error = products.std(0) / math.sqrt(DRAWS)
    assert bool(((products.mean(0) - expected).abs() < 5 * error + 1e-12).all())
    assert bool((weights.mean(0).abs() < 5 * weights.std(0) / math.sqrt(DRAWS)).all())
    wide = SKEWED.double()
    torch.testing.assert_close(
        fitted.sample(range(50), 0).double().flatten(1),
        (wide.mean(0) + torch.einsum("bn,nchw->bchw", weights[:50], wide)).flatten(1),
        rtol=0,
        atol=1e-5,
    )


def test_one_reference_is_a_replay() -> None:
    """k = 1: exactly the references, bit by bit, each of them in turn."""
    samples = prior(k=1).fit(SKEWED).sample(range(100), 0)
    matches = (samples[:, None] == SKEWED).flatten(2).all(2)
    assert bool((matches.sum(1) == 1).all())
    assert bool((matches.sum(0) > 0).all())


def test_gaussian_weights_of_all_references_are_the_sample_covariance() -> None:
    """The coordinates along any direction are normal, with the moments of ``SampleCovariance``."""
    fitted, other = prior(k=len(SKEWED), weights="gaussian").fit(SKEWED), SampleCovariance().fit(SKEWED)
    direction = torch.randn(SKEWED[0].numel(), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mean = float(SKEWED.double().mean(0).flatten() @ direction)
    spread = float((SKEWED.double().flatten(1) @ direction).std())
    for one in (fitted, other):
        along = (one.sample(range(2000), 3).double().flatten(1) @ direction - mean) / spread
        assert kstest(along.numpy(), "norm").pvalue > 0.001


def test_two_references_lie_on_the_arc_around_their_mean() -> None:
    """References at equal distances from each other: the combination is a slerp of the residuals, at some u."""
    corners = torch.eye(16).reshape(16, 1, 4, 4)
    combination = (fitted := prior().fit(corners)).combination(range(64), 0)
    assert combination is not None
    mean = corners.mean(0)
    a, b = (corners[rows] - mean for rows in combination.rows.T)
    got = fitted.sample(range(64), 0) - mean
    whole, part = (torch.nn.functional.cosine_similarity(a.flatten(1), x.flatten(1)).acos() for x in (b, got))
    first = ((whole - part).sin() / whole.sin())[:, None, None, None]
    second = (part.sin() / whole.sin())[:, None, None, None]
    torch.testing.assert_close(got, first * a + second * b, rtol=0, atol=1e-4)


def test_centred_slerp_keeps_the_mean_that_slerp_inflates() -> None:
    """Latents around a mean of 10: around the origin the mean of the draws is too large, around the mean it is not."""
    latents = 10 + 8 * torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    released, centred = (Slerp(centre=c).fit(latents).sample(range(400), 0).mean() for c in ("origin", "mean"))
    assert float(centred) == pytest.approx(float(latents.mean()), rel=0.02)
    assert float(released) > 1.03 * float(latents.mean())
    at_origin = latents - latents.double().mean(0).float()
    shifted = Slerp(centre="mean").fit(latents).sample(range(9), 0) - latents.double().mean(0).float()
    torch.testing.assert_close(shifted, Slerp().fit(at_origin).sample(range(9), 0), rtol=0, atol=1e-4)
    with pytest.raises(InputError, match=r"prior\.centre=mean: needs prior\.towards=references"):
        Slerp(towards="id", centre="mean")


def test_a_tiny_concentration_chooses_one_reference() -> None:
    """Gamma variables of this shape underflow; each of the three takes its turn all the same."""
    shares = torch.stack([log_dirichlet(3, 1e-5, generator(0, "x", i)).softmax(0) for i in range(600)])
    chosen = (shares > 0.999).double()
    assert float(chosen.sum(1).mean()) > 0.99
    assert bool(((chosen.mean(0) - 1 / 3).abs() < 5 * math.sqrt(2 / 9 / 600)).all())


@pytest.mark.parametrize("concentration", [0.3, 1.0, 50.0])
def test_weights_follow_the_dirichlet_distribution(concentration: float) -> None:
    """The first of k shares is beta distributed."""
    shares = torch.stack([log_dirichlet(3, concentration, generator(0, "x", i)).softmax(0) for i in range(1500)])
    assert kstest(shares[:, 0].numpy(), "beta", (concentration, 2 * concentration)).pvalue > 0.001


def test_spatial_weights_keep_mean_and_variance_of_every_place() -> None:
    """Per place as for one weight; smooth; without contrast they do not vary."""
    n, fitted = len(SKEWED), prior(spatial=1.5).fit(SKEWED)
    combination = fitted.combination(range(1200), 0)
    assert combination is not None
    w = combination.weights
    squares = w.square().sum(1) - w.sum(1).square() / n
    torch.testing.assert_close(squares, torch.full_like(squares, 1 - 1 / n))
    assert float(w.std((2, 3)).mean()) > 0.1
    samples = fitted.sample(range(1200), 0).double()
    error = samples.std(0) / math.sqrt(1200)
    assert bool(((samples.mean(0) - SKEWED.mean(0)).abs() < 5 * error).all())
    spread = (samples - samples.mean(0)).square()
    error = spread.std(0) / math.sqrt(1200)
    assert bool(((spread.mean(0) - SKEWED.double().var(0, unbiased=False)).abs() < 5 * error).all())
    flat = prior(spatial=1.5, contrast=0.0).fit(SKEWED).combination(range(9), 0)
    plain = prior().fit(SKEWED).combination(range(9), 0)
    assert flat is not None
    assert plain is not None
    torch.testing.assert_close(flat.weights, plain.weights[..., None, None].expand_as(flat.weights))


def test_smooth_fields_are_as_smooth_as_asked() -> None:
    """Correlation at distance r under a Gaussian filter of width l: exp(-r^2 / (4 l^2))."""
    fields = smooth_fields(400, (64, 64), 4.0, generator(0, "fields"))
    assert float((fields * fields.roll(4, dims=1)).mean()) == pytest.approx(math.exp(-0.25), abs=0.02)
    assert fields.mean((1, 2)).abs().max() < 1e-9


def test_weights_of_latents_serve_larger_images() -> None:
    """Spatial weights are repeated; one weight an image serves any size."""
    combination = prior(spatial=1.0).fit(SKEWED).combination(range(3), 0)
    assert combination is not None
    images = torch.rand(7, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    coarse = combination.of(images[:, :, ::2, ::2])
    torch.testing.assert_close(combination.of(images)[:, :, ::2, ::2], coarse)


@pytest.mark.parametrize("one", [SampleCovariance(), Slerp(), Slerp(centre="mean"), Replay(), prior(spatial=1.0)])
def test_priors_state_the_combination_that_they_sample(one: Any) -> None:
    fitted = one.fit(SKEWED)
    combination = fitted.combination(range(5, 20), 3)
    torch.testing.assert_close(combination.of(SKEWED), fitted.sample(range(5, 20), 3), rtol=1e-5, atol=1e-5)


def test_other_priors_state_none() -> None:
    assert Slerp(towards="id").fit(SKEWED, SKEWED).combination([0], 0) is None


def test_a_saved_prior_is_restored_by_its_class_name() -> None:
    for changes in ({}, {"weights": "gaussian"}, {"spatial": 2.0}):
        fitted = prior(**changes).fit(SKEWED)
        again = restore(type(fitted).__name__, fitted.tensors())
        assert torch.equal(again.sample(range(4), 1), fitted.sample(range(4), 1))
        assert again.contains_references(len(SKEWED))


def test_equal_weights_of_all_references_are_their_mean() -> None:
    """The one case without a direction: finite."""
    assert bool((normalised(torch.full((4,), 0.25, dtype=torch.float64), 4)).isfinite().all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, r"prior\.k=0: give a whole number of 1 or more"),
        ({"concentration": 0.0}, r"prior\.concentration=0.0: give a number above 0"),
        ({"weights": "uniform"}, r"prior\.weights=uniform: choose one of dirichlet, gaussian"),
        ({"spatial": 2.0, "weights": "gaussian"}, r"prior\.spatial=2: needs prior\.weights=dirichlet"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prior(**changes)


def test_more_references_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match="prior=linear_combination: 7 references, but it needs 8 or more"):
        prior(k=8).fit(SKEWED)
