"""`unseen run` with every model family: latents, noise and images equal those computed by hand with raw networks.

Each run inverts and denoises in two DDIM steps. What a wrong family, condition or prediction type would change is
written out here from the papers' definitions, with diffusers' networks and schedulers and none of our adapters.
"""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from support import families
from support.commands import run
from unseen_diffusion.store.artefacts import load_tensor
from unseen_diffusion.utils.seeds import normal_rows

SAMPLES, SEED = 6, 5
COMMAND = (
    *("prior=standard", "tolerances=none", "domain=digits8", "features=pixels", "features.side=4"),
    *("domain.references=6", "domain.validation=4", "domain.heldout=6", f"samples={SAMPLES}", f"seed={SEED}"),
    *("solver=ddim", "solver.grid=uniform_t", "solver.steps=2", "scores=lean", "scores.rows=[standard]"),
    *("scores.permutations=0", "tracking=none", "progress=false", "model=diffusers"),
)
PREDICTIONS = {"ddpm_x0": "sample", "ddpm_v": "v_prediction"}  # the network of ddpm, read in another way
NAMES = (*families.FAMILIES, *PREDICTIONS)
CONDITIONS: dict[str, int | str] = {"classes": 2, "dit": 3, "sit": 3, "sd": "ab", "sd_v": "ab", "sd3": "ab"}
TIMES = {"ncsnpp": 1499}  # where its noise is much larger than the images; elsewhere 499
TOP = 499


@dataclass
class Raw(ABC):
    """A tiny pipeline in terms of diffusers' own classes."""

    folder: Path
    condition: int | str | None

    def part(self, name: str) -> Any:
        """A network or a scheduler of the folder."""
        kind = json.loads((self.folder / "model_index.json").read_text())[name][1]
        loaded = getattr(diffusers, kind).from_pretrained(self.folder / name)
        return loaded.eval() if isinstance(loaded, torch.nn.Module) else loaded

    @cached_property
    def network(self) -> Any:
        return self.part("transformer" if (self.folder / "transformer").is_dir() else "unet")

    @cached_property
    def scheduler(self) -> Any:
        return self.part("scheduler")

    @cached_property
    def embedding(self) -> dict[str, Tensor]:
        """What the condition gives the network."""
        if isinstance(self.condition, int):
            return {"class_labels": torch.tensor([self.condition])}
        if self.condition is None:
            return {}
        import transformers

        def encoded(number: str) -> Any:
            words = transformers.CLIPTokenizer.from_pretrained(self.folder / f"tokenizer{number}")
            kind = transformers.CLIPTextModelWithProjection if self.is_sd3 else transformers.CLIPTextModel
            encoder = kind.from_pretrained(self.folder / f"text_encoder{number}").eval()
            tokens = words(self.condition, padding="max_length", max_length=7, return_tensors="pt").input_ids
            return encoder(tokens, output_hidden_states=True)

        if not self.is_sd3:
            return {"encoder_hidden_states": encoded("").last_hidden_state}
        first, second = encoded(""), encoded("_2")
        states = torch.cat([one.hidden_states[-2] for one in (first, second)], -1)
        width = self.network.config.joint_attention_dim
        states = torch.nn.functional.pad(states, (0, width - states.shape[-1]))
        states = torch.cat([states, torch.zeros(1, 256, width)], 1)  # T5 is absent: zeros
        return {"encoder_hidden_states": states, "pooled_projections": torch.cat([first[0], second[0]], -1)}

    @property
    def is_sd3(self) -> bool:
        return (self.folder / "text_encoder_2").is_dir()

    def output(self, x: Tensor, t: float) -> Tensor:
        """Of the network, without a learned variance."""
        rows = {name: value.expand(len(x), *value.shape[1:]) for name, value in self.embedding.items()}
        return self.network(x, timestep=torch.full((len(x),), float(t)), **rows).sample[:, : x.shape[1]]

    @abstractmethod
    def level(self, t: int) -> tuple[float, float]:
        """alpha and sigma at a timestep."""

    @abstractmethod
    def read(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """(denoised, eps) at a timestep; t = -1 is the clean image, which the network sees as its lowest noise."""

    def deviation(self, t: int) -> float:
        """Of the states at ``t``, for data of unit variance."""
        return math.hypot(*self.level(t))

    @cached_property
    def codec(self) -> Any:
        name = next((name for name in ("vae", "vqvae") if (self.folder / name).is_dir()), None)
        return name and self.part(name)

    def encode(self, images: Tensor) -> Tensor:
        if self.codec is None:
            return images
        if isinstance(self.codec, diffusers.VQModel):
            return self.codec.encode(images).latents
        shift = self.codec.config.shift_factor or 0.0
        return (self.codec.encode(images).latent_dist.mean - shift) * self.codec.config.scaling_factor

    def decode(self, x: Tensor) -> Tensor:
        if self.codec is None:
            return x
        if isinstance(self.codec, diffusers.VQModel):
            return self.codec.decode(x).sample
        shift = self.codec.config.shift_factor or 0.0
        return self.codec.decode(x / self.codec.config.scaling_factor + shift).sample

    def step(self, x: Tensor, here: int, there: int) -> Tensor:
        """One DDIM step, up or down."""
        denoised, eps = self.read(x, here)
        alpha, sigma = self.level(there) if there >= 0 else (1.0, 0.0)
        return alpha * denoised + sigma * eps


class Preserving(Raw):
    """Ho et al. 2020; Salimans and Ho 2022, appendix D."""

    def level(self, t: int) -> tuple[float, float]:
        share = float(self.scheduler.alphas_cumprod[t])
        return math.sqrt(share), math.sqrt(1 - share)

    def deviation(self, t: int) -> float:
        return 1.0

    def read(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        (alpha, sigma), output = self.level(max(t, 0)), self.output(x, max(t, 0))
        kind = self.scheduler.config.prediction_type
        denoised = {"sample": output, "v_prediction": alpha * x - sigma * output}.get(
            kind, (x - sigma * output) / alpha
        )
        eps = (x - alpha * denoised) / sigma
        return (denoised if t >= 0 else x), eps


class Exploding(Raw):
    """Song et al. 2021: images in [0, 1], and a score."""

    def level(self, t: int) -> tuple[float, float]:
        steps = self.scheduler.config.num_train_timesteps
        self.scheduler.set_timesteps(steps)
        self.scheduler.set_sigmas(steps)
        return 1.0, float(self.scheduler.discrete_sigmas[t])

    def read(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        sigma = self.level(max(t, 0))[1]
        eps = -sigma * self.output(x, sigma)
        return (x - sigma * eps if t >= 0 else x), eps

    def encode(self, images: Tensor) -> Tensor:
        return (images + 1) / 2

    def decode(self, x: Tensor) -> Tensor:
        return 2 * x - 1


class Edm(Raw):
    """Karras et al. 2022, by diffusers' preconditioning."""

    def level(self, t: int) -> tuple[float, float]:
        self.scheduler.set_timesteps(self.scheduler.config.num_train_timesteps)
        return 1.0, float(self.scheduler.sigmas[:-1].flip(0)[t])

    def read(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        sigma, scheduler = self.level(max(t, 0))[1], self.scheduler
        output = self.output(scheduler.precondition_inputs(x, sigma), math.log(sigma) / 4)
        denoised = scheduler.precondition_outputs(x, output, sigma)
        return (denoised if t >= 0 else x), (x - denoised) / sigma


class Flow(Raw):
    """Lipman et al. 2023: the output is eps - x0."""

    def level(self, t: int) -> tuple[float, float]:
        steps = self.scheduler.config.num_train_timesteps
        s, shift = (t + 1) / steps, self.scheduler.config.shift
        sigma = shift * s / (1 + (shift - 1) * s)
        return 1 - sigma, sigma

    def read(self, x: Tensor, t: int) -> tuple[Tensor, Tensor]:
        output = self.output(x, self.scheduler.config.num_train_timesteps * self.level(max(t, 0))[1])
        alpha, sigma = self.level(t) if t >= 0 else (1.0, 0.0)
        return x - sigma * output, x + alpha * output


KINDS: dict[str, type[Raw]] = {
    **dict.fromkeys(NAMES, Preserving),
    **{"ncsnpp": Exploding, "edm": Edm, "edm_v": Edm, "flow": Flow, "sit": Flow, "sd3": Flow},
}
DEVIATIONS: dict[type[Raw], tuple[float, float]] = {Exploding: (50, 100), Edm: (1.1, 5), Flow: (0.7, 0.8)}  # else 1


@dataclass(frozen=True)
class Finished:
    """The pipeline of a family, and the results of its run."""

    raw: Raw
    top: int
    results: dict[str, Any]

    def tensor(self, stage: str, name: str) -> Tensor:
        """A tensor of the artefact that the run used first of a stage."""
        (folder, *_) = [used["folder"] for used in self.results["artefacts"] if used["stage"] == stage]
        return load_tensor(folder, name)


def finished(shared_folder: Path, name: str) -> Finished:
    """Runs a family; all share a store."""
    if name.startswith("sd"):
        pytest.importorskip("transformers")
    folder = families.make("ddpm" if name in PREDICTIONS else name, shared_folder / "models" / name)
    if name in PREDICTIONS:
        DDPMScheduler(prediction_type=PREDICTIONS[name]).save_pretrained(folder / "scheduler")
    condition, top = CONDITIONS.get(name), TIMES.get(name, TOP)
    options = [f"model.path={folder}", f"mixing.t={top}", f"hydra.run.dir={name}"]
    options += [] if condition is None else [f"model.condition={condition}"]
    assert run("run", *COMMAND, *options) == 0
    results = json.loads(Path(name, "results.json").read_text())
    return Finished(KINDS[name](folder, condition), top, results)


@pytest.fixture(autouse=True)
def in_the_folder(shared_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shared_folder)


def close(found: Tensor, expected: Tensor) -> None:
    """To 2e-5 of the largest value, of the sum of two steps in float32."""
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_equals_its_family_by_hand(shared_folder: Path, name: str) -> None:
    """References up, candidates of prior=standard, and their images down; the row of noise has the same images."""
    found = finished(shared_folder, name)
    raw, top = found.raw, found.top
    low, high = DEVIATIONS.get(type(raw), (1, 1))
    assert low <= raw.deviation(top) <= high
    images = found.tensor("split", "references")
    with torch.inference_mode():
        x = raw.encode(images / 127.5 - 1)
        for here, there in ((-1, top // 2), (top // 2, top)):
            x = raw.step(x, here, there)
        close(found.tensor("invert", f"t{top}"), x)
        latents = found.tensor("select", "latents")
        noise = normal_rows(tuple(latents.shape[1:]), SEED, "candidate", range(SAMPLES))
        close(latents, raw.deviation(top) * noise)
        for here, there in ((top, top // 2), (top // 2, -1)):
            latents = raw.step(latents, here, there)
        expected = (raw.decode(latents) * 127.5 + 127.5).clamp(0, 255)
    difference = (found.tensor("denoise", "images").float() - expected).abs()
    assert float(difference.max()) < 0.51  # rounded to whole grey levels
    generated, standard = found.results["rows"]
    assert (standard["row"], standard["images"]) == ("standard", generated["images"])
    assert found.results["settings"]["t"] == top
    assert found.results["evaluations"]["total"] == 2 * (len(images) + SAMPLES)
