"""Values that the paper published, beside those of runs: read from one CSV that a person completes."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from unseen_diffusion.reports.result import RunResult
from unseen_diffusion.reports.tables import print_frame
from unseen_diffusion.utils.errors import InputError

NAME = "published.csv"
PUBLISHED_FEATURES = "inception"  # the only features whose distances may stand beside published FID
GEOMETRY = ("pair_distance", "pair_angle", "origin_angle")
METRICS = ("fid", "bandwidth", *GEOMETRY)


@dataclass(frozen=True)
class Published:
    """One line of the CSV; an empty base or domain means that the cell is not known.

    Attributes:
        version: of the paper (v1, v2, v3), or of its code.
        table: where the value stands.
        base: base model, as conf/model names it.
        domain: unseen domain, as conf/domain names it.
        metric: one of ``METRICS``, or another that is shown as a note.
        value: as published, a number or text such as 43+; empty where it is not known.
        source: who says so.
    """

    version: str
    table: str
    base: str
    domain: str
    metric: str
    value: str
    source: str

    @property
    def place(self) -> str:
        """Version and table."""
        return ", ".join(filter(None, (self.version, self.table)))


def read_published() -> list[Published]:
    """Every line with a value, of published.csv in the user's folder of configs (UNSEEN_CONF), or in the package.

    Raises:
        InputError: the file lacks a column, or a line has a value but no source.
    """
    path = Path(str(files("unseen_diffusion") / "reports" / NAME))
    own = Path(os.environ.get("UNSEEN_CONF") or ".").expanduser() / NAME
    if os.environ.get("UNSEEN_CONF") and own.is_file():
        path = own
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    reader = csv.DictReader(lines)
    wanted = [field.name for field in fields(Published)]
    if list(reader.fieldnames or ()) != wanted:
        raise InputError(f"{path}: its first line is {reader.fieldnames}; give the columns {', '.join(wanted)}")
    found = []
    for number, row in enumerate(reader, 2):
        if None in row or None in row.values():
            raise InputError(f"{path}: line {number} has not {len(wanted)} cells; quote texts with commas")
        one = Published(**{key: value.strip() for key, value in row.items()})
        if one.value and not one.source:
            raise InputError(f"{path}: line {number}: {one.metric}={one.value} without a source; say where it stands")
        if one.value:
            found.append(one)
    return found


def ours(result: RunResult, metric: str) -> float | None:
    """A run's own value of a metric; None where it has none that may stand beside a published one."""
    if metric == "fid":
        comparable = result.features == PUBLISHED_FEATURES and result.target == "heldout"
        return _number(result.generated.get("fid_h")) if comparable and _generates(result) else None
    if metric == "bandwidth":
        return _number((result.bandwidth or {}).get("eta"))
    if metric in GEOMETRY:
        return _number((result.geometry.get(metric) or {}).get("mean"))
    return None


def _generates(result: RunResult) -> bool:
    """Whether the run's images are generated, and not real ones."""
    return result.method != "held_out"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value == value else None


def beside(results: Sequence[RunResult], published: Iterable[Published]) -> pd.DataFrame:
    """One line for each published value of a cell that a run has: base, domain, metric, ours, published, place, source.

    Columns that no line needs are there all the same; the table may be empty.
    """
    lines = []
    for one in published:
        for result in results:
            value = ours(result, one.metric)
            if value is not None and (one.base, one.domain) == (result.settings.get("model"), result.domain):
                settings = f"t {result.settings.get('t'):g}, {result.settings.get('solver')}"
                lines.append(
                    (one.base, one.domain, one.metric, f"{value:.4g}", one.value, one.place, settings, one.source)
                )
    columns = ["base", "domain", "metric", "ours", "published", "where", "our settings", "source"]
    return pd.DataFrame(lines, columns=columns).drop_duplicates(ignore_index=True)


def notes(results: Sequence[RunResult], published: Sequence[Published]) -> list[str]:
    """What the table does not show: published values of unknown cells, and runs whose FID cannot be compared."""
    found = []
    bases = {str(result.settings.get("model")) for result in results}
    for one in published:
        if not (one.base and one.domain) or one.metric not in METRICS:
            cell = " on ".join(filter(None, (one.base, one.domain))) or "cell not known"
            if not one.base or one.base in bases:
                found.append(f"published {one.metric} {one.value} ({one.place}; {cell}): {one.source}")
    other = sorted({result.features for result in results} - {PUBLISHED_FEATURES})
    if other:
        found.append(f"FID of {', '.join(other)} features never stands beside published FID; run features=inception")
    return found


def show_published(
    results: Sequence[RunResult], published: Sequence[Published], console: Console | None = None
) -> None:
    """Prints the published values beside those of the runs, and the notes below."""
    frame = beside(results, published)
    console = console or Console()
    below = "\n".join(notes(results, published))
    if frame.empty:
        console.print("no published value is known for these base models and domains (published.csv)", markup=False)
        console.print(below, markup=False)
    else:
        print_frame(frame, "published beside ours", below, console)
