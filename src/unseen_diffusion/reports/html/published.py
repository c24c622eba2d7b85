"""The table of published values beside those of the report's runs."""

from collections.abc import Sequence

from unseen_diffusion.reports.html.load import Run
from unseen_diffusion.reports.html.tables import Cell, Column, Table
from unseen_diffusion.reports.published import beside, read_published

NUMERIC = ("ours", "published")


def published_bases(runs: Sequence[Run]) -> bool:
    """Whether a run has a base model of which something was published."""
    bases = {one.base for one in read_published() if one.base}
    return any(run.settings.get("model") in bases for run in runs)


def published_table(runs: Sequence[Run]) -> Table | None:
    """Published values beside ours; None where no cell has both."""
    frame = beside(runs, read_published())
    if frame.empty:
        return None
    columns = [Column(str(name), numeric=name in NUMERIC) for name in frame]
    lines = [[Cell(str(value), key=str(value)) for value in line] for line in frame.itertuples(index=False)]
    return Table("Published values beside ours", columns, lines, [False] * len(lines))
