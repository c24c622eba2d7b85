"""Artefact keys: every input of every stage makes another artefact; batch size, device and progress do not."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import unseen_diffusion
from support.changes import changed
from unseen_diffusion.domains.noise import Noise
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.priors import Draws, SampleCovariance, Standard
from unseen_diffusion.rejection import NoTolerances, Rejection
from unseen_diffusion.rejection.images.base import ImageTask, NoSelection, Seen
from unseen_diffusion.runs.image_stages import ImageChoice, network_features, pixel_combinations
from unseen_diffusion.runs.methods.drawn import StoredFit
from unseen_diffusion.runs.mixing import departure, latent_findings
from unseen_diffusion.runs.run import Run
from unseen_diffusion.runs.stage import How, Identified, Stage
from unseen_diffusion.runs.stage_store import StageStore
from unseen_diffusion.runs.stages import Stages, StoredPrior
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact, Store, key_of
from unseen_diffusion.store.shards import Cost, RowWise
from unseen_diffusion.training.finetuning import Tuning
from unseen_diffusion.utils.seeds import generator


class Requested(Exception):
    """What was asked of the store, in place of a result."""


class Recorder(Store):
    """A store that computes nothing: it raises the key that was requested."""

    def __init__(self) -> None:
        super().__init__("unused")

    def get_or_make(self, stage: str, stage_version: int, inputs: dict[str, Any], make: object) -> Artefact:
        raise Requested(f"{stage}/{key_of(stage, stage_version, inputs)}")

    def get_or_make_rows(self, stage: str, stage_version: int, inputs: dict[str, Any], work: RowWise) -> Artefact:
        raise Requested(f"{stage}/{key_of(stage, stage_version, inputs)}")


class Recording(Stages):
    """Stages that keep the one they ran last."""

    last: Stage | None = None

    def run(self, stage: Stage, *how: How) -> Artefact:
        self.last = stage
        return super().run(stage, *how)


def images(count: int, stream: str) -> Tensor:
    return torch.randint(0, 256, (count, 1, 8, 8), generator=generator(0, stream), dtype=torch.uint8)


def latents(count: int, stream: str) -> LatentSet:
    values = torch.randint(-8, 8, (count, 1, 8, 8), generator=generator(0, stream)).float()
    return LatentSet(500.0, values, list(range(count)))


def artefact(key: str) -> Artefact:
    return Artefact(key, {"images": images(4, key)}, {}, 0.0, True, Cost(), Path(key))


def analytic() -> DiffusionModel:
    model = natural_gaussian(8, 1, 0.5, 2.0)
    model.fingerprint = "model"  # the same on machines that round otherwise
    return model


def network() -> DiffusersModel:
    model = DiffusersModel.__new__(DiffusersModel)
    model.fingerprint = "network"
    return model


def extractor() -> Pixels:
    pixels = Pixels()
    pixels.fingerprint = "pixels"
    return pixels


SOLVER = SolverSettings(name="ddim", grid="karras", steps=5)
TUNING = Tuning(learning_rate=1e-3, max_steps=9, batch_size=2, check_every=3, patience=2, ema=0.5, flip=False)
NOISE = Noise(name="n", source="s", licence="l", references=4, validation=3, heldout=5, count=20, contrast=0.5, seed=0)
SEEN = Seen(torch.zeros(2, 3), None, torch.arange(2))
CONFIG = {"name": "some", "scale": 0.5}
WORDS = ("name", "source", "licence", "symmetries")  # fields of a domain that decide no pixel


@dataclass(frozen=True)
class Example:
    """One call of a stage.

    Attributes:
        call: takes the stages and the arguments, and runs the stage.
        arguments: by name; each is changed in turn.
        named_by: argument -> the argument that identifies it in the key. A caller gives both, which must belong
            together: pixels and the key of their images, a prior and its config.
        free: arguments, or parts of them, that must not change the key.
        changes: the changes of an argument, where it holds values beside the keys that identify them.
    """

    call: Callable[..., object]
    arguments: dict[str, Any]
    named_by: dict[str, str] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)


def examples() -> dict[str, Example]:
    """A call of every stage. A stage that is not here fails ``test_every_stage_has_an_example``: add its call."""
    model, set_of = analytic(), latents
    pools = {"spec": {name: model.spec._replace(**{name: 3}) for name in ("size", "channels")}}
    return {
        "split": Example(Stages.split, {"domain": NOISE, "spec": model.spec}, free=(*WORDS, "resize"), changes=pools),
        "invert": Example(
            Stages.inversion,
            {"model": model, "images": images(3, "i"), "solver": SOLVER, "t": 500.0, "record": [250.0, 400.0]},
        ),
        "real": Example(Stages.real, {"images": images(3, "i")}),
        "base_latents": Example(
            Stages.base_latents, {"model": model, "solver": SOLVER, "t": 500.0, "count": 4, "seed": 1}
        ),
        "tune": Example(
            Stages.tuned,
            {
                "model": network(),
                "references": images(4, "r"),
                "validation": images(3, "v"),
                "settings": TUNING,
                "seed": 1,
            },
        ),
        "prior": Example(
            Stages.prior,
            {
                "prior": SampleCovariance(),
                "settings": CONFIG,
                "references": set_of(5, "r"),
                "own": set_of(4, "own"),
            },
            named_by={"prior": "settings"},
        ),
        "select": Example(
            Stages.selection,
            {
                "prior": StoredPrior(SampleCovariance(), artefact("prior")),
                "references": set_of(5, "r"),
                "tolerances": NoTolerances(name="none"),
                "settings": CONFIG,
                "count": 3,
                "seed": 1,
                "rejection": Rejection(max_proposals=50),
            },
            named_by={"tolerances": "settings"},
            free=("max_images",),
        ),
        "denoise": Example(
            Stages.denoising,
            {"model": model, "latents": set_of(3, "l"), "solver": SOLVER, "eta": 0.25, "seed": 1},
        ),
        "image_losses": Example(Stages.image_losses, {"model": network(), "images": images(3, "i"), "seed": 1}),
        "features": Example(
            Stages.features,
            {"extractor": extractor(), "key": "images", "images": images(3, "i"), "device": torch.device("cpu")},
            named_by={"images": "key"},
            free=("device",),
        ),
        "fidelity": Example(Stages.fidelity, {"originals": images(3, "i"), "reconstructions": artefact("made")}),
        "nearest": Example(
            Stages.nearest,
            {
                "samples": artefact("samples"),
                "pixels": images(4, "p"),
                "others": {"reference": ("split", images(3, "i"))},
            },
            named_by={"pixels": "samples"},
            changes={
                "others": {
                    "key": {"reference": ("split 2", images(3, "i"))},
                    "name": {"heldout": ("split", images(3, "i"))},
                    "one more": {"reference": ("split", images(3, "i")), "heldout": ("split", images(3, "i"))},
                }
            },
        ),
        "paths": Example(
            Stages.paths,
            {
                "model": model,
                "references": set_of(4, "r"),
                "images": images(4, "i"),
                "solver": SOLVER,
                "pairs": 1,
                "steps": 3,
            },
        ),
        "geometry": Example(
            Stages.geometry,
            {"references": set_of(5, "r"), "sets": {"own": set_of(3, "own").latents}, "k": 2, "seed": 1},
        ),
        "gaussianity": Example(
            departure, {"latents": set_of(9, "l"), "statistic": "radius", "seed": 1}, free=("statistic",)
        ),
        "combine": Example(
            pixel_combinations,
            {
                "prior": SampleCovariance(),
                "settings": CONFIG,
                "images": images(4, "i"),
                "draws": Draws((1, 8, 8), range(2, 5), 1),
            },
            named_by={"prior": "settings"},
            changes={
                "draws": {
                    "shape": Draws((1, 4, 4), range(2, 5), 1),
                    "start": Draws((1, 8, 8), range(1, 5), 1),
                    "stop": Draws((1, 8, 8), range(2, 6), 1),
                    "seed": Draws((1, 8, 8), range(2, 5), 2),
                }
            },
        ),
        "network_features": Example(
            network_features,
            {"model": model, "key": "images", "images": images(3, "i")},
            named_by={"images": "key"},
        ),
        "choose": Example(
            chosen,
            {
                "settings": CONFIG,
                "candidates": ["a", "b"],
                "references": "split/references",
                "model": model,
                "count": 3,
                "seed": 1,
                "symmetries": "all",
            },
            changes={"symmetries": {"mirror": "mirror"}},
        ),
        "latent_findings": Example(latent_findings, {"latents": set_of(9, "l"), "own": set_of(8, "own"), "seed": 1}),
    }


def chosen(
    stages: Stages,
    settings: dict[str, Any],
    candidates: list[str],
    references: str,
    model: DiffusionModel,
    count: int,
    seed: int,
    symmetries: Any,
) -> Artefact:
    """A choice of images, by what identifies its inputs."""
    return stages.run(
        ImageChoice(
            selection=Identified(settings, NoSelection()),
            candidates=Identified(candidates, (images(2, "i"), SEEN)),
            references=Identified(references, SEEN),
            model=model,
            task=ImageTask(count, seed, symmetries),
        )
    )


NAMES = tuple(examples())


def key(example: Example, arguments: dict[str, Any], **how: Any) -> str:
    """The stage and key that a call requests."""
    try:
        example.call(Stages(Recorder(), **how), **arguments)
    except Requested as requested:
        return str(requested)
    raise AssertionError("the call used no stage")


def requested(name: str) -> Stage:
    """The stage that an example runs."""
    example, stages = examples()[name], Recording(Recorder())
    with pytest.raises(Requested, match=f"^{name}/"):
        example.call(stages, **example.arguments)
    assert stages.last is not None
    return stages.last


def stage_classes() -> set[type[Stage]]:
    """Every stage in the package that can be run."""
    for module in walk_packages(unseen_diffusion.__path__, "unseen_diffusion."):
        if module.name.startswith("unseen_diffusion.runs."):
            import_module(module.name)
    found: set[type[Stage]] = set()
    waiting = [Stage]
    while waiting:
        kinds = waiting.pop().__subclasses__()
        waiting += kinds
        found |= {kind for kind in kinds if not inspect.isabstract(kind)}
    return {kind for kind in found if kind.__module__.startswith("unseen_diffusion.")}


def test_every_stage_has_an_example() -> None:
    """All classes of stages, and all methods that run one; a new one is added to ``examples``."""
    asked = {type(requested(name)): name for name in NAMES}
    new = {kind.__name__ for kind in stage_classes() - asked.keys()}
    assert not new, f"add a call of {', '.join(sorted(new))} to examples() in {__file__}"
    assert len({kind.stage for kind in asked}) == len(asked), "two stages share a name"
    called = {example.call for example in examples().values()}
    public = {one for name, one in inspect.getmembers(Stages, inspect.isfunction) if not name.startswith("_")}
    computed_anew = {Stages.noised}  # is not stored
    new_methods = public - called - computed_anew - {StageStore.run, StageStore.how}
    assert not new_methods, f"add a call of {new_methods} to examples() in {__file__}"


@pytest.mark.parametrize("name", NAMES)
def test_every_field_of_a_stage_is_in_its_key(name: str) -> None:
    """Also those that no caller can choose: numbers of simulations, the version of a split of repeated images."""
    stage = requested(name)
    for one in fields(stage):
        other = copy.copy(stage)
        object.__setattr__(other, one.name, Identified("another", None))
        assert other.inputs() != stage.inputs(), one.name


@pytest.mark.parametrize("name", NAMES)
def test_every_input_makes_another_artefact(name: str) -> None:
    """Each argument is changed in every way that ``support.changes`` knows, one thing at a time."""
    example = examples()[name]
    before = key(example, example.arguments)
    assert key(example, example.arguments) == before
    seen = {before}
    for argument, value in example.arguments.items():
        if argument in example.named_by:
            continue
        for label, other in example.changes.get(argument, {}).items() or changed(value):
            after = key(example, {**example.arguments, argument: other})
            if argument in example.free or label in example.free:
                assert after == before, f"{name}: {argument} ({label}) must not change the key"
            else:
                assert after not in seen, f"{name}: another {argument} ({label}) has the same key"
                seen.add(after)


@pytest.mark.parametrize("name", NAMES)
def test_how_a_stage_is_computed_makes_no_other_artefact(name: str) -> None:
    """Batch size and progress are in no key; ``deterministic`` is where the network is called in batches of 8."""
    example = examples()[name]
    before = key(example, example.arguments)
    assert key(example, example.arguments, batch_size=7, progress=True) == before
    fixed = key(example, example.arguments, deterministic=True)
    assert (fixed != before) == (name in ("invert", "base_latents", "denoise", "paths", "network_features"))
    assert key(example, example.arguments, deterministic=True, batch_size=7) == fixed
    for argument, value in example.arguments.items():
        if hasattr(value, "batch_size") and hasattr(value, "fingerprint"):
            smaller = type(value)(batch_size=value.batch_size // 2)
            smaller.fingerprint = value.fingerprint
            assert key(example, {**example.arguments, argument: smaller}) == before


# The start of each example's key. Another one orphans every artefact in every store: change a number here only with
# the stage's version, and say so in CHANGELOG.md.
PINNED = {
    "split": "79080e0541a3",
    "invert": "e95fbfeed32d",
    "real": "f58c1536ee34",
    "base_latents": "5a6f713171ad",
    "tune": "44e0ee459441",
    "prior": "93ac7adcf7ab",
    "select": "6ecdaebc2433",
    "denoise": "c956ee74163e",
    "image_losses": "a6fbf0fcf4e2",
    "combine": "a76a79ec6f0c",
    "network_features": "4e4865fbb3ff",
    "choose": "7be900480678",
    "features": "ce8c5ddcc76a",
    "fidelity": "6455913e2aae",
    "nearest": "fd448c7d0cce",
    "paths": "e852b866c21a",
    "geometry": "fcaad2795c37",
    "gaussianity": "a81ec03c9027",
    "latent_findings": "496c0ab3d12b",
}


@pytest.mark.parametrize("name", NAMES)
def test_keys_stay_what_they_were(name: str) -> None:
    example = examples()[name]
    assert key(example, example.arguments).split("/")[1][:12] == PINNED[name]


def test_the_seed_of_a_denoising_without_noise_is_in_no_key() -> None:
    example = examples()["denoise"]
    without = {**example.arguments, "eta": 0.0}
    assert key(example, without) == key(example, {**without, "seed": 2})


def test_routes_of_a_selection_have_their_own_version() -> None:
    """The exact route draws other latents; artefacts of the direct one carry no route."""
    example = examples()["select"]
    exact = replace(example.arguments["rejection"], route="exact_statistics")
    assert key(example, {**example.arguments, "rejection": exact}) != key(example, example.arguments)


def test_the_key_of_a_prior_names_what_the_mixing_step_changed() -> None:
    """N(0, I) is as wide as the schedule's states: 1 for variance-preserving models, whose keys are the config's."""
    run = Run.__new__(Run)
    run.stages, found = Stages(Recorder()), []
    run.settings = SimpleNamespace(prior=Standard(), prior_config=CONFIG)
    for std in (1.0, 2.0, 3.0):
        with pytest.raises(Requested) as requested:
            StoredFit(run).fit(replace(Standard(), std=std), latents(5, "r"), None)
        found.append(str(requested.value))
    plain = {"prior": Standard(), "settings": CONFIG, "references": latents(5, "r"), "own": None}
    assert found[0] == key(Example(Stages.prior, {}), plain)
    assert len(set(found)) == 3
