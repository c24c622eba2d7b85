"""Results of runs as the report reads them: one ``Run`` per results.json, its artefacts read on demand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from unseen_diffusion.reports.tables import RESULTS, flatten, read_results, results_files
from unseen_diffusion.store.artefacts import RECORD, load_tensor, tensor_names
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

REPLICATES = ("seed", "domain.draw")  # configuration keys of repetitions of one setting
METHODS = (
    "full",
    "fitted",
    "random_rejection",
    "slerp",
    "noised_reference",
    "standard_gaussian",
    "base_samples",
    "replay",
    "held_out",
)
CONTROLS = ("standard_gaussian", "base_samples", "replay", "held_out")  # methods that do not compete


@dataclass(frozen=True)
class Folder:
    """One artefact in the store: its tensors and facts, read only when asked for.

    Attributes:
        path: the artefact's folder.
    """

    path: Path

    def names(self) -> list[str]:
        """Names of its tensors."""
        return tensor_names(self.path)

    def tensor(self, name: str, most: int | None = None) -> Tensor:
        """The first ``most`` rows of a tensor (None: all of it), without reading shards beyond."""
        return load_tensor(self.path, name, most)

    def facts(self) -> dict[str, Any]:
        """Its numbers and names."""
        return dict(read_json(self.path / RECORD)["facts"])


@dataclass(frozen=True)
class Run:
    """What one results.json says.

    Attributes:
        folder: the run's folder.
        results: the whole file (schema 2).
    """

    folder: Path
    results: dict[str, Any]

    @classmethod
    def read(cls, file: Path) -> "Run":
        """Reads one results.json.

        Raises:
            InputError: it is not the results of a run.
        """
        return cls(file.parent, read_results(file, "details"))

    @property
    def settings(self) -> dict[str, Any]:
        """What tells it from other runs, flat."""
        return self.results["settings"]

    @property
    def domain(self) -> str:
        """Name of the target domain."""
        return str(self.settings["domain"])

    @property
    def method(self) -> str:
        """Name of the method that made its samples."""
        return str(self.settings.get("method", ""))

    @property
    def target(self) -> str:
        """Which images it was scored against: "heldout" or "validation"."""
        return str(self.settings.get("target", "heldout"))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Scores of the generated images, then of the comparison rows."""
        return self.results["rows"]

    @property
    def generated(self) -> dict[str, Any]:
        """Scores of its own images."""
        return next((row for row in self.rows if row["row"] == "generated"), {"row": "generated"})

    @cached_property
    def flat(self) -> dict[str, Any]:
        """The configuration as dotted keys, without what changes no result."""
        return flatten(self.results["config"])

    @cached_property
    def setting(self) -> str:
        """Equal for repetitions of one setting: the configuration without draw and seed."""
        return json.dumps({key: value for key, value in self.flat.items() if key not in REPLICATES}, sort_keys=True)

    def part(self, name: str) -> dict[str, Any]:
        """A section of the results, empty where the run has none."""
        return self.results.get(name) or {}

    def detail(self, name: str) -> Folder | None:
        """An artefact named under ``details``, None where the run has none."""
        folder = self.results["details"].get(name)
        return None if folder is None else self.locate(folder)

    def needed(self, name: str) -> Folder:
        """An artefact that every run has.

        Raises:
            InputError: the results do not name it.
        """
        folder = self.detail(name)
        if folder is None:
            raise InputError(f"{self.folder / RESULTS}: lacks details.{name}; run this point again")
        return folder

    def locate(self, folder: str) -> Folder:
        """An artefact's folder: as written, or below one of the folders that hold the run.

        Raises:
            InputError: it is in neither place.
        """
        for base in (Path(), *self.folder.resolve().parents):
            if (base / folder / RECORD).is_file():
                return Folder(base / folder)
        raise InputError(
            f"{folder}: the artefact of {self.folder} is not there; start the report where the run was started, "
            "or run again to make it"
        )


def load_runs(paths: Sequence[Path | str]) -> list[Run]:
    """Every run at or below ``paths``, by domain, method, setting, draw and seed.

    Of runs that made the same images with the same configuration, the first by path.

    Raises:
        InputError: nothing there, or a file that is not of a run.
    """
    runs: dict[str, Run] = {}
    for file in results_files(paths):
        run = Run.read(file)
        runs.setdefault(json.dumps([run.flat, run.generated.get("images")], sort_keys=True), run)

    def place(run: Run) -> tuple[Any, ...]:
        s = run.settings
        known = METHODS.index(run.method) if run.method in METHODS else len(METHODS)
        first = (s.get("draw") or 0, s.get("seed") or 0)
        return (run.domain, known, run.method, s.get("t") or 0, s.get("eta") or 0, run.setting, *first)

    return sorted(runs.values(), key=place)


def first_of_settings(runs: Sequence[Run]) -> list[Run]:
    """The first draw and seed of each distinct setting."""
    found: dict[str, Run] = {}
    for run in runs:
        found.setdefault(run.setting, run)
    return list(found.values())
