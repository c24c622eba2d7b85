"""The public names, old names, and a small version of the README's example."""

import sys
from importlib import import_module

import pytest
import torch
from hydra.utils import instantiate

import unseen_diffusion as ud
from unseen_diffusion.domains.digits8 import Digits8
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.utils import renamed


def test_every_public_name_exists() -> None:
    for name in ud.__all__:
        assert getattr(ud, name) is not None


def forget(name: str) -> None:
    """Removes a module from those imported."""
    for module in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
        del sys.modules[module]


@pytest.mark.parametrize("old", sorted(renamed.RENAMED))
def test_old_modules_keep_their_names_for_one_release(old: str) -> None:
    """Every public name of the new modules is found under the old path, as the same object, with a warning."""
    forget(f"unseen_diffusion.{old}") if old not in renamed.PACKAGES else None
    for home in renamed.RENAMED[old]:
        new = import_module(f"unseen_diffusion.{home}")
        named = [name for name, value in vars(new).items() if getattr(value, "__module__", "") == new.__name__]
        named = [name for name in named if not name.startswith("_")]
        for name in named:
            if old in renamed.PACKAGES and name in vars(import_module(f"unseen_diffusion.{old}")):
                continue  # a public name of the package of this name
            with pytest.warns(FutureWarning, match=f"is now unseen_diffusion.{home}.{name}"):
                assert getattr(import_module(f"unseen_diffusion.{old}"), name) is getattr(new, name)
    with pytest.raises(AttributeError):
        _ = import_module(f"unseen_diffusion.{old}").nosuch


@pytest.mark.parametrize(
    ("module", "old"), [(module, old) for module in renamed.NAMES for old in renamed.NAMES[module]]
)
def test_old_names_are_found_in_their_modules(module: str, old: str) -> None:
    new = renamed.NAMES[module][old]
    where, _, name = (new if "." in new else f"{module}.{new}").rpartition(".")
    with pytest.warns(FutureWarning, match=rf"{module}\.{old} is now unseen_diffusion\.{where}\.{name};"):
        found = getattr(import_module(f"unseen_diffusion.{module}"), old)
    assert found is getattr(import_module(f"unseen_diffusion.{where}"), name)


def test_old_targets_of_configs_are_built() -> None:
    """Old ``_target_`` paths are built, in packages that moved too."""
    with pytest.warns(FutureWarning, match="unseen_diffusion.scores.features.pixels"):
        assert instantiate({"_target_": "unseen_diffusion.features.pixels.Pixels"}).name == "pixels"
    with pytest.warns(FutureWarning, match="unseen_diffusion.runs.mixing.Candidate"):
        assert instantiate({"_target_": "unseen_diffusion.searches.Candidate", "t": 5, "value": 1}).t == 5


def test_the_pieces_fit_together() -> None:
    """Runs images -> latents -> prior -> selection -> images -> scores without a config."""
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
