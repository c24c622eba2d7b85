"""A user's own domain needs one source file and one config, and no change of the package."""

import json
import sys
from pathlib import Path

import pytest

from support.commands import TINY, run

MODULE = '''
"""Stripes: vertical bars of random widths."""

import numpy as np

from unseen_diffusion.domains import Domain, Pool, array_pool
from unseen_diffusion.utils.checked import Count, settings


@settings("domain")
class Stripes(Domain):
    """Images of vertical bars."""

    name: str = "stripes"
    source: str = "drawn here"
    licence: str = "CC0"
    count: Count
    """number of images"""

    def pool(self, size: int, channels: int) -> Pool:
        """The bars, drawn from one seed."""
        rng = np.random.default_rng(0)
        images = [255.0 * np.repeat(rng.random((1, 16, 1)), 16, axis=0) for _ in range(self.count)]
        return array_pool([f"stripes-{index}" for index in range(self.count)], images, size, channels)
'''
CONFIG = """
# Stripes: vertical bars of random widths.
_target_: mine.Stripes
references: 24
validation: 10
heldout: 20
count: 60 # images
"""


@pytest.fixture
def own_domain(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mine.py, which Python finds, and a config folder of the user's own."""
    (here / "mine.py").write_text(MODULE)
    (here / "settings" / "domain").mkdir(parents=True)
    (here / "settings" / "domain" / "mine.yaml").write_text(CONFIG)
    monkeypatch.setenv("UNSEEN_CONF", str(here / "settings"))
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return here


def test_a_domain_outside_the_package_runs(own_domain: Path) -> None:
    tiny = [word for word in TINY if not word.startswith("domain")]
    assert run("run", "domain=mine", *tiny) == 0
    (results,) = (own_domain / "outputs").rglob("results.json")
    assert json.loads(results.read_text())["settings"]["domain"] == "stripes"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("domain.count=0", "domain.count=0: give a whole number of 1 or more"),
        ("domain.references=2.5", "domain.references=2.5: give a whole number"),
        ("domain.references=50", "domain=stripes: 50 references requested, but 30 are left after 20 held-out and 10"),
        ("+domain.cuont=3", "domain.cuont: nothing reads this key; did you mean count?"),
    ],
)
def test_its_values_are_checked_like_those_of_the_package(
    own_domain: Path, capsys: pytest.CaptureFixture[str], word: str, message: str
) -> None:
    tiny = [word for word in TINY if not word.startswith("domain")]
    assert run("run", "domain=mine", *tiny, word) == 2
    assert message in capsys.readouterr().err
    assert not (own_domain / "outputs").exists()
