"""What an extractor can see: the changed images, the tests' level and power."""

import pytest
import torch
from torch import Tensor

from unseen_diffusion.domains.textures import Textures
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.scores.yardstick import CHANGES, LEVEL, blurred, halves, sight, texture
from unseen_diffusion.utils.seeds import generator


def gaussian_images(count: int, seed: int, side: int = 4) -> Tensor:
    """Smooth Gaussian images, hardly ever clipped."""
    noise = torch.randn(count, 1, side, side, generator=generator(seed, "images"))
    return (128 + 20 * noise + 10 * noise.mean((2, 3), keepdim=True)).round().clamp(0, 255).to(torch.uint8)


def test_halves_are_disjoint_and_complete() -> None:
    one, other = halves(11)
    assert sorted([*one.tolist(), *other.tolist()]) == list(range(11))
    assert (len(one), len(other)) == (5, 6)
    assert halves(11)[0].tolist() == one.tolist()
    assert one.tolist() != list(range(5))


def test_a_blur_keeps_the_mean_and_spreads_a_point() -> None:
    point = torch.zeros(1, 3, 15, 15, dtype=torch.uint8)
    point[:, :, 7, 7] = 255
    image = blurred(point)
    assert image.dtype == torch.uint8
    assert image[0, 0, 7, 7] == round(255 * 0.159241)  # a sampled Gaussian of deviation 1, squared weight at 0
    assert torch.equal(image, image.transpose(2, 3))


def test_a_texture_has_the_mean_and_covariance_of_the_images_and_nothing_else() -> None:
    real = gaussian_images(40, 0)
    made = texture(real)
    x, y = (images.flatten(1).double() for images in (real, made))
    torch.testing.assert_close(y.mean(0), x.mean(0), rtol=0, atol=0.5)
    torch.testing.assert_close(y.T.cov(), x.T.cov(), rtol=0, atol=0.05 * float(x.var()))
    distances = torch.cdist(y, x)
    assert distances.min() > 0.2 * torch.cdist(x, x).mean()
    assert torch.equal(made, texture(real))


def pixels_of(images: Tensor) -> Tensor:
    return images.flatten(1).double() / 128 - 1


def test_a_gaussian_domain_is_not_told_from_its_texture_more_often_than_the_level() -> None:
    """Mean and covariance are estimated from 12 images of 16 pixels; a texture drawn anew would be told too often."""
    rejected, count = 0, 150
    for seed in range(count):
        images = gaussian_images(24, seed)
        one, other = halves(24)
        found = sight(
            pixels_of(images[one]), pixels_of(images[other]), {"texture": pixels_of(texture(images[one]))}, 39
        )
        rejected += found["changes"]["texture"]["p"] <= LEVEL
    assert rejected <= count * LEVEL + 3 * (count * LEVEL * (1 - LEVEL)) ** 0.5


def test_contrast_and_kurtosis_see_both_changes_of_textures_and_mean_brightness_sees_none() -> None:
    images = Textures().pool(32, 1).load(range(0, 432, 4))
    one, other = halves(len(images))
    sets = {"one": images[one], "other": images[other], **{name: f(images[one]) for name, f in CHANGES.items()}}

    def judged(features: dict[str, Tensor]) -> dict:
        return sight(features["one"], features["other"], {name: features[name] for name in CHANGES}, 199)

    seen = judged({name: high_frequencies(part) for name, part in sets.items()})
    blind = judged({name: Pixels(side=1)(part) for name, part in sets.items()})
    assert seen["judges"]
    assert max(one["p"] for one in seen["changes"].values()) <= LEVEL
    assert not blind["judges"]
    assert blind["n"] == 54


def high_frequencies(images: Tensor) -> Tensor:
    """Contrast and kurtosis of neighbouring pixels' differences: what a blur and a Gaussian texture change."""
    steps = images.double().diff(dim=-1).flatten(1)
    kurtosis = (steps**4).mean(1) / (steps**2).mean(1) ** 2
    return torch.stack([steps.std(1) / 10, kurtosis], 1)


@pytest.mark.parametrize("p_values", [(0.02, 0.04), (0.03, 0.03)])
def test_both_tests_share_the_level(p_values: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Holm: the smaller of two p-values counts twice."""
    given = iter(p_values)
    monkeypatch.setattr("unseen_diffusion.scores.yardstick.permutation_p_value", lambda *a, **k: next(given))
    x = torch.randn(6, 2, generator=generator(0, "x"))
    found = sight(x[:3], x[3:], {"blurred": x[:3], "texture": x[:3]}, 19)
    assert found["judges"] == (2 * min(p_values) <= LEVEL)
