"""From a command line to a recorded sweep whose jobs run, and to the same sweep again for what is missing."""

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from unseen_diffusion.sweeps.composition import Sweep, expand, hydra_task, keys_of, own_config, quoted, replaced
from unseen_diffusion.sweeps.jobs import report, run_job
from unseen_diffusion.sweeps.manifest import (
    Manifest,
    Point,
    SweepState,
    check_unchanged,
    read_manifest,
    sweep_folders,
    write_manifest,
)
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

SWEEPER = "hydra.sweeper._target_=hydra_plugins.unseen_sweeper.ManifestSweeper"


def start(arguments: list[str]) -> int:
    """Checks every point, records them, runs them, and reads what they wrote; 0 if all are done."""
    with run_id():
        sweep = expand("run", arguments)
        check_all(sweep.points)
        first = sweep.points[0]
        if first.workers > 1 and first.hydra.launcher._target_.endswith("BasicLauncher"):
            log.warning("workers=%d: hydra/launcher=basic runs them one after the other; choose another", first.workers)
        folder = sweep.folder.resolve()
        write_manifest(folder, _manifest(arguments, sweep))
        _launch(sweep.multirun and not sweep.trials, arguments)
    return report(folder)


def check_all(points: Iterable[DictConfig]) -> None:
    """Checks the composed config of every run before the first one starts.

    Raises:
        InputError: the first setting that does not fit.
    """
    from unseen_diffusion.runs.settings import check  # imports torch: a typo is answered before that

    for point in points:
        check(point)


def resume_command(arguments: list[str]) -> int:
    """Runs what is missing, failed or dead in the given folders; 0 if all of them are done."""
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    paths = [word for word in arguments if word not in overrides]
    if not paths:
        raise InputError("unseen resume FOLDER... [hydra/launcher=NAME]: give the folder of a run or sweep")
    for key in keys_of(overrides):
        if key != "hydra/launcher" and not key.startswith("hydra.launcher."):
            raise InputError(
                f"{key}: the settings of a sweep stay; only hydra/launcher and hydra.launcher.* may change"
            )
    return max([resume(folder, overrides) for folder in [path.resolve() for path in sweep_folders(paths)]])


def resume(folder: Path, overrides: Sequence[str]) -> int:
    """Runs exactly what is neither done nor running, in the same folder with the same numbers and settings."""
    manifest = read_manifest(folder)
    if manifest.trials:
        raise InputError(f"{folder}: a search, whose runs build on each other; start it anew")
    pending = SweepState.of(folder).pending()
    if not pending:
        print(f"{folder}: {SweepState.of(folder).counts()}; nothing to resume")
        return int(not SweepState.of(folder).complete())
    if not Path(manifest.cwd).is_dir():
        raise InputError(f"{folder}: it was started in {manifest.cwd}, which is not here")
    with _as_it_was(manifest), run_id():
        key = "hydra.sweep.dir" if manifest.multirun else "hydra.run.dir"
        arguments = replaced(manifest.command, [*overrides, f"{key}={quoted(str(folder))}"])
        sweep = expand("run", arguments)
        if len(sweep.points) != len(manifest.points):
            raise InputError(
                f"{folder}: its command now means {len(sweep.points)} runs, not {len(manifest.points)}; "
                "conf/ has changed since it started"
            )
        to_run = {name: point for name, point in zip(manifest.names(), sweep.points, strict=True) if name in pending}
        for name, point in to_run.items():
            check_unchanged(folder, name, own_config(point))
        check_all(to_run.values())
        _launch(manifest.multirun, arguments)
    return report(folder)


def _manifest(arguments: Sequence[str], sweep: Sweep) -> Manifest:
    given = [] if sweep.trials else zip(sweep.overrides, sweep.points, strict=True)
    own = os.environ.get("UNSEEN_CONF")
    return Manifest(
        command=list(arguments),
        cwd=str(Path.cwd()),
        own_configs=own and str(Path(own).resolve()),
        multirun=sweep.multirun,
        points=[Point(overrides, own_config(config)) for overrides, config in given],
        trials=sweep.trials,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _launch(ours: bool, arguments: Sequence[str]) -> None:
    """Hands over to Hydra. What counts is what the jobs write, not what the launcher says."""
    call_hydra(hydra_task("run", run_job), replaced(arguments, [SWEEPER] if ours else []))


def call_hydra(task: Callable[[], Any], overrides: Sequence[str]) -> int:
    """Runs a Hydra application, which reads ``sys.argv``; its exit code."""
    before = sys.argv
    sys.argv = ["unseen", *overrides]
    try:
        task()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:
        sys.argv = before
    return 0


@contextmanager
def run_id() -> Iterator[None]:
    """Names this run or sweep in $UNSEEN_RUN_ID, from which conf/ builds its folder, unless the user has."""
    if "UNSEEN_RUN_ID" in os.environ:
        yield
        return
    os.environ["UNSEEN_RUN_ID"] = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
    try:
        yield
    finally:
        del os.environ["UNSEEN_RUN_ID"]


@contextmanager
def _as_it_was(manifest: Manifest) -> Iterator[None]:
    """In the folder and with the own configs of the command that started a sweep."""
    cwd, own = Path.cwd(), os.environ.pop("UNSEEN_CONF", None)
    os.chdir(manifest.cwd)
    if manifest.own_configs:
        os.environ["UNSEEN_CONF"] = manifest.own_configs
    try:
        yield
    finally:
        os.chdir(cwd)
        os.environ.pop("UNSEEN_CONF", None)
        if own is not None:
            os.environ["UNSEEN_CONF"] = own
