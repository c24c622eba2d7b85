"""One pandas table from the results of any number of runs, for the terminal, CSV, Markdown or LaTeX."""

import os
from collections.abc import Hashable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unseen_diffusion.reports.populations import SplitNames, stored_names
from unseen_diffusion.reports.result import RunResult, read_results
from unseen_diffusion.reports.rows import (
    COMPARISON_ROWS,
    GENERATED,
    SETTINGS,
    UNEQUAL,
    as_text,
    distinct_rows,
    independent_of,
    is_missing,
    marked,
    method_name,
    plus_minus,
    setting_text,
)
from unseen_diffusion.reports.yardstick import yardstick_lines
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path

# Columns that a narrow terminal's table leaves out, in this order.
NARROW = (
    "seconds_per_image",
    "evaluations_per_image",
    "density",
    "recall",
    "kid_r",
    "fid_r",
    "psnr",
    "precision",
    "fid_floor",
    "fid_h",
    "target_conformal",
    "coverage",
    "target_classifier",
    "vendi",
)
ROOM = "novelty"  # the column that a terminal's table has only where there is room beside the others
SPLIT = "split"  # a column for comparisons, which is not exported
YARDSTICK = "yardstick"  # attribute of a table: what the feature extractors can see in its domains, a line each
IN_LABEL = ("prior", "method")  # settings that the first column already shows


def load_results(paths: Sequence[Path | str]) -> pd.DataFrame:
    """One line per row of every run below ``paths``; rows of the same images appear once (``rows.distinct_rows``).

    Configuration keys that distinguish runs of equal ``SETTINGS`` become columns. The table's attribute ``YARDSTICK``
    holds a line for each domain: what its feature extractor can see there.

    Raises:
        InputError: nothing there, or every file is damaged.
    """
    lines: list[dict[str, Any]] = []
    results = read_results(paths, RunResult)
    for result, row in distinct_rows(results):
        line = {**dict.fromkeys(SETTINGS), **result.settings, **row, "run": str(result.folder), "config": result.flat}
        line |= {"searched_t": bool(result.mixing), "searched_eta": bool(result.bandwidth)}
        names = result.split or stored_names(result.artefacts)
        line |= {SPLIT: SplitNames.of(names) if names else None}
        lines.append(line | dict.fromkeys(independent_of(row["row"])))
    lines[0].setdefault("kid_h", None)  # by which tables are sorted
    table = _tell_apart(pd.DataFrame(lines)).drop(columns="config").reset_index(drop=True)
    table.attrs[YARDSTICK] = yardstick_lines(results)
    return table


def _tell_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Adds a column for each configuration key that differs between runs of equal ``SETTINGS``."""
    generated = table[table["row"] == GENERATED]
    extra: list[str] = []
    for _, group in generated.groupby(list(SETTINGS), dropna=False):
        configs = pd.DataFrame(list(group["config"]))
        extra += [key for key in configs if configs[key].nunique(dropna=False) > 1 and key not in extra]
    for key in extra:
        table[key] = [
            config.get(key) if row == GENERATED else None
            for config, row in zip(table["config"], table["row"], strict=True)
        ]
    return table


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """The printed table: without settings that are equal in all lines, scores ± intervals as text, best first."""
    is_generated = table["row"] == GENERATED
    generated = table[is_generated]
    settings = [*SETTINGS, *(name for name in table if "." in str(name))]
    settings += ["samples"] if "samples" in table else []
    varying = [name for name in settings if generated[name].nunique(dropna=False) > 1 and name not in IN_LABEL]
    lines = table.to_dict("records")
    several = _with_several_priors(generated)
    text = pd.DataFrame({"images": [_images(line, line["method"] in several) for line in lines]}, index=table.index)
    for name in varying:
        text[name] = table[name].map(setting_text)
    if generated.duplicated(settings).any():  # other images under the same names, or other weights
        runs = [os.path.abspath(run) for run in table["run"]]  # noqa: PTH100 - resolve() would follow links
        text["run"] = [os.path.relpath(run, os.path.commonpath(runs)) for run in runs]
    if table["n"].nunique() > 1:
        text["n"] = table["n"]
    usual = int(generated["n"].mode().iloc[0])
    for name, metric in METRICS.items():
        if name in table and metric.in_tables:
            text[metric.title] = [marked(name, _score(name, line), line["n"], usual) for line in lines]
    order = table.assign(is_generated=is_generated)
    order = order.sort_values([*_grouping(varying), "is_generated", "kid_h"])
    return text.loc[order.index].reset_index(drop=True)


def _images(line: Mapping[Hashable, Any], with_prior: bool) -> str:
    """A line's name: a comparison row's own, the prior of the full method, the name of a baseline."""
    if line["row"] != GENERATED:
        return COMPARISON_ROWS[line["row"]].short
    return str(line["prior"]) if line["method"] == "full" else method_name(line, with_prior)


def _with_several_priors(generated: pd.DataFrame) -> list[str]:
    """Methods that occur in the table with different priors."""
    counts = generated.groupby("method")["prior"].nunique()
    return counts[counts > 1].index.tolist()


def _grouping(varying: Sequence[str]) -> list[str]:
    return [name for name in ("domain", "model", "t") if name in varying]


def _score(name: str, line: Mapping[Hashable, Any]) -> str:
    """A score as text, KID with half its 95% interval."""
    value = line[name]
    if METRICS[name].kind == "kid" and not is_missing(value):
        low, high = line.get(f"{name}_low"), line.get(f"{name}_high")
        return plus_minus(name, value, nan if low is None or high is None else (high - low) / 2)
    return as_text(name, value)


def caption(table: pd.DataFrame) -> str:
    """The meaning of the columns for these runs, as one paragraph."""
    generated = table[table["row"] == GENERATED]
    first = generated.iloc[0]
    against = "held-out" if first["target"] == "heldout" else "validation"
    return (
        f"KID and FID: {extractors(generated)} features, lower is better, ± half a 95% jackknife interval. "
        f"FID floor: FID-H of as many real images; {UNEQUAL}: of another number of images, so not comparable. "
        f"H: {against} images, R: references. copies: share of samples nearer to R (in pixels) than a share of H is "
        "(scores.copy_quantile, by default 1%; with fewer than 99 images in H: than the nearest one). "
        "prec to cov: precision, recall, density, coverage (k nearest in H). Vendi: score over that of H. "
        "cls: share of samples that a classifier takes for the domain; conf: the same by nearest neighbours, over that "
        "of real images. kept: share of candidates that were accepted. dB: PSNR of references inverted and denoised."
        " [real images]: the best to expect; [replay]: references denoised from their latents, mere copies; "
        "[base samples]: the base model's own samples."
    )


def extractors(table: pd.DataFrame) -> str:
    """The names of all feature extractors in a table."""
    return ", ".join(str(name) for name in table["features"].unique())


def print_table(table: pd.DataFrame, title: str, console: Console | None = None) -> None:
    """Prints the compact table; for a sweep over two settings it fits into 80 characters."""
    console = console or Console()
    text = narrowed(compact(table), console.width)
    room = " new: mean distance to the nearest of R (in pixels) over that of H." * (METRICS[ROOM].title in text)
    print_frame(text, title, "\n".join([caption(table) + room, *table.attrs.get(YARDSTICK, ())]), console)


def narrowed(text: pd.DataFrame, columns: int) -> pd.DataFrame:
    """The table of text without the columns of ``NARROW`` that do not fit, and with that of ``ROOM`` if it fits."""
    shown = text.drop(columns=METRICS[ROOM].title, errors="ignore")
    for name in NARROW:
        if width(shown) > columns:
            shown = shown.drop(columns=METRICS[name].title, errors="ignore")
    with_room = text[[name for name in text if name in shown or name == METRICS[ROOM].title]]
    return with_room if width(with_room) <= columns else shown


def print_frame(text: pd.DataFrame, title: str, below: str, console: Console) -> None:
    """Prints a table of text with a title above and a caption below; names on the left, numbers on the right."""
    view = Table(
        title=title,
        caption=escape(below),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in text.columns:
        view.add_column(str(column), justify="left" if column in ("images", "method") else "right", no_wrap=True)
    for line in text.itertuples(index=False):
        view.add_row(*(escape(str(value)) for value in line))
    console.print(view)


def width(text: pd.DataFrame) -> int:
    """Width of a table of text in a terminal, in characters, with one space after each column."""
    return sum(1 + max(len(str(value)) for value in [name, *text[name]]) for name in text)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes the table; the suffix decides: .csv (every column), .md or .tex (the compact one).

    Raises:
        InputError: another suffix.
    """
    write_frame(table, compact(table), path, caption(table), table.attrs.get(YARDSTICK, ()))


def write_frame(full: pd.DataFrame, text: pd.DataFrame, path: Path, below: str = "", notes: Sequence[str] = ()) -> None:
    """Writes ``full`` as .csv, or ``text`` as .md or .tex with a caption that names the feature extractor.

    Args:
        full: every column, ``features`` among them.
        text: the compact table.
        path: its suffix decides.
        below: the caption.
        notes: further lines below it (in .tex as comments).

    Raises:
        InputError: another suffix.
    """
    full = full.drop(columns=SPLIT, errors="ignore")
    after = "\n" + "".join(f"\n{md_cell(note)}\n" for note in (below, *notes) if note)
    comments = "".join(f"% {one_line(note)}\n" for note in notes)
    in_tex = {"index": False, "escape": False, "caption": tex_cell(below) or None}
    writers = {
        ".csv": lambda: full.rename(columns=csv_cell).map(csv_cell).to_csv(index=False),
        ".md": lambda: text.rename(columns=md_cell).map(md_cell).to_markdown(index=False) + after,
        ".tex": lambda: text.rename(columns=tex_cell).map(tex_cell).to_latex(**in_tex) + comments,
    }
    if path.suffix not in writers:
        raise InputError(f"{path}: unknown suffix; choose .csv, .md or .tex")
    with atomic_path(path) as temporary:
        temporary.write_text(writers[path.suffix](), encoding="utf-8")


TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
MARKDOWN = {"|": "&#124;", "<": "&lt;", ">": "&gt;"}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters of text that spreadsheets compute


def tex_cell(value: object) -> str:
    """A value as text, with LaTeX's special characters escaped."""
    return "".join(TEX.get(character, character) for character in one_line(value))


def md_cell(value: object) -> str:
    """A value as text that Markdown shows as it is, and that ends no cell of a table."""
    return "".join(MARKDOWN.get(character, character) for character in one_line(value))


def csv_cell(value: Any) -> Any:
    """A value; text that a spreadsheet would compute as a formula gets an apostrophe before it."""
    if not isinstance(value, str) or not value.startswith(FORMULA) or is_numeral(value):
        return value
    return f"'{value}"


def is_numeral(text: str) -> bool:
    """Whether text is a number as it stands."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def one_line(value: object) -> str:
    """A value as text without line breaks."""
    return " ".join(str(value).splitlines())
