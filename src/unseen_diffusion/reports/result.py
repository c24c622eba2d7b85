"""The results of one run: the typed content of results.json, written and read here."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

from unseen_diffusion.scores.extra import show_columns
from unseen_diffusion.scores.metrics import METRICS
from unseen_diffusion.utils.checked import as_written, checked_value
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.files import read_json, write_json

log = logging.getLogger(__name__)

RESULTS = "results.json"
TABLE = "results.parquet"  # the rows of results.json, each with the run's settings
PICTURES = ("samples.png", "reconstructions.png", "bandwidth.png")
SCHEMA = 2  # of results.json
# Configuration keys that change no result.
INDIFFERENT = ("paths", "tracking", "progress", "batch_size", "device", "workers", "worker", "method.source")
REQUIRED = ("settings", "rows", "config")
ROWS = ("generated", "held_out", "replay", "standard", "base_samples")
Scalar = str | int | float | bool | None
CONTENT: dict[str, Any] = {  # types of the parts, as far as tables and reports rely on them
    "settings": Mapping[str, Scalar],
    "mixing": Mapping[str, Any],
    "bandwidth": Mapping[str, Any],
    "latents": list[Mapping[str, Any]],
    "rows": list[Mapping[str, Any]],
    "metrics": Mapping[str, Mapping[str, Any]],
    "yardstick": Mapping[str, Any],
    "selection": Mapping[str, Any],
    "tuning": Mapping[str, Any],
    "geometry": Mapping[str, Any],
    "reconstruction": Mapping[str, Any],
    "details": Mapping[str, str | None],
    "evaluations": Mapping[str, int],
    "seconds": Mapping[str, float],
    "artefacts": list[Mapping[str, Any]],
    "images": Mapping[str, Any],
    "split": Mapping[str, list[str]],
    "config": Mapping[str, Any],
    "environment": Mapping[str, Any],
}
NUMBERS = {"t": float, "eta": float, "draw": int, "seed": int}  # settings that tables sort or average
AnyResult = TypeVar("AnyResult", bound="RunResult")


class UsedArtefact(TypedDict):
    """An artefact that a result uses: the stage that made it, its folder, and whether it existed before the run."""

    stage: str
    folder: str
    reused: bool


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The content of results.json. A part that a run does not have is None or empty."""

    folder: Path
    """the run's folder; not part of the file"""
    settings: Mapping[str, Any]
    """the settings that distinguish this run from others (``rows.SETTINGS``)"""
    mixing: Mapping[str, Any] | None = None
    """the search for the mixing step t_mix"""
    bandwidth: Mapping[str, Any] | None = None
    """the search for the bandwidth eta"""
    latents: Sequence[Mapping[str, Any]] | None = None
    """tests of the references' latents, one entry per recorded step"""
    rows: Sequence[dict[str, Any]]
    """scores of the generated images, then of the comparison rows"""
    metrics: Mapping[str, Mapping[str, Any]] | None = None
    """titles and units of scores beyond the suite's (``scores.extra``), by column"""
    yardstick: Mapping[str, Any] | None = None
    """what the feature extractor can see in the domain (``scores.yardstick``)"""
    selection: Mapping[str, Any] = field(default_factory=dict)
    """candidates proposed and accepted, in total and by each criterion"""
    tuning: Mapping[str, Any] | None = None
    """cost of a fine-tuning, and what the model forgot"""
    geometry: Mapping[str, Any] = field(default_factory=dict)
    """statistics of the references' latents at t_mix"""
    reconstruction: Mapping[str, Any] = field(default_factory=dict)
    """fidelity of references inverted and denoised, by eta"""
    details: Mapping[str, str | None] = field(default_factory=dict)
    """folders of the artefacts that the report shows"""
    evaluations: Mapping[str, int] = field(default_factory=dict)
    """NFE that this run spent, by stage and in total"""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """wall time that this run spent, by stage"""
    artefacts: Sequence[UsedArtefact] = field(default_factory=list)
    """every artefact that the run used, in order"""
    images: Mapping[str, Any] = field(default_factory=dict)
    """source and licence of the domain's images"""
    split: Mapping[str, Sequence[str]] | None = None
    """digests of the names of references, validation and held-out images (``reports.populations``)"""
    config: Mapping[str, Any]
    """the resolved configuration, without secrets"""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """versions of Python and of the libraries"""

    @classmethod
    def read(cls: type[AnyResult], file: Path, *parts: str) -> AnyResult:
        """Reads one results.json.

        Args:
            file: its path.
            parts: fields that it must have besides ``REQUIRED``.

        Raises:
            InputError: the file does not hold the results of a run, or lacks a part.
        """
        content = read_json(file)
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            raise InputError(
                f"{file}: not the results of a run of this version (schema {SCHEMA}); give folders of newer runs"
            )
        if missing := [part for part in (*REQUIRED[:2], *parts, *REQUIRED[2:]) if not content.get(part)]:
            raise InputError(f"{file}: lacks {', '.join(missing)}; run this point again")
        known = {one.name: content[one.name] for one in fields(cls) if content.get(one.name) is not None}
        try:
            for name, value in known.items():
                checked_value(name, value, CONTENT[name])
            for name, kind in NUMBERS.items():
                checked_value(f"settings.{name}", content["settings"].get(name), kind | None)
            show_columns(content)
            _check_rows(content["rows"])
        except (InputError, TypeError) as error:
            raise InputError(f"{file}: damaged ({first_line(error)}); run this point again") from error
        return cls(**{**known, "folder": file.parent})

    def write(self) -> None:
        """Writes results.json into the run's folder."""
        write_json(self.folder / RESULTS, self.content())

    def content(self) -> dict[str, Any]:
        """The content of results.json as JSON values."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "folder"}
        return {"schema": SCHEMA, **{name: value for name, value in values.items() if value is not None}}

    @property
    def domain(self) -> str:
        """Name of the target domain."""
        return str(self.settings["domain"])

    @property
    def method(self) -> str:
        """Name of the method that generated the samples."""
        return str(self.settings.get("method", ""))

    @property
    def features(self) -> str:
        """Name of the feature extractor of the scores."""
        return str(self.settings.get("features", ""))

    @property
    def target(self) -> str:
        """The images that scores compare with: ``heldout`` or ``validation``."""
        return str(self.settings.get("target", "heldout"))

    @property
    def generated(self) -> dict[str, Any]:
        """Scores of the generated images."""
        return next((row for row in self.rows if row["row"] == "generated"), {"row": "generated"})

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration as dotted keys, without keys that change no result."""
        return flatten(self.config)


def _check_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every row has a name, a number of images and numbers as scores; the generated images have theirs.

    Raises:
        InputError: the first that is missing or is not a number.
    """
    for number, row in enumerate(rows):
        key = f"rows.{number}"
        checked_value(f"{key}.row", row.get("row"), Literal[ROWS])
        checked_value(f"{key}.n", row.get("n"), int)
        for name in METRICS:
            for column in (name, f"{name}_low", f"{name}_high"):
                value = row.get(column)  # NaN and null are a score that was not measured
                if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                    raise InputError(f"{key}.{column}={as_written(value)}: give a number")
    if not any(row["row"] == "generated" for row in rows):
        raise InputError("rows: none of generated images")


def read_results(paths: Sequence[Path | str], kind: type[AnyResult], *parts: str) -> list[AnyResult]:
    """The results of every run at or below the given files and folders; a damaged file is skipped with a warning.

    Args:
        paths: of results.json files, or of folders that hold some.
        kind: the class to read them as.
        parts: fields that they must have besides ``REQUIRED``.

    Raises:
        InputError: nothing there, or every file is damaged.
    """
    found: list[AnyResult] = []
    refused: list[InputError] = []
    for file in results_files(paths):
        try:
            found.append(kind.read(file, *parts))
        except InputError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for one in refused:
        log.warning("skipped: %s", one)
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, and lists as text; leaves out ``INDIFFERENT`` keys and ``_target_``."""
    if not isinstance(value, Mapping):
        return {prefix: str(value) if isinstance(value, list) else value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if name not in INDIFFERENT and key != "_target_":
            flat |= flatten(inner, name)
    return flat


def results_files(paths: Sequence[Path | str]) -> list[Path]:
    """All results.json at or below the given files and folders, sorted.

    Raises:
        InputError: a path does not exist, or there are no results below it.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"{path}: no such file or folder; give folders of runs, such as outputs/runs")
        below = [path] if path.is_file() else sorted(path.rglob(RESULTS))
        if not below:
            raise InputError(f"{path}: no {RESULTS} there; has a run finished in it?")
        files += below
    return sorted(set(files))
