"""Fine-tuning: adapters start as nothing, R alone is trained on, V decides when to stop, the base model stays."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor, nn

from support import ROOT, TinyModelFolder
from support.commands import TINY, run
from support.families import make
from unseen_diffusion.models import DiffusersModel, adapters
from unseen_diffusion.models.adapters import adapter_weights, target_layers, with_adapters
from unseen_diffusion.models.loading import weights_digest
from unseen_diffusion.models.losses import DiffusionLoss, image_losses, validation_loss
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.runs.forgetting import forgetting
from unseen_diffusion.runs.methods import by_source
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.training import finetuning
from unseen_diffusion.training.finetuning import LoraTuning, Tuning, describe, tune
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

QUICK = {"learning_rate": 3e-3, "max_steps": 12, "batch_size": 4, "check_every": 3, "patience": 20, "ema": 0.5}
QUICK |= {"flip": False}
DRAWS = finetuning.VALIDATION_DRAWS
KINDS = [Tuning(**QUICK), LoraTuning(**QUICK, rank=2)]


def images(count: int, *stream: str) -> Tensor:
    """Bright squares on dark noise."""
    made = torch.randint(0, 60, (count, 3, 8, 8), generator=generator(0, *stream), dtype=torch.uint8)
    made[:, :, 2:6, 2:6] += 150
    return made


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Validation losses on fewer noisy images than in a real tuning."""
    monkeypatch.setattr(finetuning, "VALIDATION_DRAWS", 36)


@pytest.fixture
def model(tiny_model_folder: TinyModelFolder) -> DiffusersModel:
    return DiffusersModel(str(tiny_model_folder()))


def tuned(model: DiffusersModel, settings: Tuning, seed: int = 0, references: Tensor | None = None) -> Any:
    references = images(10, "references") if references is None else references
    return tune(model, references, images(9, "validation"), settings, seed)


def state(network: nn.Module) -> Iterator[Tensor]:
    return iter(network.state_dict().values())


# ---------------------------------------------------------------- adapters and losses


def test_fresh_adapters_change_nothing(model: DiffusersModel) -> None:
    """B is zero: the same bits come out, and what is trained is A and B of convolutions and attention."""
    adapted = with_adapters(model.network, rank=2, seed=0)
    x, t = torch.randn(4, 3, 8, 8, generator=generator(0, "x")), torch.tensor([0, 5, 500, 999])
    with torch.no_grad():
        assert torch.equal(adapted(x, timestep=t).sample, model.network(x, timestep=t).sample)
    trained = [name for name, value in adapted.named_parameters() if value.requires_grad]
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    layers = dict(model.network.named_modules())
    chosen = target_layers(model.network)
    assert {type(layers[name]).__name__ for name in chosen} == {"Conv2d", "Linear"}
    assert not [name for name in chosen if "time" in name]
    assert len(adapter_weights(adapted)) == 2 * len(chosen)


def test_adapters_add_a_matrix_of_their_rank(model: DiffusersModel) -> None:
    """Merged weights differ from the base's by B A: rank 2, in adapted layers only."""
    settings = KINDS[1]
    weights, _ = tuned(model, settings)
    after, chosen = settings.tuned(model.network, weights).state_dict(), set(target_layers(model.network))
    assert after.keys() == model.network.state_dict().keys()
    for name, before in model.network.state_dict().items():
        difference = (after[name] - before).flatten(1) if before.ndim > 1 else after[name] - before
        if name.removesuffix(".weight") in chosen:
            assert int(torch.linalg.matrix_rank(difference.double(), rtol=1e-4)) <= 2, name
        else:
            assert not difference.any(), name


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_the_loss_is_that_of_the_parameterisation(tiny_model_folder: TinyModelFolder, kind: str) -> None:
    """A network is right (loss 0) where its output is the target that the frozen model's own reading assumes."""
    model = DiffusersModel(str(tiny_model_folder(prediction_type=kind)))
    loss = model.loss(images(6, "x"))
    batch = loss.batch(torch.arange(6), generator(1, "batch"))
    _, _, t, eps = batch

    class Perfect(nn.Module):
        """Outputs what, read by the frozen model's family, gives back the noise."""

        def forward(self, x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
            rows = []
            for row, step in enumerate(timestep.tolist()):
                node: Node = model.schedule.node(step)
                x0 = (x[row] - node.sigma * eps[row]) / node.alpha
                target = {"epsilon": eps[row], "sample": x0, "v_prediction": node.alpha * eps[row] - node.sigma * x0}
                read = model.family.prediction(target[kind], x[row], node)
                torch.testing.assert_close(read.eps, eps[row], rtol=1e-3, atol=1e-3)
                rows.append(target[kind])
            return (torch.stack(rows),)

    assert t.unique().numel() == 6
    assert float(loss(Perfect(), *batch)) < 1e-5
    assert float(loss(model.network, *batch)) > 0.01


def test_losses_of_images_do_not_depend_on_the_others(model: DiffusersModel) -> None:
    """Each image meets its own noise levels, one in each part of the schedule."""
    pictures = images(5, "x")
    losses = image_losses(model.network, model.loss(pictures), 0, 4)
    assert torch.equal(image_losses(model.network, model.loss(pictures[:3]), 0, 4), losses[:3])
    assert losses.dtype == torch.float64
    assert losses.unique().numel() == 5


# ---------------------------------------------------------------- tuning


@pytest.mark.parametrize("settings", KINDS, ids=["full", "lora"])
def test_tuning_lowers_the_validation_loss(model: DiffusersModel, settings: Tuning) -> None:
    """And the base model keeps every bit of its weights."""
    before = weights_digest(model.network)
    weights, facts = tuned(model, settings)
    assert facts["validation"][-1][1] < facts["validation"][0][1]
    assert weights_digest(model.network) == before
    assert all(not value.requires_grad for value in model.network.parameters())
    other = model.with_network(settings.tuned(model.network, weights), "tuned")
    x, node = torch.randn(2, 3, 8, 8, generator=generator(0, "x")), model.schedule.node(500)
    assert not torch.equal(other.predict(x, node).eps, model.predict(x, node).eps)
    assert (other.evaluations, model.evaluations) == (2, 2)


@pytest.mark.parametrize("settings", KINDS, ids=["full", "lora"])
def test_the_same_seed_gives_the_same_weights(model: DiffusersModel, settings: Tuning) -> None:
    """Whatever the global random state; another seed gives others."""
    settings = replace(settings, max_steps=4, check_every=2)
    first, facts = tuned(model, settings)
    torch.manual_seed(99)
    second, again = tuned(model, settings)
    assert facts == again
    assert all(torch.equal(first[name], second[name]) for name in first)
    other, _ = tuned(model, settings, seed=1)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_weights_of_the_best_step_are_kept(model: DiffusersModel) -> None:
    """References unlike the validation images, at a high rate: validation falls, rises, and ends the tuning."""
    settings = Tuning(learning_rate=3e-2, max_steps=60, batch_size=4, check_every=2, patience=3, ema=0.0, flip=False)
    weights, facts = tuned(model, settings, references=images(2, "few"))
    curve = dict(facts["validation"])
    assert facts["stopped"] == "validation"
    assert curve[facts["best_step"]] == min(curve.values())
    assert facts["steps"] == facts["best_step"] + 3 * 2 < 60
    validation = images(9, "validation")
    held = model.loss(validation, kept=torch.arange(9).repeat(4))
    assert validation_loss(settings.tuned(model.network, weights), held, 0) == curve[facts["best_step"]]


@pytest.mark.parametrize("kind", [Tuning, LoraTuning])
def test_tuning_that_only_harms_keeps_the_base_model(model: DiffusersModel, kind: type[Tuning]) -> None:
    """Step 0 is a candidate, and its weights are the base model's, exactly."""
    more = {"rank": 2} if kind is LoraTuning else {}
    values = {"learning_rate": 0.9, "max_steps": 4, "batch_size": 2, "check_every": 1, "patience": 2, "ema": 0.0}
    settings = kind(**values, flip=False, **more)
    weights, facts = tuned(model, settings)
    assert (facts["best_step"], facts["steps"], facts["stopped"]) == (0, 2, "validation")
    kept = settings.tuned(model.network, weights)
    assert all(torch.equal(a, b) for a, b in zip(state(kept), state(model.network), strict=True))


def test_the_cost_of_tuning(model: DiffusersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three evaluations for an image of a step, one for a validated one: at least 256 a time, step 0 included."""
    monkeypatch.setattr(finetuning, "VALIDATION_DRAWS", DRAWS)
    _, facts = tuned(model, Tuning(**QUICK))
    assert facts["steps"] == 12
    assert [step for step, _ in facts["validation"]] == [0, 3, 6, 9, 12]
    assert facts["evaluations"] == 3 * 12 * 4 + 5 * 9 * 29
    assert facts["parameters"] == sum(value.numel() for value in model.network.parameters())


def test_a_loss_that_is_not_finite_is_one_line(model: DiffusersModel, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = next(model.network.parameters())
    with torch.no_grad():
        weights.fill_(float("inf"))
    with pytest.raises(InputError, match=r"tuning.learning_rate=0.003: the loss is nan at step 1; lower it"):
        tuned(model, Tuning(**QUICK))


def test_an_untouched_network_has_forgotten_nothing(model: DiffusersModel, tmp_path: Path) -> None:
    """M5 is exactly 0 for the same weights, and above 0 for a network tuned elsewhere."""
    stages = Stages(Store(tmp_path))
    solver = SolverSettings(name="ddim", grid="uniform_t", steps=4)
    own = stages.denoising(model, stages.base_latents(model, solver, 500.0, 8, 0), solver, 0.0, 0).tensors["images"]
    same = model.with_network(model.network, "copy")
    lost = forgetting(stages, model, same, own, solver, 500.0, 0, 6)
    for name in ("loss", "psnr"):
        assert lost[name]["difference"] == {"mean": 0, "low": 0, "high": 0}
        assert lost[name]["base"] == lost[name]["tuned"]
    settings = Tuning(**QUICK)
    artefact, other = stages.tuned(model, images(10, "references"), images(9, "validation"), settings, 0)
    lost = forgetting(stages, model, other, own, solver, 500.0, 0, 0)
    assert lost["loss"]["difference"]["mean"] != 0
    assert "psnr" not in lost
    assert stages.tuned(model, images(10, "references"), images(9, "validation"), settings, 0)[0].reused
    assert not artefact.reused


# ---------------------------------------------------------------- whole runs

SUITE = ("scores=comparison", "scores.reconstructions=4", "scores.paths=0")
SMALL = (
    "method.tuning.max_steps=6",
    "method.tuning.check_every=2",
    "method.tuning.batch_size=4",
    "method.tuning.learning_rate=0.003",
)


def words(folder: Path) -> list[str]:
    left_out = ("model", "scores.")
    return [*(word for word in TINY if not word.startswith(left_out)), "model=diffusers", f"model.path={folder}"]


def test_tuned_methods_stand_beside_the_others(
    here: Path,
    tiny_model_folder: TinyModelFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Same suite, honest cost, facts in results.json; R alone reaches a gradient, and the base stays frozen."""
    trained_on: list[Tensor] = []
    squares = DiffusionLoss.squares

    def spy(loss: DiffusionLoss, network: nn.Module, *batch: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            trained_on.append(batch[0])
        return squares(loss, network, *batch)

    monkeypatch.setattr(DiffusionLoss, "squares", spy)
    base = words(tiny_model_folder())
    for method in ("finetune_full", "finetune_lora"):
        assert run("run", *base, *SUITE, f"method={method}", *SMALL) == 0
    assert run("run", "-m", *base, *SUITE, "method=base_samples,fitted") == 0
    files = [json.loads(path.read_text()) for path in (here / "outputs").rglob("results.json")]
    found = {result["settings"]["method"]: result for result in files}
    assert len(found) == 4
    split = load_file(Path(found["fitted"]["details"]["split"]) / "tensors.safetensors")
    references = {image.numpy().tobytes() for image in split["references"]}
    others = {image.numpy().tobytes() for part in ("validation", "heldout") for image in split[part]}
    seen = {image.numpy().tobytes() for batch in trained_on for image in batch}
    assert seen == references
    assert not seen & others

    for name in ("finetune_full", "finetune_lora"):
        row, tuning = found[name]["rows"][0], found[name]["tuning"]
        # Sampling is two walks of 5 evaluations at most: down to t, and from there.
        sampling = row["evaluations_per_image"] - tuning["evaluations"] / row["n"]
        assert sampling == found["base_samples"]["rows"][0]["evaluations_per_image"]
        assert tuning["evaluations"] >= 3 * 4 * tuning["steps"]
        assert set(tuning) >= {"steps", "best_step", "seconds", "validation", "loss", "stopped", "parameters"}
        assert set(tuning["forgetting"]) == {"images", "loss", "psnr"}
        others_too = {"acceptance", "psnr"}  # of a frozen model's prior
        assert set(row) - others_too == set(found["fitted"]["rows"][0]) - others_too
    assert "tuning" not in found["fitted"]
    kept = [
        load_file(path / "tensors.safetensors") for path in (here / "outputs/artefacts/tune").iterdir() if path.is_dir()
    ]
    sizes = {sum(value.numel() for value in weights.values()) for weights in kept}  # of LoRA the adapters alone
    assert sizes == {found[name]["tuning"]["parameters"] for name in ("finetune_full", "finetune_lora")}
    assert run("compare", "outputs") == 0


def test_a_run_leaves_the_frozen_network_alone(here: Path, tiny_model_folder: TinyModelFolder) -> None:
    """The weights in use have the same digest after a run of the full method and of a tuned one."""
    from unseen_diffusion.runs import run as runs

    folder = tiny_model_folder()
    runs._model.cache_clear()
    digests = [weights_digest(DiffusersModel(str(folder)).network)]
    for method in (["method=fitted"], ["method=finetune_full", *SMALL]):
        assert run("run", *words(folder), *method, "scores=lean") == 0
        config = json.dumps(next(iter_configs(here)), sort_keys=True)
        hits = runs._model.cache_info().hits
        used = runs._model(config, torch.device("cpu"))
        assert runs._model.cache_info().hits == hits + 1  # the very object of the run
        digests.append(weights_digest(used.network))
    assert len(set(digests)) == 1


def iter_configs(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.rglob("results.json"):
        yield json.loads(path.read_text())["config"]["model"]


# ---------------------------------------------------------------- refusals


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run("run", *arguments) == 2
    return capsys.readouterr().err


def test_what_cannot_be_tuned_is_refused_before_the_run(
    here: Path,
    tiny_model_folder: TinyModelFolder,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Models without a known loss, too few validation images, and a missing peft: one line, and nothing is written."""
    base = [*words(tiny_model_folder()), "method=finetune_full"]
    assert "analytic: it has no network to tune" in refused(capsys, *TINY, "method=finetune_full")
    assert "domain.validation=7: tuning stops by its loss" in refused(capsys, *base, "domain.validation=7")
    for family, more in (("ncsnpp", []), ("vq", []), ("classes", ["model.condition=1"]), ("edm", [])):
        path = make(family, here / family)
        said = refused(capsys, *base[:-2], f"model.path={path}", "method=finetune_full", *more)
        assert "fine-tuning trains unconditional UNet2DModels" in said
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    assert "pip install 'unseen-diffusion[tuning]'" in refused(capsys, *base[:-1], "method=finetune_lora")
    assert not (here / "outputs" / "artefacts").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0}, "learning_rate=0: give a number above 0, up to 1"),
        ({"learning_rate": float("nan")}, "learning_rate=nan: give a number above 0, up to 1"),
        ({"max_steps": 0}, "max_steps=0: give a whole number of 1 or more"),
        ({"batch_size": 2.5}, "batch_size=2.5: give a whole number of 1 or more"),
        ({"patience": 0}, "patience=0: give a whole number of 1 or more"),
        ({"check_every": True}, "check_every=true: give a whole number of 1 or more"),
        ({"ema": 1.0}, "ema=1.0: give a number of at least 0, below 1"),
        ({"flip": 1}, "flip=1: give true or false"),
        ({"rank": 0}, "rank=0: give a whole number of 1 or more"),
    ],
)
def test_senseless_settings_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"^method\.tuning\.{message}$"):
        LoraTuning(**{**QUICK, "rank": 2, **change})


def test_tuning_belongs_to_its_source() -> None:
    with pytest.raises(InputError, match="give tuning to a method that fine-tunes"):
        by_source(name="x", source="tuned")
    with pytest.raises(InputError, match="give tuning to a method that fine-tunes"):
        by_source(name="x", source="base", tuning=KINDS[0])


def test_the_kind_of_tuning_is_part_of_what_decides_it() -> None:
    """So that full tuning and adapters of equal settings never share an artefact."""
    assert describe(KINDS[0]) != describe(KINDS[1])
    assert describe(KINDS[0])["kind"] == "Tuning"


def test_the_description_in_an_artefact_key_is_the_config() -> None:
    """Its values and their types, so that earlier artefacts are found again."""
    given = OmegaConf.load(ROOT / "conf" / "method" / "finetune_full.yaml").tuning
    plain = OmegaConf.to_container(given)
    del plain["_target_"]
    assert repr(describe(build(given))) == repr({"kind": "Tuning", **plain})
