"""Rows of the results table: one set of images against the held-out images and the references."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from unseen_diffusion.scores.diversity import vendi_ratio
from unseen_diffusion.scores.frechet import frechet_distance
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.scores.membership import classifier_share, conformal_share
from unseen_diffusion.scores.memorisation import CopyRate, copy_rate
from unseen_diffusion.scores.metrics import CLASSIFIER
from unseen_diffusion.utils.errors import InputError

ROWS = ("held_out", "replay", "standard", "base_samples")
LATENTS = 8  # least of a set that can be tested
MINIMUM = 4  # images behind any score; more for those of nearest neighbours


@dataclass(frozen=True)
class ScoreSettings:
    """A config of the ``scores`` group.

    Attributes:
        target: score against ``heldout`` images, or against ``validation`` images to choose settings.
        rows: comparison rows beside the generated images.
        copy_quantile: share of new images of the domain that lie as near to the references as a "copy".
        reconstructions: references reconstructed for PSNR and SSIM; 0 for none.
        permutations: behind the p-value of "KID-H is zero"; 0 for none.
        membership: score the share that a classifier takes for the target domain rather than the base model's own;
            it needs samples of the base model.
        neighbours: k of precision, recall, density, coverage and the conformal share.
        paths: pairs of references between which images are made; 0 for none.
        geometry: latents per set whose distances and angles a report shows; 0 for none.
        latents: latents per set that are tested for separability from the model's own and for Gaussianity, at every
            step that the inversion records; 0 for none.
    """

    target: str = "heldout"
    rows: Sequence[str] = ROWS
    copy_quantile: float = 0.01
    reconstructions: int = 100
    permutations: int = 1000
    membership: bool = True
    neighbours: int = 5
    paths: int = 3
    geometry: int = 100
    latents: int = 0

    def __post_init__(self) -> None:
        if self.target not in ("heldout", "validation"):
            raise InputError(f"scores.target={self.target}: choose heldout or validation")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise InputError(f"scores.rows={unknown}: choose among {', '.join(ROWS)}")
        if not 0 < self.copy_quantile < 1:
            raise InputError(f"scores.copy_quantile={self.copy_quantile}: give a share between 0 and 1, e.g. 0.01")
        for name in ("reconstructions", "permutations", "paths", "geometry", "latents", "neighbours"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise InputError(f"scores.{name}={value}: give a whole number of 0 or more")
        if 0 < self.latents < LATENTS:
            raise InputError(f"scores.latents={self.latents}: give {LATENTS} or more, or 0 for none")
        if not isinstance(self.membership, bool):
            raise InputError(f"scores.membership={self.membership}: give true or false")
        if self.neighbours < 1:
            raise InputError(f"scores.neighbours={self.neighbours}: give 1 or more")

    @property
    def minimum(self) -> int:
        """Images that every scored set must have."""
        return max(MINIMUM, self.neighbours + 1)


class Views(NamedTuple):
    """One set of images as scores see it: features (n, d) for distances, pixels (n, p) for copies."""

    features: Tensor
    pixels: Tensor


class DomainViews(NamedTuple):
    """What samples are held against: references R, target images H (or V), features of the model's own samples."""

    references: Views
    target: Views
    own: Tensor | None = None


def score_row(row: str, samples: Views, domain: DomainViews, settings: ScoreSettings) -> dict[str, Any]:
    """Scores of one set of images against the target set H (or V) and the references R.

    Copies are judged by pixels: features of a network can be blind to a copy that is slightly blurred.
    """
    references, target = domain.references, domain.target
    copies = copy_rate(samples.pixels, references.pixels, target.pixels, settings.copy_quantile)
    scores = {
        "row": row,
        "n": len(samples.features),
        **_prefixed("kid_h", asdict(kid(samples.features, target.features))),
        **_p_value(samples, target, settings.permutations),
        **_prefixed("kid_r", asdict(kid(samples.features, references.features))),
        "fid_h": frechet_distance(samples.features, target.features),
        "fid_r": frechet_distance(samples.features, references.features),
        **_prefixed("copy_rate", _copies(copies)),
        **prdc(samples.features, target.features, settings.neighbours)._asdict(),
        "vendi": vendi_ratio(samples.features, target.features).value,
        **_membership(samples, domain, settings.neighbours),
    }
    return {name: None if value != value else value for name, value in scores.items()}  # JSON knows no NaN


def _copies(found: CopyRate) -> dict[str, float]:
    return {"value": found.share, "low": found.low, "high": found.high, "p": found.p_value, "expected": found.expected}


def _p_value(samples: Views, target: Views, permutations: int) -> dict[str, float]:
    if permutations == 0:
        return {}
    return {"kid_h_p": permutation_p_value(samples.features, target.features, permutations, seed=0)}


def _membership(samples: Views, domain: DomainViews, neighbours: int) -> dict[str, float]:
    """Both target fractions: the classifier's needs the model's own samples, the conformal one does not."""
    near = conformal_share(samples.features, domain.target.features, neighbours)
    found = _prefixed("target_conformal", near._asdict())
    if domain.own is not None:
        share = classifier_share(samples.features, domain.target.features, domain.own)
        found |= _prefixed(CLASSIFIER, share._asdict())
    return found


def held_out_row(domain: DomainViews, count: int, settings: ScoreSettings) -> dict[str, Any]:
    """The floor: what real images of the domain score at the same number of images.

    Against H the real images are references (they and H never share an image), against R they are H itself. Their
    copy rate is what new images score on average: H set the threshold, and cannot be counted against it.
    """
    real = score_row("held_out", _first(domain.references, count), domain, settings)
    back = score_row("held_out", _first(domain.target, count), domain, settings)
    taken = {key: value for key, value in back.items() if key.startswith(("kid_r", "fid_r"))}
    floor = {key: value for key, value in real.items() if not key.startswith("copy_rate")}
    return {**floor, **taken, "copy_rate": real["copy_rate_expected"]}


def _first(views: Views, count: int) -> Views:
    return Views(views.features[:count], views.pixels[:count])


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Names of a score's parts: ``kid_h`` for its value, ``kid_h_low`` and so on for the rest."""
    return {prefix if name == "value" else f"{prefix}_{name}": value for name, value in values.items()}
