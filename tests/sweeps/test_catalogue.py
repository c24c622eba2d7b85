"""``unseen models`` and ``unseen domains``: every option states its size, source and licence."""

from collections.abc import Callable
from pathlib import Path

import pytest

from support.commands import run
from unseen_diffusion.sweeps.catalogue import entries


def test_models_say_what_is_here_and_how_to_get_the_rest(
    here: Path, capsys: pytest.CaptureFixture[str], tiny_model_folder: Callable[..., Path]
) -> None:
    """A converted model counts as here once its folder exists."""
    assert run("models") == 0
    said = capsys.readouterr().out
    assert all(f"{one.name}\n" in said for one in entries("model"))
    assert "photos32\n" in said
    assert "to fetch: download afhqdog_p2.pt, then unseen convert afhqdog_p2.pt models/afhqdog_p2" in said
    assert "the first run downloads google/ddpm-church-256" in said
    (here / "models").mkdir()
    (here / "models" / "afhqdog_p2").symlink_to(tiny_model_folder(size=16))
    assert run("models", "afhqdog_p2") == 0
    assert "here: ./models/afhqdog_p2" in capsys.readouterr().out
    assert run("models", "nothing") == 2


def test_domains_say_source_split_and_licence(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("domains") == 0
    said = capsys.readouterr().out
    assert said.count("  licence: ") == said.count("  split: ") == len(entries("domain"))
    assert "hub: huggan/AFHQ, revision 6983c553da3dcadd659953db9c925e7febeac88f" in said
    assert "from data/lsun_church (not here yet)" in said


def test_models_of_the_paper_state_size_cost_and_licence() -> None:
    """Every model to be fetched states resolution, parameters, memory, cost, address and licence in its header."""
    for one in entries("model"):
        if "/" not in str(one.values.get("path", "")):
            continue
        assert one.number(r"3x(\d+)x\d+"), one.name
        assert one.number(r"(\d+) M\b"), one.name
        assert one.number(r"~([\d.]+) GB \+"), one.name
        assert one.number(r"([\d.]+) GMAC per evaluation"), one.name
        assert one.note("Address").startswith("https://"), one.name
        assert one.note("Licence"), one.name
