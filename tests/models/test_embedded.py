"""What ships inside the package, and the demo in small."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unseen_diffusion.cli import main
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.folders import WEIGHTS, embedded_folder
from unseen_diffusion.models.schedules import CLEAN_NODE


@pytest.mark.parametrize("name", ["photos32", "digits32"])
def test_base_models_are_small_and_documented(name: str) -> None:
    """At most 5 M parameters and 10 MB in half precision, with a card that has the command and the quality."""
    folder = embedded_folder(name)
    weights = folder / "unet" / WEIGHTS
    assert weights.stat().st_size <= 10_000_000
    tensors = load_file(weights)
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert sum(value.numel() for value in tensors.values()) <= 5_000_000
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"unseen train training={name}" in card
    assert "KID x 1000" in card
    assert (folder / "samples.png").is_file()
    assert (folder / "loss.png").is_file()


@pytest.mark.parametrize("name", ["photos32", "digits32"])
def test_base_models_predict_noise(name: str) -> None:
    """At t = 500 the network explains most of the noise of a smooth image: a mean squared error far below 1."""
    model = DiffusersModel(f"embedded:{name}")
    ramp = torch.linspace(-1, 1, 32)
    image = ((ramp[:, None] + ramp[None, :]) / 2).expand(4, *model.shape)
    eps = torch.randn(4, *model.shape, generator=torch.Generator().manual_seed(0))
    node = model.schedule.node(500)
    predicted = model.predict(node.alpha * image + node.sigma * eps, node).eps
    assert float((predicted - eps).square().mean()) < 0.1
    assert bool(model.predict(image, CLEAN_NODE).denoised.isfinite().all())


def test_the_demo_runs_tiny(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two of its priors, few images, few steps: the same path as `make demo`, on real galaxies."""
    monkeypatch.chdir(tmp_path)
    small = ["samples=12", "solver.steps=3", "domain.references=40", "scores.reconstructions=4", "progress=false"]
    with pytest.raises(SystemExit) as exit_:
        main(["run", "experiment=demo", "prior=sample_covariance,isotropic", *small])
    assert exit_.value.code == 0
    (sweep,) = (tmp_path / "outputs" / "sweeps").iterdir()
    found = [json.loads(path.read_text()) for path in sorted(sweep.rglob("results.json"))]
    assert [r["settings"]["prior"] for r in found] == ["sample_covariance", "isotropic"]
    assert (sweep / "samples.png").is_file()
    out = capsys.readouterr().out
    for label in ("[real images]", "[replay]", "[base samples]", "isotropic", "sample_covariance"):
        assert label in out
