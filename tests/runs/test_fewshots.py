"""1, 5 and 10 references work: what needs more of them follows their number, and says so."""

import json
from pathlib import Path

import pytest

from support.commands import TINY, run
from unseen_diffusion.runs.settings import check
from unseen_diffusion.sweeps.composition import expand

SMALL = [word for word in TINY if not word.startswith("domain.references")]


@pytest.mark.parametrize(
    ("count", "more", "k", "neighbours"),
    [(1, ["prior=slerp_id", "prior.id_count=6"], None, 5), (5, [], 4, 4), (10, [], 9, 5)],
)
def test_few_references_run_to_their_end(
    here: Path, capsys: pytest.CaptureFixture[str], count: int, more: list[str], k: int | None, neighbours: int
) -> None:
    arguments = [*SMALL, f"domain.references={count}", *more, "scores.reconstructions=2"]
    assert run("run", *arguments, "hydra.run.dir=out") == 0
    found = json.loads(Path("out/results.json").read_text())
    said = capsys.readouterr().out
    settings = check(expand("run", arguments).points[0])
    assert settings.tolerances.judges == (k is not None)
    assert settings.scores.neighbours == neighbours
    if k is None:
        assert found["settings"]["tolerances"] == "none"
        assert "every candidate is kept" in said
        assert [row["row"] for row in found["rows"]] == ["generated", "standard", "base_samples"]
        assert found["rows"][0]["kid_r"] is None
    else:
        assert f"tolerances.k={k} instead of 10" in said
        assert settings.tolerances.k == settings.tolerances_config["k"] == found["config"]["tolerances"]["k"] == k
        assert found["rows"][0]["fid_r"] is not None


def test_enough_references_change_nothing(here: Path) -> None:
    settings = check(expand("run", list(TINY)).points[0])
    assert settings.tolerances.k == settings.tolerances_config["k"] == 10
    assert settings.scores.neighbours == 5


def test_a_random_control_follows_its_match(here: Path) -> None:
    settings = check(expand("run", [*SMALL, "domain.references=5", "tolerances=random"]).points[0])
    assert settings.tolerances.k == settings.tolerances.match.k == settings.tolerances_config["match"]["k"] == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["domain.references=5", "tolerances.k=8"], "tolerances.k=8: with 5 references give a number between 2 and 4"),
        (["domain.references=1"], "choose another prior, such as slerp_id or replay"),
        (["domain.references=3", "method=held_out"], "method=held_out shows them; give 4 or more"),
    ],
)
def test_what_cannot_follow_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert run("run", *SMALL, *overrides) == 2
    assert message in capsys.readouterr().err
