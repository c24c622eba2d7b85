"""Shared by the analyses of the studies: reading results; writing tables, figures, verdicts and the README."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtrit
from torch import Tensor

from unseen_diffusion.reports.result import results_files
from unseen_diffusion.reports.rows import as_text, plus_minus
from unseen_diffusion.reports.tables import load_results
from unseen_diffusion.scores.intervals import holm, t_interval
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.store.artefacts import RECORD, load_tensor, tensor_names
from unseen_diffusion.utils.files import atomic_path, read_json, write_json

ENDED = "sweep.json"  # commit, command, hardware and time in the folder of a finished sweep
WORDS = 15  # of a verdict on the scoreboard, at most
ANSWERS = "study.json"  # verdicts in a study's folder
BEGIN, END = "<!-- results: written by analyse.py -->", "<!-- end of results -->"
MODEL_COLOURS = {"photos32": "C0", "digits32": "C1", "untrained": "0.5"}


@dataclass(frozen=True)
class Answer:
    """The answer of a study to one question of the scoreboard.

    Attributes:
        question: a key of ``experiments.scoreboard.QUESTIONS``, such as ``M1``, ``open 1`` or ``reviewer 5``.
        verdict: one or two sentences, written from the numbers; the study's README shows it.
        effect: the effect sizes with their intervals, likewise.
        brief: the verdict in at most ``WORDS`` plain words, for the scoreboard; empty takes the verdict.
        brief_effect: one effect and its interval, for the scoreboard; empty takes the effect.
    """

    question: str
    verdict: str
    effect: str
    brief: str = ""
    brief_effect: str = ""

    def __post_init__(self) -> None:
        if len(self.brief.split()) > WORDS:
            raise ValueError(f"{self.question}: a brief verdict of {len(self.brief.split())} words; give {WORDS}")


def runs(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Reads results.json of every run below the folders, in the order of the jobs."""
    return [read_json(path) for folder in folders for path in sorted(results_files([folder]), key=_job)]


def _job(path: Path) -> tuple[int, str]:
    name = path.parent.name
    return (int(name) if name.isdigit() else -1, name)


def generated(folders: Sequence[Path]) -> pd.DataFrame:
    """The rows of generated images of ``unseen_diffusion.reports.tables.load_results``."""
    table = load_results(folders)
    return table[table["row"] == "generated"].reset_index(drop=True)


def artefact(results: dict[str, Any], detail: str) -> dict[str, Tensor]:
    """Tensors of an artefact that a run's results list under ``details``."""
    folder = Path(results["details"][detail])
    return {name: load_tensor(folder, name) for name in tensor_names(folder)}


def feature_tensor(results: dict[str, Any], images: str) -> Tensor:
    """Features (n, d) that a run's scores used for the images with that key.

    Raises:
        KeyError: the run used none.
    """
    name = results["settings"]["features"]
    for folder in artefacts(results, "features"):
        record = read_json(folder / RECORD)
        if record["inputs"]["images"] == images and record["facts"]["extractor"] == name:
            return load_tensor(folder, "features")
    raise KeyError(f"{images}: no {name} features of them among the run's artefacts")


def artefacts(results: dict[str, Any], stage: str) -> list[Path]:
    """Folders of all artefacts of one stage that a run used, in order."""
    return [Path(one["folder"]) for one in results["artefacts"] if one["stage"] == stage]


def bootstrap(
    columns: Sequence[np.ndarray], statistic: Callable[..., float], seed: int = 0, count: int = 2000
) -> tuple[float, float]:
    """Percentile 95% interval of a statistic of paired values, by resampling the pairs (Efron 1979).

    Use it for correlations and means over independent units, not for KID or FID, which duplicates bias.
    """
    rng = np.random.default_rng(seed)
    n = len(columns[0])
    values = []
    for _ in range(count):
        rows = rng.integers(0, n, n)
        value = statistic(*(column[rows] for column in columns))
        if np.isfinite(value):
            values.append(value)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def provenance(folders: Sequence[Path]) -> str:
    """Commit, hardware and time of the sweeps, and their network function evaluations, in one line.

    The evaluations are summed over all artefacts that a run used, also those of earlier sweeps; each counts once.
    """
    records = [read_json(folder / ENDED) for folder in folders]
    used = {Path(one["folder"]) for results in runs(folders) for one in results["artefacts"]}
    spent = sum(read_json(folder / RECORD)["facts"].get("evaluations", 0) for folder in used)
    minutes = sum(record["minutes"] for record in records)
    commits = ", ".join(sorted({record["commit"] for record in records}))
    return (
        f"commit {commits}; {records[0]['hardware']}, one thread a sweep, other work beside it; "
        f"{minutes:.0f} minutes (what earlier sweeps had made was reused); {spent:,} network evaluations behind it"
    )


def write_study(
    out: Path,
    folders: Sequence[Path],
    full: pd.DataFrame,
    text: pd.DataFrame,
    figure: Figure,
    answers: Sequence[Answer],
    most: int = 40,
    more: Sequence[str] = (),
) -> None:
    """Writes results.csv, table.md, figure.png, study.json and the README's block of results into ``out``.

    Args:
        out: the study's folder.
        folders: of its sweeps.
        full: all numbers, for results.csv.
        text: the formatted table, for table.md; its first ``most`` rows for the README.
        figure: for figure.png.
        answers: verdicts for the scoreboard.
        most: rows of ``text`` in the README.
        more: lines that follow the rows in the README.
    """
    out.mkdir(parents=True, exist_ok=True)
    markdown = partial(pd.DataFrame.to_markdown, index=False, disable_numparse=True)
    with atomic_path(out / "results.csv") as path:
        full.to_csv(path, index=False, float_format="%.6g")
    with atomic_path(out / "table.md") as path:
        path.write_text(markdown(text) + "\n", encoding="utf-8")
    with atomic_path(out / "figure.png") as path:
        figure.savefig(path, format="png", dpi=130)
    where = provenance(folders)
    lines = [f"*{where}.*", "", markdown(text.head(most)), ""]
    if len(text) > most:
        lines += [f"({most} of {len(text)} rows; all of them in [table.md](table.md).)", ""]
    lines += [*more, "![figure](figure.png)", "", "**Verdict.**", ""]
    write_answers(out, answers, where, lines)


def write_answers(out: Path, answers: Sequence[Answer], where: str, lines: Sequence[str] = ()) -> None:
    """Writes study.json and the README's block of results: ``lines``, then the answers.

    Studies without sweeps call it directly; their analysis reads a committed table, which ``where`` names.
    """
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / ANSWERS, {"answers": [asdict(answer) for answer in answers], "provenance": where})
    said = [f"- *{answer.question}*: {answer.verdict} ({answer.effect})" for answer in answers]
    fill(out / "README.md", "\n".join([*lines, *said]))


def rewrite(out: Path, answers: Sequence[Answer], text: pd.DataFrame | None = None) -> None:
    """Writes new answers of a study whose sweeps are gone: analysed again from its committed results.csv.

    Args:
        out: the study's folder.
        answers: the new ones.
        text: a new formatted table, for table.md and the README; None keeps the old one.
    """
    readme = (out / "README.md").read_text(encoding="utf-8")
    block = readme.partition(f"{BEGIN}\n")[2].partition(END)[0]
    lines = block.partition("**Verdict.**")[0].rstrip().splitlines()
    if text is not None:
        table = text.to_markdown(index=False, disable_numparse=True)
        (out / "table.md").write_text(table + "\n", encoding="utf-8")
        rows = [number for number, line in enumerate(lines) if line.startswith("|")]
        lines[rows[0] : rows[-1] + 1] = table.splitlines()
    write_answers(out, answers, read_answers(out)[1], [*lines, "", "**Verdict.**", ""])


def fill(readme: Path, block: str) -> None:
    """Replaces the text between the marks in a README; does nothing without a README or marks."""
    if not readme.exists():
        return
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        with atomic_path(readme) as path:
            path.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}", encoding="utf-8")


def read_answers(folder: Path) -> tuple[list[Answer], str]:
    """The answers of a study, and their provenance."""
    found = json.loads((folder / ANSWERS).read_text(encoding="utf-8"))
    return [Answer(**answer) for answer in found["answers"]], found["provenance"]


def score(line: Mapping[Hashable, Any], name: str) -> str:
    """A score of ``unseen_diffusion.scores.suite.METRICS`` with its interval, where there is one; empty if missing."""
    value, low, high = (line.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None or value != value:
        return ""
    if low is None or high is None or low != low:
        return as_text(name, value)
    if METRICS[name].kind == "share":
        return f"{100 * value:.0f}% ({100 * low:.0f} to {100 * high:.0f})"
    return plus_minus(name, value, (high - low) / 2)


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Spearman's rho; NaN where one side is constant."""
    ranks = [pd.Series(values).rank() for values in (x, y)]
    if min(rank.nunique() for rank in ranks) < 2:
        return nan
    return float(np.corrcoef(*ranks)[0, 1])


def tested(gaps: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Two-sided p-values of t tests for a mean of zero, corrected by Holm; 1 for fewer than two values."""
    p_values = [t_interval(values).p_value if len(values) > 1 else 1.0 for values in gaps.values()]
    return dict(zip(gaps, holm(p_values), strict=True)) if p_values else {}


def signed(value: float, low: float, high: float, scale: float = 1, digits: int = 0) -> str:
    """A difference as text, with its interval, times ``scale``."""
    sign = f"+.{digits}f"
    return f"{scale * value:{sign}} ({scale * low:{sign}} to {scale * high:{sign}})"


def widening(cells: int, freedom: float, level: float = 0.95) -> float:
    """The factor that makes intervals of several cells hold together (Bonferroni): a ratio of Student's quantiles."""
    each = 1 - (1 - level) / cells
    return float(stdtrit(freedom, (1 + each) / 2) / stdtrit(freedom, (1 + level) / 2))


def effect_of(line: Mapping[Hashable, Any], name: str, base: float, cells: int = 1) -> str:
    """The verdict on a paired difference of ``comparison.compare``, for a score where lower is better.

    ``helps`` or ``harms`` by Holm's p below .05; otherwise ``no effect beyond a tenth`` where the interval lies within
    a tenth of ``base``, and ``not resolved`` where it does not. The intervals of all cells that are looked at hold
    together, with the fewest degrees of freedom that draws and seeds leave.

    Args:
        line: of one cell.
        name: the score.
        base: its value without the treatment.
        cells: how many are looked at.
    """
    value, p = line.get(f"{name}_difference"), line.get(f"{name}_p")
    if value is None or value != value:
        return "not resolved"
    if p is not None and p < 0.05:
        return "helps" if value < 0 else "harms"
    wider = widening(cells, max(1, min(line["draws"], line["seeds"]) - 1)) if cells > 1 else 1.0
    ends = (line[f"{name}_difference{end}"] for end in ("_low", "_high"))
    most = max(abs(value + wider * (end - value)) for end in ends)
    return "no effect beyond a tenth" if most <= 0.1 * abs(base) else "not resolved"


def copying(p_values: Sequence[float]) -> list[bool]:
    """Which sets contain more copies than new images of their domain would, at 5% over all sets (Holm).

    Args:
        p_values: ``scores.memorisation.CopyRate.p_value`` of each.
    """
    return [p < 0.05 for p in holm(p_values)]


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """Student's 95% interval of a mean of independent values; NaN for fewer than two finite ones."""
    finite = [value for value in values if np.isfinite(value)]
    if len(finite) < 2:
        return nan, nan
    found = t_interval(finite)
    return found.low, found.high


def pm(value: float, half: float, digits: int = 1) -> str:
    """A value as text, ± half its interval."""
    return f"{value:.{digits}f} ± {half:.{digits}f}"


def interval(value: float, low: float, high: float, digits: int = 2) -> str:
    """A value as text, with its interval."""
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
