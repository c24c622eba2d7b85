"""One job of a sweep, started by a launcher, and the summary after the last job."""

import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.sweeps.composition import run_config
from unseen_diffusion.sweeps.manifest import (
    COMPARISONS,
    FOUND,
    SHEET,
    TABLES,
    check_unchanged,
    hide_secrets,
    read_manifest,
    sweep_of,
)
from unseen_diffusion.sweeps.states import SweepState, print_states
from unseen_diffusion.sweeps.status import claimed, read_status
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, disk_errors

if TYPE_CHECKING:
    from unseen_diffusion.runs.settings import RunSettings

log = logging.getLogger(__name__)


INTERRUPTED = "stopped by Ctrl-C (SIGINT); what was finished is kept"
OBJECTIVES = ("kid_h", "copy_rate")  # scores of the generated images that a search minimises


def run_job(config: DictConfig) -> list[float] | None:
    """Runs one job, unless it is done or another process works on it. A failure is recorded and stops no other job.

    Returns:
        The objectives of a search; None after a failure, and from a worker other than 0.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = sweep_of(folder)
    hide_secrets(folder / ".hydra")
    os.chdir(read_manifest(sweep).cwd)  # a launcher may start its workers in another folder
    try:
        return _claimed_job(config, folder, sweep)
    except (InputError, OSError) as error:  # while it claims the folder: there is no status file yet, only the log
        log.error("%s: not started, because its folder cannot be claimed: %s", folder, error)
        return None


def _claimed_job(config: DictConfig, folder: Path, sweep: Path) -> list[float] | None:
    """Claims the job's folder, does the job, and records how it ended."""
    with claimed(folder) as journal, _full_logs_pass():
        if journal is None:
            log.info("%s: done, or another process works on it", folder)
            return None
        try:
            (folder / RESULTS).unlink(missing_ok=True)  # left by an earlier attempt
            check_unchanged(sweep, folder.relative_to(sweep).as_posix(), run_config(config))
            with disk_errors(folder):
                objectives = _work(config, folder, sweep)
        except InputError as error:
            journal.end(str(error))
            log.error("%s", error)
        except KeyboardInterrupt:
            journal.end(INTERRUPTED, "interrupted")
            log.error("interrupted: %s", INTERRUPTED)
            raise
        except (Exception, SystemExit) as error:
            # Launchers differ in what these do to the other jobs of a sweep: none may be lost.
            journal.end(f"{type(error).__name__}: {error}")
            log.error("%s", traceback.format_exc())
        else:
            journal.end()
            return objectives
    return None


@contextmanager
def _full_logs_pass() -> Iterator[None]:
    """Drops lines that a log file on a full disk cannot take, instead of a traceback on stderr for each of them."""

    def drop(handler: logging.Handler, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            logging.Handler.handleError(handler, record)

    files = [handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)]
    for handler in files:
        handler.handleError = partial(drop, handler)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for handler in files:
            del handler.handleError


def _work(config: DictConfig, folder: Path, sweep: Path) -> list[float] | None:
    """Worker 0 computes and writes a run's results and returns its objectives; other workers only help to compute."""
    from unseen_diffusion.runs.results import execute
    from unseen_diffusion.runs.settings import check
    from unseen_diffusion.runs.workers import take_part

    settings = check(config)
    if not config.worker:
        result = execute(settings, folder, sweep.name)
        return [float(result.generated[name]) for name in OBJECTIVES]
    run_folder = sweep / read_manifest(sweep).runs()[folder.relative_to(sweep).as_posix()]
    status = read_status(run_folder)
    spent = take_part(settings) if status is None or status.state != "done" else 0
    log.info("worker %d spent %d NFE; results: %s", config.worker, spent, os.path.relpath(run_folder))
    return None


def train_job(config: DictConfig) -> None:
    """One training; bad input is one line on stderr and in the log file, and exit code 2."""
    from unseen_diffusion.training.tasks import TASKS
    from unseen_diffusion.utils.configs import build
    from unseen_diffusion.utils.devices import choose_device

    hide_secrets(Path(HydraConfig.get().runtime.output_dir) / ".hydra")
    try:
        tracker = build(config.tracking, "tracking")
        folder = TASKS[config.training.task](config.training, choose_device(config.device), tracker)
    except InputError as error:
        print(f"unseen: {error}", file=sys.stderr)
        _write_to_log_files(str(error))
        _remove_unused(Path(config.training.folder), Path(HydraConfig.get().runtime.output_dir))
        sys.exit(2)
    log.info("weights in %s", folder)


def _write_to_log_files(text: str) -> None:
    """Writes a line to the log files alone; the terminal has it already."""
    record = log.makeRecord(log.name, logging.ERROR, __file__, 0, text, (), None)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _remove_unused(training: Path, run: Path) -> None:
    """Removes the folders of a training that has not begun, and parents that are empty then."""
    if training.is_dir() and {path.name for path in training.iterdir()} - {".training.lock", "runs"}:
        return  # an earlier training, decoded images or checkpoints
    if run.resolve() == Path.cwd():  # of the processes beside the first
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == run.resolve():
            Path(handler.baseFilename).unlink(missing_ok=True)
    for name in ("config.yaml", "hydra.yaml", "overrides.yaml"):
        (run / ".hydra" / name).unlink(missing_ok=True)
    (training / ".training.lock").unlink(missing_ok=True)
    for folder in (run / ".hydra", run, *list(run.parents)[:4], training, *list(training.parents)[:2]):
        if folder.is_dir() and folder.resolve() != Path.cwd() and not any(folder.iterdir()):
            folder.rmdir()


WORK_NFE = (8, 16, 32, 64)  # per direction
WORK_IMAGES = 16  # references
CAPTION = (
    "latent_rms: latents against those of a fine RK4 trajectory. pair_psnr: images inverted and denoised, in dB. "
    "fresh_rms: random latents denoised and inverted."
)


def compare_solvers(settings: "RunSettings", folder: Path) -> None:
    """Measures the accuracy of every solver per NFE on the first references: a table, a CSV and a figure."""
    import pandas as pd
    from rich.console import Console

    from unseen_diffusion.reports.tables import print_frame
    from unseen_diffusion.runs.run import Run
    from unseen_diffusion.solvers.work_precision import Pair, solvers_figure, solvers_table
    from unseen_diffusion.utils.images import dequantise

    run = Run(settings)
    images = dequantise(run.split.tensors["references"][:WORK_IMAGES])
    states = run.model.encode(images, settings.batch_size)
    table = solvers_table(
        run.model, states, settings.t, WORK_NFE, batch_size=settings.batch_size, progress=settings.progress
    )
    with atomic_path(folder / "solvers.csv") as path:
        table.to_csv(path, index=False)
    solvers_figure(table, folder / "solvers.svg")
    title = f"{run.model.name}, {len(images)} references of {settings.domain.name}, t = {settings.t:g}"
    labels = [Pair(*key).label for key in zip(table["solver"], table["grid"], table["clean_end"], strict=True)]
    text = pd.DataFrame({"method": labels, "steps": table["steps"]})
    for name, form in (("latent_rms", "{:.4f}"), ("pair_psnr", "{:.1f}"), ("fresh_rms", "{:.4f}")):
        text[name] = table[name].map(form.format)
    print_frame(text, title, CAPTION, Console())
    print(f"{folder}/solvers.csv and solvers.svg")


def report(folder: Path) -> int:
    """Prints the table of a run or sweep and the folder of its results; 1 if any run is not done, else 0."""
    from unseen_diffusion.reports.comparison import is_comparison, show_comparison
    from unseen_diffusion.reports.sheets import sweep_sheet
    from unseen_diffusion.reports.signatures import print_signatures
    from unseen_diffusion.reports.tables import load_results, print_table, write_table

    sweep = SweepState.of(folder)
    shown = Path(os.path.relpath(folder))
    runs = sweep.runs()
    if done := [folder / job.name for job in runs if job.state == "done"]:
        table = load_results(done)
        title = f"{shown} ({len(done)} of {len(runs)} runs done)"
        for name in TABLES:
            write_table(table, folder / name)
        if is_comparison(table):
            show_comparison(table, title, [folder / name for name in COMPARISONS])
        else:
            print_table(table, title)
        print_signatures(done)
        if sweep.manifest.multirun:
            sweep_sheet(done, folder / SHEET)
        print(f"pictures, tables and logs: {shown}/")
    if sweep.manifest.trials and (folder / FOUND).is_file():
        print(f"best in {' and '.join(OBJECTIVES)}: {shown / FOUND}")
    if not sweep.complete():
        print_states(sweep)
        for job in sweep.jobs:
            if job.status and job.state in ("failed", "interrupted"):
                print(f"{job.state}: {shown / job.name}: {job.status.error}")
        if not sweep.manifest.trials:
            print(f"to run what is not done: unseen resume {shown}")
    return int(not sweep.complete())
