"""Sweeps on real launchers, each with a killed worker: `make engines` runs these tests, `make test` does not."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.commands import FAILING, HALTING, halted, run, same_as_whole, shards, states
from unseen_diffusion.sweeps.status import read_status

PATIENCE = 400  # seconds that no wait may take
pytestmark = [pytest.mark.engine, pytest.mark.timeout(4 * PATIENCE)]
RAY = (
    "hydra/launcher=ray",
    "+hydra.launcher.ray.init.num_cpus=2",
    "+hydra.launcher.ray.init.include_dashboard=false",
)
SLURM = ("hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.timeout_min=10")


def needs(plugin: str) -> None:
    """Skips where a launcher is not installed."""
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")


@pytest.fixture(scope="session")
def slurm() -> None:
    """Skips the test where no Slurm is running."""
    needs("hydra_submitit_launcher")
    if shutil.which("sbatch") is None:
        pytest.skip("no sbatch on this machine")
    if subprocess.run(["sinfo"], capture_output=True, check=False, timeout=60).returncode:
        pytest.skip("sinfo finds no Slurm that runs")


@pytest.fixture
def started(here: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `unseen` in the background; its group of processes ends with the test."""
    processes: list[subprocess.Popen] = []

    def start(*arguments: str) -> subprocess.Popen:
        with open(f"log{len(processes)}", "wb") as log:
            command = [sys.executable, "-m", "unseen_diffusion.cli", *arguments]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        return processes[-1]

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=PATIENCE)


def until(wanted: Sequence[Any], process: subprocess.Popen, of: Callable[[], Sequence[Any]] | None = None) -> None:
    """Waits until the sweep's states (or the values of ``of``) are as wanted; fails if its launcher ends before."""
    found: Sequence[Any] = []
    deadline = time.monotonic() + PATIENCE
    while found != wanted:
        assert process.poll() is None, f"{found}\n{Path('log0').read_text()[-3000:]}"
        assert time.monotonic() < deadline, f"{found}\n{Path('log0').read_text()[-3000:]}"
        time.sleep(0.2)
        if Path("swept/manifest.json").is_file():
            found = of() if of else states("swept")


def kill(job: int) -> None:
    """Kills the process that has written the job's status."""
    status = read_status(Path("swept") / str(job))
    assert status
    os.kill(status.pid, signal.SIGKILL)


def attempts() -> list[int]:
    found = (read_status(path.parent) for path in sorted(Path("swept").glob("*/status.json")))
    return [status.attempt for status in found if status]


def scores(folder: str) -> list[list[dict[str, Any]]]:
    """All rows of a sweep without measured times."""
    runs = [json.loads(path.read_text())["rows"] for path in sorted(Path(folder).glob("*/results.json"))]
    return [[{k: v for k, v in row.items() if "seconds" not in k} for row in rows] for rows in runs]


def same_as_alone(hows: str) -> None:
    """The sweep's scores and images are those of plain runs in this process, from an empty store."""
    alone = ("run", "-m", *FAILING, f"+features.how={hows}", "hydra.sweep.dir=alone", "paths.outputs=other")
    assert run(*alone) == 0
    assert scores("swept") == scores("alone")
    assert len(scores("swept")) == len(hows.split(","))


def sweep(hows: str, *launcher: str) -> tuple[str, ...]:
    return ("run", "-m", *FAILING, f"+features.how={hows}", "hydra.sweep.dir=swept", *launcher)


def halt_two_workers(process: subprocess.Popen) -> None:
    """Waits until both workers of one run are in the middle of their work, and proves that both have done some."""
    until([2], process, lambda: [len(halted())])
    assert shards("invert") == 4  # two of each, which halts in its third


def test_ray_splits_a_run_and_starts_a_killed_job_again(here: Path, started: Callable[..., subprocess.Popen]) -> None:
    """Both workers have made shards when worker 0 is killed: the other makes the rest, and Ray starts worker 0 again.

    It runs from its beginning in the same folder, and writes the results.
    """
    needs("hydra_ray_launcher")
    process = started("run", "-m", *HALTING, "workers=2", "hydra.sweep.dir=swept", *RAY)
    halt_two_workers(process)
    kill(0)
    Path("healed").touch()
    assert process.wait(timeout=PATIENCE) == 0, Path("log0").read_text()[-3000:]
    assert states("swept") == ["done", "done"]
    assert attempts() == [2, 1]
    same_as_whole("swept/0")


def test_slurm_splits_a_run(here: Path, slurm: None, started: Callable[..., subprocess.Popen]) -> None:
    """Both workers of an array have made shards when worker 1 is killed: worker 0 makes the rest, which is enough."""
    process = started("run", "-m", *HALTING, "workers=2", "hydra.sweep.dir=swept", *SLURM)
    halt_two_workers(process)
    kill(1)
    until(["running", "dead"], process)
    Path("healed").touch()
    until(["done", "dead"], process)
    assert run("status", "swept") == 0
    same_as_whole("swept/0")


def test_slurm_goes_on_without_its_login_session(
    here: Path, slurm: None, started: Callable[..., subprocess.Popen]
) -> None:
    """A worker and then the process that submitted the array are killed: the rest is done, and resume runs the one."""
    process = started(*sweep("wait,raise,last", *SLURM))
    until(["running", "failed", "done"], process)
    kill(0)
    until(["dead", "failed", "done"], process)
    process.kill()
    process.wait(timeout=PATIENCE)
    Path("healed").touch()
    again = started("resume", "swept")
    assert again.wait(timeout=PATIENCE) == 0, Path("log1").read_text()[-3000:]
    assert attempts() == [2, 2, 1]
    same_as_alone("wait,raise,last")


def test_submitit_local_loses_only_the_killed(here: Path, started: Callable[..., subprocess.Popen]) -> None:
    """A killed and an exited job: the third is done, and `unseen run` says so at once and exits with 1."""
    needs("hydra_submitit_launcher")
    process = started(*sweep("kill,exit,last", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=10"))
    assert process.wait(timeout=PATIENCE) == 1
    assert states("swept") == ["dead", "failed", "done"]
    said = Path("log0").read_text()
    assert "the launcher gave up: UncompletedJobError" in said
    assert "unseen resume swept" in said
    Path("healed").touch()
    assert run("resume", "swept", "hydra/launcher=basic") == 0
    assert attempts() == [2, 2, 1]
    same_as_alone("kill,exit,last")


def test_joblib_loses_its_pool_with_a_killed_worker(here: Path, started: Callable[..., subprocess.Popen]) -> None:
    """joblib ends both workers when one is killed; a new pool runs what had not started, and resume the rest."""
    needs("hydra_joblib_launcher")
    process = started(*sweep("wait,wait,none,raise", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"))
    until(["running", "running", "missing", "missing"], process)
    kill(0)
    assert process.wait(timeout=PATIENCE) == 1
    assert states("swept") == ["dead", "dead", "done", "failed"]
    assert "the launcher gave up: TerminatedWorkerError" in Path("log0").read_text()
    Path("healed").touch()
    assert run("resume", "swept", "hydra/launcher=basic") == 0
    assert attempts() == [2, 2, 1, 2]
    same_as_alone("wait,wait,none,raise")


def test_optuna_searches_two_objectives(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The trials of the experiment, each with its scores as objectives; ranges are checked at their ends beforehand."""
    needs("hydra_optuna_sweeper")
    fixed = [a for a in FAILING if not a.startswith(("scores", "domain.references"))]
    search = ("run", "experiment=optuna", *fixed, "+features.how=none", "domain.references=40", "hydra.sweep.dir=swept")
    assert run(*search, "workers=2") == 2
    assert "workers=2: the runs of a search are not split" in capsys.readouterr().err
    assert run(*search, "bandwidth.eta=interval(0.2,1.5)") == 2
    assert "bandwidth.eta=1.5" in capsys.readouterr().err
    assert not Path("swept").exists()
    assert run(*search, "hydra.sweeper.n_trials=4") == 0
    assert states("swept") == ["done"] * 4
    found = [rows[0] for rows in scores("swept")]
    front = yaml.safe_load(Path("swept/optimization_results.yaml").read_text())["solutions"]
    assert front
    pairs = [[row["kid_h"], row["copy_rate"]] for row in found]
    better = [a for a in pairs if not any(b != a and b[0] <= a[0] and b[1] <= a[1] for b in pairs)]
    assert sorted(solution["values"] for solution in front) == sorted(better)
    assert run("status", "swept") == 0
    assert run("resume", "swept") == 2
    assert "a search" in capsys.readouterr().err
