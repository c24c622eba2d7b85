"""Scores of your own: a class in any module, named by its ``_target_`` under ``scores.extra``. Needs no torch."""

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from math import isnan
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from unseen_diffusion.scores.metrics import METRICS, Metric
from unseen_diffusion.utils.checked import checked_value, is_number
from unseen_diffusion.utils.errors import InputError

if TYPE_CHECKING:
    from unseen_diffusion.scores.suite import DomainViews, Views

PARTS = ("low", "high", "p")  # a column NAME may come with NAME_low, NAME_high and NAME_p
SUITE = tuple(METRICS)
KEYS = {one.name: one for one in fields(Metric)}.keys()  # of a column's description in results.json
REQUIRED = {one.name for one in fields(Metric) if one.default is MISSING}


@runtime_checkable
class Score(Protocol):
    """The interface of a score that the suite does not contain.

    Attributes:
        columns: how tables show each column that the score adds, by the column's name.
    """

    columns: Mapping[str, Metric]

    def __call__(self, samples: "Views", domain: "DomainViews") -> Mapping[str, float]:
        """Returns a number for each column, from one set of images and what it is compared with."""


def check_columns(scores: Mapping[str, Score]) -> None:
    """Checks that every column belongs to one score only.

    Raises:
        InputError: a score adds a column that the suite or another score has already.
    """
    taken = dict.fromkeys(SUITE, "the suite")
    for name, score in scores.items():
        for column in score.columns:
            if column in taken:
                raise InputError(f"scores.extra.{name}: {taken[column]} already has a column {column}; rename this one")
            taken[column] = f"scores.extra.{name}"


def extra_columns(scores: Mapping[str, Score], samples: "Views", domain: "DomainViews") -> dict[str, float]:
    """Computes the scores, and returns their values as columns of a row.

    Raises:
        InputError: a score returned a column that it does not declare, or a value that is not a number.
    """
    found: dict[str, float] = {}
    for name, score in scores.items():
        known = {*score.columns, *(f"{column}_{part}" for column in score.columns for part in PARTS)}
        for column, value in score(samples, domain).items():
            if column not in known:
                raise InputError(f"scores.extra.{name}: returned {column}; declare it in columns")
            unknown = isinstance(value, float) and isnan(value)  # NaN leaves the table's cell empty
            if not is_number(value) and not unknown:
                shown = value if isinstance(value, float) else type(value).__name__
                raise InputError(f"scores.extra.{name}: returned {shown} for {column}; return a finite float")
            found[column] = value
    return found


def description(scores: Mapping[str, Score]) -> dict[str, Any]:
    """The columns' titles and units as part of results.json: tables show them without importing the scores' modules."""
    columns = {column: asdict(metric) for score in scores.values() for column, metric in score.columns.items()}
    return {"metrics": columns} if columns else {}


def show_columns(results: Mapping[str, Any]) -> None:
    """Adds the columns that a results.json describes to ``METRICS``, after those of the suite.

    Raises:
        InputError: a description that ``description`` does not write; the file may come from anyone.
    """
    described = checked_value("metrics", results.get("metrics") or {}, Mapping[str, Mapping[str, str | bool | float]])
    for column, metric in described.items():
        if not REQUIRED <= metric.keys() <= KEYS:
            raise InputError(f"metrics.{column}: has {', '.join(metric)}, not {', '.join(KEYS)}; run this point again")
        METRICS.setdefault(column, Metric(**metric))
