"""Runs every study on the bundled models and rebuilds its results; `make studies` calls it.

python -m experiments.studies [NAME ...] [--jobs 2] [--tiny] [--analyse]

A study consists of one or more sweeps (`unseen run -m experiment=...`) and `experiments/NAME/analyse.py`, which reads
their folders. A finished sweep is not run again; an interrupted one continues from the stages in the store. With
`--tiny` all sweeps together take minutes, and the analyses are written to outputs/tiny instead of the studies' folders.
"""

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path

from experiments.common import ENDED
from experiments.sweeps import Sweep
from unseen_diffusion.cli import main as unseen_main
from unseen_diffusion.utils.files import read_json, write_json

HERE = Path(__file__).parent
SWEEPS = Path("outputs/sweeps")
TINY = (
    "samples=8",
    "domain.references=12",
    "domain.validation=6",
    "domain.heldout=8",
    "progress=false",
    "tracking=none",
    "scores.permutations=100",
)


def studies() -> list[str]:
    """Names of all studies: the folders whose ``analyse.py`` names its ``SWEEPS``."""
    found = [path.parent.name for path in sorted(HERE.glob("*/analyse.py"))]
    return [name for name in found if hasattr(import_module(f"experiments.{name}.analyse"), "SWEEPS")]


def sweeps_of(name: str) -> tuple[Sweep, ...]:
    """The sweeps of a study."""
    return import_module(f"experiments.{name}.analyse").SWEEPS


def runs_by_default(name: str) -> bool:
    """False for a study that needs weights that the user trains first: it runs only where it is named."""
    return not getattr(import_module(f"experiments.{name}.analyse"), "NAMED_ONLY", False)


# Sweeps are forked from a process with all imports, because importing diffusers takes 8 seconds.
PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["unseen_diffusion.runs.results", "unseen_diffusion.cli"])


def hardware() -> str:
    """Processor and cores."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {os.cpu_count()} cores"


def commit() -> str:
    """The commit of the checkout, with a + where files have changed since; empty outside git."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"], cwd=HERE, capture_output=True, text=True
    )
    return found.stdout.strip()


def folder(one: Sweep, tiny: bool) -> Path:
    """The folder of a sweep's runs."""
    return SWEEPS / f"{'tiny' if tiny else 'study'}_{one.name}"


def unseen(arguments: Sequence[str], where: Path) -> None:
    """Runs the command `unseen` in its own process; its output goes to the sweep's studies.log."""
    with (where / "studies.log").open("ab", buffering=0) as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["UNSEEN_RUN_ID"] = where.name
    unseen_main(arguments)


def last_of_each(overrides: Sequence[str]) -> list[str]:
    """The last override of every key; Hydra would combine two sweeps over the same key."""
    return list({override.partition("=")[0]: override for override in overrides}.values())


def run(one: Sweep, tiny: bool) -> bool:
    """Runs a sweep unless the same command has finished before; True if every run of it is done."""
    where = folder(one, tiny)
    overrides = last_of_each([*one.overrides, *((*TINY, *one.tiny) if tiny else ())])
    command = ["unseen", "run", "-m", *overrides]
    if (where / ENDED).exists():
        if read_json(where / ENDED)["command"] == " ".join(command):
            return True
        (where / ENDED).unlink()
    print(f"{datetime.now():%H:%M} {' '.join(command)}", flush=True)
    source, begun, started = commit(), datetime.now(UTC), time.monotonic()
    where.mkdir(parents=True, exist_ok=True)
    process = PROCESSES.Process(target=unseen, args=(command[1:], where))
    process.start()
    process.join()
    code = process.exitcode
    if code:
        print(f"{one.name}: exit code {code}; see {where}/studies.log", flush=True)
        return False
    record = {
        "commit": source,
        "command": " ".join(command),
        "hardware": hardware(),
        "begun": begun.isoformat(timespec="seconds"),
        "minutes": round((time.monotonic() - started) / 60, 1),
    }
    write_json(where / ENDED, record)
    return True


def main() -> int:
    known = studies()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; default: all that need no weights of your own"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="number of sweeps that run at the same time, with one thread each"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="run in minutes instead of hours; results go to outputs/tiny"
    )
    parser.add_argument("--analyse", action="store_true", help="only rebuild tables and figures from finished sweeps")
    chosen = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")  # read by the processes of sweeps
    if unknown := [name for name in chosen.names if name not in known]:
        parser.error(f"{unknown[0]}: no such study; choose among {', '.join(known)}")
    names = chosen.names or [name for name in known if runs_by_default(name)]
    sweeps = list(dict.fromkeys(one for name in names for one in sweeps_of(name)))
    if not chosen.analyse:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda one: run(one, chosen.tiny), sweeps))
    failed = [name for name in names if not analyse(name, chosen.tiny)]
    from experiments.scoreboard import write_scoreboard

    write_scoreboard(Path("outputs/tiny") if chosen.tiny else HERE)
    for name in failed:
        print(f"{name}: not analysed, because not all of its sweeps are finished")
    return int(bool(failed))


def analyse(name: str, tiny: bool) -> bool:
    """Writes table, figure and verdict of a study from its sweeps' folders; False if a sweep is not finished."""
    folders = [folder(one, tiny) for one in sweeps_of(name)]
    if not all((path / ENDED).exists() for path in folders):
        return False
    import_module(f"experiments.{name}.analyse").analyse(folders, Path("outputs/tiny") / name if tiny else HERE / name)
    return True


if __name__ == "__main__":
    sys.exit(main())
