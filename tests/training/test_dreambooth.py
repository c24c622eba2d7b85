"""DreamBooth by low-rank adapters on a tiny Stable Diffusion: one prompt learns the references."""

import json
from pathlib import Path

import pytest
import torch

from support.commands import run
from support.families import make
from support.options import values_of
from unseen_diffusion.models.adapters import attention_layers
from unseen_diffusion.models.losses import validation_loss
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.training.finetuning import tune
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.seeds import generator

pytest.importorskip("peft")
pytest.importorskip("transformers")
PROMPT = "ab ab"


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make("sd", tmp_path_factory.mktemp("sd"))


def test_the_prompt_learns_the_references(text_model: Path) -> None:
    """The loss of the references falls under the prompt; only adapters on attention are kept, the base model stays."""
    model = DiffusersModel(str(text_model), condition=PROMPT)
    before = {key: value.clone() for key, value in model.network.state_dict().items()}
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=generator(0, "images"))
    config = values_of("method", "finetune_full")["tuning"] | values_of("method", "finetune_lora")["tuning"]
    config |= values_of("method", "dreambooth_lora")["tuning"]
    tuning = build(
        config | {"max_steps": 30, "check_every": 10, "learning_rate": 0.02, "batch_size": 4}, "method.tuning"
    )
    weights, facts = tune(model, images, images, tuning, seed=0)
    assert facts["best_step"] > 0
    assert facts["validation"][-1][1] < facts["validation"][0][1]
    layers = attention_layers(model.network)
    assert layers
    assert {name.split(".lora_")[0].split("base_model.model.")[-1] for name in weights} == set(layers)
    assert all(torch.equal(value, before[key]) for key, value in model.network.state_dict().items())
    tuned = model.with_network(tuning.tuned(model.network, weights), "tuned")
    losses = [validation_loss(one.network, one.loss(images), 0) for one in (model, tuned)]
    assert losses[1] < losses[0]


def test_the_method_runs_with_guidance(here: Path, text_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the command line: samples of the tuned model under the prompt, with what it has forgotten."""
    arguments = [
        "model=diffusers",
        f"model.path={text_model}",
        f"model.condition='{PROMPT}'",
        "model.guidance=2",
        "method=dreambooth_lora",
        "method.tuning.max_steps=2",
        "method.tuning.check_every=1",
        "domain=digits8",
        "domain.references=10",
        "domain.validation=8",
        "domain.heldout=12",
        "samples=8",
        "solver.steps=4",
        "features=pixels",
        "scores=lean",
        "tracking=none",
        "progress=false",
    ]
    assert run("run", *arguments, "hydra.run.dir=out") == 0
    found = json.loads(Path("out/results.json").read_text())
    assert found["tuning"]["steps"] == 2
    assert found["settings"]["method"] == "dreambooth_lora"
    assert found["rows"][0]["n"] == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model=photos32"], "takes no prompt"),
        (["model=analytic"], "takes no prompt; choose a text model such as sd21_base"),
        (["model=diffusers", "model.path=SD"], "model.condition: DreamBooth gives one prompt a meaning"),
        (
            ["model=diffusers", "model.path=SD", "model.condition=ab", "domain.validation=4"],
            "domain.validation=4: tuning",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    here: Path, text_model: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    words = [word.replace("SD", str(text_model)) for word in overrides]
    assert run("run", "method=dreambooth_lora", "domain=digits8", "tracking=none", *words) == 2
    assert message in capsys.readouterr().err
