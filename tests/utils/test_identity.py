"""What identifies an object: every field, unless its annotation says why not; a subclass keeps the marks."""

from dataclasses import dataclass, fields
from typing import Annotated

import pytest
import torch
from pydantic import Field
from torch import nn

from support.changes import changed_field
from unseen_diffusion.models.options import Options
from unseen_diffusion.models.pipeline import _fingerprint
from unseen_diffusion.rejection import Rejection
from unseen_diffusion.runs.generation import Selection
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.training.finetuning import Tuning, describe
from unseen_diffusion.utils.identity import OmittedIf, Unnamed, marks_of, named


@dataclass
class Some:
    seed: int = 1
    shown: Annotated[str, Unnamed("only shown")] = "a"
    late: Annotated[Annotated[int, Field(ge=0)] | None, OmittedIf(None)] = None


@dataclass
class More(Some):
    """Declares a field again, and adds one."""

    shown: str = "b"
    depth: float = 0.5


def test_fields_are_named_unless_marked() -> None:
    assert named(Some()) == {"seed": 1}
    assert named(Some(late=0)) == {"seed": 1, "late": 0}
    assert named(More()) == {"seed": 1, "depth": 0.5}
    assert marks_of(More)["shown"] == (Unnamed("only shown"),)


# Options of a model that the network's fingerprint does not name. ``guidance`` is named by the guided model,
# ``variant`` by the files that it chooses (tests/models has both); the others change results by float rounding only.
OF_THE_NETWORK = {"guidance", "variant", "channels_last", "compile"}


@pytest.mark.parametrize("name", [field.name for field in fields(Options)])
def test_every_option_of_a_model_changes_its_fingerprint(name: str) -> None:
    network = nn.Linear(2, 1)
    options = Options(condition=3, latent_scale=0.5, guidance=2.0, initial_seed=4, variant="fp16")
    before = _fingerprint(["files"], options, network)
    changed = dict(changed_field(options, name))[name]
    assert (_fingerprint(["files"], changed, network) == before) == (name in OF_THE_NETWORK)
    assert _fingerprint(["others"], options, network) != before


def test_weights_drawn_at_initialisation_are_in_the_fingerprint() -> None:
    """They are in no file; those of files are named by the files' digests."""
    options, network = Options(initial_seed=4), nn.Linear(2, 1)
    before = _fingerprint(["files"], options, network)
    with torch.no_grad():
        network.weight += 1
    assert _fingerprint(["files"], options, network) != before
    assert _fingerprint(["files"], Options(), network) == _fingerprint(["files"], Options(), nn.Linear(2, 1))


def test_settings_that_stages_take_apart_have_no_further_fields() -> None:
    """A new field of ``Rejection`` is a new input of a selection."""
    of_images = {"max_images"}  # bounds the selection by images
    assert {field.name for field in fields(Rejection)} - of_images <= {field.name for field in fields(Selection)}
    marked = {name for kind in (SolverSettings, Tuning, Rejection) for name, marks in marks_of(kind).items() if marks}
    assert marked == of_images


def test_every_setting_of_a_tuning_is_described() -> None:
    tuning = Tuning(learning_rate=1e-3, max_steps=9, batch_size=2, check_every=3, patience=2, ema=0.5, flip=False)
    for field in fields(Tuning):
        assert describe(dict(changed_field(tuning, field.name))[field.name]) != describe(tuning)
