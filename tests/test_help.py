"""The help of every verb of the command line."""

from pathlib import Path
from typing import Any

import pytest

from support.commands import run
from unseen_diffusion import cli
from unseen_diffusion.cli import VERBS
from unseen_diffusion.sweeps import help_texts


@pytest.mark.parametrize("flag", ["--help", "-h"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_prints_its_help_and_does_nothing_else(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, verb: str, flag: str
) -> None:
    """Exit code 0, the verb's name at the top, no other output, no file, no network evaluated."""

    def evaluates(*arguments: Any, **values: Any) -> None:
        raise AssertionError("evaluates a network")

    monkeypatch.setattr("torch.nn.Module.__call__", evaluates)
    monkeypatch.setattr("unseen_diffusion.models.analytic.GaussianModel.__call__", evaluates, raising=False)
    assert run(verb, flag) == 0
    said = capsys.readouterr()
    assert f"unseen {verb}" in said.out.partition("\n")[0]
    assert said.err == ""
    assert list(here.iterdir()) == []


def test_columns_wrap_texts_below_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    entries = [("key", "word " * 20), ("longer", ""), ("x" * 50, "text")]
    assert help_texts.columns(entries[:2], 2) == [
        "  key     " + " ".join(["word"] * 12),
        "          " + " ".join(["word"] * 8),
        "  longer",
    ]
    assert help_texts.columns([], 2) == []
    assert help_texts.columns(entries[2:], 1) == [
        " " + "x" * 50 + "  text"
    ]  # a long name does not move the others' texts


def test_help_of_a_group_and_of_everything_in_columns() -> None:
    lines = help_texts.group_help("mixing").splitlines()
    assert lines[:2] == ["Options of mixing:", ""]
    assert all(line.startswith("  ") and line[2] != " " for line in lines[2:4])
    assert lines[-2:] == ["", "unseen run --cfg job mixing=OPTION prints an option's values."]
    everything = cli.help_text().splitlines()
    assert everything[0].startswith("unseen: ")
    assert "" in everything
    for group in ("model", "mixing"):
        place = everything.index(f"  {group}")
        assert everything[place - 1] == ""
        assert everything[place + 1].startswith("    ")
        assert everything[place + 1][4] != " "
    training = help_texts.train_help().splitlines()
    assert training[-1] == "unseen train --cfg job prints every key of a training."
    assert training[training.index("  training") + 1][:5].strip(" ")
    assert [line for line in training if line.strip() in ("data", "training")] == ["  data", "  training"]


def test_public_names_are_listed() -> None:
    import unseen_diffusion

    names = dir(unseen_diffusion)
    assert names == sorted(names)
    assert {"invert", "denoise", "kid", "__file__", "__all__"} <= set(names)
