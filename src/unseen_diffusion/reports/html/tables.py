"""Tables of the report as plain values: results, comparison over draws and seeds, acceptance, reconstructions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pandas import DataFrame

from unseen_diffusion.reports.comparison import varying_settings
from unseen_diffusion.reports.html.load import CONTROLS, Run
from unseen_diffusion.reports.html.naming import Names
from unseen_diffusion.reports.html.scores import SCORES, Estimate, estimate, marks, show
from unseen_diffusion.reports.rows import (
    COMPARISON_ROWS,
    GENERATED,
    distinct_rows,
    independent_of,
    is_missing,
    setting_text,
)
from unseen_diffusion.scores.metrics import P_VALUE

UNITS = {"pair_distance": "L2", "pair_angle": "°", "origin_angle": "°", "radius": "L2"}


@dataclass(frozen=True)
class Cell:
    """One cell: its text, smaller lines below, the key that it sorts by (empty: last), and its mark."""

    text: str
    notes: tuple[str, ...] = ()
    key: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """A column: its head, a smaller second line, and whether it holds numbers."""

    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table as the template draws it.

    Attributes:
        name: for screen readers.
        columns: heads of the columns.
        lines: cells of each line, its name first.
        controls: for each line, whether it is a comparison row.
    """

    name: str
    columns: list[Column]
    lines: list[list[Cell]]
    controls: list[bool]

    @property
    def long(self) -> bool:
        """Whether the table scrolls within the page."""
        return len(self.lines) > 40


@dataclass(frozen=True)
class Line:
    """A row of results and its run."""

    run: Run
    row: Mapping[str, Any]

    @property
    def control(self) -> bool:
        """Whether it is a comparison row, or belongs to a method that is a control."""
        return self.row["row"] != GENERATED or self.run.method in CONTROLS


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Every row of every run by domain, comparison rows last; rows of the same images appear once."""
    order = list(dict.fromkeys(run.domain for run in runs))
    lines = [Line(run, row) for run, row in distinct_rows(runs)]
    return sorted(lines, key=lambda line: (order.index(line.run.domain), line.row["row"] != GENERATED))


def results_table(runs: Sequence[Run], names: Names) -> Table:
    """Every row with every score that a run has, intervals below; marks the best scores of each group."""
    lines = lines_of(runs)
    present = [name for name in SCORES if any(estimate(line.row, name) is not None for line in lines)]
    marked = {name: _marks(lines, name) for name in present}
    features = "" if "features" in names.varying else runs[0].features
    columns = [Column("images", numeric=False)]
    columns += [Column(key, numeric=_numeric([names.value(line.run, key) for line in lines])) for key in names.columns]
    columns += [Column("n")] + [_head(name, features) for name in present]
    cells = [
        [
            Cell(_images(line, names), key=_images(line, names)),
            *(_setting(line, key, names) for key in names.columns),
            _plain(line.row.get("n")),
            *(_score(line.row, name, marked[name][i]) for name in present),
        ]
        for i, line in enumerate(lines)
    ]
    return Table("Scores of every run", columns, cells, [line.control for line in lines])


def _marks(lines: Sequence[Line], name: str) -> list[str]:
    """Marks of the best scores within each group of comparable lines; comparison rows never get one."""
    groups: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if not line.control:
            s = line.run.settings
            same = [setting_text(s.get(key)) for key in ("domain", "draw", "seed", "features", "target")]
            groups.setdefault(json.dumps(same), []).append(index)
    return _marked([estimate(line.row, name) for line in lines], groups.values(), name)


def _marked(estimates: Sequence[Estimate | None], groups: Iterable[Sequence[int]], name: str) -> list[str]:
    """The marks of all estimates, each compared within its group of indices."""
    marked = [""] * len(estimates)
    for group in groups:
        for index, mark in zip(group, marks([estimates[i] for i in group], SCORES[name].better), strict=True):
            marked[index] = mark
    return marked


def _head(name: str, features: str) -> Column:
    """A score's column: its title, the feature extractor if the score depends on it, and which end is better."""
    score = SCORES[name]
    parts = [features if score.needs_features else "", f"{score.better} is better" if score.better else ""]
    return Column(score.label, "; ".join(part for part in parts if part))


def _numeric(values: Sequence[object]) -> bool:
    return all(is_missing(value) or isinstance(value, (int, float)) for value in values)


def _images(line: Line, names: Names) -> str:
    """A line's name: the comparison row's, or the method's."""
    row = line.row["row"]
    if row == GENERATED:
        return line.run.method or names.of(line.run)
    return COMPARISON_ROWS[row].label if row in COMPARISON_ROWS else row


def _setting(line: Line, key: str, names: Names) -> Cell:
    """A setting of a line; empty for a comparison row that does not depend on it."""
    row = line.row["row"]
    depends = row == GENERATED or key not in (*names.extra, *independent_of(row))
    return _plain(names.value(line.run, key) if depends else None)


def _plain(value: object) -> Cell:
    text = setting_text(value)
    return Cell(text, key=repr(value) if isinstance(value, float) and text else text)


def _score(row: Mapping[str, Any], name: str, mark: str = "") -> Cell:
    """A score with its interval below."""
    score = estimate(row, name)
    if score is None:
        return Cell("")
    notes = (f"{show(name, score.low)} to {show(name, score.high)}",) if score.has_interval else ()
    return Cell(show(name, score.value), notes, repr(score.value), mark)


def comparison_table(comparison: DataFrame, features: str) -> Table:
    """Means over reference draws and seeds with intervals, differences from ``fitted`` and corrected p values.

    Args:
        comparison: domain, method and varying settings, draws, seeds; per score s the columns s, s_low, s_high,
            s_difference (with _low, _high) and s_p.
        features: the extractor's name, empty where several were used.
    """
    records = [{str(key): value for key, value in record.items()} for record in comparison.to_dict("records")]
    present = [name for name in SCORES if f"{name}_low" in comparison and comparison[name].notna().any()]
    settings, counts = (
        ["method", *varying_settings(comparison)],
        [name for name in ("draws", "seeds") if name in comparison],
    )
    columns = [Column(name, numeric=name != "method" and _numeric([r[name] for r in records])) for name in settings]
    columns += [_head(name, features) for name in present] + [Column(name) for name in counts]
    marked = {name: _comparison_marks(records, name) for name in present}
    cells = [
        [
            *(_plain(record[key]) for key in settings),
            *(_compared(record, n, marked[n][i]) for n in present),
            *(_plain(record[name]) for name in counts),
        ]
        for i, record in enumerate(records)
    ]
    controls = [record.get("method") in CONTROLS for record in records]
    return Table("Means over reference draws and seeds", columns, cells, controls)


def _comparison_marks(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Marks of the best scores within each domain, extractor and target; ``CONTROLS`` never get one."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.get("method") not in CONTROLS:
            same = [setting_text(record.get(key)) for key in ("domain", "features", "target")]
            groups.setdefault(json.dumps(same), []).append(index)
    return _marked([estimate(record, name) for record in records], groups.values(), name)


def _compared(record: Mapping[str, Any], name: str, mark: str) -> Cell:
    """A mean and its interval; the difference from the baseline and its p value where there are any."""
    cell = _score(record, name, mark)
    gap = Estimate(*(_float(record.get(f"{name}_difference{end}")) for end in ("", "_low", "_high")))
    if is_missing(gap.value):
        return cell
    text = f"Δ {_signed(name, gap.value)}"
    if gap.has_interval:
        text += f" [{_signed(name, gap.low)}, {_signed(name, gap.high)}]"
    p = record.get(f"{name}_p")
    more = () if is_missing(p) else (f"p {show(P_VALUE, p)}",)
    return replace(cell, notes=(*cell.notes, text, *more))


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _signed(name: str, value: float) -> str:
    """A difference with its sign, in the score's unit."""
    text = show(name, abs(value))
    return f"{'−' if value < 0 else '+'}{text}"


def acceptance_table(runs: Sequence[Run], names: Names) -> Table | None:
    """Passes of each criterion and the acceptance, with Wilson intervals; None if no run rejects candidates."""
    chosen = [run for run in runs if run.selection.get("acceptance")]
    if not chosen:
        return None
    criteria = list(dict.fromkeys(name for run in chosen for name in run.selection.get("passes", {})))
    columns = [Column("setting", numeric=False), Column("proposals"), Column("kept", "of all proposals")]
    columns += [Column(name.replace("_", " "), "passes; band") for name in criteria]
    lines = []
    for run in chosen:
        selection = run.selection
        cells = [Cell(names.of(run), key=names.of(run)), _plain(selection.get("proposals"))]
        expected = selection.get("expected")
        cells.append(_share(selection["acceptance"], *([f"theory {100 * expected['share']:.2g}%"] if expected else [])))
        lines.append(cells + [_passes(selection, name) for name in criteria])
    return Table("Acceptance per criterion", columns, lines, [run.method in CONTROLS for run in chosen])


def _share(facts: Mapping[str, Any], *more: str) -> Cell:
    if is_missing(facts.get("share")):
        return Cell("", more)
    interval = f"{100 * facts['low']:.1f} to {100 * facts['high']:.1f}%"
    return Cell(f"{100 * facts['share']:.1f}%", (interval, *more), repr(facts["share"]))


def _passes(selection: Mapping[str, Any], name: str) -> Cell:
    facts, band = selection.get("passes", {}).get(name, {}), selection.get("bands", {}).get(name)
    return _share(facts, *([f"band {band[0]:.1f} to {band[1]:.1f} {UNITS.get(name, '')}".rstrip()] if band else []))


def reconstruction_table(runs: Sequence[Run], names: Names) -> Table | None:
    """PSNR and SSIM of references inverted and denoised, one line per distinct setting; None without any."""
    lines: dict[str, list[Cell]] = {}
    for run in runs:
        for eta, facts in run.reconstruction.items():
            label = names.of(run, ("method", "prior", "tolerances", "eta"))
            psnr, error = facts.get("psnr"), facts.get("psnr_standard_error")
            cells = [
                Cell(label, key=label),
                _plain(float(eta.removeprefix("eta"))),
                _plain(facts.get("count")),
                Cell(f"{psnr:.1f} ± {error:.1f}", key=repr(psnr)) if not is_missing(psnr) else Cell(""),
                Cell(f"{facts['ssim']:.4f}", key=repr(facts["ssim"]))
                if not is_missing(facts.get("ssim"))
                else Cell(""),
            ]
            lines.setdefault(json.dumps([label, eta, psnr, facts.get("ssim")]), cells)
    heads = [Column("setting", numeric=False), Column("eta"), Column("n")]
    heads += [Column("PSNR, dB", "± 1 standard error"), Column("SSIM")]
    return Table("Reconstructions", heads, list(lines.values()), [False] * len(lines)) if lines else None
