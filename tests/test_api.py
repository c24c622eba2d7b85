"""The public names, and the README's example in small."""

import torch

import unseen_diffusion as ud
from unseen_diffusion.domains.digits8 import Digits8
from unseen_diffusion.models.analytic import natural_gaussian


def test_every_public_name_exists() -> None:
    for name in ud.__all__:
        assert getattr(ud, name) is not None


def test_the_pieces_fit_together() -> None:
    """images -> latents -> prior -> selection -> images -> scores, without a config."""
    model = natural_gaussian(size=16, channels=3, std=0.5, slope=2.0)
    split = ud.load_split(Digits8(references=20, validation=4, heldout=20), size=16, channels=3)
    path = ud.make_grid(model.schedule, "uniform_t", 10, 500)
    latents = ud.invert(model, ud.dequantise(split.references), path, record=[500])[500]
    prior = ud.Isotropic().fit(latents)
    found = ud.select(prior, latents, ud.CalibratedTolerances(), count=8, seed=0, max_proposals=2000)
    images = ud.quantise(ud.denoise(model, found.latents, path, eta=0.2, seed=0, indices=found.indices))
    assert images.shape == (8, 3, 16, 16)
    flat = [x.flatten(1).float() for x in (images, split.heldout)]
    assert torch.isfinite(torch.tensor(ud.kid(*flat).value))
