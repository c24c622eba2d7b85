"""Command lines that tests run, and checks of their results."""

import json
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from benchmarks.service import JOB as LEAN
from support.failing import HALT, calls_of
from unseen_diffusion.cli import main
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.sweeps.states import SweepState
from unseen_diffusion.sweeps.status import read_status

# A whole run without any network: exact eps of Gaussian data at 3x16x16.
TINY = (
    "model=analytic",
    "model.size=16",
    "domain=digits8",
    "domain.references=24",
    "domain.validation=10",
    "domain.heldout=20",
    "features=pixels",
    "features.side=8",
    "solver.steps=5",
    "samples=12",
    "scores.reconstructions=6",
    "scores.permutations=100",
    "tracking=none",
    "progress=false",
)
FAILING = (*(a for a in LEAN if a != "features.side=8"), "features._target_=support.failing.Failing")
# A run in small shards with every stage that evaluates the network. HALTING: with a model that halts halfway.
ALONE = (
    *LEAN,
    "batch_size=2",
    "features.batch_size=5",
    "scores.rows=[replay,standard,base_samples]",
    "scores.paths=1",
    "scores.geometry=10",
    "scores.latents=8",
    "scores.reconstructions=4",
    "scores.membership=true",
)
HALTING = (*ALONE, "model._target_=support.failing.halting")


def run(*arguments: str) -> int:
    """Exit code of one command in this process."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return int(exit_.value.code or 0)


@contextmanager
def forked(*arguments: str) -> Iterator[BaseProcess]:
    """One command in a fork of this process, which has imported everything; it ends with the block."""
    process = get_context("fork").Process(target=_main_that_can_be_interrupted, args=(arguments,))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join(60)


def _main_that_can_be_interrupted(arguments: Sequence[str]) -> None:
    """The command; a shell that starts the tests in the background lets their processes ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(arguments)


def states(folder: str | Path) -> list[str]:
    """States of a sweep's jobs, in order."""
    return [job.state for job in SweepState.of(Path(folder)).jobs]


def shards(stage: str, outputs: str = "outputs") -> int:
    """The number of a stage's shards in the store."""
    return len(list(Path(outputs, "artefacts", stage).glob("*/rows-*.safetensors")))


def halted(folder: str = "swept") -> list[int]:
    """Process numbers of the workers that have halted before the end of their work."""
    found = [read_status(path.parent) for path in sorted(Path(folder).glob("*/status.json"))]
    return [status.pid for status in found if status and calls_of(status.pid) >= HALT]


def same_as_whole(folder: str) -> None:
    """A run's scores, pictures and images equal those of a run by one process with a new store."""
    assert run("run", *ALONE, "hydra.run.dir=whole", "paths.outputs=other") == 0
    split, whole = (json.loads(Path(at, "results.json").read_text()) for at in (folder, "whole"))
    timed = [[{k: v for k, v in row.items() if "seconds" not in k} for row in r["rows"]] for r in (split, whole)]
    assert timed[0] == timed[1]
    assert Path(folder, "samples.png").read_bytes() == Path("whole/samples.png").read_bytes()
    first, second = (Path(results["details"]["generated"]) for results in (split, whole))
    assert first.name == second.name
    assert torch.equal(load_tensor(first, "images"), load_tensor(second, "images"))
