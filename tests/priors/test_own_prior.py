"""A prior and tolerances of the user's own: a module and two YAML files in a folder, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.commands import TINY, run
from unseen_diffusion import priors
from unseen_diffusion.utils.seeds import normal_rows

MODULE = '''
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unseen_diffusion.priors import FittedPrior, Prior
from unseen_diffusion.rejection import Band, Tolerances
from unseen_diffusion.utils.checked import Positive, settings
from unseen_diffusion.utils.seeds import normal_rows


@dataclass(frozen=True)
class WideNormal(FittedPrior):
    mean: Tensor
    scale: Tensor

    def sample(self, indices, seed):
        noise = normal_rows(tuple(self.mean.shape), seed, "candidate", list(indices))
        return (self.mean + self.scale * noise).float()


@settings("prior")
class Wide(Prior):
    """Mean vector and a multiple of the standard deviation of each coordinate."""

    factor: Positive
    """multiple of the standard deviation"""
    fitted: ClassVar = WideNormal

    def fit(self, latents, id_latents=None):
        mean, residuals = self.residuals(latents)
        return WideNormal(mean, self.factor * residuals.std(0))


@settings("tolerances")
class Upright(Tolerances):
    """An angle to the origin of at most ``most`` degrees."""

    most: Positive
    """largest angle in degrees"""

    def bands(self, references, seed):
        return {"origin_angle": Band(0.0, self.most)}
'''
PRIOR = "_target_: own_prior.Wide\nname: wide\nfactor: 1.5\n"
TOLERANCES = "_target_: own_prior.Upright\nname: upright\nmost: 180.0\nk: 5\n"


@pytest.fixture
def own(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of configs, and a module that this process and others can import."""
    for group, name, text in (("prior", "wide", PRIOR), ("tolerances", "upright", TOLERANCES)):
        path = here / "conf" / group / f"{name}.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    (here / "own_prior.py").write_text(MODULE)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(here), os.environ["PYTHONPATH"])))
    monkeypatch.setenv("UNSEEN_CONF", str(here / "conf"))
    monkeypatch.delitem(sys.modules, "own_prior", raising=False)
    return here


def results(folder: str) -> dict:
    return json.loads(Path(folder, "results.json").read_text())


def test_it_runs_and_another_process_restores_it(own: Path) -> None:
    """The second process finds the fitted prior in the store, and draws from it within other bands."""
    words = [*TINY, "prior=wide", "tolerances=upright", "scores.reconstructions=0"]
    assert run("run", *words, "hydra.run.dir=first") == 0
    first = results("first")
    assert (first["settings"]["prior"], first["settings"]["tolerances"]) == ("wide", "upright")
    words += ["tolerances.most=179.0", "hydra.run.dir=second"]
    code = f"from unseen_diffusion.cli import main; main({['run', *words]!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    second = results("second")
    reused = {one["stage"]: one["reused"] for one in second["artefacts"]}
    assert reused["prior"]
    assert not reused["select"]
    assert second["selection"]["bands"] == {"origin_angle": [0.0, 179.0]}
    scores = ("n", "images")
    assert [first["rows"][0][name] for name in scores] == [second["rows"][0][name] for name in scores]


def test_its_settings_are_checked(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", *TINY, "prior=wide", "prior.factor=0") == 2
    assert "prior.factor=0: give a number above 0" in capsys.readouterr().err
    assert run("run", *TINY, "prior=wide", "rejection.route=exact_statistics") == 2
    assert "prior=wide has no spherical rest; set rejection.route=direct" in capsys.readouterr().err


def test_saved_domains_name_classes_of_this_package_alone(own: Path) -> None:
    """A domain's files may come from anyone: what they name is never imported."""
    import own_prior

    fitted = own_prior.Wide(name="wide", factor=2.0).fit(normal_rows((3, 4, 4), 0, "latents", range(6)))
    assert not priors.is_restorable(fitted)
    for kind in ("WideNormal", "own_prior.WideNormal"):
        with pytest.raises(KeyError):
            priors.restore(kind, fitted.tensors())
