"""No malformed command line or file ends in a traceback, in silence, or in a half-written folder.

``make test-slow`` runs all of them in one process and prints the counts; ``make test`` every twentieth.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from robustness import files, images, lines, weights
from robustness.cases import Case, right
from robustness.outcomes import Accepted, Outcome, outcome
from support import families
from support.finished_runs import Runs
from unseen_diffusion.cli import main
from unseen_diffusion.models.options import inspect_model
from unseen_diffusion.reports.result import RESULTS
from unseen_diffusion.sweeps.manifest import MANIFEST, Manifest, Point, write_manifest
from unseen_diffusion.sweeps.status import STATUS, Journal
from unseen_diffusion.utils import image_files

LEAST_LINES, LEAST_FILES = 600, 100
WANTED = "as wanted"
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
        kind = {"refused": WANTED, "traceback": "tracebacks"}.get(done.kind, "silent results")
        if kind == WANTED and not done.names(words):
            kind = "unnamed values"
        if left := tree(folder) - before:
            kind, before = "half-written folders", before | left
        counts[kind] += 1
        if kind != WANTED:
            bad.append(f"{kind}: {text}\n{done.text[-400:]}")
    return counts, bad


def report(counts: Counter[str], what: str, record_property: Callable[[str, object], None]) -> None:
    kinds = dict.fromkeys(("tracebacks", "silent results", "unnamed values", "half-written folders", *counts))
    kinds.pop(WANTED, None)
    total = sum(counts.values())
    record_property("counts", f"{total} {what}: " + ", ".join(f"{counts[kind]} {kind}" for kind in kinds))


@pytest.mark.slow
def test_every_malformed_line_is_refused(inputs: Path, record_property: Callable[[str, object], None]) -> None:
    counts, bad = judge_lines(inputs, [*lines.derived(), *lines.written()])
    report(counts, "malformed command lines", record_property)
    assert not bad, "\n\n".join(bad)
    assert counts[WANTED] >= LEAST_LINES


def test_some_malformed_lines_are_refused(inputs: Path) -> None:
    """The same of every twentieth line as typed."""
    _, bad = judge_lines(inputs, list(lines.written())[::20])
    assert not bad, "\n\n".join(bad)


def judge(counts: Counter[str], bad: list[str], name: str, done: Outcome, kinds: Sequence[str], words: str) -> None:
    """Adds one outcome, which should be of one of ``kinds``, with a line that has ``words``."""
    said = [done.text] if done.kind == "refused" else list(done.warnings)
    named = any(words in line and "\n" not in line for line in said)
    kind = WANTED if done.kind in kinds and named else "tracebacks" if done.kind == "traceback" else "silent results"
    counts[kind] += 1
    if kind != WANTED:
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


def image_folder(case: Case, folder: Path) -> str:
    """What became of one folder of images: ``WANTED``, or what is wrong."""
    case.write(folder)
    before = tree(folder)
    with pytest.MonkeyPatch.context() as patch:
        if case.large:
            patch.setattr(image_files, "LARGE", 1000)
        done = outcome(lambda: case.use(folder))
    if tree(folder) != before:
        return "half-written folders"
    must, said = case.must, [done.text] if done.kind == "refused" else list(done.warnings)
    if done.kind == "traceback":
        return "wrong pixels" if "AssertionError" in done.text else "tracebacks"
    if (done.kind == "refused") != (must.end == "refused"):
        return "silent results" if must.end == "refused" else "refusals of what is intact"
    if not must.words:
        return "needless warnings" if said else WANTED
    if not any(must.words in line and "\n" not in line for line in said):
        return "unnamed values"
    return WANTED


def image_folders(here: Path, counts: Counter[str], bad: list[str], every: Iterable[Case] | None = None) -> None:
    """Odd image files and folders, each with the outcome that it must have."""
    for number, case in enumerate(images.cases() if every is None else every):
        folder = here / "odd_images" / str(number)
        folder.mkdir(parents=True)
        kind = image_folder(case, folder)
        counts[kind] += 1
        if kind != WANTED:
            bad.append(f"{case.name}: {kind}; wanted {case.must.end} with {case.must.words!r}")


def model_weights(here: Path, counts: Counter[str], bad: list[str]) -> None:
    """Broken weights and configs: refused, or the network loads with the weights that it had."""
    intact = {False: families.make("ddpm", here / "ddpm"), True: families.make("kl", here / "kl")}
    whole = weights.Damage("none", lambda folder: None, None).load(intact[False])
    for damage in weights.damages():
        folder = here / "odd"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(intact[damage.latent], folder)
        damage.edit(folder)
        before = tree(folder)
        loaded: list[torch.Tensor] = []
        done = outcome(lambda damage=damage, folder=folder, loaded=loaded: loaded.append(damage.load(folder)))
        if tree(folder) != before or (here / "executed").exists():
            counts["half-written folders"] += 1
            bad.append(f"{damage.name}: left files behind")
        elif damage.words is None and loaded and not done.warnings:
            kind = WANTED if torch.allclose(loaded[0], whole, atol=1e-3) else "silent results"  # half precision
            counts[kind] += 1
            bad += [] if kind == WANTED else [f"{damage.name}: other weights"]
        else:
            judge(counts, bad, damage.name, done, ["refused"], damage.words or "nothing: it is intact")


FAMILIES = (results_files, sweep_files, model_files, image_folders, model_weights)


@pytest.mark.slow
def test_every_damaged_file_is_named(
    here: Path, tiny_model_folder: Files, record_property: Callable[[str, object], None]
) -> None:
    shutil.copytree(tiny_model_folder(size=16), here / "model")
    counts: Counter[str] = Counter()
    bad: list[str] = []
    for family in FAMILIES:
        family(here, counts, bad)
    report(counts, "damaged files, image folders and models", record_property)
    assert not bad, "\n\n".join(bad)
    assert counts[WANTED] >= LEAST_FILES


def test_some_odd_images_are_judged(here: Path) -> None:
    """The same of every ninth folder of images; a wrong expectation is noticed."""
    counts: Counter[str] = Counter()
    bad: list[str] = []
    every = list(images.cases())
    assert len(every) >= LEAST_FILES
    image_folders(here, counts, bad, every[::9])
    assert not bad, "\n\n".join(bad)
    wrong = Case("wrong", every[0].files, right(255 - images.RAMP))
    image_folders(here / "again", counts, bad, [wrong])
    assert bad == ["wrong: wrong pixels; wanted used with ''"]
