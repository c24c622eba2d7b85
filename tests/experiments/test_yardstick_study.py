"""The study of yardsticks: its damages, its fast permutation test, and its rule."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.yardstick.analyse import summarise, verdict
from experiments.yardstick.damage import DAMAGES, Domain, damaged, shuffle, texture
from experiments.yardstick.measure import COSTLY, Judge, kernel, kid_and_p
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.utils.seeds import generator


@pytest.fixture
def domain() -> Domain:
    """Thirty smooth images, of which twenty are damaged."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(60, 200, (30, 4, 4, 3))
    return Domain(coarse.repeat(8, 1).repeat(8, 2).astype(np.uint8), 20)


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_grows_with_its_strength(domain: Domain, kind: str) -> None:
    changes = [np.abs(damaged(domain, kind, level).astype(float) - domain.first).mean() for level in range(3)]
    assert 0 < changes[0] <= changes[1] <= changes[2] or kind == "shuffle"
    assert np.array_equal(damaged(domain, kind, 0), damaged(domain, kind, 0))


def test_shuffling_keeps_the_pixels_and_the_texture_mean_and_covariance(domain: Domain) -> None:
    rng = np.random.default_rng(1)
    moved = shuffle(domain, 8, rng)
    assert np.array_equal(np.sort(moved.reshape(20, -1)), np.sort(domain.first.reshape(20, -1)))
    many = Domain(domain.images, 3000)
    made = texture(Domain(np.repeat(domain.images, 100, 0), 3000), 1.0, rng).reshape(3000, -1)[:, :48]
    real = np.repeat(domain.images, 100, 0).reshape(many.damaged, -1)[:, :48]
    assert np.abs(made.mean(0) - real.mean(0)).max() < 5 * real.std() / np.sqrt(3000)
    assert np.abs(np.cov(made.T) - np.cov(real.T)).max() < 0.12 * real.var()


def test_kid_and_its_p_value() -> None:
    x, y = (torch.randn(20, 5, dtype=torch.float64, generator=generator(0, name)) for name in ("x", "y"))
    for shift in (0.0, 1.0):
        value, p = kid_and_p(kernel(torch.cat([x + shift, y]), torch.cat([x + shift, y])))
        assert value == pytest.approx(kid(x + shift, y).value)
    assert p == 1 / 200


def test_sets_share_no_image(domain: Domain) -> None:
    features = {("real", "none"): torch.randn(30, 3, dtype=torch.float64, generator=generator(0, "x"))}
    judge = Judge("a", domain, features)
    for kind in ("real", "blur", "modes", "copies"):
        chosen, others = judge.split(10, 3, kind, 0)
        assert not set(chosen.tolist()) & set(others.tolist())
        assert (len(chosen), len(others)) == (10, 10)
        assert len(set(chosen.tolist())) == (5 if kind == "copies" else 10)
        assert kind == "modes" or chosen.max() < 20
    assert judge.split(16, 0, "real", 0) is None


def table_of(powers: dict[str, list[float]]) -> pd.DataFrame:
    """Results of two cells on two domains; prices grow in the order of the extractors."""
    rows = []
    for price, (name, values) in enumerate(powers.items(), 1):
        for where, power in zip(COSTLY, values, strict=True):
            for kind, value in (("real", 0.05), ("blur", power)):
                row = {"extractor": name, "domain": where, "kind": kind, "strength": "weak", "n": 100, "splits": 100}
                rows.append({**row, "power": value, "precision": 0.9, "order": 1.0, "seconds": price / 1000})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("powers", "expected"),
    [
        ({"embedded": [0.7, 0.7], "small": [0.8, 0.9], "large": [0.81, 0.91]}, "is small; embedded may go."),
        ({"embedded": [0.7, 0.7], "small": [0.8, 0.9], "large": [0.9, 0.9]}, "is large; embedded may go."),
        ({"embedded": [0.9, 0.7], "small": [0.8, 0.9]}, f"because it is better on {COSTLY[0]}."),
        ({"embedded": [0.9, 0.9], "small": [0.9, 0.91]}, "is embedded."),
    ],
)
def test_the_rule(powers: dict[str, list[float]], expected: str) -> None:
    table = table_of(powers)
    assert verdict(table, summarise(table)).verdict.endswith(expected)
