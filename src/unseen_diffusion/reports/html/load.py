"""Runs as the report reads them: the content of results.json, and artefacts that are read on demand."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from unseen_diffusion.reports.result import RESULTS, RunResult, read_results
from unseen_diffusion.reports.rows import REPLICATE_KEYS
from unseen_diffusion.store.artefacts import RECORD, load_tensor, tensor_names
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

# The order of methods in the report.
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
CONTROLS = ("standard_gaussian", "base_samples", "replay", "held_out")  # methods that are controls, not competitors


@dataclass(frozen=True)
class Folder:
    """One artefact in the store; its tensors and facts are read on demand.

    Attributes:
        path: the artefact's folder.
    """

    path: Path

    def names(self) -> list[str]:
        """Names of the artefact's tensors."""
        return tensor_names(self.path)

    def tensor(self, name: str, most: int | None = None) -> Tensor:
        """The first ``most`` rows of a tensor (None: all of it), without reading later shards."""
        return load_tensor(self.path, name, most)

    def facts(self) -> dict[str, Any]:
        """The artefact's numbers and names."""
        return dict(read_json(self.path / RECORD)["facts"])


class Run(RunResult):
    """The results of one run, with the artefacts that they name."""

    @cached_property
    def setting(self) -> str:
        """The configuration without draw and seed, as JSON: equal for repetitions of one setting."""
        return json.dumps({key: value for key, value in self.flat.items() if key not in REPLICATE_KEYS}, sort_keys=True)

    def detail(self, name: str) -> Folder | None:
        """The artefact of that name in ``details``; None if the run has none."""
        folder = self.details.get(name)
        return None if folder is None else self.locate(folder)

    def needed(self, name: str) -> Folder:
        """The artefact of that name in ``details``; every run must have it.

        Raises:
            InputError: the results do not name it.
        """
        folder = self.detail(name)
        if folder is None:
            raise InputError(f"{self.folder / RESULTS}: lacks details.{name}; run this point again")
        return folder

    def locate(self, folder: str) -> Folder:
        """An artefact by its folder, as written or relative to one of the folders that hold the run.

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

    Keeps the first by path of runs that generated the same images with the same configuration.

    Raises:
        InputError: nothing there, or every file is damaged.
    """
    runs: dict[str, Run] = {}
    for run in read_results(paths, Run, "details"):
        runs.setdefault(json.dumps([run.flat, run.generated.get("images")], sort_keys=True), run)

    def order(run: Run) -> tuple[Any, ...]:
        s = run.settings
        method = METHODS.index(run.method) if run.method in METHODS else len(METHODS)
        replicate = (s.get("draw") or 0, s.get("seed") or 0)
        return (run.domain, method, run.method, s.get("t") or 0, s.get("eta") or 0, run.setting, *replicate)

    return sorted(runs.values(), key=order)


def first_of_settings(runs: Sequence[Run]) -> list[Run]:
    """The first draw and seed of each distinct setting."""
    firsts: dict[str, Run] = {}
    for run in runs:
        firsts.setdefault(run.setting, run)
    return list(firsts.values())
