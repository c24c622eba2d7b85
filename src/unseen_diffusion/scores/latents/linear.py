"""A cross-validated linear classifier between two sets of latents, from inner products only.

Ridge regression on labels +-1 is Fisher's discriminant with a shrunk covariance; the shrinkage is chosen inside
each training part by its leave-one-out error (PRESS, Allen 1974).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unseen_diffusion.scores.inputs import require_count
from unseen_diffusion.scores.intervals import upper_p
from unseen_diffusion.scores.latents.gram import Pooled
from unseen_diffusion.scores.latents.rates import ErrorRate, error_rate
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

# Penalties tried, in units of the mean eigenvalue of the Gram matrix: from near interpolation to the difference of
# the means.
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class LinearSeparation:
    """How well a hyperplane separates two sets, by cross-validation.

    Attributes:
        error: balanced error of held-out latents; 0.5 is chance.
        auc: area under the ROC curve, averaged over the folds; 0.5 is chance.
        p_value: of "both sets have the same distribution": share of relabellings (within folds) whose AUC is at
            least as great, with the whole cross-validation repeated for each; exact.
    """

    error: ErrorRate
    auc: float
    p_value: float


def linear_separation(pooled: Pooled, seed: int, permutations: int = 999, folds: int = 5) -> LinearSeparation:
    """Stratified cross-validation of ridge regression over the pooled latents.

    Args:
        pooled: both sets.
        seed: of the folds and permutations.
        permutations: random relabellings, at least 1.
        folds: at least 2, and no more than latents in the smaller set.

    Raises:
        InputError: ``folds`` or ``permutations`` out of range.
    """
    require_count("permutations", permutations)
    n, m = pooled.first, pooled.second
    if not 2 <= folds <= min(n, m):
        raise InputError(f"folds={folds}: with {n} and {m} latents give a number between 2 and {min(n, m)}")
    fold = _folds(n, m, folds, seed)
    labels = _relabelled(n, fold, permutations, seed)
    aucs, wrong = torch.zeros(permutations + 1, dtype=torch.float64), [0, 0]
    for index in range(folds):
        train, test = (fold != index).nonzero().flatten(), (fold == index).nonzero().flatten()
        scores, thresholds = _scores(pooled.gram, labels, train, test)
        aucs += _auc(scores, labels[test] > 0) / folds
        positive = labels[test, 0] > 0
        margin = scores[:, 0] - thresholds[0]
        wrong[0] += int((margin[positive] <= 0).sum())
        wrong[1] += int((margin[~positive] >= 0).sum())
    p_value = upper_p(aucs[1:], float(aucs[0]) - 1e-12)  # equal labellings differ by rounding
    return LinearSeparation(error_rate(wrong[0], n, wrong[1], m), float(aucs[0]), p_value)


def _folds(n: int, m: int, folds: int, seed: int) -> Int[Tensor, " N"]:
    """Fold of each latent: each set is shuffled and dealt out to the folds in turn."""
    fold = torch.empty(n + m, dtype=torch.int64)
    for start, count in ((0, n), (n, m)):
        order = torch.randperm(count, generator=generator(seed, "fold", start))
        fold[start + order] = torch.arange(count) % folds
    return fold


def _relabelled(n: int, fold: Tensor, permutations: int, seed: int) -> Float[Tensor, "N P"]:
    """+1 for the first set and -1 for the second; column 0 as observed, the others permuted within each fold."""
    labels = torch.full((len(fold), permutations + 1), -1.0, dtype=torch.float64)
    labels[:n] = 1
    parts = [(fold == part).nonzero().flatten() for part in fold.unique()]
    for index in range(permutations):
        rng = generator(seed, "relabelling", index)
        for rows in parts:
            labels[rows, index + 1] = labels[rows[torch.randperm(len(rows), generator=rng)], 0]
    return labels


def _scores(gram: Tensor, labels: Tensor, train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (test, P) of held-out latents and thresholds (P,), each column with its best penalty by PRESS.

    The threshold is midway between the classes' mean leave-one-out scores, which no latent's own label biases.
    """
    inner, targets = gram[train][:, train], labels[train]
    means = inner.mean(0)
    values, vectors = torch.linalg.eigh(inner - means - means[:, None] + means.mean())
    values = values.clamp(min=0)
    cross = gram[test][:, train]
    cross = (cross - cross.mean(1, keepdim=True) - means + means.mean()) @ vectors
    offset = targets.mean(0)
    along = vectors.T @ targets
    positive = (targets > 0).double()
    scale = float(values.mean()) or 1.0
    best = torch.full((labels.shape[1],), torch.inf, dtype=torch.float64)
    scores, thresholds = labels.new_zeros(len(test), labels.shape[1]), labels.new_zeros(labels.shape[1])
    for penalty in PENALTIES:
        shrunk = 1 / (values + penalty * scale)
        leverage = ((vectors.square() @ (values * shrunk)) + 1 / len(train))[:, None]
        left_out = (vectors @ ((values * shrunk)[:, None] * along) + offset - leverage * targets) / (1 - leverage)
        press = (targets - left_out).square().mean(0)
        middle = ((positive * left_out).sum(0) / positive.sum(0)) / 2
        middle = middle + (((1 - positive) * left_out).sum(0) / (1 - positive).sum(0)) / 2
        better = press < best
        best = torch.where(better, press, best)
        scores = torch.where(better, cross @ (shrunk[:, None] * along) + offset, scores)
        thresholds = torch.where(better, middle, thresholds)
    return scores, thresholds


def _auc(scores: Tensor, positive: Tensor) -> Tensor:
    """Area under the ROC curve per column, from midranks: ties count a half."""
    columns = scores.T.contiguous()
    ordered = columns.sort(dim=1).values
    low = torch.searchsorted(ordered, columns, right=False)
    high = torch.searchsorted(ordered, columns, right=True)
    ranks = (low + high + 1).double() / 2
    hits = positive.T
    count = hits.sum(1).double()
    return ((ranks * hits).sum(1) - count * (count + 1) / 2) / (count * (len(scores) - count))
