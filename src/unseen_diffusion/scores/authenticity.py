"""AuthPct (Alaa et al. 2022, arXiv 2102.08921; Stein et al. 2023): the share of samples that are not noised copies."""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from unseen_diffusion.scores.inputs import as_pair
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.metrics import NEW, Metric
from unseen_diffusion.scores.neighbours import neighbour_squares
from unseen_diffusion.scores.suite import DomainViews, Views
from unseen_diffusion.utils.checked import settings


def authenticity(samples: Tensor, references: Tensor) -> float:
    """Share of samples farther from their nearest reference than that reference is from its nearest other reference.

    New images of the domain score about a half; copies score 0. More references than samples of a region, or a domain
    of clumps, move that value: compare with the row of real images.

    Args:
        samples: features (N, d).
        references: features (M, d) of the references, M >= 2.

    Raises:
        InputError: too few images, differing dimensions, or features that are not finite.
    """
    samples, references = as_pair(samples, references, ("the samples", "the references"), 1)
    distances, index = nearest(samples, references)
    own = neighbour_squares(references - references.mean(0), None, 1).sqrt()
    return float((own[index] < distances).double().mean())


@settings("scores.extra.authenticity")
class Authenticity:
    """AuthPct against the references, in the run's features."""

    columns: ClassVar[Mapping[str, Metric]] = {"authenticity": Metric("auth", "AuthPct", "", "share", NEW)}

    def __call__(self, samples: Views, domain: DomainViews) -> Mapping[str, float]:
        return {"authenticity": authenticity(samples.features, domain.references.features)}
