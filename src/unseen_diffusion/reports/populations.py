"""How far the images of several draws overlap, and which population an interval over draws is for. Needs no torch."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import nan
from pathlib import Path
from statistics import fmean
from typing import Any

from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

PARTS = ("references", "validation", "heldout")
NAMES = {"references": "reference", "validation": "validation", "heldout": "heldout"}  # keys in a split artefact
RECORD = "artefact.json"
DIGITS = 10  # hexadecimal, of a name's digest: images of one pool hardly ever share it

DOMAIN = "the domain"
FIXED_TARGET = "the domain, for these {target} images"
THESE = "these images"
UNKNOWN = "this pool"  # earlier results, of which the images are not known


@dataclass(frozen=True)
class SplitNames:
    """Digests of the names of a run's references, validation and held-out images."""

    references: frozenset[str]
    validation: frozenset[str]
    heldout: frozenset[str]

    @classmethod
    def of(cls, parts: Mapping[str, Iterable[str]]) -> "SplitNames":
        """From the part ``split`` of results.json."""
        return cls(*(frozenset(parts[name]) for name in PARTS))


@dataclass(frozen=True)
class Overlap:
    """What draws have in common, as a mean over pairs of draws.

    Attributes:
        references: share of the references that two draws share; NaN where it is not known.
        target: share of the images scored against that two draws share; NaN where it is not known.
        correlation: the largest correlation of the scores of two draws that this allows (``intervals.t_interval``).
        population: what an interval over the draws covers the mean of.
    """

    references: float
    target: float
    correlation: float
    population: str


def split_names(names: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Digests of the images' names, for results.json.

    Args:
        names: of a split artefact: ``reference``, ``validation`` and ``heldout``.
    """
    return {part: [digest(name)[:DIGITS] for name in names[NAMES[part]]] for part in PARTS}


def stored_names(artefacts: Iterable[Mapping[str, Any]]) -> dict[str, list[str]] | None:
    """``split_names`` from the split artefact of a run whose results.json has none; None where it is gone."""
    for one in artefacts:
        if one.get("stage") == "split":
            try:
                return split_names(read_json(Path(one["folder"]) / RECORD)["facts"]["names"])
            except (InputError, OSError, KeyError, TypeError, ValueError):
                return None
    return None


def overlap_of(splits: Sequence[SplitNames | None], target: str) -> Overlap:
    """The overlap of draws, one split each.

    Scores of two draws are correlated through the references and target images that they share. With the same target
    images in all draws, their choice cannot be seen: the interval is for these. Otherwise the larger of the two shares
    bounds the correlation, unless both sets pull a score the same way.

    Args:
        splits: of every draw; None where a run does not say.
        target: ``heldout`` or ``validation``.
    """
    known = [split for split in splits if split is not None]
    if len(known) < len(splits):
        return Overlap(nan, nan, 0.0, UNKNOWN)
    if len(known) < 2:
        return Overlap(nan, nan, 0.0, THESE)
    references = _mean_share([split.references for split in known])
    scored = _mean_share([getattr(split, target) for split in known])
    if scored < 1:
        largest, population = max(references, scored), DOMAIN
    else:
        largest, population = references, FIXED_TARGET.format(target={"heldout": "held-out"}.get(target, target))
    return Overlap(references, scored, largest, population) if largest < 1 else Overlap(references, scored, 0.0, THESE)


def _mean_share(sets: Sequence[frozenset[str]]) -> float:
    """The mean share of its images that a set has in common with another; 1 for empty sets."""
    return fmean(len(a & b) / min(len(a), len(b)) if a and b else 1.0 for a, b in combinations(sets, 2))


def shared_text(overlap: float) -> str:
    """A share of images in words."""
    return "an unknown share" if overlap != overlap else f"{100 * overlap:.0f}%"
