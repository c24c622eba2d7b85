"""Tables of the report as plain values: the results, the comparison over replicates, acceptance, reconstructions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pandas import DataFrame

from unseen_diffusion.reports.html.load import CONTROLS, Run
from unseen_diffusion.reports.html.naming import SETTINGS, Names, is_missing, say
from unseen_diffusion.reports.html.scores import P_VALUE, SCORES, Estimate, estimate, marks, show
from unseen_diffusion.scores.metrics import agreed

ROW_NAMES = {
    "held_out": "real images",
    "replay": "replayed references",
    "standard": "N(0, I) at the mixing step",
    "base_samples": "the base model's own samples",
}
UNITS = {"pair_distance": "L2", "pair_angle": "°", "origin_angle": "°", "radius": "L2"}
# Settings on which a comparison row does not depend, left empty in its line.
FREE = {
    "held_out": ("method", "prior", "tolerances", "t", "eta", "model", "solver", "seed"),
    "replay": ("method", "prior", "tolerances"),
    "standard": ("method", "prior", "tolerances"),
    "base_samples": ("method", "prior", "tolerances"),
}


@dataclass(frozen=True)
class Cell:
    """One cell: what it says, smaller lines below, what it sorts by (empty: last), and its mark."""

    text: str
    notes: tuple[str, ...] = ()
    key: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Column:
    """A column's head, a smaller second line, and whether it holds numbers."""

    title: str
    note: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Table:
    """A table as the template draws it.

    Attributes:
        name: what it is, for people who do not see it.
        columns: heads.
        lines: cells of each line, the first one its name.
        controls: which lines are comparison rows.
    """

    name: str
    columns: list[Column]
    lines: list[list[Cell]]
    controls: list[bool]

    @property
    def long(self) -> bool:
        """True if it should scroll within the page."""
        return len(self.lines) > 40


@dataclass(frozen=True)
class Line:
    """A row of one run's results, with the run it is from."""

    run: Run
    row: Mapping[str, Any]

    @property
    def control(self) -> bool:
        """True for a comparison row and for a method that does not compete."""
        return self.row["row"] != "generated" or self.run.method in CONTROLS


def lines_of(runs: Sequence[Run]) -> list[Line]:
    """Every row of every run, a comparison row of the same images once.

    The same images compared with another split, extractor or target are another row.
    """
    found: dict[str, Line] = {}
    for run in runs:
        split = {key: value for key, value in run.flat.items() if key.startswith("domain.")}
        against = [split, run.settings.get("features"), run.settings.get("target")]
        for row in run.rows:
            same = [row.get("images"), *([run.flat] if row["row"] == "generated" else against)]
            key = json.dumps([row["row"], *same], sort_keys=True)
            found[key] = replace(found[key], row=agreed(found[key].row, row)) if key in found else Line(run, row)
    # Comparison rows follow the runs of their domain.
    order = list(dict.fromkeys(run.domain for run in runs))
    return sorted(found.values(), key=lambda line: (order.index(line.run.domain), line.row["row"] != "generated"))


def results_table(runs: Sequence[Run], names: Names) -> Table:
    """Every row with every score that any of them has; intervals below, the best marked within its group."""
    lines = lines_of(runs)
    present = [name for name in SCORES if any(estimate(line.row, name) is not None for line in lines)]
    marked = {name: _marks(lines, name) for name in present}
    features = "" if "features" in names.varying else say(runs[0].settings.get("features"))
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
    """Marks within each group of lines that can be compared; comparison rows never compete."""
    groups: dict[str, list[int]] = {}
    for index, line in enumerate(lines):
        if not line.control:
            s = line.run.settings
            same = [say(s.get(key)) for key in ("domain", "draw", "seed", "features", "target")]
            groups.setdefault(json.dumps(same), []).append(index)
    return _marked([estimate(line.row, name) for line in lines], groups.values(), name)


def _marked(estimates: Sequence[Estimate | None], groups: Iterable[Sequence[int]], name: str) -> list[str]:
    """A mark for every estimate, each judged within its group of indices."""
    found = [""] * len(estimates)
    for group in groups:
        for index, mark in zip(group, marks([estimates[i] for i in group], SCORES[name].better), strict=True):
            found[index] = mark
    return found


def _head(name: str, features: str) -> Column:
    """A score's column: its title, the extractor where it depends on one, and which way is better."""
    score = SCORES[name]
    parts = [features if score.of_features else "", f"{score.better} is better" if score.better else ""]
    return Column(score.title, "; ".join(part for part in parts if part))


def _numeric(values: Sequence[object]) -> bool:
    return all(is_missing(value) or isinstance(value, (int, float)) for value in values)


def _images(line: Line, names: Names) -> str:
    if line.row["row"] != "generated":
        return ROW_NAMES.get(line.row["row"], line.row["row"])
    return line.run.method or names.of(line.run)


def _setting(line: Line, key: str, names: Names) -> Cell:
    kind = line.row["row"]
    told = key not in names.extra if kind != "generated" else True
    return _plain(names.value(line.run, key) if told and key not in FREE.get(kind, ()) else None)


def _plain(value: object) -> Cell:
    text = say(value)
    return Cell(text, key=repr(value) if isinstance(value, float) and text else text)


def _score(row: Mapping[str, Any], name: str, mark: str = "") -> Cell:
    """A score with its interval below."""
    found = estimate(row, name)
    if found is None:
        return Cell("")
    notes = (f"{show(name, found.low)} to {show(name, found.high)}",) if found.has_interval else ()
    return Cell(show(name, found.value), notes, repr(found.value), mark)


def comparison_table(comparison: DataFrame, features: str) -> Table:
    """Means over reference draws and seeds with intervals, differences from ``fitted`` and corrected p values.

    Args:
        comparison: domain, method and varying settings, draws, seeds; per score s the columns s, s_low, s_high,
            s_difference (with _low, _high) and s_p.
        features: the extractor's name, empty where several were used.
    """
    records = [{str(key): value for key, value in record.items()} for record in comparison.to_dict("records")]
    present = [name for name in SCORES if f"{name}_low" in comparison and comparison[name].notna().any()]
    settings, counts = _told(comparison), [name for name in ("draws", "seeds") if name in comparison]
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


def _told(comparison: DataFrame) -> list[str]:
    """Settings that say something: the method, what varies, and the prior and tolerances if one method has several."""
    known = [str(name) for name in comparison if name in SETTINGS or "." in str(name)]
    varying = [
        name
        for name in known
        if name not in ("method", "prior", "tolerances") and comparison[name].map(say).nunique() > 1
    ]
    varying += [
        name
        for name in ("prior", "tolerances")
        if name in comparison and comparison.groupby("method")[name].nunique().gt(1).any()
    ]
    return ["method", *varying]


def _comparison_marks(records: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Marks within each domain, extractor and target; comparison methods never compete."""
    groups: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        if record.get("method") not in CONTROLS:
            same = [say(record.get(key)) for key in ("domain", "features", "target")]
            groups.setdefault(json.dumps(same), []).append(index)
    return _marked([estimate(record, name) for record in records], groups.values(), name)


def _compared(record: Mapping[str, Any], name: str, mark: str) -> Cell:
    """A mean and its interval; the difference from the baseline and its p value where there are any."""
    cell = _score(record, name, mark)
    gap = Estimate(*(_float(record.get(f"{name}_difference{end}")) for end in ("", "_low", "_high")))
    if is_missing(gap.value):
        return cell
    told = f"Δ {_signed(name, gap.value)}"
    if gap.has_interval:
        told += f" [{_signed(name, gap.low)}, {_signed(name, gap.high)}]"
    p = record.get(f"{name}_p")
    more = () if is_missing(p) else (f"p {show(P_VALUE, p)}",)
    return replace(cell, notes=(*cell.notes, told, *more))


def _float(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else float("nan")


def _signed(name: str, value: float) -> str:
    """A difference with its sign, in the score's unit."""
    text = show(name, abs(value))
    return f"{'−' if value < 0 else '+'}{text}"


def acceptance_table(runs: Sequence[Run], names: Names) -> Table | None:
    """Passes of each criterion with its band, and the acceptance, with Wilson intervals; None without any."""
    chosen = [run for run in runs if run.part("selection").get("acceptance")]
    if not chosen:
        return None
    criteria = list(dict.fromkeys(name for run in chosen for name in run.part("selection").get("passes", {})))
    columns = [Column("setting", numeric=False), Column("proposals"), Column("kept", "of all proposals")]
    columns += [Column(name.replace("_", " "), "passes; band") for name in criteria]
    lines = []
    for run in chosen:
        selection = run.part("selection")
        cells = [Cell(names.of(run), key=names.of(run)), _plain(selection.get("proposals"))]
        cells.append(_share(selection["acceptance"]))
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
    """PSNR and SSIM of the round trip, one line per distinct one; None without any."""
    lines: dict[str, list[Cell]] = {}
    for run in runs:
        for eta, facts in run.part("reconstruction").items():
            label = ", ".join(part for part in (names.of(run, ("method", "prior", "tolerances", "eta")),) if part)
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
