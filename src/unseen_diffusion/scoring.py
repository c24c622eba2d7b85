"""Rows of the results table: one set of images against the held-out images and the references."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.scores.frechet import frechet_distance
from unseen_diffusion.scores.kernel import kid
from unseen_diffusion.scores.memorisation import copy_rate

ROWS = ("held_out", "replay", "standard", "base_samples")
MINIMUM = 4  # images behind any score


@dataclass(frozen=True)
class ScoreSettings:
    """A config of the ``scores`` group.

    Attributes:
        target: score against ``heldout`` images, or against ``validation`` images to choose settings.
        rows: comparison rows beside the generated images.
        copy_quantile: share of held-out images that lie as near to the references as a "copy".
        reconstructions: references reconstructed for PSNR and SSIM; 0 for none.
    """

    target: str = "heldout"
    rows: Sequence[str] = ROWS
    copy_quantile: float = 0.01
    reconstructions: int = 100

    def __post_init__(self) -> None:
        if self.target not in ("heldout", "validation"):
            raise InputError(f"scores.target={self.target}: choose heldout or validation")
        if unknown := [row for row in self.rows if row not in ROWS]:
            raise InputError(f"scores.rows={unknown}: choose among {', '.join(ROWS)}")
        if not 0 < self.copy_quantile < 1:
            raise InputError(f"scores.copy_quantile={self.copy_quantile}: give a share between 0 and 1, e.g. 0.01")
        if self.reconstructions < 0:
            raise InputError(f"scores.reconstructions={self.reconstructions}: give 0 or more")


class Views(NamedTuple):
    """One set of images as scores see it: features (n, d) for distances, pixels (n, p) for copies."""

    features: Tensor
    pixels: Tensor


def score_row(row: str, samples: Views, references: Views, target: Views, copy_quantile: float) -> dict[str, Any]:
    """Scores of one set of images against the target set H (or V) and the references R.

    Copies are judged by pixels: features of a network can be blind to a copy that is slightly blurred.
    """
    copies = copy_rate(samples.pixels, references.pixels, target.pixels, copy_quantile)
    return {
        "row": row,
        "n": len(samples.features),
        **_prefixed("kid_h", asdict(kid(samples.features, target.features))),
        **_prefixed("kid_r", asdict(kid(samples.features, references.features))),
        "fid_h": frechet_distance(samples.features, target.features),
        "fid_r": frechet_distance(samples.features, references.features),
        **_prefixed("copy_rate", {"value": copies.share, "low": copies.low, "high": copies.high}),
    }


def held_out_row(references: Views, target: Views, count: int, copy_quantile: float) -> dict[str, Any]:
    """The floor: what real images of the domain score at the same number of images.

    Against H the real images are references (they and H never share an image); against R, and for the copy
    rate, they are H itself.
    """
    real = score_row("held_out", _first(references, count), references, target, copy_quantile)
    back = score_row("held_out", _first(target, count), references, target, copy_quantile)
    taken = {key: value for key, value in back.items() if key.startswith(("kid_r", "fid_r", "copy_rate"))}
    return {**real, **taken}


def _first(views: Views, count: int) -> Views:
    return Views(views.features[:count], views.pixels[:count])


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    """Names of a score's parts: ``kid_h`` for its value, ``kid_h_low`` and so on for the rest."""
    return {prefix if name == "value" else f"{prefix}_{name}": value for name, value in values.items()}
