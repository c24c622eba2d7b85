"""Runs the tests that reach a mutated line, in copies of the repository, and records which mutations they notice."""

import csv
import importlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.mutants.table import ROOT, Mutation, read
from benchmarks.mutants.trace import FOLDER

RESULT = Path(__file__).parent / "result.csv"
COPIED = ("src", "conf", "tests", "experiments", "benchmarks", "docs", "pyproject.toml", "constraints.txt")
COPIED += ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "Makefile", ".ci", ".gitignore")
PRELOADED = (
    "numpy pandas scipy.stats scipy.linalg sklearn.linear_model torch diffusers torchmetrics hydra omegaconf PIL.Image"
)
PRELOADED += " pydantic jaxtyping beartype pyarrow.parquet hypothesis safetensors.torch pytest xdist matplotlib.pyplot"
FIRST, ALL = 40.0, 300.0  # seconds of tests: the most specific ones, then the others that reach the line
NOTICED, SURVIVED = "noticed", "survived"


@dataclass
class Trace:
    """What a run of all tests on the unchanged source recorded."""

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[str, dict[int, set[str]]] = field(default_factory=lambda: defaultdict(dict))
    opened: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    breadth: Counter[str] = field(default_factory=Counter)
    """lines of the source that a test reaches"""
    starting: set[str] = field(default_factory=set)
    """tests that start processes of their own, whose lines are not recorded"""

    @classmethod
    def load(cls, folder: Path) -> "Trace":
        from coverage import CoverageData

        trace = cls()
        for path in folder.glob("tests.*.json"):
            record = json.loads(path.read_text())
            trace.seconds |= record["passed"]
            trace.starting |= set(record["starting"])
            for test, files in record["opened"].items():
                for file in files:
                    trace.opened[file].add(test)
        for path in folder.glob("lines.*"):
            data = CoverageData(str(path))
            data.read()
            for name in data.measured_files():
                file = "src/" + name.rpartition("/src/")[2]
                for line, tests in data.contexts_by_lineno(name).items():
                    known = {test for test in tests if test in trace.seconds}
                    trace.reached[file].setdefault(line, set()).update(known)
                    trace.breadth.update(known)
        return trace

    def tests(self, mutation: Mutation, number: int) -> list[str]:
        """The tests that reach a line, the most specific first; if it runs at import, those that reach its file."""
        lines = self.reached.get(mutation.file, {})
        if mutation.package == "conf":
            found = self.opened.get(mutation.file, set()) & set(self.seconds)
        else:
            found = lines.get(number) or set().union(*lines.values()) if lines else set()
        here = Counter(test for tests in lines.values() for test in tests)
        ordered = sorted(found, key=lambda test: (self.breadth[test] / (1 + here[test]), test))
        near = (f"tests/{mutation.package}/", f"tests/test_{mutation.package}.py")
        rest = {test for test in self.seconds if test.startswith(near) or test in self.starting}
        return ordered + sorted(rest - found, key=lambda test: (self.seconds[test], test))

    def stages(self, tests: list[str]) -> Iterable[list[str]]:
        """The tests cut into a first and a last group by the seconds that they take."""
        groups: list[list[str]] = [[], []]
        spent = 0.0
        for test in tests:
            spent += self.seconds[test]
            if spent > ALL:
                break
            groups[spent > FIRST].append(test)
        return [group for group in groups if group]


def copy(folder: Path) -> Path:
    """A fresh copy of what the tests need."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in COPIED:
        if (path := ROOT / name).is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy2(path, folder / name)
    return folder


def environment(folder: Path) -> dict[str, str]:
    paths = os.pathsep.join([str(folder / "src"), str(folder)])
    one_thread = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    return os.environ | one_thread | {"PYTHONPATH": paths}


def trace(work: Path, processes: int) -> None:
    """Runs all tests once on an unchanged copy."""
    folder = copy(work / "trace")
    records = work / "records"
    shutil.rmtree(records, ignore_errors=True)
    records.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "benchmarks.mutants.trace",
        "-n",
        str(processes),
        "--dist",
        "worksteal",
    ]
    subprocess.run(command, cwd=folder, env=environment(folder) | {FOLDER: str(records)}, check=False)


def one(mutation: Mutation, folder: Path, records: Trace) -> tuple[str, str]:
    """Whether the tests notice a mutation, and the test that did."""
    path = folder / mutation.file
    text = path.read_text()
    number = mutation.line(text)
    if not number:
        return "stale", "the line is not in the file any more; draw or edit this row"
    tests = records.tests(mutation, number)
    if not tests:
        return SURVIVED, "no test reaches this line"
    times = path.stat()
    path.write_text(mutation.apply(text))
    try:
        for group in records.stages(tests):
            code, last = run_tests(group, folder, 60 + 6 * sum(records.seconds[test] for test in group))
            if code:
                return NOTICED, last
    finally:
        path.write_text(text)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return SURVIVED, f"{len(tests)} tests"


def run_tests(tests: list[str], folder: Path, seconds: float) -> tuple[int, str]:
    """The exit code of these tests in a fork of this process, and the first that failed."""
    log = folder / "mutant.log"
    child = os.fork()
    if not child:
        _child(tests, folder, log)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            lines = log.read_text(errors="replace").splitlines()
            failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
            return os.waitstatus_to_exitcode(status), (failed or ["the tests do not start"])[0]
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return 1, "runs for ever"


def _child(tests: list[str], folder: Path, log: Path) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    os.environ.update(environment(folder))
    sys.path[:0] = [str(folder / "src"), str(folder)]
    sys.dont_write_bytecode = True
    code: int = 1
    try:
        import pytest

        code = int(pytest.main(["-x", "-q", "--no-header", "--tb=line", "-p", "no:cacheprovider", *tests]))
    finally:
        os._exit(code)


def work_off(
    queue: "multiprocessing.Queue[int]", results: "multiprocessing.Queue[tuple[int, str, str]]", work: Path
) -> None:
    """One process: takes mutations until none is left."""
    folder = copy(work / f"copy{os.getpid()}")
    records = Trace.load(work / "records")
    os.environ.update(environment(folder))
    for name in PRELOADED.split():
        importlib.import_module(name)
    mutations = read()
    parent = multiprocessing.parent_process()
    while (index := queue.get()) >= 0 and parent is not None and parent.is_alive():
        results.put((index, *one(mutations[index], folder, records)))


def run(work: Path, processes: int, again: bool) -> None:
    """Tries each mutation of the table that has no result yet (all of them with ``again``), and writes the results."""
    mutations = read()
    known = {} if again else dict(_known())
    todo = [i for i, mutation in enumerate(mutations) if _key(mutation) not in known]
    context = multiprocessing.get_context("spawn")
    queue, results = context.Queue(), context.Queue()
    for index in [*todo, *[-1] * processes]:
        queue.put(index)
    workers = [context.Process(target=work_off, args=(queue, results, work)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for count in range(len(todo)):
        index, outcome, detail = results.get()
        known[_key(mutations[index])] = (outcome, detail)
        print(
            f"{count + 1}/{len(todo)} {outcome}: {mutations[index].file}: {mutations[index].new}  [{detail}]",
            flush=True,
        )
        _write(mutations, known)
    for worker in workers:
        worker.join()


def _key(mutation: Mutation) -> tuple[str, ...]:
    return mutation.file, mutation.old, mutation.new, str(mutation.occurrence)


def _known() -> Iterable[tuple[tuple[str, ...], tuple[str, str]]]:
    if RESULT.exists():
        with RESULT.open(newline="") as file:
            for row in csv.DictReader(file):
                yield (row["file"], row["old"], row["new"], row["occurrence"]), (row["outcome"], row["detail"])


def _write(mutations: list[Mutation], known: dict[tuple[str, ...], tuple[str, str]]) -> None:
    with RESULT.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["file", "old", "new", "occurrence", "outcome", "detail"])
        writer.writerows([*_key(m), *known[_key(m)]] for m in mutations if _key(m) in known)


def report() -> str:
    """Noticed of total for each package, then every mutation that survived."""
    known = dict(_known())
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    survivors = []
    for mutation in read():
        outcome = known.get(_key(mutation), ("not run", ""))[0]
        outcome = "equivalent" if outcome == SURVIVED and mutation.equivalent else outcome
        counts[mutation.package][outcome] += 1
        if outcome not in (NOTICED, "equivalent"):
            survivors.append(f"  {outcome}: {mutation.file}: {mutation.old}\n      -> {mutation.new}")
    total: Counter[str] = sum(counts.values(), Counter())
    lines = [
        f"{name:12s} {c[NOTICED]:4d} of {c.total() - c['equivalent']:4d} noticed"
        + (f", {c['equivalent']} equivalent" if c["equivalent"] else "")
        for name, c in [*sorted(counts.items()), ("all", total)]
    ]
    return "\n".join([*lines, *survivors])
