"""LPIPS by its definition, written out here with loops, and intra-LPIPS on clusters that are known."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unseen_diffusion.scores.lpips import SCALE, SHIFT, IntraLpips, Lpips, backbone, distances, intra_lpips
from unseen_diffusion.scores.suite import DomainViews, Views
from unseen_diffusion.utils.errors import InputError

# torchvision's numbers of the convolutions of each network, by the layer whose ReLU LPIPS reads.
CONVOLUTIONS = {
    "vgg": [[0, 2], [5, 7], [10, 12, 14], [17, 19, 21], [24, 26, 28]],
    "alex": [[0], [3], [6], [8], [10]],
}


def weights(network: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random weights as both packages store them."""
    layers, taps = backbone(network)
    rng = torch.Generator().manual_seed(0)
    state = {key: torch.randn(value.shape, generator=rng) * 0.05 for key, value in layers.state_dict().items()}
    widths = [layers[tap - 1].out_channels for tap in taps]
    linear = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1, generator=rng) for i, width in enumerate(widths)}
    return {f"features.{key}": value for key, value in state.items()}, linear


def by_definition(network: str, first: Tensor, second: Tensor) -> float:
    """Equation 1 of the paper: layer by layer, from torchvision's numbering."""
    state, linear = weights(network)
    total = 0.0
    x = torch.stack([first, second]).float() / 127.5 - 1
    x = (x - torch.tensor(SHIFT).view(3, 1, 1)) / torch.tensor(SCALE).view(3, 1, 1)
    for stage, numbers in enumerate(CONVOLUTIONS[network]):
        if stage and (network == "vgg" or stage < 3):
            x = functional.max_pool2d(x, 2 if network == "vgg" else 3, 2)
        for number in numbers:
            weight, bias = state[f"features.{number}.weight"], state[f"features.{number}.bias"]
            stride, padding = {0: (4, 2), 3: (1, 2)}.get(number, (1, 1)) if network == "alex" else (1, 1)
            x = functional.conv2d(x, weight, bias, stride, padding).relu()
        unit = x / (x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
        difference = (unit[0] - unit[1]).pow(2)
        total += float((difference * linear[f"lin{stage}.model.1.weight"][0]).sum(0).mean())
    return total


@pytest.mark.parametrize("network", CONVOLUTIONS)
def test_distances_are_those_of_the_definition(network: str) -> None:
    """1e-5 of the value; 0 between equal images, symmetric."""
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = distances(*2 * (Lpips(network, *weights(network))(images),))
    assert float(found[0, 1]) == pytest.approx(by_definition(network, images[0], images[1]), rel=1e-5)
    assert torch.equal(found, found.T)
    assert found.diagonal().tolist() == [0, 0, 0]


def test_clusters_are_those_of_the_nearest_reference() -> None:
    """Replayed references have no diversity; a cluster has the mean over its pairs; single samples do not count."""
    rng = torch.Generator().manual_seed(1)
    model = Lpips("alex", *weights("alex"))
    references = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8, generator=rng)
    assert intra_lpips(model, references[[0, 0, 0, 1, 1]], references, 50) == 0
    near = (references[[0, 0, 0]].int() + torch.randint(-9, 10, (3, 1, 64, 64), generator=rng)).clamp(0, 255).byte()
    pairs = distances(model(near), model(near))
    expected = float(pairs[[0, 0, 1], [1, 2, 2]].mean())
    assert intra_lpips(model, near, references, 50) == pytest.approx(expected, rel=1e-5)
    assert intra_lpips(model, near, references, 2) == pytest.approx(float(pairs[0, 1]), rel=1e-5)
    assert math.isnan(intra_lpips(model, references, references, 50))


def test_the_score_reads_two_files_and_stays_empty_without_them(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    views = Views(torch.zeros(6, 1), torch.zeros(6, 1), images)
    domain = DomainViews(Views(torch.zeros(1, 1), torch.zeros(1, 1), images[:1]), views)
    files = [str(tmp_path / name) for name in ("alexnet.pth", "alex.pth")]
    score = IntraLpips(network="alex", backbone=files[0], linear=files[1], cluster=50)
    assert math.isnan(score(views, domain)["intra_lpips"])
    for file, state in zip(files, weights("alex"), strict=True):
        torch.save(state, file)
    other = IntraLpips(network="alex", backbone=files[0], linear=files[1], cluster=49)
    from unseen_diffusion.scores.lpips import _loaded

    _loaded.cache_clear()
    assert other(views, domain)["intra_lpips"] > 0


def test_weights_that_do_not_fit_are_refused() -> None:
    state, linear = weights("alex")
    with pytest.raises(InputError, match="weights that do not fit vgg"):
        Lpips("vgg", state, linear)
    with pytest.raises(InputError, match="below 0"):
        Lpips("alex", state, {key: -value for key, value in linear.items()})
