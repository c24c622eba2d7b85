"""From the results of any number of runs to one pandas table, for the terminal, CSV, Markdown or LaTeX."""

import json
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unseen_diffusion.scores.extra import show_columns
from unseen_diffusion.scores.metrics import METRICS, agreed
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json

RESULTS = "results.json"
SCHEMA = 2  # of results.json
# These change no finished result.
INDIFFERENT = ("paths", "tracking", "progress", "batch_size", "device", "workers", "worker")
SETTINGS = (
    "domain",
    "draw",
    "model",
    "method",
    "t",
    "solver",
    "features",
    "target",
    "seed",
    "eta",
    "tolerances",
    "prior",
)
ROW_LABELS = {
    "held_out": "[real images]",
    "replay": "[replay]",
    "standard": "[N(0, I)]",
    "base_samples": "[base samples]",
}
# Left out of a narrow terminal's table, in this order.
NARROW = (
    "seconds_per_image",
    "evaluations_per_image",
    "density",
    "recall",
    "kid_r",
    "fid_r",
    "psnr",
    "precision",
    "fid_h",
    "target_conformal",
    "coverage",
    "target_classifier",
    "vendi",
)
LABELLED = ("prior", "method")  # shown as the row's name
# Settings that do not touch a comparison row, and are not shown in its line.
FREE = {
    "held_out": ("model", "method", "t", "solver", "seed", "eta", "tolerances", "prior"),
    "replay": ("method", "tolerances", "prior"),
    "standard": ("method", "tolerances", "prior"),
    "base_samples": ("method", "tolerances", "prior"),
    "generated": (),
}


def results_files(paths: Sequence[Path | str]) -> list[Path]:
    """All results.json at or below the given files and folders, sorted.

    Raises:
        InputError: a path does not exist, or there are no results below it.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give folders of runs, such as outputs/runs")
        below = [path] if path.is_file() else sorted(path.rglob(RESULTS))
        if not below:
            raise InputError(f"{path}: no {RESULTS} there; has a run finished in it?")
        found += below
    return sorted(set(found))


def read_results(file: Path, *parts: str) -> dict[str, Any]:
    """One results.json.

    Args:
        file: its path.
        parts: what it must have beside settings, rows and config.

    Raises:
        InputError: it is not the results of a run, or lacks a part.
    """
    results = read_json(file)
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise InputError(f"{file}: not the results of a run (schema {SCHEMA}); give folders of runs made since")
    if missing := [key for key in ("settings", "rows", *parts, "config") if not results.get(key)]:
        raise InputError(f"{file}: lacks {', '.join(missing)}; run this point again")
    show_columns(results)
    return results


def load_results(paths: Sequence[Path | str]) -> pd.DataFrame:
    """One line per row of every run below ``paths``.

    Rows made of the same images appear once: comparison rows, and a run that was repeated with the same configuration,
    the first by path. A repetition that made other images, of other weights or files at the same paths, is another
    line. Configuration keys that tell runs apart beyond ``SETTINGS`` become columns.

    Raises:
        InputError: nothing there, or a file that is not of a run.
    """
    lines: dict[tuple[str, ...], dict[str, Any]] = {}
    configs: list[dict[str, Any]] = []
    for file in results_files(paths):
        results = read_results(file)
        config = flatten(results["config"])
        configs.append(config)
        for row in results["rows"]:
            line = {**results["settings"], **row, "run": str(file.parent), "config": config}
            line |= {"searched_t": bool(results.get("mixing")), "searched_eta": bool(results.get("bandwidth"))}
            line |= dict.fromkeys(FREE[row["row"]])
            # A comparison row is the same where its images and what they are compared with are.
            split = {key: value for key, value in config.items() if key.startswith(("domain.", "features.", "scores."))}
            split.pop("scores.rows", None)
            known = json.dumps(config if row["row"] == "generated" else split, sort_keys=True)
            key = (row["row"], row["images"], known, line["features"], line["target"])
            lines[key] = agreed(lines[key], line) if key in lines else line
    table = pd.DataFrame(list(lines.values()))
    return _tell_apart(table).drop(columns="config").reset_index(drop=True)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys; lists as text. Keys that change no result are left out."""
    if not isinstance(value, dict):
        return {prefix: str(value) if isinstance(value, list) else value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name not in INDIFFERENT and key != "_target_":
            found |= flatten(inner, name)
    return found


def _tell_apart(table: pd.DataFrame) -> pd.DataFrame:
    """Adds a column for each configuration key that differs between generated rows of equal ``SETTINGS``."""
    generated = table[table["row"] == "generated"]
    extra: list[str] = []
    for _, group in generated.groupby(list(SETTINGS), dropna=False):
        configs = pd.DataFrame(list(group["config"]))
        extra += [key for key in configs if configs[key].nunique(dropna=False) > 1 and key not in extra]
    for key in extra:
        table[key] = [
            config.get(key) if row == "generated" else None
            for config, row in zip(table["config"], table["row"], strict=True)
        ]
    return table


def compact(table: pd.DataFrame) -> pd.DataFrame:
    """The table that people read: constant settings dropped, scores with their intervals as text, best first."""
    own = table["row"] == "generated"
    generated = table[own]
    settings = [*SETTINGS, *(name for name in table if "." in str(name))]
    settings += ["samples"] if "samples" in table else []
    varying = [name for name in settings if generated[name].nunique(dropna=False) > 1 and name not in LABELLED]
    # A run of the full method is known by its prior, a baseline by its name.
    several = table["method"].isin(_with_several_priors(generated))
    named = table["method"].where(~several, table["method"] + " (" + table["prior"].astype(str) + ")")
    made = table["prior"].where((table["method"] == "full") | own.eq(False), named)
    text = pd.DataFrame({"images": made.where(own, table["row"].map(ROW_LABELS))})
    for name in varying:
        text[name] = table[name].map(_setting)
    if generated.duplicated(settings).any():  # other images under the same names, or other weights
        runs = [os.path.abspath(run) for run in table["run"]]  # noqa: PTH100 - resolve() would follow links
        text["run"] = [os.path.relpath(run, os.path.commonpath(runs)) for run in runs]
    if table["n"].nunique() > 1:
        text["n"] = table["n"]
    for name, metric in METRICS.items():
        if name in table:
            text[metric.title] = [_score(name, line) for line in table.to_dict("records")]
    order = table.assign(own=own).sort_values([*_grouping(varying), "own", "kid_h"]).index
    return text.loc[order].reset_index(drop=True)


def _with_several_priors(generated: pd.DataFrame) -> list[str]:
    """Methods of which runs with different priors stand beside each other."""
    counts = generated.groupby("method")["prior"].nunique()
    return counts[counts > 1].index.tolist()


def _grouping(varying: Sequence[str]) -> list[str]:
    return [name for name in ("domain", "model", "t") if name in varying]


def _setting(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _score(name: str, line: Mapping[Hashable, Any]) -> str:
    """A score as text: KID in thousandths with half its 95% interval, shares in per cent."""
    value = line.get(name)
    if value is None or value != value:
        return ""
    if METRICS[name].kind == "kid":
        return plus_minus(name, value, (line[f"{name}_high"] - line[f"{name}_low"]) / 2)
    return as_text(name, value)


def as_text(name: str, value: float) -> str:
    """A score of ``METRICS`` as people read it: KID in thousandths, shares in per cent."""
    kind = METRICS[name].kind
    if kind == "kid":
        return f"{1000 * value:.{0 if abs(value) >= 0.1 else 1}f}"
    if kind == "share":
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def plus_minus(name: str, value: float, half: float) -> str:
    """A score with half the width of its interval, at the same number of digits."""
    kind, text = METRICS[name].kind, as_text(name, value)
    if half != half:
        return text
    scale = {"kid": 1000, "share": 100}.get(kind, 1)
    digits = len(text.rstrip("%").partition(".")[2])
    return f"{text.rstrip('%')}±{scale * half:.{digits}f}{'%' * text.endswith('%')}"


def caption(table: pd.DataFrame) -> str:
    """What the columns mean for these runs, in one line."""
    first = table[table["row"] == "generated"].iloc[0]
    against = "held-out" if first["target"] == "heldout" else "validation"
    return (
        f"KID and FID: {first['features']} features, lower is better, ± half a 95% jackknife interval. "
        f"H: {against} images, R: references. copies: nearer to R in pixels than a share of H is "
        "(scores.copy_quantile, by default 1%; fewer than 99 of H: than the nearest one). "
        "prec to conf: precision, recall, density, coverage (k nearest in H), Vendi score over that of H, share taken "
        "for the domain by a classifier, and by nearest neighbours over that of real images. "
        "kept: share of candidates within the tolerances. dB: PSNR of references inverted and denoised. "
        "[real images]: the floor; [replay]: the references back from their latents, the cheat; "
        "[base samples]: what the model makes of its own."
    )


def print_table(table: pd.DataFrame, title: str, console: Console | None = None) -> None:
    """Prints the compact table; it fits 80 characters for a sweep over two settings."""
    console = console or Console()
    text = compact(table)
    for name in NARROW:
        if width(text) > console.width:
            text = text.drop(columns=METRICS[name].title, errors="ignore")
    print_frame(text, title, caption(table), console)


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
    """Characters that a table of text takes in a terminal, a space behind each column."""
    return sum(1 + max(len(str(value)) for value in [name, *text[name]]) for name in text)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Writes the table; the suffix decides: .csv (every column), .md or .tex (the compact one).

    Raises:
        InputError: another suffix.
    """
    write_frame(table, compact(table), path)


def write_frame(full: pd.DataFrame, text: pd.DataFrame, path: Path) -> None:
    """Writes ``full`` as .csv, or ``text`` as .md or .tex.

    Raises:
        InputError: another suffix.
    """
    writers = {
        ".csv": lambda: full.to_csv(index=False),
        ".md": lambda: text.to_markdown(index=False) + "\n",
        ".tex": lambda: text.rename(columns=_tex).map(_tex).to_latex(index=False),
    }
    if path.suffix not in writers:
        raise InputError(f"{path}: unknown suffix; choose .csv, .md or .tex")
    with atomic_path(path) as temporary:
        temporary.write_text(writers[path.suffix](), encoding="utf-8")


def _tex(value: object) -> str:
    """Escapes what LaTeX would read as a command."""
    text = str(value)
    for plain, escaped in (("%", r"\%"), ("_", r"\_"), ("±", r"$\pm$"), ("×", r"$\times$")):
        text = text.replace(plain, escaped)
    return text
