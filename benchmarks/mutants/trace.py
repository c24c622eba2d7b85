"""A pytest plugin that records which test runs which line, opens which configuration, and how long it takes."""

import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import coverage
import pytest

FOLDER = "MUTANTS_TRACE"  # environment variable: where the records are written


class Tracer:
    """Switches coverage's context with each test."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self.conf = str(root / "conf") + os.sep
        self.test = ""
        self.passed: dict[str, float] = {}
        self.opened: dict[str, set[str]] = defaultdict(set)
        self.starting: set[str] = set()
        self.coverage = coverage.Coverage(
            data_file=str(folder / f"lines.{os.getpid()}"),
            source=[str(root / "src" / "unseen_diffusion")],
            config_file=False,
        )
        sys.addaudithook(self.audit)
        self.coverage.start()

    def audit(self, event: str, arguments: tuple[object, ...]) -> None:
        """Notes each file of conf/ that a test opens, and tests that start processes."""
        if event == "subprocess.Popen" and self.test:
            self.starting.add(self.test)
        if event == "open" and self.test and isinstance(arguments[0], str) and arguments[0].startswith(self.conf):
            self.opened[self.test].add("conf/" + arguments[0].removeprefix(self.conf))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.test = item.nodeid
        self.coverage.switch_context(item.nodeid)
        outcome = yield
        self.coverage.switch_context("")
        self.test = ""
        return outcome

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed[report.nodeid] = report.duration

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()
        opened = {test: sorted(files) for test, files in self.opened.items()}
        (self.folder / f"tests.{os.getpid()}.json").write_text(
            json.dumps({"passed": self.passed, "opened": opened, "starting": sorted(self.starting)})
        )


def pytest_configure(config: pytest.Config) -> None:
    is_controller = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if not is_controller:  # the process that only hands out tests runs none
        config.pluginmanager.register(Tracer(config.rootpath, Path(os.environ[FOLDER])))
