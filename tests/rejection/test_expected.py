"""The acceptance that theory expects, against the acceptance of Gaussian latents that are really judged."""

import math

import numpy as np
import pytest
import torch

from support.options import option
from unseen_diffusion.priors import Standard
from unseen_diffusion.rejection.expected import deviations, expected_acceptance, percent
from unseen_diffusion.rejection.geometry import References
from unseen_diffusion.rejection.routes import Task
from unseen_diffusion.rejection.tolerances import Tolerances, within
from unseen_diffusion.scores.intervals import wilson

PROPOSALS = 4000


def judged(tolerances: Tolerances, shape: tuple[int, int, int], scale: float) -> tuple[torch.Tensor, float, float]:
    """Statistics of candidates, and the 99.9% interval of their acceptance."""
    latents = scale * torch.randn(200, *shape, generator=torch.Generator().manual_seed(1))
    references = References.of(latents)
    bands = tolerances.bands(references, 0)
    task = Task(Standard(std=scale).fit(latents), references, shape, 0, 256)
    statistics = tolerances.route("exact_statistics", task, bands).judge(0, PROPOSALS)
    share = wilson(int(within(statistics, bands).all(1).sum()), PROPOSALS, 0.999)
    return statistics, share.low, share.high


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", ["paper", "released2023", "calibrated", "pair_angle"])
def test_the_expectation_is_what_is_measured(name: str, shape: tuple[int, int, int]) -> None:
    """At every d, within the interval of 4000 proposals and a tenth: bands are measured on 200 references."""
    tolerances = option("tolerances", name)
    expected = expected_acceptance(tolerances, math.prod(shape), 200, scale=0.8)
    assert expected is not None
    statistics, low, high = judged(tolerances, shape, 0.8)
    assert 0.9 * low <= expected.share <= 1.1 * high
    theory = np.sqrt(deviations(math.prod(shape), tolerances.k, 0.8).diagonal())
    assert statistics.std(0).numpy() == pytest.approx(theory, rel=0.05)


def test_tolerances_mean_different_things_at_different_d() -> None:
    """The released tolerances: 40% at the released 196608 coordinates, 3% at 3072, 1% at 1024."""
    tolerances = option("tolerances", "paper")
    shares = [expected_acceptance(tolerances, d, 1000).share for d in (196608, 12288, 3072, 1024)]
    assert shares == pytest.approx([0.40, 0.099, 0.028, 0.0094], rel=0.02)
    assert expected_acceptance(tolerances, 3072, 1000).text == "expected 2.8% at d = 3072"
    assert [percent(share) for share in (0.4, 0.0094, 3.2e-6, 0.0, 1.0)] == ["40%", "0.94%", "0.00032%", "0%", "100%"]


def test_what_rejects_nothing_has_no_expectation() -> None:
    """Neither do projections, which move candidates; a random control has that of its match."""
    assert expected_acceptance(option("tolerances", "none"), 3072, 100) is None
    assert expected_acceptance(option("tolerances", "projection"), 3072, 100) is None
    control = expected_acceptance(option("tolerances", "random"), 3072, 100)
    assert control == expected_acceptance(option("tolerances", "calibrated"), 3072, 100)
    assert expected_acceptance(option("tolerances", "paper", tolerance={"pair_angle": 0.0}), 3072, 100).share == 0
