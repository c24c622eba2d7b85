"""The method group: every baseline runs, costs what it should, and is what its name says."""

import json
from pathlib import Path

import pytest
import torch

from support.commands import TINY, run
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.priors import (
    Draws,
    Isotropic,
    LinearCombination,
    SampleCovariance,
    Slerp,
    Standard,
    combined_pixels,
)
from unseen_diffusion.rejection import NoTolerances
from unseen_diffusion.runs.methods import by_source
from unseen_diffusion.runs.methods.drawn import DrawnFromPrior
from unseen_diffusion.runs.methods.noised import NoisedReferences
from unseen_diffusion.runs.methods.pixel_combination import PixelCombination
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.store.artefacts import Store, load_tensor
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.seeds import generator

METHODS = (
    "held_out",
    "replay",
    "base_samples",
    "standard_gaussian",
    "fitted",
    "random_rejection",
    "slerp",
    "noised_reference",
    "full",
)
STEPS = 5


def swept(shared_folder: Path) -> dict[tuple[str, int], dict]:
    """Results of every method on two draws, by (method, draw)."""
    sweep = (f"method={','.join(METHODS)}", "domain.draw=0,1", "scores=comparison", "scores.reconstructions=0")
    small = [word for word in TINY if not word.startswith("scores.")]
    assert run("run", "-m", *small, *sweep, "scores.paths=1", "scores.geometry=4") == 0
    files = (shared_folder / "outputs").rglob("results.json")
    every = [json.loads(path.read_text()) for path in files]
    return {(r["settings"]["method"], r["settings"]["draw"]): r for r in every}


def images(result: dict) -> torch.Tensor:
    return load_tensor(result["details"]["generated"], "images")


def test_every_method_is_what_its_name_says_and_states_its_cost(shared_folder: Path) -> None:
    """One sweep, then the facts of each method; one test, so that no two processes run the sweep."""
    found = swept(shared_folder)
    are_what_their_names_say(found)
    state_their_costs(found)


def are_what_their_names_say(found: dict) -> None:
    assert set(found) == {(name, draw) for name in METHODS for draw in (0, 1)}
    assert all(len(images(result)) == 12 for result in found.values())
    references = load_tensor(found["held_out", 0]["details"]["split"], "references", 12)
    assert torch.equal(images(found["held_out", 0]), references)
    # Replayed references are the references, a few grey levels apart; and all of them are copies.
    error = (images(found["replay", 0]).int() - references.int()).abs().float().mean()
    assert float(error) < 8
    assert found["replay", 0]["rows"][0]["copy_rate"] == 1
    # What never sees the references is the same for every draw of them.
    for name in ("base_samples", "standard_gaussian"):
        assert torch.equal(images(found[name, 0]), images(found[name, 1]))
    assert not torch.equal(images(found["slerp", 0]), images(found["slerp", 1]))
    # The control rejects as often as what it controls, and keeps other candidates.
    chosen = {name: found[name, 0]["selection"] for name in ("full", "random_rejection", "fitted")}
    assert chosen["random_rejection"]["proposals"] == chosen["full"]["proposals"]
    assert not torch.equal(images(found["random_rejection", 0]), images(found["full", 0]))
    assert chosen["fitted"]["acceptance"]["share"] == 1


def state_their_costs(found: dict) -> None:
    """Evaluations behind an image: those of the inversion count for what needs the references' latents."""
    rows = {name: found[name, 0]["rows"][0] for name in METHODS}
    assert rows["held_out"]["evaluations_per_image"] == 0
    assert rows["noised_reference"]["evaluations_per_image"] == STEPS
    for name in ("full", "fitted", "replay", "slerp"):
        assert rows[name]["evaluations_per_image"] == pytest.approx(STEPS + 24 * STEPS / 12)
    assert all(row["seconds_per_image"] > 0 for row in rows.values() if row["evaluations_per_image"])


def test_every_run_says_what_its_features_see(found: dict) -> None:
    """Methods and draws share the held-out images, so they share the answer and its features."""
    measured = [result["yardstick"] for result in found.values()]
    assert all(one == measured[0] for one in measured)
    assert (measured[0]["n"], set(measured[0]["changes"])) == (10, {"blurred", "texture"})
    artefacts = [
        one["folder"] for result in found.values() for one in result["artefacts"] if one["stage"] == "features"
    ]
    inputs = [json.loads((Path(folder) / "artefact.json").read_text())["inputs"]["images"] for folder in set(artefacts)]
    assert sum(key.endswith(("/blurred", "/texture")) for key in inputs) == 2


TWINS = ("prior=linear_combination", "prior=slerp", "prior=slerp_centred", "prior=sample_covariance", "prior=replay")


def test_pixel_twins_need_no_model_and_are_scored_like_every_method(twins: Path) -> None:
    """No NFE, no tolerances; images and scores of their own, not those of the row of real images."""
    files = twins.rglob("results.json")
    found = {r["settings"]["prior"]: r for r in (json.loads(path.read_text()) for path in files)}
    assert set(found) == {one.removeprefix("prior=") for one in TWINS}
    for result in found.values():
        row = result["rows"][0]
        assert row["row"] == "generated"
        assert row["evaluations_per_image"] == 0
        assert result["settings"]["tolerances"] is None
        assert images(result).shape == (12, 3, 16, 16)
    references = load_tensor(found["replay"]["details"]["split"], "references", 12)
    assert torch.equal(images(found["replay"]), references)
    assert found["replay"]["rows"][0]["copy_rate"] == 1
    assert found["linear_combination"]["rows"][0]["copy_rate"] < 1


@pytest.fixture(scope="module")
def twins(shared_folder: Path) -> Path:
    """Results of the twins of all priors that are made of references."""
    priors = ",".join(one.removeprefix("prior=") for one in TWINS)
    assert run("run", "-m", *TINY, "method=pixel_combination", f"prior={priors}", "paths.outputs=twins") == 0
    return shared_folder / "twins"


def test_a_pixel_twin_combines_the_same_references_with_the_same_weights() -> None:
    """One reference: exactly that image; several: the weights of the latents, applied to the pixels and clamped."""
    rng = torch.Generator().manual_seed(0)
    latents, pixels = torch.randn(9, 3, 4, 4, generator=rng), torch.rand(9, 3, 8, 8, generator=rng) * 2 - 1
    draws = Draws((3, 4, 4), range(3, 40), 5)
    one = combined(1, None).fit(latents).sample(draws.indices, 5)
    rows = [int((latents == latent).flatten(1).all(1).nonzero()) for latent in one]
    assert torch.equal(combined_pixels(combined(1, None), pixels, draws), pixels[rows])
    for prior in (combined(3, None), combined(2, 1.5), SampleCovariance()):
        combination = prior.fit(latents).combination(draws.indices, 5)
        assert combination is not None
        torch.testing.assert_close(combined_pixels(prior, pixels, draws), combination.of(pixels))
    for prior in (Isotropic(), Slerp(towards="id")):
        with pytest.raises(InputError, match=f"prior={prior.name}: its candidates are no weighted sums"):
            combined_pixels(prior, pixels, draws)


def combined(k: int, spatial: float | None) -> LinearCombination:
    return LinearCombination(k=k, weights="dirichlet", concentration=2.0, spatial=spatial, contrast=3.0)


def test_noised_references_follow_the_forward_process(tmp_path: Path) -> None:
    """x_t = alpha x_0 + sigma eps with unit noise, image by image."""
    model = natural_gaussian(16, 3, 0.5, 2.0)
    references = torch.randint(0, 256, (5, 3, 16, 16), generator=generator(0, "references"), dtype=torch.uint8)
    noised = Stages(Store(tmp_path)).noised(model, references, 400.0, 40, seed=3)
    node = model.schedule.node(400.0)
    eps = (noised.latents - node.alpha * dequantise(references[torch.arange(40) % 5])) / node.sigma
    assert float(eps.mean()) == pytest.approx(0, abs=0.02)
    assert float(eps.std()) == pytest.approx(1, abs=0.02)
    again = Stages(Store(tmp_path)).noised(model, references, 400.0, 7, seed=3)
    assert torch.equal(again.latents, noised.latents[:7])


def test_senseless_methods_are_refused() -> None:
    with pytest.raises(InputError, match="method=x: applies no tolerances; leave them out"):
        PixelCombination(name="x", tolerances=NoTolerances())
    with pytest.raises(InputError, match="source=heldout: choose one of"):
        by_source(name="x", source="heldout")
    with pytest.raises(InputError, match="draws from no prior"):
        by_source(name="x", source="base", prior=Standard())


def test_configs_that_name_a_source_still_work() -> None:
    """``_target_: unseen_diffusion.runs.methods.Method`` with ``source``: the class of that source."""
    target = "unseen_diffusion.runs.methods.Method"
    with pytest.warns(FutureWarning, match="by_source"):
        assert isinstance(build({"_target_": target, "name": "a", "source": "noised"}), NoisedReferences)
    with pytest.warns(FutureWarning, match="by_source"):
        assert isinstance(build({"_target_": target, "name": "a"}), DrawnFromPrior)


OWN_METHOD = '''
from unseen_diffusion.runs.methods import Generated
from unseen_diffusion.runs.methods.base import Method
from unseen_diffusion.utils.checked import Count, settings


@settings("method")
class Validation(Method):
    """Validation images, from number ``start`` on."""

    start: Count
    """number of the first image"""

    def generate(self, run):
        images = run.split.tensors["validation"][self.start : self.start + run.settings.samples]
        return Generated(run.stages.real(images))
'''


def test_a_method_of_ones_own_is_a_module_and_a_config(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named by ``_target_`` in a folder of configs; its images are scored as those of any method."""
    (here / "own_method.py").write_text(OWN_METHOD)
    (here / "conf" / "method").mkdir(parents=True)
    text = "_target_: own_method.Validation\nname: validation\nstart: 2\n"
    (here / "conf" / "method" / "validation.yaml").write_text(text)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("UNSEEN_CONF", str(here / "conf"))
    words = [*TINY, "domain.validation=20", "scores.reconstructions=0", "hydra.run.dir=out"]
    assert run("run", *words, "method=validation") == 0
    result = json.loads(Path("out/results.json").read_text())
    assert result["settings"]["method"] == "validation"
    assert torch.equal(images(result), load_tensor(result["details"]["split"], "validation", 20)[2:14])
