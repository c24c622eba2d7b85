"""The pixel twin of a prior that is made of references: the same combinations of the images, without any model."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unseen_diffusion.priors.base import Prior
from unseen_diffusion.utils.errors import InputError


class Draws(NamedTuple):
    """Candidates of a prior.

    Attributes:
        shape: (C, H, W) of the latents that the prior is usually fitted to.
        indices: of the candidates.
        seed: of their streams.
    """

    shape: tuple[int, int, int]
    indices: range
    seed: int


def combined_pixels(prior: Prior, images: Float[Tensor, "n c h w"], draws: Draws) -> Float[Tensor, "b c h w"]:
    """Combines reference images in [-1, 1] as the prior combines their latents; unclamped float32.

    The same seed and index take the same references with the same weights, unless the weights depend on what they
    combine: those of slerp follow from the angle between the images. Where latents have fewer places than images,
    weights are drawn for the latents' places.

    Raises:
        InputError: the prior's candidates are not weighted sums of references.
    """
    refusal = f"prior={prior.name}: its candidates are no weighted sums of references, so they have no pixel twin; "
    remedy = "choose linear_combination, slerp, sample_covariance or replay"
    if prior.id_latents:
        raise InputError(refusal + remedy)
    size = draws.shape[1:]
    seen = images if images.shape[2:] == size else adaptive_avg_pool2d(images, size)
    combination = prior.fit(seen).combination(draws.indices, draws.seed)
    if combination is None:
        raise InputError(refusal + remedy)
    return combination.of(images)
