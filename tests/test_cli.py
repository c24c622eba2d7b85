"""The command line: runs, sweeps, tables, help, and messages about bad input."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from PIL import Image

from support import ROOT
from support.commands import TINY, run
from support.finished_runs import Runs
from unseen_diffusion.cli import VERBS, help_text
from unseen_diffusion.domains import pool_of
from unseen_diffusion.rejection.settings import Rejection
from unseen_diffusion.reports.tables import load_results
from unseen_diffusion.runs.keys import FixedMixing, Paths, RunKeys
from unseen_diffusion.runs.results import flat_settings
from unseen_diffusion.runs.settings import check
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.sweeps.catalogue import entry
from unseen_diffusion.sweeps.composition import expand, run_config
from unseen_diffusion.sweeps.options import GROUPS, key_lines, options
from unseen_diffusion.sweeps.overrides import escape_values
from unseen_diffusion.utils.declarations import declared
from unseen_diffusion.utils.errors import InputError

NEEDED = {
    ("domain", "folder"): "domain.path",
    ("domain", "parquet"): "domain.path",
    ("domain", "hub"): "domain.id",
    ("model", "diffusers"): "model.path",
    ("experiment", "base_quality"): "model.path",
}
PAPER = (
    "released2023",
    "released2024",
    "paper_table1",
    "paper_table2",
    "fewshot",
)  # need weights and images of the hub


def results(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(folder.rglob("results.json"))]


def test_one_run_leaves_everything(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run writes results as JSON and Parquet, two sheets, a table, a log, Hydra's configs, and artefacts."""
    assert run("run", *TINY) == 0
    (folder,) = (here / "outputs" / "runs").iterdir()
    names = {path.name for path in folder.iterdir()}
    expected = {"results.json", "results.parquet", "samples.png", "reconstructions.png", "status.json", "run.log"}
    assert expected | {".hydra", "table.csv", "table.md"} <= names
    (found,) = results(folder)
    assert [row["row"] for row in found["rows"]] == ["generated", "held_out", "replay", "standard", "base_samples"]
    assert found["selection"]["proposals"] >= 12
    assert set(found["selection"]["passes"]) == {"pair_distance", "pair_angle", "origin_angle"}
    assert found["reconstruction"]["eta0"]["count"] == 6
    assert len(pd.read_parquet(folder / "results.parquet")) == 5
    assert "KID-H" in capsys.readouterr().out
    records = [json.loads(path.read_text()) for path in (here / "outputs" / "artefacts" / "invert").rglob("*.json")]
    # The references, and for the geometry the held-out images and the model's own samples.
    assert sorted(record["facts"]["evaluations"] for record in records) == [12 * 5, 20 * 5, 24 * 5]
    assert records[0]["environment"]["torch"]


def test_a_second_run_reuses_everything(here: Path) -> None:
    """The same command spends no network evaluation and gives the same scores."""
    assert run("run", *TINY) == 0
    assert run("run", *TINY) == 0
    first, second = results(here / "outputs" / "runs")
    spent = sorted((first["evaluations"]["total"], second["evaluations"]["total"]))
    assert spent[0] == 0
    assert spent[1] > 0
    assert first["rows"] == second["rows"]


def test_sweep_inverts_once_and_denoises_each_distinct_set_once(here: Path) -> None:
    """A sweep of 2 eta x 4 tolerances evaluates the network no more often than its distinct latents need."""
    sweep = ("bandwidth.eta=0,0.2", "tolerances=paper,calibrated,random,none")
    fewer = ("rejection.max_proposals=40000",)
    assert run("run", "-m", *TINY, *sweep, *fewer, "prior=isotropic") == 0
    found = results(here / "outputs" / "sweeps")
    assert len(found) == 8
    steps, references, samples, etas = 5, 24, 12, 2
    # With these references `calibrated` accepts every candidate, as `none` does: the same latents, denoised once.
    distinct = {r["rows"][0]["images"]: r["rows"][0]["n"] for r in found}
    assert len(distinct) == 3 * etas
    expected = {
        "inversion": references * steps,
        "generated": sum(distinct.values()) * steps,
        "replay": samples * etas * steps,
        "reconstruction at eta 0 beside another eta": 6 * steps,
        "N(0, I)": samples * etas * steps,
        "base model": samples * base_steps(here) + samples * etas * steps,
        "held-out latents": 20 * steps,
        "latents of the model's own samples": samples * etas * steps,
        "paths": 3 * 8 * 2 * steps,
    }
    assert sum(r["evaluations"]["total"] for r in found) == sum(expected.values())


def base_steps(here: Path) -> int:
    """The number of steps of the base model's latents, from the schedule's end to the mixing step."""
    record = json.loads(next((here / "outputs" / "artefacts" / "base_latents").rglob("artefact.json")).read_text())
    return record["facts"]["evaluations"] // 12


def test_mixing_steps_share_one_trajectory(here: Path) -> None:
    """A sweep over steps that mixing.record lists inverts once."""
    arguments = ("mixing.record=[300,500]", "scores=lean")
    lean = [a for a in TINY if not a.startswith("scores")]
    assert run("run", "-m", *lean, *arguments, "mixing.t=300,500") == 0
    assert len(list((here / "outputs" / "artefacts" / "invert").glob("*/artefact.json"))) == 1


def test_batch_size_changes_nothing(here: Path) -> None:
    """Samples depend on (seed, index), not on the batch size."""
    images = []
    lean = [a for a in TINY if not a.startswith("scores")]
    for size in (5, 64):
        assert (
            run("run", *lean, "scores=lean", f"batch_size={size}", f"paths.outputs=out{size}", "bandwidth.eta=0.3") == 0
        )
        (found,) = results(here / f"out{size}" / "runs")
        images.append(load_tensor(found["details"]["generated"], "images").int())
    difference = (images[0] - images[1]).abs()
    assert int(difference.max()) <= 1  # a rounding of the last float bit may tip the quantiser
    assert float((difference > 0).float().mean()) < 1e-3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["bandwidth.etaa=0.2"], "bandwidth.etaa: no such key (did you mean bandwidth.eta?)"),
        (["bandwidth.eta=1.5"], "bandwidth.eta=1.5: give a number between 0 and 1"),
        (["bandwidth.eta=high"], "bandwidth.eta=high: give a number"),
        (["mixing.t=1000"], "mixing.t=1000: give a number between 0 and 999"),
        (["mixing.t=0"], "t=0 is the image itself"),
        (["mixing.t=500", "mixing.record=[500.00001]"], "two steps that are equal to 6 digits"),
        (["prior=null"], "prior=null: choose an option by its name"),
        (["progress=maybe"], "progress=maybe: give true or false"),
        (["paths.outputs=/dev/null/x"], "paths.outputs=/dev/null/x: cannot write"),
        (["prior=low_rank", "prior.rank=30"], "domain.references=24: prior=low_rank needs 32 or more"),
        (["domain.references=5000"], "5000 references requested"),
        (["domain=galaxies"], "domain=galaxies: no such option; choose one of"),
        (["solver.steps=1"], "solver.steps=1: give 2 or more"),
        (["solver.grid=log"], "solver.grid=log: choose one of"),
        (["tolerances.k=1"], "tolerances.k=1: with 24 references give a number between 2 and 23"),
        (["solver.steps=10.5"], "solver.steps=10.5: give a whole number"),
        (["domain.references=many"], "domain.references=many: give a whole number"),
        (["+mixing.tt=300"], "mixing.tt: nothing reads this key"),
        (["+extra=1"], "extra: nothing reads this key"),
        (["solver=paper", "solver.steps=5", "mixing.t=500.5"], "whole timesteps only"),
        (["features=embedded", "features.folder=nowhere"], "features.folder=nowhere: no such file or folder"),
        (["prior=replay", "tolerances=random"], "tolerances=random needs a prior that samples"),
        (["samples=2"], "samples=2: give 6 or more, which the scores need"),
        (["samples=2.5"], "samples=2.5: give a whole number"),
        (["tolerances.k=24"], "tolerances.k=24: with 24 references give a number between 2 and 23"),
        (["tolerances.coverage=2"], "tolerances.coverage=2"),
        (["scores.target=train"], "scores.target=train: choose one of heldout, validation"),
        (["device=tpu"], "device=tpu: not available here"),
        (["tracking=wandb", "tracking.mode=maybe"], "tracking.mode=maybe: choose one of offline, online"),
        (["bandwidth.eta=0,0.1"], "a sweep"),
        (["-m", "bandwidth.eta=0,7"], "bandwidth.eta=7: give a number between 0 and 1"),
        (["model=diffusers", "model.path=./nowhere"], "model.path=./nowhere: no such folder"),
        (["model=diffusers"], "model.path: required"),
        (["scores.copy_quantile=abc"], "scores.copy_quantile=abc: give a number"),
        (["scores.membership=2"], "scores.membership=2: "),
        (["tolerances.coverage=[1]"], "tolerances.coverage=[1]: give a number"),
        (["tolerances=paper", "tolerances.tolerance.pair_angle=x"], "tolerances.tolerance.pair_angle=x: give a number"),
        (["tolerances=random", "tolerances.match.coverage=x"], "tolerances.match.coverage=x: give a number"),
        (["bandwidth=search", "bandwidth.resolution=x"], "bandwidth.resolution=x: give a"),
        (["mixing.record=[300"], "mixing.record=[300: Hydra cannot read this"),
        (["domain.path=Köln,Bonn"], "quotes inside quotes, such as 'domain.path=\"a, b\"'"),
        (["galaxies"], "galaxies: Hydra cannot read this"),
        (
            ["prior._target_=mypriors.Wide"],
            "prior._target_=mypriors.Wide: cannot be imported (No module named 'mypriors')",
        ),
        (["domain.name=${nope}"], "Interpolation key 'nope' not found"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    """Bad input gives one line that names value and remedy, exit code 2, and no file."""
    base = [a for a in TINY if not (arguments[0].startswith("model") and a.startswith("model."))]
    if arguments[0] == "features=embedded":
        base = [a for a in base if not a.startswith("features")]
    base = [a for a in base if not (a == "tracking=none" and "tracking=wandb" in arguments)]
    assert run("run", *base, *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert "\n" not in said
    assert list(here.iterdir()) == []


def test_missing_and_empty_folders(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder domain is checked before anything starts."""
    (here / "empty").mkdir()
    for name in ("missing", "empty"):
        base = [a for a in TINY if not a.startswith("domain")]
        assert run("run", *base, "domain=folder", f"domain.path={name}") == 2
        said = capsys.readouterr().err.strip()
        assert name in said
        assert "\n" not in said
    assert [path.name for path in here.iterdir()] == ["empty"]


def test_two_own_folders_are_two_domains(here: Path) -> None:
    """Rows, titles and wandb tags have the folder's name, or the one that the user gives."""
    for name, shade in (("galaxies", 1), ("clouds", 2)):
        (here / name).mkdir()
        for i in range(40):
            Image.new("RGB", (16, 16), (i, shade * i, 3 * i)).save(here / name / f"{i}.png")
    own = [a for a in TINY if not a.startswith("domain")] + ["domain=folder", "scores=lean", "bandwidth.eta=0"]
    assert run("run", "-m", *[a for a in own if "reconstructions" not in a], "domain.path=galaxies,clouds") == 0
    table = load_results([here / "outputs" / "sweeps"])
    assert set(table["domain"]) == {"galaxies", "clouds"}
    assert (table["row"] == "held_out").sum() == 2
    named = check(expand("run", [*own, "domain.path=clouds", "domain.name=nebulae"]).points[0])
    assert flat_settings(named, "")["domain"] == "nebulae"


def test_too_few_readable_images_are_counted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sizes of null are shares of all files; they are checked again after unreadable files are skipped."""
    (here / "photos").mkdir()
    for i in range(40):
        Image.new("L", (16, 16), i).save(here / "photos" / f"{i}.png")
        if i >= 5:
            (here / "photos" / f"{i}.png").write_bytes(b"damaged" * i)
    own = [a for a in TINY if not a.startswith("domain")]
    assert run("run", *own, "domain=folder", "domain.path=photos", "domain.on_unreadable=skip") == 1
    said = capsys.readouterr().out
    assert "domain=photos: only 5 of 40 files are readable, which leaves 0 references" in " ".join(said.split())
    assert "domain.references" not in said


@pytest.mark.parametrize(
    "name",
    ["Köln", "My Photos (2020)", "x=y", "a,b", "it's", "[a]", "{a: b}", "2020", "a;b", "tab\t#1", 'a"b', "x\\"],
)
def test_ordinary_paths_are_read_as_they_are(here: Path, name: str) -> None:
    """Such a path reaches the config whole, though Hydra's grammar gives its characters a meaning."""
    (here / name).mkdir()
    (point,) = expand("run", escape_values(["domain=folder", f"domain.path={name}"])).points
    assert point.domain.path == name


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("domain.path=Köln", "domain.path='Köln'"),
        ("domain.path=~/My photos", "domain.path={home}/My photos"),
        ("domain.path=~/a,~/b", "domain.path={home}/a,{home}/b"),
        ("paths.outputs=~", "paths.outputs={home}"),
        ("paths.outputs=2024", "paths.outputs='2024'"),
        ("training.folder=1e5", "training.folder='1e5'"),
        ("training.folder=-1.50", "training.folder='-1.50'"),
        ("domain.path=2023,a,2024.10", "domain.path='2023',a,'2024.10'"),
        ("domain.path='2023'", "domain.path='2023'"),
        ("domain.path=range(1,3)", "domain.path=range(1,3)"),
        ("bandwidth.eta=0,0.1", "bandwidth.eta=0,0.1"),
        ("mixing.record=[300,500]", "mixing.record=[300,500]"),
        ("domain.path='a,b'", "domain.path='a,b'"),
        ("domain.path=", "domain.path="),
        ("~tracking.project", "~tracking.project"),
        ("seed=1", "seed=1"),
        ("-m", "-m"),
    ],
)
def test_only_what_needs_it_is_quoted(here: Path, monkeypatch: pytest.MonkeyPatch, word: str, expected: str) -> None:
    """Only values of paths are quoted, even where a file has the name of another value; ~ becomes the home folder."""
    monkeypatch.setenv("HOME", str(here))
    (here / "1").touch()
    assert escape_values([word]) == [expected.format(home=here)]


@pytest.mark.parametrize("verb", ["run", "train"])
def test_folders_named_like_numbers(here: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    """A numeric name works for output folders, existing or new; a missing folder of images is named in an error."""
    (here / "2025").mkdir()
    for name in ("2024", "2025"):
        (point,) = expand(verb, escape_values([f"paths.outputs={name}"])).points
        assert Path(point.paths.store) == Path(name, "artefacts")
    own = ["data=folder", "data.path=2023"] if verb == "train" else ["domain=folder", "domain.path=2023"]
    folders = ["training.folder=2022"] if verb == "train" else []
    assert run(verb, *own, *folders, "tracking=none", "paths.outputs=2024") == 2
    said = capsys.readouterr()
    assert f"{here}/2023: no such folder" in "".join((said.err + said.out).split("\n"))


@pytest.mark.parametrize("verb", ["run", "train"])
def test_home_is_no_folder_called_tilde(here: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    """~ works in every folder; where Hydra does not expand it, the error asks for the full path."""
    monkeypatch.setenv("HOME", str(here))
    sweep = expand(verb, escape_values(["paths.outputs=~/out"]))
    assert here / "out" in sweep.folder.parents
    assert sweep.points[0].paths.store == f"{here}/out/artefacts"
    for key in ("paths.outputs", "paths.store", "tracking.folder", *(["training.folder"] if verb == "train" else [])):
        with pytest.raises(InputError, match=rf"^{key}=~/out: .*; write {key}={here}/out$"):
            expand(verb, escape_values([f"{key}='~/out'"]))
        with pytest.raises(InputError, match=rf"^{key}=2024: give a folder as text; .* write '2024' in quotes$"):
            expand(verb, [f"{key}=2024"])


def test_a_failed_point_does_not_stop_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with impossible tolerances fails and reports what it measured; the rest of the sweep finishes."""
    impossible = ("rejection.max_proposals=64", "tolerances=paper,none", "solver.steps=4")
    assert run("run", "-m", *TINY, *impossible) == 1
    said = capsys.readouterr().out
    assert "1 of 2 runs done" in said
    assert "pair_distance" in said
    states = [json.loads(p.read_text())["state"] for p in sorted((here / "outputs/sweeps").rglob("status.json"))]
    assert states == ["failed", "done"]


def test_fewer_than_the_scores_need_are_not_denoised(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """rejection.allow_fewer accepts fewer samples, but not fewer than the scores need."""
    fewer = ("rejection.max_proposals=12", "rejection.allow_fewer=true", "tolerances.coverage=0.12", "prior=isotropic")
    assert run("run", *TINY, *fewer) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "of 12 latents accepted after 12 proposals, but the scores need 6; widen the tolerances" in said
    assert "rejection.allow_fewer=true" not in said
    assert not (here / "outputs" / "artefacts" / "denoise").exists()


def test_table_saves_every_format(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Terminal, CSV, Markdown and LaTeX; comparison rows that runs share appear once."""
    assert run("run", "-m", *TINY, "tolerances=calibrated,none") == 0
    capsys.readouterr()
    saved = [f"--save=t.{suffix}" for suffix in ("csv", "md", "tex")]
    assert run("table", "outputs/sweeps", *saved) == 0
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80
    table = pd.read_csv("t.csv")
    assert sorted(table["row"]) == ["base_samples", "generated", "generated", "held_out", "replay", "standard"]
    assert (here / "t.md").read_text().startswith("| images")
    assert r"\begin{tabular}" in (here / "t.tex").read_text()
    assert run("table", "nowhere") == 2
    assert run("table", "outputs/sweeps", "--save=t.docx") == 2


def test_wandb_offline_logs_scores_table_and_pictures(here: Path) -> None:
    """wandb needs no account, prompt or network, and writes below outputs/wandb."""
    base = [a for a in TINY if a != "tracking=none"]
    assert run("run", *base) == 0
    (session,) = (here / "outputs" / "wandb" / "wandb").glob("offline-run-*")
    media = {path.suffix for path in session.rglob("media/**/*") if path.is_file()}
    assert {".png", ".json"} <= media
    assert next(session.glob("*.wandb")).stat().st_size > 1000


def one_at_a_time(group: str, name: str) -> list[list[str]]:
    """Overrides that sweep one parameter of an experiment's sweep at a time, the others at their first value."""
    config = OmegaConf.load(ROOT / "conf" / group / f"{name}.yaml")
    params = OmegaConf.select(config, "hydra.sweeper.params") or {}
    params = {key: value for key, value in params.items() if "+" not in key}  # tests/sweeps/test_paper.py
    sweeps = {key: OverridesParser.create().parse_override(f"{key}={value}") for key, value in params.items()}
    if any(sweep.is_interval_sweep() for sweep in sweeps.values()):  # of a search, whose ends are checked together
        return [[]]
    values = {
        key: list(sweep.sweep_string_iterator()) if sweep.is_sweep_override() else [params[key]]
        for key, sweep in sweeps.items()
    }
    first = {key: f"{key}={found[0]}" for key, found in values.items()}
    lines = [list(first.values())] if first else [[]]
    for key, (_, *others) in values.items():  # the point of all first values once
        if others:
            swept = ",".join(map(str, others))
            lines.append([f"{key}={swept}", *(first[other] for other in first if other != key)])
    return lines


@pytest.mark.parametrize(
    "group", [pytest.param(group, marks=[pytest.mark.slow] * (group == "experiment")) for group in GROUPS]
)
def test_every_option_composes_and_passes_the_checks(
    here: Path, tiny_model_folder: Callable[..., Path], group: str
) -> None:
    """Composes and checks every option of a group of conf/, with required values filled in."""
    (here / "images").mkdir()
    for i in range(40):
        Image.new("RGB", (16, 16), (i, 2 * i, 3 * i)).save(here / "images" / f"{i}.png")
    pd.DataFrame({"image": [p.read_bytes() for p in sorted((here / "images").iterdir())], "label": 0}).to_parquet(
        here / "images.parquet"
    )
    values = {
        "model.path": tiny_model_folder(size=32),
        ("domain", "folder"): here / "images",
        ("domain", "parquet"): here / "images.parquet",
    }
    small = ["domain.references=12", "domain.validation=4", "domain.heldout=6", "tolerances=none"]
    for name, line in options()[group]:
        assert line, f"conf/{group}/{name}.yaml: its first line is a comment for the help"
        if (group, name) == ("domain", "hub"):
            continue  # needs a network: tests/domains/test_domains.py has its offline message
        if (group, name) == ("experiment", "optuna") and find_spec("hydra_plugins.hydra_optuna_sweeper") is None:
            continue  # an extra
        overrides = [f"{group}={name}"]
        if (key := NEEDED.get((group, name))) is not None:
            overrides.append(f"{key}={values.get(key, values.get((group, name)))}")
        if group == "experiment" and name in PAPER:
            overrides += [f"model.path={values['model.path']}", "domain=noise", "domain.references=12"]
        if group == "method" and name == "dreambooth_lora":
            continue  # needs a text model: tests/training/test_dreambooth.py
        if group == "model" and name not in ("analytic", "photos32", "digits32", "untrained", "diffusers"):
            overrides.append(f"model.path={values['model.path']}")
        if group == "domain" and entry("domain", name).values.get("id"):
            continue  # reads the hub: tests/domains/test_domains.py has a stand-in
        if group == "domain" and str(entry("domain", name).values.get("path")).startswith("data/"):
            overrides.append(f"domain.path={here / 'images'}")
        if group == "domain" and name in ("mnist", "cifar10"):
            overrides.append(f"domain.path={here / 'images.parquet'}")
        if group == "tolerances":
            overrides.append("domain.references=40")
        for swept in one_at_a_time(group, name):
            for point in expand("run", [*(small if group == "domain" else []), *overrides, *swept]).points:
                settings = check(point)
                assert settings.spec.size >= 8


def test_help_explains_every_group() -> None:
    """unseen --help names every group and every option."""
    text = help_text()
    for group, entries in options().items():
        assert f"\n  {group}\n" in text
        assert entries
    assert len(options()) == len(GROUPS)


def test_help_explains_every_key_of_a_run() -> None:
    """unseen --help has a line for each key of the composed config that is no group to choose from."""
    config = run_config(expand("run", []).points[0])
    keys = {key: value for key, value in config.items() if key not in GROUPS}
    keys |= {f"paths.{key}": value for key, value in config["paths"].items()}
    keys |= {f"rejection.{key}": value for key, value in keys.pop("rejection").items()}
    shown = {line.partition("=")[0]: (line, text) for line, text in key_lines()}
    assert set(shown) == set(keys)
    for key, value in keys.items():
        setting, comment = shown[key]
        assert yaml.safe_load(setting.partition("=")[2]) == value
        assert len(comment) > 10


def test_comments_of_the_configs_are_the_declared_meanings() -> None:
    """What a reader of conf/run.yaml sees beside a key is what the help says of it."""
    lines = [line.strip() for name in ("run", "paths/default", "mixing/fixed") for line in conf_lines(name)]
    for kind in (RunKeys, Rejection, Paths, FixedMixing):
        for one in declared(kind):
            assert any(line.startswith(f"{one.name}: ") and line.endswith(f" # {one.meaning}") for line in lines), one


def conf_lines(name: str) -> list[str]:
    """Lines of a file of conf/."""
    return (ROOT / "conf" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["--help", "bandwidht"], ["run", "bandwidth.etta=0.1"], ["nosuch"]]
)
def test_help_and_typos_are_answered_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom unseen_diffusion.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "sys.exit(bool({'torch', 'pandas', 'scipy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_help_of_a_group_shows_what_its_classes_declare(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help", "mixing") == 0
    said = capsys.readouterr().out
    assert "Keys of mixing=fixed" in said
    assert "Keys of mixing=search" in said
    for group in GROUPS:
        assert run("--help", group) == 0
    capsys.readouterr()
    assert run("--help", "mixin") == 2
    assert "did you mean mixing?" in capsys.readouterr().err


def test_own_configs_come_first(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in $UNSEEN_CONF replaces that of the same name in conf/; a new one is a new option."""
    (here / "mine" / "bandwidth").mkdir(parents=True)
    (here / "mine" / "bandwidth" / "fixed.yaml").write_text("# mine\neta: 0.7\n")
    (here / "mine" / "bandwidth" / "wide.yaml").write_text("# wide\neta: 0.9\n")
    monkeypatch.setenv("UNSEEN_CONF", str(here / "mine"))
    assert check(expand("run", [*TINY]).points[0]).eta == 0.7
    assert check(expand("run", [*TINY, "bandwidth=wide"]).points[0]).eta == 0.9
    assert ("wide", "wide") in options()["bandwidth"]
    monkeypatch.setenv("UNSEEN_CONF", str(here / "none"))
    with pytest.raises(InputError, match="no such folder"):
        expand("run", [*TINY])


def test_own_images_join_a_sweep_over_domains(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four lines of the README's "Your configs" make a domain of a folder of images."""
    readme = (ROOT / "README.md").read_text()
    lines = readme.partition("```yaml\n# My galaxies\n")[2].partition("```")[0]
    (here / "mine" / "domain").mkdir(parents=True)
    (here / "mine" / "domain" / "galaxies.yaml").write_text(lines)
    (here / "my_images").mkdir()
    for i in range(60):
        Image.new("L", (16, 16), i).save(here / "my_images" / f"{i}.png")
    monkeypatch.setenv("UNSEEN_CONF", "mine")
    points = expand("run", ["-m", "tracking=none", "domain=hubble,galaxies"]).points
    settings = [check(point) for point in points]
    assert [one.domain.name for one in settings] == ["hubble", "galaxies"]
    assert len(pool_of(settings[1].domain, 32, 3).names) == 60


def test_a_sweep_over_any_key_keeps_its_points_apart(here: Path) -> None:
    """Keys beyond the usual settings become columns instead of being merged away."""
    assert run("run", "-m", *TINY, "prior=low_rank", "prior.rank=3,6", "bandwidth.eta=0") == 0
    table = load_results([here / "outputs" / "sweeps"])
    assert sorted(table.loc[table["row"] == "generated", "prior.rank"]) == [3, 6]
    assert (table["row"] == "held_out").sum() == 1


def test_domains_keep_their_own_comparison_rows(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every domain has its own row of the shared N(0, I) images; the table fits into 80 columns."""
    wide = [*(a for a in TINY if a != "domain=digits8"), "scores.paths=0", "scores.geometry=0"]
    assert run("run", "-m", *wide, "domain=digits8,textures", "bandwidth.eta=0,0.2", "tolerances=calibrated,none") == 0
    table = load_results([here / "outputs" / "sweeps"])
    counts = table.groupby(["domain", "row"]).size()
    for domain in ("digits8", "textures"):
        assert counts[domain]["held_out"] == 1
        assert counts[domain]["standard"] == counts[domain]["replay"] == counts[domain]["base_samples"] == 2
    out = capsys.readouterr().out
    out = out[out.index("runs done") :]
    assert "…" not in out
    assert max(len(line) for line in out.splitlines() if not line.startswith("pictures")) <= 80


def test_tables_refuse_other_json(here: Path) -> None:
    """A results.json of another program is refused."""
    (here / "results.json").write_text('{"hardware": "a card"}')
    assert run("table", ".") == 2


def test_train_names_bad_input(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing value or a bad number gives one line before anything is written."""
    assert run("train") == 2
    assert "training.data.path: required" in capsys.readouterr().err
    assert run("train", "training.data.path=x.parquet", "training.loop.steps=0") == 2
    assert "steps=0" in capsys.readouterr().err
    assert run("train", "training=photos64") == 2
    assert "choose one of base, digits32, features32, photos32" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_one_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run, a training, a report and a table each name the file."""
    (here / "file").touch()
    file = Runs(here).run("fitted")
    for words in (
        ["run", *TINY, "hydra.run.dir=file/run"],
        ["train", "data=folder", "data.path=x", "hydra.run.dir=file/run"],
        ["train", "data=folder", "data.path=x", "training.folder=file"],
        ["report", str(file), "-o", "file/x.html"],
        ["table", str(file), "--save", "file/x.csv"],
    ):
        assert run(*words) == 2
        said = capsys.readouterr().err.strip()
        assert "file" in said
        assert "choose another" in said
        assert "\n" not in said


@pytest.mark.parametrize("verb", ["run", "resume", "train", "solvers", "status"])
def test_an_interrupted_command_exits_with_130(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """128 + SIGINT, as shells expect; one line on stderr and no traceback."""

    def interrupted(arguments: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(VERBS, verb, replace(VERBS[verb], call=interrupted))
    assert run(verb, "anything") == 130
    assert capsys.readouterr().err == "unseen: interrupted; finished stages are kept and will be reused\n"


def test_unknown_verbs_and_no_arguments(here: Path) -> None:
    """An unknown verb and no verb exit with code 2, --help with 0."""
    assert run("fly") == 2
    assert run() == 2
    assert run("--help") == 0


@pytest.mark.slow
def test_the_wheel_runs_from_an_empty_folder(tmp_path: Path) -> None:
    """The wheel is built, installed into a fresh venv (its dependencies by path), and run outside the checkout."""
    root = ROOT
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path / "dist"), str(root)]
    subprocess.run(build, check=True, capture_output=True, timeout=240)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True, timeout=120)
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    subprocess.run(
        [*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True, capture_output=True, timeout=240
    )
    dependencies = Path(pd.__file__).parents[1]
    (site / "dependencies.pth").write_text(f"{dependencies}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    code = "import unseen_diffusion.cli as c; print(c.__file__); c.main()"
    command = [str(tmp_path / "venv" / "bin" / "python"), "-c", code, "run", *TINY]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(site) in done.stdout
    assert results(empty / "outputs")
