"""The documentation of the feature network: held-out accuracy, distances between sources, and the loss curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.kernel import KernelDistance, kid
from unseen_diffusion.training.cards import fact_table, table
from unseen_diffusion.training.distortions import KINDS, distort
from unseen_diffusion.training.features import mean_accuracy
from unseen_diffusion.utils.images import dequantise, quantise
from unseen_diffusion.utils.seeds import generator

STRENGTHS = (0.0, 0.5, 1.0)

_INTRODUCTION = """\
# features32

A small CNN for 3x32x32 images whose pooled activations are the `embedded` features. One head was trained to
name the domain, the other to name what was done to the image, so that distances see both. They compare with
no published FID or KID."""
_RULES = """\
The command leaves these files in `outputs/training/features32/weights/`. No image of a held-out set H (with
the sizes and seeds of `conf/domain/`) was trained on; every number below is measured on H and, for photos and
MNIST, on their test files.

![loss curve](loss.png)"""


@dataclass(frozen=True)
class Evaluation:
    """The measurements of the card, all on held-out images.

    Attributes:
        domains: accuracy of the domain head per class.
        distortions: accuracy of the distortion head per kind.
        halves: KID between two halves of the probe domain's H.
        others: KID between the probe's H and every other source's.
        distorted: KID between one half of the probe's H and the other, distorted: kind -> one per strength.
    """

    domains: Mapping[str, float]
    distortions: Mapping[str, float]
    halves: KernelDistance
    others: Mapping[str, KernelDistance]
    distorted: Mapping[str, Sequence[KernelDistance]]


def halves_and_others(
    extractor: FeatureExtractor, heldout: Mapping[str, Tensor], probe: str
) -> tuple[KernelDistance, dict[str, KernelDistance]]:
    """KID between two halves of the probe source's held-out images, and from them to every other source's."""
    features = {name: extract(extractor, images) for name, images in heldout.items()}
    first, second = features[probe][::2], features[probe][1::2]
    others = {name: kid(features[probe], other) for name, other in features.items() if name != probe}
    return kid(first, second), others


def distorted_halves(extractor: FeatureExtractor, images: Tensor, seed: int) -> dict[str, list[KernelDistance]]:
    """KID between every second image and the others, distorted: per kind, one value per strength."""
    clean, rest = extract(extractor, images[::2]), dequantise(images[1::2])
    result: dict[str, list[KernelDistance]] = {}
    for number, kind in enumerate(KINDS[1:], start=1):
        for strength in STRENGTHS:
            rng = generator(seed, "card", kind)
            kinds, strengths = torch.full((len(rest),), number), torch.full((len(rest),), strength)
            changed = quantise(distort(rest, kinds, strengths, rng))
            result.setdefault(kind, []).append(kid(clean, extract(extractor, changed)))
    return result


def model_card(facts: Mapping[str, str], command: str, evaluation: Evaluation, probe: str) -> str:
    """The card in Markdown: the network, its training, and its measurements on held-out images.

    Args:
        facts: a table of name and value: data, steps, seed, sizes.
        command: trains the network again.
        evaluation: the measurements.
        probe: name of the source of ``evaluation``'s distances.
    """
    return "\n".join(
        [
            _INTRODUCTION + "\n",
            *fact_table(facts),
            f"\n```\n{command}\n```\n",
            _RULES,
            *_accuracies("Domain head, on undistorted images", evaluation.domains),
            *_accuracies("Distortion head, at any strength", evaluation.distortions),
            f"\n## What distances see: KID x 1000 to {probe} (standard error)\n",
            *table(["from", "KID x 1000"], _distance_rows(evaluation)),
            f"\nOne half of H of {probe} against the other half, distorted:\n",
            *table(
                ["kind", *(f"strength {strength}" for strength in STRENGTHS)],
                ((kind, *map(_shown, distances)) for kind, distances in evaluation.distorted.items()),
            ),
            "",
        ]
    )


def _accuracies(title: str, accuracy: Mapping[str, float]) -> list[str]:
    mean = f"{mean_accuracy(accuracy):.1%} is the mean of {len(accuracy)}, each of which counts alike."
    return [
        f"\n## {title}\n\n{mean}\n",
        *table(["", "accuracy"], ((k, f"{v:.1%}") for k, v in accuracy.items())),
    ]


def _distance_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    rows = [("itself (two halves of H)", _shown(evaluation.halves))]
    return rows + [(name, _shown(distance)) for name, distance in evaluation.others.items()]


def _shown(distance: KernelDistance) -> str:
    return f"{1000 * distance.value:.1f} ({1000 * distance.standard_error:.1f})"
