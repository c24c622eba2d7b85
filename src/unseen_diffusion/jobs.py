"""What a launcher starts: one job, which writes its own status; and the account after the last of them."""

import logging
import sys
import traceback
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from unseen_diffusion.errors import InputError
from unseen_diffusion.files import atomic_path, read_json, write_json
from unseen_diffusion.settings import RunSettings

log = logging.getLogger(__name__)

STATUS = "status.json"


def run_job(config: DictConfig) -> None:
    """One point. A failure is written to status.json and logged; it never stops the other points."""
    from unseen_diffusion.runs import execute
    from unseen_diffusion.settings import check
    from unseen_diffusion.tables import RESULTS

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    group = Path(hydra.sweep.dir if hydra.mode == RunMode.MULTIRUN else hydra.run.dir).name
    write_json(folder / STATUS, {"state": "running"})
    (folder / RESULTS).unlink(missing_ok=True)  # of an earlier run in the same folder
    try:
        execute(check(config), folder, group)
    except InputError as error:
        write_json(folder / STATUS, {"state": "failed", "error": str(error)})
        log.error("%s", error)
    except Exception as error:
        # Launchers differ in what an exception does to the other jobs of a sweep: none may be lost.
        write_json(folder / STATUS, {"state": "failed", "error": f"{type(error).__name__}: {error}"})
        log.error("%s", traceback.format_exc())
    else:
        write_json(folder / STATUS, {"state": "done"})


def train_job(config: DictConfig) -> None:
    """One training; bad input found on the way is one line and exit code 2."""
    from unseen_diffusion.settings import build, choose_device
    from unseen_diffusion.training.tasks import TASKS

    try:
        folder = TASKS[config.training.task](config.training, choose_device(config.device), build(config.tracking))
    except InputError as error:
        log.error("%s", error)
        sys.exit(2)
    log.info("weights in %s", folder)


WORK = (8, 16, 32, 64)  # network evaluations per direction
WORK_IMAGES = 16  # references
CAPTION = (
    "latent_rms: against a fine RK4 trajectory. pair_psnr: images inverted and denoised, dB. fresh_rms: latents that "
    "no image was inverted to, denoised and inverted."
)


def compare_solvers(settings: RunSettings, folder: Path) -> None:
    """Accuracy of every solver per evaluation on the first references, as table, CSV and figure in ``folder``."""
    import pandas as pd
    from rich.console import Console

    from unseen_diffusion.images import dequantise
    from unseen_diffusion.runs import Run
    from unseen_diffusion.tables import print_frame
    from unseen_diffusion.work_precision import Pair, solvers_figure, solvers_table

    run = Run(settings)
    images = dequantise(run.split.tensors["references"][:WORK_IMAGES])
    states = run.model.encode(images, settings.batch_size)
    table = solvers_table(
        run.model, states, settings.t, WORK, batch_size=settings.batch_size, progress=settings.progress
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


def report(folder: Path, expected: int, multirun: bool) -> int:
    """Prints the table and where everything is; 1 if any run failed or never ended."""
    from unseen_diffusion.comparison import is_comparison, show_comparison
    from unseen_diffusion.figures import sweep_sheet
    from unseen_diffusion.tables import load_results, print_table, write_table

    # A folder that is used again may hold jobs of a longer sweep: only this one's count.
    folders = sorted(folder.glob("*/"), key=_job_order)[:expected] if multirun else [folder]
    statuses = {path: read_json(path / STATUS) for path in folders if (path / STATUS).is_file()}
    failed = {path: status for path, status in statuses.items() if status["state"] != "done"}
    done = [path for path in statuses if path not in failed]
    if done:
        table = load_results(done)
        title = f"{folder} ({len(statuses) - len(failed)} of {expected} runs done)"
        for suffix in (".csv", ".md"):
            write_table(table, folder / f"table{suffix}")
        if is_comparison(table):
            show_comparison(table, title, [folder / f"comparison{suffix}" for suffix in (".csv", ".md")])
        else:
            print_table(table, title)
        if multirun:
            sweep_sheet(done, folder / "samples.png")
        print(f"pictures, tables and logs: {folder}/")
    for path, status in failed.items():
        print(f"failed: {path}: {status.get('error', status['state'])}")
    if len(statuses) < expected:
        print(f"{expected - len(statuses)} of {expected} runs left no status in {folder}; see the launcher's log")
    return int(bool(failed) or len(statuses) < expected)


def _job_order(path: Path) -> tuple[int, str]:
    """Jobs by number."""
    return (int(path.name) if path.name.isdigit() else 10**9, path.name)
