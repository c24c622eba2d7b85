"""No malformed command line or file ends in a traceback, in silence, or in a half-written folder.

``make test-slow`` runs all of them in one process and prints the counts; ``make test`` every twentieth.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from robustness import files, lines
from robustness.outcomes import Accepted, Outcome, outcome
from support.finished_runs import Runs
from unseen_diffusion.cli import main
from unseen_diffusion.models.options import inspect_model
from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.sweeps.manifest import MANIFEST, Manifest, Point, write_manifest
from unseen_diffusion.sweeps.status import STATUS, Journal

LEAST_LINES, LEAST_FILES = 600, 100
Line = tuple[str, Callable[[], Outcome], Sequence[str]]
Files = Callable[..., Path]


@pytest.fixture
def inputs(here: Path, tiny_model_folder: Files, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images, a model and a run. Whatever passes the checks ends in ``Accepted``."""
    (here / "images").mkdir()
    for i in range(40):
        Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(here / "images" / f"{i}.png")
    encoded = [path.read_bytes() for path in sorted((here / "images").iterdir())]
    pd.DataFrame({"image": encoded, "label": 0}).to_parquet(here / "images.parquet")
    shutil.copytree(tiny_model_folder(size=16), here / "model")
    Runs(here).run("fitted")

    def accept(*arguments: object) -> None:
        raise Accepted

    monkeypatch.setattr("unseen_diffusion.sweeps.launch.write_manifest", accept)
    monkeypatch.setattr("unseen_diffusion.sweeps.launch.call_hydra", accept)
    return here


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def judge_lines(folder: Path, every: Iterable[Line]) -> tuple[Counter[str], list[str]]:
    """Counts of what became of malformed lines, and the ones that were not refused as they should be."""
    counts: Counter[str] = Counter()
    bad = []
    before = tree(folder)
    for text, call, words in every:
        done = call()
        kind = {"refused": "refused", "traceback": "tracebacks"}.get(done.kind, "silent successes")
        if kind == "refused" and not done.names(words):
            kind = "unnamed values"
        if left := tree(folder) - before:
            kind, before = "half-written folders", before | left
        counts[kind] += 1
        if kind != "refused":
            bad.append(f"{kind}: {text}\n{done.text[-400:]}")
    return counts, bad


def report(counts: Counter[str], what: str, record_property: Callable[[str, object], None]) -> None:
    kinds = ("tracebacks", "silent successes", "unnamed values", "half-written folders")
    total = sum(counts.values())
    record_property("counts", f"{total} {what}: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds))


@pytest.mark.slow
def test_every_malformed_line_is_refused(inputs: Path, record_property: Callable[[str, object], None]) -> None:
    counts, bad = judge_lines(inputs, [*lines.derived(), *lines.written()])
    report(counts, "malformed command lines", record_property)
    assert not bad, "\n\n".join(bad)
    assert counts["refused"] >= LEAST_LINES


def test_some_malformed_lines_are_refused(inputs: Path) -> None:
    """The same of every twentieth line as typed."""
    _, bad = judge_lines(inputs, list(lines.written())[::20])
    assert not bad, "\n\n".join(bad)


def judge(counts: Counter[str], bad: list[str], name: str, done: Outcome, kinds: Sequence[str], words: str) -> None:
    """Adds one outcome, which should be of one of ``kinds``, with a line that has ``words``."""
    said = [done.text] if done.kind == "refused" else list(done.warnings)
    named = any(words in line and "\n" not in line for line in said)
    kind = (
        "refused" if done.kind in kinds and named else "tracebacks" if done.kind == "traceback" else "silent successes"
    )
    counts[kind] += 1
    if kind != "refused":
        bad.append(f"{name}: {done.kind} {said} {done.text[-400:]}")


def results_files(here: Path, counts: Counter[str], bad: list[str]) -> None:
    """One damaged results.json beside a good one, and alone."""
    runs = Runs(here / "two")
    runs.run("fitted")
    file = runs.run("slerp")
    for name in files.damaged(files.WHOLE | files.RESULTS, file):
        for verb in (["table"], ["compare"], ["report", "-o", str(here / "x.html")]):
            words = [*verb[:1], str(here / "two"), *verb[1:]]
            judge(
                counts,
                bad,
                f"{verb[0]} {RESULTS} {name}",
                outcome(lambda words=words: main(words)),
                ["accepted"],
                str(file),
            )
        alone = outcome(lambda: main(["table", str(file)]))
        judge(counts, bad, f"table of {RESULTS} {name} alone", alone, ["refused"], str(file))


def sweep_files(here: Path, counts: Counter[str], bad: list[str]) -> None:
    """A damaged manifest.json or status.json beside a good sweep."""
    for name in ("good", "bad"):
        points = [Point([f"seed={i}"], {"seed": i}) for i in range(2)]
        write_manifest(here / "sweeps" / name, Manifest(["-m", "seed=0,1"], str(here), None, True, points, 0, "now"))
        for number in ("0", "1"):
            with Journal(here / "sweeps" / name / number, 1) as journal:
                journal.end()
    for file, changes in ((MANIFEST, files.MANIFEST), (f"1/{STATUS}", files.STATUS)):
        path = here / "sweeps" / "bad" / file
        for name in files.damaged(files.WHOLE | changes, path):
            for form in ([], ["--json"]):
                done = outcome(lambda form=form: main(["status", str(here / "sweeps"), *form]))
                judge(
                    counts, bad, f"status {file} {name}", done, ["failed"], str(path if file != MANIFEST else path.name)
                )


def model_files(here: Path, counts: Counter[str], bad: list[str]) -> None:
    """A damaged JSON of a diffusers folder."""
    for file, changes in files.MODEL.items():
        for name in files.damaged(changes, here / "model" / file):
            done = outcome(lambda: inspect_model(path=str(here / "model")))
            judge(counts, bad, f"{file} {name}", done, ["refused"], "model")


FAMILIES = (results_files, sweep_files, model_files)  # images and weights: one function each


@pytest.mark.slow
def test_every_damaged_file_is_named(
    here: Path, tiny_model_folder: Files, record_property: Callable[[str, object], None]
) -> None:
    shutil.copytree(tiny_model_folder(size=16), here / "model")
    counts: Counter[str] = Counter()
    bad: list[str] = []
    for family in FAMILIES:
        family(here, counts, bad)
    report(counts, "damaged files", record_property)
    assert not bad, "\n\n".join(bad)
    assert counts["refused"] >= LEAST_FILES
