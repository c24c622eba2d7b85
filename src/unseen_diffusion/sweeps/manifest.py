"""The record of a run or sweep, written before it starts: its command, and the config of each of its runs."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from pydantic import TypeAdapter, ValidationError

from unseen_diffusion.reports.result import PICTURES, RESULTS, TABLE
from unseen_diffusion.reports.tracking import HIDDEN, secrets, without_secrets, words_without_secrets
from unseen_diffusion.sweeps.status import STATUS, read_status, state_of
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json, write_json
from unseen_diffusion.utils.renamed import same_path

MANIFEST = "manifest.json"
FOUND = "optimization_results.yaml"  # written by Optuna's sweeper
TABLES, COMPARISONS, SHEET = ("table.csv", "table.md"), ("comparison.csv", "comparison.md"), "samples.png"
SUMMARIES = (*TABLES, *COMPARISONS, SHEET, FOUND)  # over all runs of a sweep, in the sweep's folder
SCHEMA = 1


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its overrides, and its composed config with interpolations unresolved."""

    overrides: list[str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
        command: arguments of ``unseen run``.
        cwd: folder that relative paths start from.
        own_configs: $UNSEEN_CONF.
        multirun: False for a single run, whose folder is also that of its job.
        points: all runs in order; those of a sweep have folders named 0, 1, ...; empty for a search.
        trials: number of runs of a search, which chooses its points as it proceeds; 0 for a sweep.
        made: time of writing, ISO 8601 in UTC.
        schema: version of this file's format.
    """

    command: list[str]
    cwd: str
    own_configs: str | None
    multirun: bool
    points: list[Point]
    trials: int
    made: str
    schema: int = SCHEMA

    def describes_the_runs_of(self, other: "Manifest") -> bool:
        """Whether both have the same runs; for a search, which records none, the same command."""
        same_kind = (self.multirun, self.trials) == (other.multirun, other.trials)
        return same_kind and self.points == other.points and (not self.trials or self.command == other.command)

    def names(self) -> list[str]:
        """The folder of each job, relative to the sweep's."""
        return [str(number) for number in range(self.trials or len(self.points))] if self.multirun else ["."]

    def runs(self) -> dict[str, str]:
        """Maps each job to the job that writes its results: itself, or worker 0 for a helper (``worker`` above 0)."""
        writers = {name: name for name in self.names()}
        whole: dict[str, str] = {}
        for name, point in zip(writers, self.points, strict=False):  # a search has no points
            run = json.dumps(point.config | {"worker": 0}, sort_keys=True)
            if point.config.get("worker"):
                if run not in whole:
                    raise InputError(f"{MANIFEST}: damaged (run {name}: no worker 0); start the sweep again")
                writers[name] = whole[run]
            else:
                whole[run] = name
        return writers


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Records a sweep before it starts, and deletes states, results and summaries of an earlier sweep in this folder.

    Otherwise tables, reports and tracking would count them as results of the new sweep. Other files stay.

    Raises:
        InputError: a run is still running there.
    """
    if (folder / MANIFEST).is_file():
        jobs = [folder / name for name in read_manifest(folder).names()]
        if running := [job for job in jobs if state_of(read_status(job)) == "running"]:
            raise InputError(f"{folder}: {len(running)} run(s) are still running there; choose another folder or wait")
        for job in jobs:
            for name in (RESULTS, STATUS, TABLE, *PICTURES):
                (job / name).unlink(missing_ok=True)
        for name in SUMMARIES:
            (folder / name).unlink(missing_ok=True)
    _overrides[folder] = {name: one.overrides for name, one in zip(manifest.names(), manifest.points, strict=False)}
    write_json(folder / MANIFEST, asdict(_without_secrets(manifest)))


_overrides: dict[Path, dict[str, list[str]]] = {}  # of the sweeps that this process started, with their secrets


def overrides_of(folder: Path) -> dict[str, list[str]]:
    """The overrides of every run of a sweep, by its folder's name.

    Raises:
        InputError: they held a secret, which is not recorded, and another process started the sweep.
    """
    if folder in _overrides:
        return _overrides[folder]
    manifest = read_manifest(folder)
    check_complete(folder, manifest)
    return {name: one.overrides for name, one in zip(manifest.names(), manifest.points, strict=True)}


def check_complete(folder: Path, manifest: Manifest) -> None:
    """The recorded command holds all that was typed.

    Raises:
        InputError: a secret was hidden in it.
    """
    for word in manifest.command:
        if HIDDEN in word:
            raise InputError(f"{folder}: {word}: the secret was not recorded; start this command again yourself")


def _without_secrets(manifest: Manifest) -> Manifest:
    """The manifest as it is written: passwords, tokens and the like are hidden."""
    known = secrets()
    points = [
        Point(words_without_secrets(one.overrides, known), without_secrets(one.config, known))
        for one in manifest.points
    ]
    return replace(manifest, command=words_without_secrets(manifest.command, known), points=points)


def hide_secrets(folder: Path) -> None:
    """Hides secrets in the YAML files that Hydra wrote into a folder."""
    known = secrets()
    for file in folder.glob("*.yaml"):
        plain: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        words = isinstance(plain, list) and all(isinstance(word, str) for word in plain)
        hidden = words_without_secrets(plain, known) if words else without_secrets(plain, known)
        if hidden != plain:
            with atomic_path(file) as temporary:
                OmegaConf.save(OmegaConf.create(hidden), temporary)


def check_recorded(folder: Path, manifest: Manifest) -> None:
    """Checks that the folder's manifest still has the runs of ``manifest``.

    Raises:
        InputError: another command has written its runs there.
    """
    if not read_manifest(folder).describes_the_runs_of(_without_secrets(manifest)):
        raise InputError(
            f"{folder}: another command has started other runs in this folder; choose another folder "
            f"({'hydra.sweep.dir' if manifest.multirun else 'hydra.run.dir'}=FOLDER)"
        )


def read_manifest(folder: Path) -> Manifest:
    """Reads manifest.json.

    Raises:
        InputError: this is not the folder of a run or sweep.
    """
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f"{folder}: no {MANIFEST} there; give the folder of a run or sweep, such as outputs/sweeps/NAME"
        )
    values = read_json(folder / MANIFEST)
    if not isinstance(values, dict) or values.get("schema") != SCHEMA:
        raise InputError(f"{folder / MANIFEST}: written by another version; this one reads schema {SCHEMA}")
    try:
        manifest = TypeAdapter(Manifest).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise InputError(f"{folder / MANIFEST}: damaged ({key}: {first['msg']}); start the sweep again") from error
    if not manifest.names() or (not manifest.multirun and len(manifest.points) != 1):
        raise InputError(f"{folder / MANIFEST}: damaged ({len(manifest.points)} points); start the sweep again")
    return manifest


def sweep_of(job: Path) -> Path:
    """The folder of the sweep that a job belongs to; the same folder for a single run.

    Raises:
        InputError: neither the folder nor its parent has a manifest.
    """
    for folder in (job, job.parent):
        if (folder / MANIFEST).is_file():
            return folder
    raise InputError(
        f"{job}: no {MANIFEST} there or above; does this machine see the folder that the sweep started in?"
    )


def check_unchanged(folder: Path, name: str, config: dict[str, Any]) -> None:
    """Checks that a job's config, as composed now, equals the one that its sweep recorded (a search records none).

    Raises:
        InputError: conf/ or the user's configs have changed since then.
    """
    manifest = read_manifest(folder)
    if manifest.trials:
        return
    if name not in manifest.names():
        raise InputError(f"{folder}: its {MANIFEST} has no run {name}; another sweep was started in this folder")
    recorded = manifest.points[manifest.names().index(name)].config
    if difference := _difference(recorded, config):
        raise InputError(
            f"{folder}, run {name}: {difference} since it started; undo that, or start the sweep anew in another folder"
        )


def _difference(old: Any, new: Any, key: str = "") -> str:
    """Names the first key in which two nested configs differ, with both values; empty if there is none.

    A class that was renamed since is the same class, and ``method.name`` says which method it is.
    """
    if key in ("method._target_", "method.source"):
        return ""
    if key.endswith("_target_") and isinstance(old, str) and isinstance(new, str) and same_path(old, new):
        return ""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(set(new) - set(old))]
        differences = (_difference(old.get(k), new.get(k), f"{key}.{k}".lstrip(".")) for k in keys)
        return next(filter(None, differences), "")
    if isinstance(old, str) and HIDDEN in old:
        known = re.escape(old).replace(re.escape(HIDDEN), ".*")
        return "" if re.fullmatch(known, str(new), re.DOTALL) else f"{key} changed"
    return "" if old == new else f"{key} changed from {old} to {new}"


def sweep_folders(paths: Sequence[str]) -> list[Path]:
    """The given folders, or all runs and sweeps one level below them.

    Raises:
        InputError: a folder contains none.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        below = [path] if (path / MANIFEST).is_file() else sorted(file.parent for file in path.glob(f"*/{MANIFEST}"))
        if not below:
            read_manifest(path)
        folders += below
    return folders
