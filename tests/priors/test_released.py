"""The proposal of the code released in 2024."""

import torch

from support.options import option
from unseen_diffusion.priors import slerp


def test_candidates_are_the_points_of_arcs_in_order() -> None:
    """20 points an arc: the first is a reference, the last a draw of the Gaussian, and each depends on its index."""
    rng = torch.Generator().manual_seed(0)
    references, own = torch.randn(5, 1, 4, 4, generator=rng), 3 + torch.randn(50, 1, 4, 4, generator=rng)
    prior = option("prior", "released2024")
    fitted = prior.fit(references, own)
    found = fitted.sample(range(60), seed=1)
    starts, ends = found[::20], found[19::20]
    assert all(any(torch.allclose(one, reference, atol=1e-6) for reference in references) for one in starts)
    assert float(ends.mean()) > 2
    middle = slerp(starts, ends, torch.full((3,), 7 / 19))
    torch.testing.assert_close(found[7::20], middle, rtol=0, atol=1e-5)
    assert torch.equal(fitted.sample([47], seed=1)[0], found[47])
    again = prior.restore(fitted.tensors())
    assert torch.equal(again.sample([47], seed=1)[0], found[47])


def test_its_variance_adds_the_spread_of_the_mean_vector() -> None:
    """The variance of all entries at once, as released: larger than that of the residuals."""
    mean = torch.linspace(-4, 4, 16).reshape(1, 1, 4, 4)
    own = mean + 0.1 * torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    released = option("prior", "released2024").fit(own, own)
    slerped = option("prior", "slerp_id").fit(own, own)
    assert 2 < float(released.id_scale) < 3
    assert float(slerped.id_scale) < 0.2
