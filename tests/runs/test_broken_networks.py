"""``unseen run`` with a network that overflows or has NaN: one line, an exit code that is not 0, and no results."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from support import TinyModelFolder
from support.commands import TINY, run
from unseen_diffusion.models.analytic import GaussianModel, linear_schedule
from unseen_diffusion.models.base import ModelSpec, Prediction
from unseen_diffusion.models.folders import WEIGHTS
from unseen_diffusion.models.schedules import Node

SMALL = [word for word in TINY if not word.startswith("model")]
METHODS = (["method=base_samples"], ["method=fitted"])


@pytest.fixture
def broken(tiny_model_folder: TinyModelFolder, here: Path) -> Callable[[float], list[str]]:
    """Arguments of a model whose first layer has one weight everywhere."""

    def make(value: float) -> list[str]:
        weights = Path(shutil.copytree(tiny_model_folder(size=16), here / "broken")) / "unet" / WEIGHTS
        tensors = load_file(weights)
        tensors["conv_in.weight"].fill_(value)
        save_file(tensors, weights, metadata={"format": "pt"})
        return ["model=diffusers", "model.path=broken"]

    return make


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line with which a run ends that writes no results."""
    assert run("run", *SMALL, *arguments) != 0
    said = capsys.readouterr()
    (log,) = Path("outputs").rglob("run.log")
    assert "Traceback" not in said.err + said.out + log.read_text()
    assert not list(Path("outputs").rglob("results.json"))
    return log.read_text().splitlines()[-1]


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_not_finite_stop_the_run(
    method: list[str], broken: Callable[[float], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*broken(float("nan")), *method], capsys)
    assert "unet's tensor conv_in.weight is not finite; download its weights again" in line


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_overflows_stops_the_run(
    method: list[str], broken: Callable[[float], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """On zeros, with which a model is tried, its output is finite; on noise it is not."""
    line = refused([*broken(3e38), *method], capsys)
    assert "not finite" in line
    assert "model.dtype=float32" in line


class Foreign(GaussianModel):
    """A model of someone else's, without declarations; what it can take is not known before it is tried."""

    tried = False

    def __init__(self, size: int, channels: int, takes: int, built: int, device: Any = "cpu", name: str = "") -> None:
        ones = torch.ones(channels * built**2)
        super().__init__(torch.zeros(channels, built, built), None, ones, linear_schedule(), name)
        self.takes = takes

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        if x.shape[-1] != self.takes:
            raise RuntimeError(f"expected size {self.takes} but got {x.shape[-1]}\nin a deep place")
        return super()._predict(x, node)


FOREIGN = ["model=analytic", "+model.takes=16", "+model.built=16", "~model.std", "~model.slope", "model.size=16"]
FOREIGN.append(f"model._target_={__name__}.Foreign")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["model.takes=8"], "Foreign cannot take a state of 3x16x16 (expected size 8 but got 16); correct the size"),
        (["model.size=8"], "model.size=8: the model has 3 channels and size 16; set them in its config"),
    ],
)
def test_a_foreign_model_is_tried_on_one_image(
    changes: list[str], words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused([*FOREIGN, *changes], capsys)


def test_a_foreign_model_that_fits_runs_and_its_trial_is_not_counted(here: Path) -> None:
    assert run("run", *SMALL, *FOREIGN, "method=base_samples") == 0
    model = Foreign(16, 3, 16, 16)
    assert (model.evaluations, model.spec[:2]) == (0, ModelSpec(3, 16, linear_schedule())[:2])
