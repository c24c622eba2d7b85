"""Fixtures that several test files share, and what pytest reports at the end of a session."""

import errno
import gc
import logging
import os
import sys
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach the hub; read when huggingface_hub is first imported

import pytest
from hypothesis import settings

import typecheck  # noqa: F401 - before the package, which jaxtyping's import hook then checks with it
from support import ROOT, TinyModelFolder

# torch and diffusers are imported where they are used: the process that starts pytest-xdist's workers needs neither.

# Inputs of property-based tests: the same ones each time, few, and none timed.
settings.register_profile("tests", derandomize=True, max_examples=25, deadline=None, database=None)
settings.load_profile("tests")

ENABLED_BY = {  # what tests were left out for -> how to run them
    "slow": "make test-slow runs them",
    "engine": "make engines installs the launchers and runs them",
    "chromium": "apt-get install chromium chromium-driver, then make test",
    "not installed": "make test in a fresh .venv installs the extra dev",
}
LEFT_OUT = pytest.StashKey[Counter[str]]()


def pytest_collection_finish() -> None:
    """Prepares this process for its tests.

    A process has one core, and a fork of a process with OpenMP threads may hang: one thread. The objects of imported
    modules, about a million, are not visited by garbage collection any more.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
    gc.collect()
    gc.freeze()


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts the tests that the marker expression leaves out, by marker."""
    for item in items:
        counts = item.config.stash.setdefault(LEFT_OUT, Counter())
        counts.update([name for name in ("slow", "engine") if item.get_closest_marker(name)][:1])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Takes the count over from a worker of pytest-xdist; every worker leaves out the same tests."""
    config, counts = node.config, getattr(node, "workeroutput", {}).get("left_out")  # type: ignore[attr-defined]
    if counts:
        config.stash[LEFT_OUT] = Counter(counts)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands a worker's count to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash.get(LEFT_OUT, Counter()))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """Prints, below the summary, how many tests did not run, why, and how to run them."""
    yield
    for report in (one for outcome in ("passed", "failed") for one in terminalreporter.stats.get(outcome, [])):
        for name, value in getattr(report, "user_properties", []):  # which pytest-xdist hands over
            terminalreporter.write_line(f"{name}: {value}")
    reasons: Counter[str] = Counter()
    for report in terminalreporter.stats.get("skipped", []):
        reasons[str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)] += 1
    left_out = terminalreporter.config.stash.get(LEFT_OUT, Counter())
    for reason, count in [*left_out.items(), *reasons.items()]:
        how = next((line for word, line in ENABLED_BY.items() if word in reason), "")
        what = f"marked {reason}" if reason in left_out else reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"{count} not run: {what}{f'; {how}' if how else ''}")


@pytest.fixture(autouse=True)
def log_handlers() -> Iterator[None]:
    """Removes the log handlers that Hydra installs for a run: their stream and their file end with the test.

    A handler on a closed stream would print a traceback into a later test's stderr, in some orders of the tests.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    closed = [one for one in handlers if getattr(getattr(one, "stream", None), "closed", False)]
    assert not closed, f"an earlier test has left log handlers on closed streams: {closed}"
    yield
    for handler in [one for one in root.handlers if one not in handlers]:
        root.removeHandler(handler)
        handler.close()
    for handler in [one for one in handlers if one not in root.handlers]:
        root.addHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> TinyModelFolder:
    """Makes the diffusers folder of a tiny random UNet2DModel pipeline; equal arguments share one folder.

    Tests never change a folder: one that needs a change copies it first.
    """
    import torch
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

    from unseen_diffusion.utils.files import write_json

    made: dict[tuple[object, ...], Path] = {}

    def make(
        channels: int = 3,
        size: int = 8,
        prediction_type: str = "epsilon",
        learned_variance: bool = False,
        pixel_unshuffle: int = 1,
        scheduler: str = "DDPMScheduler",
        seed: int = 0,
    ) -> Path:
        arguments = (channels, size, prediction_type, learned_variance, pixel_unshuffle, scheduler, seed)
        if arguments in made:
            return made[arguments]
        inputs = channels * pixel_unshuffle**2
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            unet = UNet2DModel(
                sample_size=size // pixel_unshuffle,
                in_channels=inputs,
                out_channels=inputs * (2 if learned_variance else 1),
                block_out_channels=(8, 16),
                down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                attention_head_dim=8,
                norm_num_groups=4,
            )
        kind = {"DDPMScheduler": DDPMScheduler, "DDIMScheduler": DDIMScheduler}[scheduler]
        folder = tmp_path_factory.mktemp("models") / "tiny"
        DDPMPipeline(unet, kind(prediction_type=prediction_type)).save_pretrained(folder)
        if pixel_unshuffle > 1:
            write_json(folder / "unseen.json", {"pixel_unshuffle": pixel_unshuffle})
        made[arguments] = folder
        return folder

    return make


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no flock."""

    def absent(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", absent)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, as a user of the wheel has; processes started in it find the package and the tests."""
    return work_in(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same for set-up that the tests of a module share; the working folder while that set-up runs."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield work_in(tmp_path_factory.mktemp("shared"), monkeypatch)


def work_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes an empty folder the working folder, without any settings of the user's environment."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("UNSEEN_RUN_ID", raising=False)
    monkeypatch.delenv("UNSEEN_CONF", raising=False)
    package = Path(find_spec("unseen_diffusion").origin).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(package), str(ROOT / "tests"), str(ROOT))))
    return folder
