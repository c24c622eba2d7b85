"""The help of every verb of the command line."""

from pathlib import Path
from typing import Any

import pytest

from support.commands import run
from unseen_diffusion.cli import VERBS


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
