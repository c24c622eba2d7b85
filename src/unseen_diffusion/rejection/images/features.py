"""Selection in the base model's own features: image by image, by a classifier's odds or by the nearest reference."""

import math
from typing import Annotated, Literal

import torch
from jaxtyping import Float64
from pydantic import Field
from torch import Tensor

from unseen_diffusion.rejection.images.base import AfterAnother, Choice, ImageTask, Seen
from unseen_diffusion.scores.logistic import fit_logistic
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.seeds import generators

MINIMUM = 40  # candidates from which a rule is fitted


def standardised(features: Tensor, references: Tensor) -> Float64[Tensor, "n d"]:
    """Features in units of the references' standard deviations around their mean; constant ones become 0."""
    mean, spread = references.double().mean(0), references.double().std(0)
    kept = spread > 1e-9 * mean.abs().clamp(min=1e-12)
    return torch.where(kept, (features.double() - mean) / spread.where(kept, 1.0), 0.0)


def features_of(seen: Seen) -> Tensor:
    """The features, which a selection that needs them is given."""
    if seen.features is None:
        raise ValueError("selection: these images come without features")
    return seen.features


@settings("selection")
class FeatureSelection(AfterAnother):
    """Keeps images that look like references to the base model's own network, each decided by itself.

    odds: a logistic classifier tells references from candidates; an image is kept with a probability proportional to
    its odds, up to a bound (rejection sampling towards the references' distribution). nearest: an image is kept if its
    distance to the nearest reference is among the smallest; this favours copies more. Both rules are fitted to as many
    candidates as would do if the wanted share were kept, cross-fitted: even ones judge odd ones and all later odd ones,
    and the other way round. So no image is judged by a rule that has seen it, and the kept images are independent
    draws, given the other half.
    """

    rule: Literal["odds", "nearest"]
    """odds: random, by a classifier's odds; nearest: the share of images nearest to a reference"""
    acceptance: Annotated[float, Field(gt=0, le=1)]
    """share of the first candidates that is kept"""
    name: str = "features"

    @property
    def needs_features(self) -> bool:
        return True

    def choose_among(self, candidates: Seen, references: Seen, task: ImageTask) -> Choice:
        r, x = features_of(references), features_of(candidates)
        x, r = standardised(x, r), standardised(r, r)
        accepted = torch.zeros(len(x), dtype=torch.bool)
        first = max(MINIMUM, math.ceil(task.count / self.acceptance))
        if len(x) >= first:
            odd = torch.arange(len(x)) % 2 == 1
            for half in (odd, ~odd):
                fitted_to = x[:first][~half[:first]]
                accepted[half] = self._accepts(r, fitted_to, x[half], candidates.numbers[half], task.seed)
        return Choice(accepted.nonzero().flatten(), {"rule": self.rule, "fitted_to": first})

    def _accepts(self, r: Tensor, fitted_to: Tensor, x: Tensor, numbers: Tensor, seed: int) -> Tensor:
        """Decisions about one half, by a rule fitted to the other."""
        if self.rule == "nearest":
            return nearest(x, r)[0] <= torch.quantile(nearest(fitted_to, r)[0], self.acceptance)
        score = fit_logistic(r, fitted_to)
        # Candidates are new to the classifier of the other half; those that it was fitted to have lower odds.
        bound = odds_bound(self._unseen_odds(r, fitted_to), self.acceptance)
        uniform = torch.stack([torch.rand((), generator=g) for g in generators(seed, "selection", numbers.tolist())])
        return uniform.double().log() < (score(x) - bound).clamp(max=0)

    def _unseen_odds(self, r: Tensor, fitted_to: Tensor) -> Tensor:
        """Log odds of the images behind a rule, each by a classifier that has seen only half of them."""
        odds = torch.empty(len(fitted_to), dtype=torch.float64)
        for start in (0, 1):
            odds[start::2] = fit_logistic(r, fitted_to[1 - start :: 2])(fitted_to[start::2])
        return odds


def odds_bound(odds: Float64[Tensor, " n"], acceptance: float) -> float:
    """The bound b for which the mean of min(1, exp(odds - b)) is ``acceptance``, by bisection."""
    low, high = float(odds.min()) - 1.0, float(odds.max()) + 50.0
    for _ in range(100):
        middle = (low + high) / 2
        if float((odds - middle).clamp(max=0).exp().mean()) > acceptance:
            low = middle
        else:
            high = middle
    return high
