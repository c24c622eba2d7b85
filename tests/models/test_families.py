"""Every family of diffusion model against diffusers' own stepping, and against its definition."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTTransformer2DModel,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    ScoreSdeVeScheduler,
    UNet2DModel,
    VQModel,
)
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor

from support import families
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.folders import WEIGHTS, resolve, weighted_parts
from unseen_diffusion.models.options import describe, inspect_model
from unseen_diffusion.models.schedules import CLEAN_NODE, Node
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.sweeps.composition import config_folder
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json

Family = Callable[[str], Path]
TEXT = ("sd", "sd_v", "sd3")
PIXELS = ("ncsnpp", "edm", "flow")
CONDITIONS = {"classes": 2, "dit": 3, "sit": 3, "sd": "ab", "sd_v": "ab", "sd3": "ab"}


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    """The folder of a family's tiny pipeline, made once; read-only by agreement."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name in TEXT:
            pytest.importorskip("transformers")
        if name not in made:
            made[name] = families.make(name, tmp_path_factory.mktemp("families") / name)
        return made[name]

    return get


LOADED: dict[str, DiffusersModel] = {}


def load(family: Family, name: str, **options: Any) -> DiffusersModel:
    """The family's model, loaded once for each set of options."""
    options = {"condition": CONDITIONS.get(name)} | options
    key = f"{family(name)} {sorted(options.items())}"
    if key not in LOADED:
        LOADED[key] = DiffusersModel(str(family(name)), **options)
    return LOADED[key]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int, size: int) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(2)) * 2 - 1


def follow(
    model: DiffusionModel, x: Tensor, nodes: Sequence[Node], eta: float = 0.0, z: Sequence[Tensor] = ()
) -> Tensor:
    """Step: alpha' denoised + sqrt(sigma'^2 - tau^2) eps + tau z."""
    for step, (here, there) in enumerate(pairwise(nodes)):
        denoised, eps = model.predict(x, here)
        ratio = there.sigma * here.alpha / (here.sigma * there.alpha)
        tau = eta * there.sigma * math.sqrt(1 - ratio**2)
        x = there.alpha * denoised + math.sqrt(there.sigma**2 - tau**2) * eps
        x = x + tau * z[step] if tau else x
    return x


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """To ``tolerance`` of the largest value."""
    assert float((found - expected).abs().max()) < tolerance * max(1.0, float(expected.abs().max()))


# --- every family: what the interface promises ---


@pytest.mark.parametrize("name", families.FAMILIES)
def test_the_reading_adds_up_to_the_state_at_every_noise_level(family: Family, name: str) -> None:
    """x = alpha denoised + sigma eps, from the clean end (finite, denoised = x) to the top."""
    model = load(family, name)
    top = model.schedule.timesteps - 1
    for t in (-1.0, -0.5, 0.0, 0.3 * top, float(top)):
        node = model.schedule.node(t)
        x = node.alpha + node.sigma * noise(2, *model.shape).double()
        denoised, eps = model.predict(x, node)
        assert bool(denoised.isfinite().all() and eps.isfinite().all()), t
        close(node.alpha * denoised + node.sigma * eps, x)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_batch_is_its_images_one_by_one(family: Family, name: str) -> None:
    model = load(family, name, guidance=3.0) if name in ("dit", "sd") else load(family, name)
    model = model.for_denoising()
    node, x = model.schedule.node(400.25), noise(3, *model.shape)
    one_by_one = [torch.cat(parts) for parts in zip(*(model.predict(row[None], node) for row in x), strict=True)]
    for found, expected in zip(model.predict(x, node), one_by_one, strict=True):
        close(found, expected)
    pictures = images(3, model.spec.size)
    close(model.encode(pictures, 3), model.encode(pictures, 1))
    close(model.decode(x, 3), model.decode(x, 2))


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_family_gives_features_of_images(family: Family, name: str) -> None:
    """Finite, of one evaluation an image, the same in any batch, different for different images."""
    model = load(family, name)
    shown = images(3, model.spec.size)
    before = model.evaluations
    features = model.features(shown, 2)
    assert model.evaluations - before == 3
    assert features.ndim == 2
    assert bool(features.isfinite().all())
    torch.testing.assert_close(model.features(shown[1:2]), features[1:2], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(features[0], features[1], rtol=1e-3)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_describe_and_inspect_need_no_weights_of_their_own(family: Family, name: str, tmp_path: Path) -> None:
    """JSON alone gives shapes and schedule; absent weights of a local folder are named before anything is read."""
    folder, spec = Path(shutil.copytree(family(name), tmp_path / name)), load(family, name).spec
    assert inspect_model(str(folder), condition=CONDITIONS.get(name))[:2] == spec[:2]
    part = "transformer" if (folder / "transformer").is_dir() else "unet"
    (folder / part / WEIGHTS).unlink()
    described = describe(str(folder))
    assert (described.channels, described.size, described.shape) == (spec.channels, spec.size, spec.shape)
    assert torch.equal(described.schedule.table, spec.schedule.table)
    with pytest.raises(InputError, match=f"no {part}/{WEIGHTS}; download"):
        inspect_model(str(folder), condition=CONDITIONS.get(name))


@pytest.mark.parametrize("name", PIXELS)
def test_a_new_latent_survives_the_round_trip(family: Family, name: str) -> None:
    """denoise, then invert: the error falls with the number of steps, at first order or better."""
    model = load(family, name)
    t = 0.4 * (model.schedule.timesteps - 1)
    latents = noise(1, *model.shape) * model.schedule.state_std(t)
    errors = []
    for steps in (6, 24):
        grid = make_grid(model.schedule, "karras", steps, t)
        back = invert(model, denoise(model, latents, grid, 0.0, seed=0), grid, [t])[t]
        errors.append(float((back - latents).square().mean().sqrt() / latents.std()))
    assert errors[1] < errors[0] / 3, errors


def test_state_std_is_that_of_unit_data(family: Family) -> None:
    """sqrt(alpha^2 + sigma^2): 1 for vp, EDM's start at the top of ve, 1 at flow's top."""
    assert load(family, "ddpm").schedule.state_std(300.5) == 1
    model = load(family, "edm")
    assert model.schedule.state_std(999.0) == pytest.approx(EDMEulerScheduler().init_noise_sigma)
    assert load(family, "flow").schedule.state_std(999.0) == 1


# --- variance-preserving ---


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_vp_equals_ddim_scheduler(family: Family, tmp_path: Path, prediction_type: str, eta: float) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "vp"))
    scheduler = DDIMScheduler(prediction_type=prediction_type, clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    model = DiffusersModel(str(folder))
    scheduler.set_timesteps(8)
    x = start = noise(2, *model.shape)
    z = [noise(2, *model.shape, seed=step) for step in range(8)]
    unet = UNet2DModel.from_pretrained(folder / "unet")
    with torch.no_grad():
        for t, fresh in zip(scheduler.timesteps, z, strict=True):
            x = scheduler.step(unet(x, t).sample, t, x, eta=eta, variance_noise=fresh).prev_sample
    nodes = [*(model.schedule.node(float(t)) for t in scheduler.timesteps), CLEAN_NODE]
    close(follow(model, start, nodes, eta, z), x)


def test_schedulers_of_other_solvers_give_the_same_tables(family: Family, tmp_path: Path) -> None:
    """Stable Diffusion ships PNDM, others Euler or DPM-Solver: only the betas matter."""
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "vp"))
    betas = {"beta_start": 0.001, "beta_end": 0.015, "beta_schedule": "scaled_linear"}
    expected = DDIMScheduler(**betas).alphas_cumprod.double()
    for kind in ("PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "HeunDiscreteScheduler"):
        getattr(diffusers, kind)(**betas).save_pretrained(folder / "scheduler")
        torch.testing.assert_close(describe(str(folder)).schedule.alphas_cumprod, expected, rtol=1e-6, atol=0)


def test_predict_epsilon_of_old_configs_is_heeded(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "vp"))
    path = folder / "scheduler" / "scheduler_config.json"
    config = {key: value for key, value in read_json(path).items() if key != "prediction_type"}
    write_json(path, config | {"predict_epsilon": False})
    model, x = DiffusersModel(str(folder)), noise(2, 3, 8, 8)
    node = model.schedule.node(30.0)
    assert torch.equal(model.predict(x, node).denoised, load(family, "ddpm").predict(x, node).eps)


def test_noise_predictors_have_no_reading_without_signal(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "vp"))
    DDIMScheduler(rescale_betas_zero_snr=True).save_pretrained(folder / "scheduler")
    model = DiffusersModel(str(folder))
    with pytest.raises(InputError, match=r"t=999: no signal is left there.*lower mixing\.t"):
        model.predict(noise(1, *model.shape), model.schedule.node(999.0))


def test_class_labels_reach_the_network(family: Family) -> None:
    model, x = load(family, "classes", condition=2), noise(2, 3, 8, 8)
    unet = UNet2DModel.from_pretrained(family("classes") / "unet")
    expected = unet(x, torch.full((2,), 30.0), class_labels=torch.tensor([2, 2])).sample.detach()
    close(model.predict(x, model.schedule.node(30.0)).eps, expected)
    other = load(family, "classes", condition=0)
    assert float((other.predict(x, model.schedule.node(30.0)).eps - expected).abs().max()) > 1e-3
    assert other.fingerprint != model.fingerprint


# --- score-based, exploding ---


def test_ncsnpp_score_equals_the_reverse_sde_step(family: Family) -> None:
    """At eta 1 the mean of a step is x + (sigma^2 - sigma'^2) score: ScoreSdeVeScheduler's predictor."""
    model, scheduler = load(family, "ncsnpp"), ScoreSdeVeScheduler()
    unet = UNet2DModel.from_pretrained(family("ncsnpp") / "unet")
    scheduler.set_timesteps(2000)
    scheduler.set_sigmas(2000)
    x = noise(2, 3, 8, 8)
    for index in (1999, 1200, 400, 1):
        sigma = scheduler.discrete_sigmas[index]
        node, there = model.schedule.node(float(index)), model.schedule.node(float(index - 1))
        assert node.sigma == pytest.approx(float(sigma), rel=1e-5)
        state = float(sigma) * x
        with torch.no_grad():
            score = unet(state, torch.full((2,), node.sigma)).sample
        # The scheduler turns its t in [0, 1] into an index by rounding t * 1999 down.
        mean = scheduler.step_pred(score, (index + 0.5) / 1999, state).prev_sample_mean
        close(follow(model, state, [node, there], 1.0, [torch.zeros_like(x)]), mean)


def test_ncsnpp_sees_images_in_the_unit_range(family: Family) -> None:
    model, pictures = load(family, "ncsnpp"), images(2, 8)
    close(model.encode(pictures), (pictures + 1) / 2)
    close(model.decode(model.encode(pictures)), pictures)
    assert model.schedule.node(1999.0).sigma == pytest.approx(1348)
    assert model.schedule.node(0.0).sigma == pytest.approx(0.01)


# --- EDM ---


@pytest.mark.parametrize("name", ["edm", "edm_v"])
@pytest.mark.parametrize("kind", [EDMEulerScheduler, EDMDPMSolverMultistepScheduler])
def test_edm_equals_its_schedulers(family: Family, tmp_path: Path, name: str, kind: Any) -> None:
    """Euler steps, or the first-order DPM-Solver++; preconditioning, sigmas and prediction types included."""
    folder = Path(shutil.copytree(family(name), tmp_path / name))
    shared = ("sigma_min", "sigma_max", "sigma_data", "sigma_schedule", "prediction_type", "rho")
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    order = {"solver_order": 1} if kind is EDMDPMSolverMultistepScheduler else {}
    scheduler = kind(**{key: config[key] for key in shared}, **order)
    scheduler.save_pretrained(folder / "scheduler")
    model = DiffusersModel(str(folder))
    unet = UNet2DModel.from_pretrained(folder / "unet")
    scheduler.set_timesteps(8)
    x = start = noise(2, 3, 8, 8) * scheduler.sigmas[0]
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = unet(scheduler.scale_model_input(x, t), t).sample
            x = scheduler.step(output, t, x).prev_sample
    nodes = [model.schedule.node_at_noise(float(sigma)) for sigma in scheduler.sigmas]
    assert nodes[0].t == pytest.approx(999, abs=1e-4)
    assert nodes[-1] == CLEAN_NODE
    close(follow(model, start, nodes), x)


@pytest.mark.parametrize("name", ["edm", "edm_v"])
def test_edm_timesteps_are_its_sigmas_in_rising_order(family: Family, name: str) -> None:
    scheduler = EDMEulerScheduler.from_pretrained(family(name) / "scheduler")
    scheduler.set_timesteps(1000)
    table = load(family, name).schedule.table
    torch.testing.assert_close(table.flip(0), scheduler.sigmas[:-1].double(), rtol=2e-5, atol=0)


# --- flow matching ---


def test_flow_equals_its_scheduler_from_pure_noise_on(family: Family) -> None:
    """The first node has alpha = 0 and is reached without a division; shift 3 included."""
    model = load(family, "flow")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(family("flow") / "scheduler")
    unet = UNet2DModel.from_pretrained(family("flow") / "unet")
    scheduler.set_timesteps(8)
    x = start = noise(2, 3, 8, 8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
    levels = [float(sigma) for sigma in scheduler.sigmas]
    nodes = [model.schedule.node_at_noise(s / (1 - s) if s < 1 else math.inf) for s in levels]
    assert (nodes[0].t, nodes[0].alpha, nodes[0].sigma) == (999.0, 0.0, 1.0)
    close(follow(model, start, nodes), x)


def test_flow_timesteps_are_its_sigmas_in_rising_order(family: Family) -> None:
    """sigma = shift s / (1 + (shift - 1) s) at s = (t + 1) / 1000, and the network is told 1000 sigma."""
    model = load(family, "flow")
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(family("flow") / "scheduler")
    torch.testing.assert_close(model.schedule.table.flip(0), scheduler.sigmas.double(), rtol=1e-5, atol=0)
    node = model.schedule.node(249.0)
    assert node.sigma == pytest.approx(3 * 0.25 / 1.5)
    assert model.family.time(node) == pytest.approx(500)


def test_flow_denoises_from_its_top(family: Family) -> None:
    """alpha = 0 in the solvers: finite images, with eta 1 too."""
    model = load(family, "flow")
    grid = make_grid(model.schedule, "uniform_t", 6, 999.0)
    assert grid.down[0].alpha == 0
    for eta in (0.0, 1.0):
        assert bool(denoise(model, noise(2, *model.shape), grid, eta, seed=0).isfinite().all())


# --- latent families against diffusers' pipelines ---


def ddim_nodes(model: DiffusionModel, scheduler: DDIMScheduler) -> list[Node]:
    return [*(model.schedule.node(float(t)) for t in scheduler.timesteps), CLEAN_NODE]


def as_pipelines_show(decoded: Tensor) -> Tensor:
    return (decoded / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_dit_equals_its_pipeline(family: Family, guidance: float) -> None:
    """Class labels, the null class, the dropped variance, the latent scale and classifier-free guidance."""
    folder, scheduler = family("dit"), DDIMScheduler(clip_sample=False)
    transformer = DiTTransformer2DModel.from_pretrained(folder / "transformer")
    vae = AutoencoderKL.from_pretrained(folder / "vae")
    # The pipeline's null class is 1000 whatever the network: stand in for an embedding of ten classes.
    table = transformer.transformer_blocks[0].norm1.emb.class_embedder.embedding_table
    lookup = table.forward
    table.forward = lambda labels: lookup(torch.where(labels == 1000, 10, labels))  # type: ignore[method-assign]
    pipeline = diffusers.DiTPipeline(transformer, vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    rng = torch.Generator().manual_seed(5)
    expected = pipeline([3, 3], guidance, rng, num_inference_steps=5, output_type="pt").images
    model = load(family, "dit", condition=3, guidance=guidance)
    latents = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(5))
    found = model.decode(follow(model.for_denoising(), latents, ddim_nodes(model, scheduler)))
    close(as_pipelines_show(found), expected)
    null = load(family, "dit", condition=None).predict(latents, model.schedule.node(10.0)).eps
    with torch.no_grad():
        output = transformer(latents, torch.full((2,), 10.0), class_labels=torch.tensor([10, 10])).sample
    close(null, output[:, :4])


@pytest.mark.parametrize(
    ("name", "prompt", "guidance"), [("sd", "ab c", 5.0), ("sd", None, 1.0), ("sd_v", "ab c", 1.0)]
)
def test_stable_diffusion_equals_its_pipeline(family: Family, name: str, prompt: str | None, guidance: float) -> None:
    """Tokens, text encoder, cross-attention, eps- and v-prediction, guidance and the latent scale."""
    folder = family(name)
    import transformers

    config = read_json(folder / "scheduler" / "scheduler_config.json")
    scheduler = DDIMScheduler.from_config(config | {"clip_sample": False, "set_alpha_to_one": True})
    pipeline = diffusers.StableDiffusionPipeline(
        AutoencoderKL.from_pretrained(folder / "vae"),
        transformers.CLIPTextModel.from_pretrained(folder / "text_encoder"),
        transformers.CLIPTokenizer.from_pretrained(folder / "tokenizer"),
        diffusers.UNet2DConditionModel.from_pretrained(folder / "unet"),
        scheduler,
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    model = load(family, name, condition=prompt, guidance=guidance)
    latents = noise(1, *model.shape)
    expected = pipeline(
        prompt or "", latents=latents, guidance_scale=guidance, num_inference_steps=4, output_type="pt"
    ).images
    found = model.decode(follow(model.for_denoising(), latents, ddim_nodes(model, scheduler)))
    close(as_pipelines_show(found), expected)


def test_stable_diffusion_3_equals_its_pipeline(family: Family) -> None:
    """Both text encoders, pooled projections, T5 as zeros, shift 3, the autoencoder's shift and scale."""
    folder = family("sd3")
    import transformers

    def part(kind: Any, name: str) -> Any:
        return kind.from_pretrained(folder / name)

    encoder, words = transformers.CLIPTextModelWithProjection, transformers.CLIPTokenizer
    scheduler = part(FlowMatchEulerDiscreteScheduler, "scheduler")
    pipeline = diffusers.StableDiffusion3Pipeline(
        part(diffusers.SD3Transformer2DModel, "transformer"),
        scheduler,
        part(AutoencoderKL, "vae"),
        part(encoder, "text_encoder"),
        part(words, "tokenizer"),
        part(encoder, "text_encoder_2"),
        part(words, "tokenizer_2"),
        None,
        None,
    )
    pipeline.set_progress_bar_config(disable=True)
    model = load(family, "sd3", condition="ab c")
    latents = noise(1, *model.shape)
    options = {"guidance_scale": 1.0, "num_inference_steps": 4, "height": 16, "width": 16, "output_type": "pt"}
    expected = pipeline("ab c", latents=latents, **options).images
    levels = [float(sigma) for sigma in scheduler.sigmas]
    nodes = [model.schedule.node_at_noise(s / (1 - s) if s < 1 else math.inf) for s in levels]
    close(as_pipelines_show(model.decode(follow(model, latents, nodes))), expected)


def test_vq_latents_are_unscaled_unless_told(family: Family) -> None:
    """diffusers #6725: dividing CelebA's VQ latents by 0.18215 spoils the images; states are not yet quantised."""
    folder, pictures = family("vq"), images(2, 16)
    vqvae = VQModel.from_pretrained(folder / "vqvae")
    assert vqvae.config.scaling_factor == 0.18215
    model = load(family, "vq")
    with torch.no_grad():
        close(model.encode(pictures), vqvae.encode(pictures).latents)
        close(model.decode(model.encode(pictures)), vqvae(pictures).sample)
    scaled = load(family, "vq", latent_scale=0.5)
    close(scaled.encode(pictures), 0.5 * model.encode(pictures))
    close(scaled.decode(scaled.encode(pictures)), model.decode(model.encode(pictures)))
    assert scaled.fingerprint != model.fingerprint


def test_kl_states_are_the_scaled_posterior_mean(family: Family) -> None:
    """(mean - shift) scale, the same every time; the decoder undoes both."""
    for name, shift in (("kl", 0.0), ("sd3", 0.1)):
        model, pictures = load(family, name), images(2, 16)
        vae = AutoencoderKL.from_pretrained(family(name) / "vae")
        with torch.no_grad():
            mean = vae.encode(pictures).latent_dist.mean
            close(model.encode(pictures), (mean - shift) * 0.4)
            close(model.decode(model.encode(pictures)), vae.decode(mean).sample)
        assert torch.equal(model.encode(pictures), model.encode(pictures))


def test_pixel_families_pass_images_through_untouched(family: Family) -> None:
    pictures = images(2, 8)
    for name in ("ddpm", "edm", "flow"):
        model = load(family, name)
        assert model.encode(pictures) is pictures
        assert model.decode(pictures) is pictures


# --- guidance, precision, initial weights ---


def test_guidance_is_for_denoising_alone_and_counts_both_evaluations(family: Family) -> None:
    """null + g (conditional - null); the model itself, and so its inversions, stay as they are."""
    plain, model = load(family, "dit"), DiffusersModel(str(family("dit")), condition=3, guidance=3.0)
    assert plain.for_denoising() is plain
    assert model.fingerprint == plain.fingerprint
    guided = model.for_denoising()
    assert guided.for_denoising() is guided is model.for_denoising()
    assert guided.fingerprint not in (model.fingerprint, load(family, "dit", guidance=2.0).for_denoising().fingerprint)
    x, node = noise(2, *model.shape), model.schedule.node(500.0)
    eps, null = model.predict(x, node).eps, load(family, "dit", condition=None).predict(x, node).eps
    close(eps, plain.predict(x, node).eps)
    close(guided.predict(x, node).eps, null + 3 * (eps - null))
    assert (model.evaluations, guided.evaluations) == (2, 4)


def test_bfloat16_is_close_to_float32_and_marked(family: Family) -> None:
    """8 bits of mantissa: a few per mille of the output; states stay float32."""
    full, half = load(family, "ddpm"), load(family, "ddpm", dtype="bfloat16")
    x, node = noise(2, 3, 8, 8), full.schedule.node(500.0)
    difference = (full.predict(x, node).eps - half.predict(x, node).eps).square().mean().sqrt()
    assert 0 < float(difference / full.predict(x, node).eps.std()) < 0.02
    assert half.predict(x, node).eps.dtype == torch.float32
    assert half.fingerprint != full.fingerprint


def test_untrained_networks_follow_their_seed(family: Family, tmp_path: Path) -> None:
    """No weights of the network are read, other random numbers are unharmed, the autoencoder stays trained."""
    folder = Path(shutil.copytree(family("kl"), tmp_path / "kl"))
    (folder / "unet" / WEIGHTS).unlink()
    assert inspect_model(str(folder), initial_seed=0).shape == (4, 8, 8)
    state = torch.get_rng_state()
    first, again, other = (DiffusersModel(str(folder), initial_seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    trained = load(family, "kl")
    x, node = noise(2, 4, 8, 8), trained.schedule.node(500.0)
    outputs = [model.predict(x, node).eps for model in (first, again, other, trained)]
    assert torch.equal(outputs[0], outputs[1])
    assert len({float(output.sum()) for output in outputs}) == 3
    assert first.fingerprint == again.fingerprint
    assert len({model.fingerprint for model in (first, other, trained)}) == 3
    assert torch.equal(first.encode(images(1, 16)), trained.encode(images(1, 16)))


@pytest.mark.parametrize(
    ("name", "change"),
    [("kl", "vae/config.json"), ("kl", f"vae/{WEIGHTS}"), ("sd", "text_encoder/model.safetensors"),
     ("sd", "tokenizer/tokenizer_config.json"), ("dit", "transformer/config.json")],
)  # fmt: skip
def test_the_fingerprint_covers_every_part(family: Family, tmp_path: Path, name: str, change: str) -> None:
    folder = Path(shutil.copytree(family(name), tmp_path / name))
    before = DiffusersModel(str(folder)).fingerprint
    path = folder / change
    if path.suffix == ".json":
        write_json(path, read_json(path) | {"_note": "another"})
    else:
        save_file({k: v * 1.001 for k, v in load_file(path).items()}, path, metadata={"format": "pt"})
    assert DiffusersModel(str(folder)).fingerprint != before


# --- files ---


def test_bin_weights_are_read_where_there_are_no_others(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "bin"))
    weights = load_file(folder / "unet" / WEIGHTS)
    torch.save(weights, folder / "unet" / "diffusion_pytorch_model.bin")
    both = DiffusersModel(str(folder)).fingerprint
    (folder / "unet" / WEIGHTS).unlink()
    model, x = DiffusersModel(str(folder)), noise(2, 3, 8, 8)
    expected = load(family, "ddpm")
    assert (both, expected.fingerprint != model.fingerprint) == (expected.fingerprint, True)
    assert torch.equal(*(m.predict(x, m.schedule.node(5.0)).eps for m in (model, expected)))


class Malicious:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('executed')",))


def test_bin_weights_cannot_run_code(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "bin"))
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Malicious()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="unet's weights cannot be read") as caught:
        DiffusersModel(str(folder))
    assert "\n" not in str(caught.value)


def test_sharded_weights_load_whole(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "shards"))
    shutil.rmtree(folder / "unet")
    UNet2DModel.from_pretrained(family("ddpm") / "unet").save_pretrained(folder / "unet", max_shard_size="20KB")
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    model, expected, x = DiffusersModel(str(folder)), load(family, "ddpm"), noise(2, 3, 8, 8)
    assert torch.equal(*(m.predict(x, m.schedule.node(5.0)).eps for m in (model, expected)))
    shards[-1].unlink()
    with pytest.raises(InputError, match=f"unet/{shards[-1].name} is listed in .* but missing"):
        inspect_model(str(folder))


def test_weights_that_do_not_fit_are_refused(family: Family, tmp_path: Path) -> None:
    """diffusers alone would fill missing tensors with random numbers."""
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "torn"))
    weights = load_file(folder / "unet" / WEIGHTS)
    del weights["conv_out.bias"]
    save_file(weights, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"do not fit its config \(1 tensors, such as conv_out.bias\)"):
        DiffusersModel(str(folder))


def test_the_attention_names_of_2022_load(family: Family, tmp_path: Path) -> None:
    """google/ddpm-* were saved with query, key, value and proj_attn."""
    folder = Path(shutil.copytree(family("ddpm"), tmp_path / "old"))
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    weights = {}
    for name, tensor in load_file(folder / "unet" / WEIGHTS).items():
        for new, former in old.items():
            name = name.replace(new, former)
        weights[name] = tensor
    assert any(".query." in name for name in weights)
    save_file(weights, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    x = noise(2, 3, 8, 8)
    models = DiffusersModel(str(folder)), load(family, "ddpm")
    assert torch.equal(*(m.predict(x, m.schedule.node(5.0)).eps for m in models))


def test_dit_of_the_older_class_name_loads(family: Family, tmp_path: Path) -> None:
    """facebook/DiT-XL-2-256 calls its network Transformer2DModel."""
    folder = Path(shutil.copytree(family("dit"), tmp_path / "dit"))
    for path, change in (
        (folder / "model_index.json", {"transformer": ["diffusers", "Transformer2DModel"]}),
        (folder / "transformer" / "config.json", {"_class_name": "Transformer2DModel"}),
    ):
        write_json(path, read_json(path) | change)
    x = noise(2, 4, 8, 8)
    models = DiffusersModel(str(folder), condition=3), load(family, "dit")
    assert torch.equal(*(m.predict(x, m.schedule.node(5.0)).eps for m in models))


def test_only_what_is_read_is_fetched(family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configs first, then safetensors of the parts that are used, then .bin for a part without; nothing else."""
    hub = Path(shutil.copytree(family("sd"), tmp_path / "hub"))
    torch.save(load_file(hub / "vae" / WEIGHTS), hub / "vae" / "diffusion_pytorch_model.bin")
    (hub / "vae" / WEIGHTS).unlink()
    for name in ("safety_checker/model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "evil.py",
                 "unet/diffusion_pytorch_model.bin", "v2-1_512-ema-pruned.safetensors"):  # fmt: skip
        (hub / name).parent.mkdir(exist_ok=True)
        (hub / name).write_text("not to be fetched")
    local = tmp_path / "snapshot"

    def download(path: str, revision: str | None, allow_patterns: list[str]) -> str:
        for file in hub.rglob("*"):
            name = file.relative_to(hub).as_posix()
            if file.is_file() and any(Path(name).match(p) if p == "*.json" else fits(name, p) for p in allow_patterns):
                (local / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, local / name)
        return str(local)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert weighted_parts(resolve("owner/name", weights=False)) == ["unet", "vae", "text_encoder"]
    assert not list(local.rglob("*.safetensors"))
    model = DiffusersModel("owner/name")
    fetched = {file.relative_to(local).as_posix() for file in local.rglob("*") if file.suffix != ".json"}
    fetched -= {part.relative_to(local).as_posix() for part in local.rglob("*") if part.is_dir()}
    weights = {f"unet/{WEIGHTS}", "vae/diffusion_pytorch_model.bin", "text_encoder/model.safetensors"}
    assert weights <= fetched <= weights | {"tokenizer/merges.txt"}
    x = noise(1, *model.shape)
    expected = load(family, "sd", condition=None)
    assert torch.equal(*(m.predict(x, m.schedule.node(5.0)).eps for m in (model, expected)))


def fits(name: str, pattern: str) -> bool:
    from fnmatch import fnmatch

    return fnmatch(name, pattern)


# --- refusals: one line, before weights are read ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddpm", {"condition": 1}, r"model\.condition=1: .* takes no condition; leave it out"),
        ("classes", {"condition": None}, r"model\.condition=None: .* takes a class; give 0 to 4$"),
        ("classes", {"condition": 5}, "give 0 to 4"),
        ("classes", {"condition": "cat"}, "takes a class"),
        ("classes", {"condition": 1, "guidance": 2.0}, "no null condition to guide with"),
        ("dit", {"condition": 10}, "give 0 to 9, or null for no class"),
        ("dit", {"condition": None, "guidance": 2.0}, r"no condition to guide to; give model\.condition"),
        ("dit", {"condition": 0, "guidance": 0.5}, r"model\.guidance=0\.5: give a number of 1 or more"),
        ("dit", {"dtype": "float8"}, r"model\.dtype=float8: choose one of float32, bfloat16"),
        ("ddpm", {"latent_scale": 0.2}, "has no autoencoder; leave it out"),
        ("kl", {"latent_scale": -1.0}, "give a number above 0"),
        ("dit", {"condition": True}, r"model\.condition=true: give a whole number or text or null"),
        ("dit", {"guidance": math.inf}, r"model\.guidance=inf: give a number of 1 or more"),
        ("ddpm", {"initial_seed": True}, r"model\.initial_seed=true: give a whole number"),
        ("sd", {"condition": 3}, "takes a prompt; give a text"),
    ],
)
def test_options_that_a_network_cannot_take_are_refused(
    family: Family, name: str, options: dict[str, Any], message: str
) -> None:
    for make in (inspect_model, DiffusersModel):
        with pytest.raises(InputError, match=message) as caught:
            make(str(family(name)), **options)
        assert "\n" not in str(caught.value)


def broken(folder: Path, file: str, change: dict[str, Any]) -> Path:
    """A folder with entries of a JSON file changed."""
    path = folder / file
    path.write_text(json.dumps(read_json(path) | change))
    return folder


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("ddpm", "model_index.json", {"unet": ["diffusers", "UNet3DConditionModel"]},
         r"unet diffusers\.UNet3DConditionModel in model_index\.json; known: UNet2DModel"),
        ("ddpm", "model_index.json", {"unet": ["my_code", "UNet2DModel"]}, r"unet my_code\.UNet2DModel"),
        ("ddpm", "unet/config.json", {"_class_name": "UNet1DModel"}, "network UNet1DModel; known: UNet2DModel"),
        ("ddpm", "unet/config.json", {"out_channels": 5}, "5 output channels for 3 input channels"),
        ("ddpm", "unet/config.json", {"class_embed_type": "identity"}, "class_embed_type=identity needs inputs"),
        ("ddpm", "scheduler/scheduler_config.json", {"_class_name": "CMStochasticIterativeScheduler"},
         "scheduler CMStochasticIterativeScheduler is not supported; known: DDPMScheduler"),
        ("edm", "scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type sample; EDM knows"),
        ("flow", "scheduler/scheduler_config.json", {"use_dynamic_shifting": True}, "use_dynamic_shifting is not"),
        ("kl", "model_index.json", {"vae": ["diffusers", "AutoencoderTiny"]}, r"vae diffusers\.AutoencoderTiny"),
        ("kl", "vae/config.json", {"latent_channels": 8}, "takes 4 channels, the autoencoder gives 8"),
        ("dit", "transformer/config.json",
         {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_single"}, "network Transformer2DModel; known"),
        ("sd", "unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type=text_time needs inputs"),
        ("sd", "unet/config.json", {"num_class_embeds": 10}, "with text and num_class_embeds"),
        ("sd", "model_index.json", {"text_encoder": ["transformers", "T5EncoderModel"]}, "text_encoder T5EncoderModel"),
        ("sd", "model_index.json", {"tokenizer": [None, None]}, "tokenizer None in model_index"),
    ],
)  # fmt: skip
def test_unknown_families_are_refused(
    family: Family, tmp_path: Path, name: str, file: str, change: dict[str, Any], message: str
) -> None:
    """By their JSON alone, in one line that names the folder."""
    folder = broken(Path(shutil.copytree(family(name), tmp_path / name)), file, change)
    with pytest.raises(InputError, match=message) as caught:
        inspect_model(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_codec_is_refused_where_no_family_has_one(family: Family, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(family("kl"), tmp_path / "kl"))
    ScoreSdeVeScheduler().save_pretrained(folder / "scheduler")
    with pytest.raises(InputError, match="ScoreSdeVeScheduler with an autoencoder"):
        describe(str(folder))


def test_absent_transformers_is_said_in_one_line(family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = family("sd")
    monkeypatch.setattr("unseen_diffusion.models.text.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs transformers; pip install 'unseen-diffusion\[text\]'"):
        inspect_model(str(folder))


# --- the ready configs ---


@pytest.mark.parametrize("path", sorted((config_folder() / "model").glob("*.yaml")), ids=lambda path: path.stem)
def test_ready_configs_fit_the_model_and_the_help(family: Family, path: Path) -> None:
    """Every option is one of the model's; the first comment fits into a line of the help."""
    assert len(path.read_text().splitlines()[0]) < 112
    config = OmegaConf.load(path)
    if not str(config._target_).endswith("DiffusersModel"):
        return
    options = {key: config[key] for key in config if key not in ("_target_", "name", "path")}
    text = path.stem.startswith("sd")
    assert inspect_model(str(family("sd" if text else "kl" if "latent_scale" in options else "ddpm")), **options)
