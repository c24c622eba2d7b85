"""CMMD, PQMass and AuthPct: equal to their reference definitions on the same features."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from unseen_diffusion.scores.authenticity import Authenticity, authenticity
from unseen_diffusion.scores.cmmd import Cmmd, cmmd
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.clip import Clip, preprocess
from unseen_diffusion.scores.pqmass import PQMass, pqmass, region_p
from unseen_diffusion.scores.suite import DomainViews, Views
from unseen_diffusion.utils.errors import InputError


def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(60, 5)), 1.2 * rng.normal(size=(80, 5)) + 0.2


X, Y = map(torch.from_numpy, pair())


def test_cmmd_is_that_of_the_release() -> None:
    """google-research/cmmd, distance.py: means over all pairs, sigma 10, times 1000."""
    x, y = (values / np.linalg.norm(values, axis=1, keepdims=True) for values in pair())
    gamma = 1 / (2 * 10**2)

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        squares = np.diag(a @ a.T)[:, None] + np.diag(b @ b.T)[None, :]
        return float(np.mean(np.exp(-gamma * (-2 * a @ b.T + squares))))

    wanted = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    found = [cmmd(torch.from_numpy(x), torch.from_numpy(y), block=block) for block in (None, 7)]
    assert found == pytest.approx([wanted, wanted], rel=1e-9)


def test_pqmass_is_that_of_the_package() -> None:
    """pqm 0.6.3, _pqm_test with these centres, z_score_norm=False: p = 0.17019518."""
    centres = torch.cat([X[:6], Y[:8]])
    assert region_p(X[6:], Y[8:], centres) == pytest.approx(0.1701951825564227, rel=1e-9)


def test_pqmass_keeps_its_level_and_sees_a_difference() -> None:
    rng = np.random.default_rng(1)
    p_values = [pqmass(*torch.from_numpy(rng.normal(size=(2, 80, 4))), regions=15, repeats=9) for _ in range(100)]
    assert sum(p <= 0.05 for p in p_values) <= 11  # at most 5 expected
    assert pqmass(torch.from_numpy(rng.normal(size=(80, 4))) + 1, Y[:, :4], regions=15) < 0.01
    assert pqmass(X, Y, 15, seed=0) == pqmass(X, Y, 15, seed=0)


def test_pqmass_of_too_many_regions_is_refused() -> None:
    with pytest.raises(InputError, match="regions=71: 140 images allow 2 to 70"):
        pqmass(X, Y, 71)


def test_authenticity_is_that_of_dgm_eval() -> None:
    """dgm_eval/metrics/authpct.py: the nearest training image's own nearest one is nearer than the sample."""
    samples, training = pair()
    real, generated = cdist(training, training), cdist(training, samples)
    np.fill_diagonal(real, np.inf)
    wanted = np.mean(real.min(0)[generated.argmin(0)] < generated.min(0))
    assert authenticity(X, Y) == pytest.approx(wanted)
    assert authenticity(Y[:20], Y) == 0


def test_each_is_a_score_of_a_run() -> None:
    domain = DomainViews(Views(Y, Y), Views(Y, Y))
    scores = Cmmd(sigma=10.0), PQMass(regions=100, repeats=3), Authenticity()
    for score in scores:
        values = score(Views(X, X), domain)
        assert set(values) <= set(score.columns)
        assert all(np.isfinite(value) for value in values.values())


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("clip") / "tiny"
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = transformers.CLIPVisionConfig(**size, image_size=56, patch_size=28, projection_dim=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_clip_embeddings_are_those_of_transformers(clip: Path) -> None:
    transformers = pytest.importorskip("transformers")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    extractor = Clip(str(clip))
    found = extract(extractor, images)
    network = transformers.CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    with torch.no_grad():
        embeds = network(pixel_values=preprocess(images, 56)).image_embeds
    torch.testing.assert_close(found, embeds / embeds.norm(dim=1, keepdim=True))
    assert (extractor.name, extractor.dimension) == ("clip-8", 8)
    torch.testing.assert_close(extract(extractor, images, batch_size=1), found, rtol=0, atol=1e-6)


def test_another_network_is_no_clip(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    (tmp_path / "model.safetensors").write_bytes((clip / "model.safetensors").read_bytes())
    with pytest.raises(InputError, match="give a CLIP network"):
        Clip(str(tmp_path))
