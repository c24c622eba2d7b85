"""Starting a run or sweep from a command line, and resuming it."""

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

from unseen_diffusion.sweeps.composition import Sweep, expand, hydra_task, run_config
from unseen_diffusion.sweeps.folders import hold_folder
from unseen_diffusion.sweeps.jobs import report, run_job
from unseen_diffusion.sweeps.manifest import (
    Manifest,
    Point,
    check_complete,
    check_recorded,
    check_unchanged,
    read_manifest,
    sweep_folders,
    write_manifest,
)
from unseen_diffusion.sweeps.overrides import keys_of, quoted, replace_overrides
from unseen_diffusion.sweeps.states import SweepState
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

SWEEPER = "hydra.sweeper._target_=hydra_plugins.unseen_sweeper.ManifestSweeper"


def dry_run(arguments: list[str], tflops: float) -> int:
    """Prints the cost of a command's runs, and starts none of them; needs no weights."""
    from unseen_diffusion.sweeps.cost import cost_of

    with run_id():
        sweep = expand("run", arguments)
    print("\n".join(cost_of(sweep.points).lines(tflops)))
    return 0


def print_cost(points: Sequence[DictConfig]) -> None:
    """Prints the cost of runs that take long; nothing where no base model states what an evaluation costs."""
    from unseen_diffusion.sweeps.cost import SHOWN_ABOVE, TFLOPS, cost_of, gmac_of

    if not any(map(gmac_of, points)):
        return
    cost = cost_of(points)
    if cost.hours(TFLOPS) > SHOWN_ABOVE:
        print("\n".join(cost.lines(TFLOPS)), flush=True)


def start(arguments: list[str]) -> int:
    """Checks and records every run, runs them, and prints their table; 0 if all are done."""
    with run_id():
        sweep = expand("run", arguments)
        check_all(sweep.points)
        if not sweep.trials:
            print_cost([point for point in sweep.points if not point.worker])
        first = sweep.points[0]
        if first.workers > 1 and first.hydra.launcher._target_.endswith("BasicLauncher"):
            log.warning(
                "workers=%d: hydra/launcher=basic runs jobs one after the other; choose another launcher", first.workers
            )
        folder = sweep.folder.resolve()
        manifest = _manifest(arguments, sweep)
        with hold_folder(folder) as holder:
            if holder:
                raise InputError(_in_use(folder, holder, sweep.multirun))
            write_manifest(folder, manifest)
            check_recorded(folder, manifest)
            _launch(sweep.multirun and not sweep.trials, arguments)
            check_recorded(folder, manifest)  # before its table is printed as that of this command
            return report(folder)


def _in_use(folder: Path, holder: str, multirun: bool) -> str:
    """The error message for a folder in which another command works."""
    key = "hydra.sweep.dir" if multirun else "hydra.run.dir"
    return f"{folder}: {holder} is running in this folder; choose another folder ({key}=FOLDER), or wait until it ends"


def check_all(points: Iterable[DictConfig]) -> None:
    """Checks the composed config of every run before the first one starts.

    Raises:
        InputError: the first setting that does not fit.
    """
    from unseen_diffusion.runs.settings import check  # imports torch, so only after typing errors were found

    for point in points:
        check(point)


def resume_command(arguments: list[str]) -> int:
    """Runs the missing, failed and dead jobs of the given folders; 0 if all runs are done then."""
    if any(not word.strip() for word in arguments):
        raise InputError("unseen resume '': empty, perhaps from a variable that is not set; give a folder")
    overrides = [word for word in arguments if "=" in word and not Path(word).exists()]
    paths = [word for word in arguments if word not in overrides]
    if not paths:
        raise InputError("unseen resume FOLDER... [hydra/launcher=NAME]: give the folder of a run or sweep")
    for key in keys_of(overrides):
        if key != "hydra/launcher" and not key.startswith("hydra.launcher."):
            raise InputError(
                f"{key}: a resumed sweep keeps its settings; only hydra/launcher and hydra.launcher.* may change"
            )
    return max([resume(folder, overrides) for folder in [path.resolve() for path in sweep_folders(paths)]])


def resume(folder: Path, overrides: Sequence[str]) -> int:
    """Runs the jobs that are neither done nor running, in the same folder and with the same settings."""
    manifest = read_manifest(folder)
    check_complete(folder, manifest)
    if manifest.trials:
        raise InputError(f"{folder}: each run of a search depends on the earlier ones; start the search again")
    pending = SweepState.of(folder).pending()
    if not pending:
        print(f"{folder}: {SweepState.of(folder).counts()}; nothing to resume")
        return int(not SweepState.of(folder).complete())
    if not Path(manifest.cwd).is_dir():
        raise InputError(f"{folder}: started in {manifest.cwd}, which does not exist on this machine")
    with _original_environment(manifest), run_id():
        key = "hydra.sweep.dir" if manifest.multirun else "hydra.run.dir"
        arguments = replace_overrides(manifest.command, [*overrides, f"{key}={quoted(str(folder))}"])
        sweep = expand("run", arguments)
        if len(sweep.points) != len(manifest.points):
            raise InputError(
                f"{folder}: its command now composes {len(sweep.points)} runs instead of {len(manifest.points)}; "
                "conf/ has changed since it started"
            )
        to_run = {name: point for name, point in zip(manifest.names(), sweep.points, strict=True) if name in pending}
        for name, point in to_run.items():
            check_unchanged(folder, name, run_config(point))
        check_all(to_run.values())
        with hold_folder(folder, wait=False):  # keeps new sweeps out; whoever started this one may still run
            check_recorded(folder, manifest)
            _launch(manifest.multirun, arguments)
            return report(folder)


def _manifest(arguments: Sequence[str], sweep: Sweep) -> Manifest:
    given = [] if sweep.trials else zip(sweep.overrides, sweep.points, strict=True)
    own_folder = os.environ.get("UNSEEN_CONF")
    return Manifest(
        command=list(arguments),
        cwd=str(Path.cwd()),
        own_configs=own_folder and str(Path(own_folder).resolve()),
        multirun=sweep.multirun,
        points=[Point(overrides, run_config(config)) for overrides, config in given],
        trials=sweep.trials,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _launch(by_manifest: bool, arguments: Sequence[str]) -> None:
    """Lets Hydra launch the jobs. Their status files decide the result, not what the launcher returns."""
    call_hydra(hydra_task("run", run_job), replace_overrides(arguments, [SWEEPER] if by_manifest else []))


def call_hydra(task: Callable[[], Any], overrides: Sequence[str]) -> int:
    """Runs a Hydra application, which reads ``sys.argv``; returns its exit code."""
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
    """Sets $UNSEEN_RUN_ID, from which conf/ builds the output folder, unless the user has set it."""
    if "UNSEEN_RUN_ID" in os.environ:
        yield
        return
    os.environ["UNSEEN_RUN_ID"] = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"
    try:
        yield
    finally:
        del os.environ["UNSEEN_RUN_ID"]


@contextmanager
def _original_environment(manifest: Manifest) -> Iterator[None]:
    """Works in the folder and with the user's configs of the command that started a sweep."""
    cwd, own_folder = Path.cwd(), os.environ.pop("UNSEEN_CONF", None)
    os.chdir(manifest.cwd)
    if manifest.own_configs:
        os.environ["UNSEEN_CONF"] = manifest.own_configs
    try:
        yield
    finally:
        os.chdir(cwd)
        os.environ.pop("UNSEEN_CONF", None)
        if own_folder is not None:
            os.environ["UNSEEN_CONF"] = own_folder
