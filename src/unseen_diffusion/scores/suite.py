"""The scores of one set of images: a row of the results table, against the held-out images and the references."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal, NamedTuple, get_args

import torch
from pydantic import Field
from torch import Tensor

from unseen_diffusion.domains.symmetries import Symmetries
from unseen_diffusion.scores.diversity import vendi_ratio
from unseen_diffusion.scores.extra import Score, check_columns, extra_columns
from unseen_diffusion.scores.frechet import frechet_distance
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.scores.membership import classifier_share, conformal_share
from unseen_diffusion.scores.memorisation import CopyRate, copy_rate
from unseen_diffusion.scores.metrics import CLASSIFIER
from unseen_diffusion.scores.novelty import novelty_ratio, patch_copy_rate, symmetric_copy_rate
from unseen_diffusion.utils.checked import Count, WholeNumber, settings
from unseen_diffusion.utils.errors import InputError

Row = Literal["held_out", "replay", "standard", "base_samples"]
ROWS: tuple[str, ...] = get_args(Row)
OF_NEW_IMAGES = ("copy_rate", "symmetric_copies", "novelty", "patch_", "shifted_")  # measured on H itself
MINIMUM = 4  # images that every scored set must have; more for nearest-neighbour scores
ZeroOrMore = Annotated[int, Field(ge=0)]
OpenShare = Annotated[float, Field(gt=0, lt=1)]
Testable = Annotated[Literal[0], WholeNumber] | Annotated[int, Field(ge=8)]


@settings("scores")
class ScoreSettings:
    """Which scores a run computes, and against which images."""

    target: Literal["heldout", "validation"]
    """images to score against; validation leaves the held-out images unused while settings are chosen"""
    rows: Sequence[Row]
    """comparison rows beside the generated images"""
    copy_quantile: OpenShare
    """a sample is a copy if it is nearer to a reference than this share of new images of the domain would be"""
    reconstructions: ZeroOrMore
    """references inverted and denoised for PSNR and SSIM; 0: none"""
    permutations: ZeroOrMore
    """random relabellings of clusters behind the p-value of KID-H and the check of the extractor; 0: neither"""
    membership: bool
    """whether a classifier estimates the share of samples in the domain; it needs samples of the base model"""
    neighbours: Count
    """k of precision, recall, density, coverage and the conformal share"""
    shifted_patches: bool = False  # configs written before version 0.4 lack it
    """whether copied patches are also looked for at other places of the references: some seconds per row"""
    paths: ZeroOrMore
    """pairs of references between which images are generated; 0: none"""
    geometry: ZeroOrMore
    """latents per set whose distances and angles the report shows; 0: none"""
    latents: Testable
    """latents per set tested for Gaussianity and separability at every recorded step; 0: none"""
    extra: Mapping[str, Score] = Field(default_factory=dict)  # configs written before version 0.4 lack it
    """further scores by name, each a config of a class with columns and a call (CONTRIBUTING.md)"""

    def __post_init__(self) -> None:
        check_columns(self.extra)

    @property
    def minimum(self) -> int:
        """Images that every scored set must have."""
        return max(MINIMUM, self.neighbours + 1)


class Views(NamedTuple):
    """One set of images as scores use it.

    Attributes:
        features: (n, d), for distances.
        pixels: (n, p) in [-1, 1], for copies.
        images: (n, C, H, W) uint8, for scores that need them whole.
        clusters: (n,) a number per image; images of one number depend on each other (cut-outs that overlap, frames of
            one picture, equal images). None: each image is independent.
    """

    features: Tensor
    pixels: Tensor
    images: Tensor | None = None
    clusters: Tensor | None = None


class DomainViews(NamedTuple):
    """Images to compare samples with: references R, target images H (or V), features of the base model's samples.

    Copies are also looked for among references that are turned and mirrored as the domain's symmetries allow.
    """

    references: Views
    target: Views
    base_samples: Tensor | None = None
    symmetries: Symmetries = "none"


def score_row(row: str, samples: Views, domain: DomainViews, settings: ScoreSettings) -> dict[str, Any]:
    """Scores of one set of images against the target set H (or V) and the references R.

    Copies are judged by pixels: a network's features can miss a copy that is slightly blurred. A score that these
    images do not determine is None.

    Raises:
        InputError: a score is infinite.
    """
    references, target = domain.references, domain.target
    few = len(references.features) < MINIMUM
    copies = copy_rate(samples.pixels, references.pixels, target.pixels, settings.copy_quantile)
    scores = {
        "row": row,
        "n": len(samples.features),
        **_prefixed("kid_h", asdict(kid(samples.features, target.features))),
        **_p_value(samples, target, settings.permutations),
        **({"kid_r": None} if few else _prefixed("kid_r", asdict(kid(samples.features, references.features)))),
        "fid_h": frechet_distance(samples.features, target.features),
        "fid_floor": fid_floor(domain, len(samples.features)),
        "fid_r": None if few else frechet_distance(samples.features, references.features),
        **_prefixed("copy_rate", _copies(copies)),
        **_novelty(samples, domain, settings),
        **prdc(samples.features, target.features, settings.neighbours)._asdict(),
        "vendi": vendi_ratio(samples.features, target.features).value,
        **_membership(samples, domain, settings.neighbours),
        **extra_columns(settings.extra, samples, domain),
    }
    for name, value in scores.items():
        if isinstance(value, float) and math.isinf(value):
            raise InputError(f"scores: {name} of {row} is infinite; check the images and features that it is made of")
    return {name: None if value != value else value for name, value in scores.items()}  # JSON has no NaN


def fid_floor(domain: DomainViews, count: int) -> float:
    """FID-H of as many references: what real images of the domain score, which depends on their number.

    NaN where there are fewer references: a floor of fewer images would be higher.
    """
    references = domain.references.features[:count]
    return frechet_distance(references, domain.target.features) if len(references) == count else math.nan


def _copies(copies: CopyRate) -> dict[str, float]:
    return {
        "value": copies.share,
        "low": copies.low,
        "high": copies.high,
        "p": copies.p_value,
        "expected": copies.expected,
    }


def _novelty(samples: Views, domain: DomainViews, settings: ScoreSettings) -> dict[str, float]:
    """Distances to the references over those of new images, turned copies and copied patches."""
    r, h, quantile = domain.references, domain.target, settings.copy_quantile
    pixels = (samples.pixels, r.pixels, h.pixels)
    found = {
        "novelty": novelty_ratio(*pixels),
        "novelty_features": novelty_ratio(samples.features, r.features, h.features),
        "patch_copies": patch_copy_rate(*pixels, "in_place", quantile),
    }
    if domain.symmetries != "none":
        copies = symmetric_copy_rate(*pixels, domain.symmetries, quantile)
        found |= _prefixed("symmetric_copies", _copies(copies))
    if settings.shifted_patches:
        found["shifted_patch_copies"] = patch_copy_rate(*pixels, "shifted", quantile)
    return found


def _p_value(samples: Views, target: Views, permutations: int) -> dict[str, float]:
    if permutations == 0:
        return {}
    clusters = pooled_clusters(samples, target)
    p_value = permutation_p_value(samples.features, target.features, permutations, seed=0, clusters=clusters)
    return {"kid_h_p": p_value}


def pooled_clusters(first: Views, second: Views) -> Tensor | None:
    """Cluster numbers of two sets, one after the other; an image of no cluster has a number of its own."""
    if first.clusters is None and second.clusters is None:
        return None
    known = [views.clusters for views in (first, second) if views.clusters is not None and len(views.clusters)]
    new = 1 + max((int(numbers.max()) for numbers in known), default=0)
    parts = []
    for views in (first, second):
        numbers = views.clusters
        if numbers is None:
            numbers, new = torch.arange(new, new + len(views.features)), new + len(views.features)
        parts.append(numbers)
    return torch.cat(parts)


def _membership(samples: Views, domain: DomainViews, neighbours: int) -> dict[str, float]:
    """Both shares of samples in the target domain; the classifier's needs samples of the base model."""
    conformal = conformal_share(samples.features, domain.target.features, neighbours)
    shares = _prefixed("target_conformal", conformal._asdict())
    if domain.base_samples is not None:
        classified = classifier_share(samples.features, domain.target.features, domain.base_samples)
        shares |= _prefixed(CLASSIFIER, classified._asdict())
    return shares


def held_out_row(domain: DomainViews, count: int, settings: ScoreSettings) -> dict[str, Any]:
    """The row of real images: the scores of as many real images of the domain.

    Scores against H take the references as the real images (R and H share no image), scores against R take H. The
    copy rate is its mean for new images: H sets the threshold, so copies counted among H would have no meaning. The
    ratios of distances and the copied patches are those of H itself: about 1 and about the quantile.
    """
    references = score_row("held_out", _first(domain.references, count), domain, settings)
    target = score_row("held_out", _first(domain.target, count), domain, settings)
    against_r = {key: value for key, value in target.items() if key.startswith(("kid_r", "fid_r"))}
    against_h = {key: value for key, value in references.items() if not key.startswith(OF_NEW_IMAGES)}
    new = {key: value for key, value in target.items() if key.startswith(("novelty", "patch_", "shifted_"))}
    if "symmetric_copies" in references:
        new["symmetric_copies"] = references["symmetric_copies_expected"]
    return {**against_h, **against_r, **new, "copy_rate": references["copy_rate_expected"]}


def _first(views: Views, count: int) -> Views:
    images, clusters = (None if part is None else part[:count] for part in (views.images, views.clusters))
    return Views(views.features[:count], views.pixels[:count], images, clusters)


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Column names of a score's parts: ``kid_h`` for its value, ``kid_h_low`` and so on for the rest."""
    return {prefix if name == "value" else f"{prefix}_{name}": value for name, value in values.items()}
