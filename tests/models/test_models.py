"""Model adapters: the table of parameterisations, timesteps, learned variances, layouts, and helpful refusals."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from support import TinyModelFolder
from unseen_diffusion.models import DiffusersModel, GaussianModel, pipeline
from unseen_diffusion.models.analytic import cosine_basis, linear_schedule, natural_gaussian
from unseen_diffusion.models.folders import WEIGHTS
from unseen_diffusion.models.options import describe
from unseen_diffusion.models.parameterisations import VariancePreserving, to_prediction
from unseen_diffusion.models.schedules import CLEAN_NODE
from unseen_diffusion.utils.digests import file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json

SCHEDULE = linear_schedule()


def states(count: int = 2, channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


def edit(path: Path, **changes: Any) -> None:
    """Changes entries of a JSON file."""
    write_json(path, read_json(path) | changes)


@pytest.fixture
def folder(tiny_model_folder: TinyModelFolder, tmp_path: Path) -> Path:
    """A copy of the tiny model that a test may break."""
    return Path(shutil.copytree(tiny_model_folder(), tmp_path / "broken"))


def test_gaussian_eps_is_the_scaled_score_of_its_density() -> None:
    """eps = -sigma grad log p_t(x), p_t = N(alpha m, alpha^2 S + sigma^2 I), by automatic differentiation."""
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64, generator=rng)).Q
    variances = torch.logspace(-3, 1, 48, dtype=torch.float64)
    mean = torch.randn(3, 4, 4, dtype=torch.float64, generator=rng)
    model, node = GaussianModel(mean, basis, variances, SCHEDULE), SCHEDULE.node(321.5)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=rng).requires_grad_()
    spread = node.alpha**2 * basis @ variances.diag() @ basis.T + node.sigma**2 * torch.eye(48, dtype=torch.float64)
    density = torch.distributions.MultivariateNormal(node.alpha * mean.flatten(), spread)
    (score,) = torch.autograd.grad(density.log_prob(x.flatten(1)).sum(), x)
    denoised, eps = model.predict(x.detach(), node)
    torch.testing.assert_close(eps, -node.sigma * score, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(node.alpha * denoised + node.sigma * eps, x.detach(), rtol=0, atol=1e-13)


def test_flow_follows_the_closed_form_and_composes() -> None:
    """xbar(v1) - m = sqrt((s^2 + v1^2) / (s^2 + v0^2)) (xbar(v0) - m); and A to B to C is A to C."""
    variances = torch.logspace(-3, 1, 48, dtype=torch.float64)
    mean = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 4, 4)
    model = GaussianModel(mean, None, variances, SCHEDULE)
    low, middle, high = (SCHEDULE.node(t) for t in (-0.5, 250.0, 700.25))
    x = states(size=4).double()
    moved = model.flow(x, low, high)
    v0, v1 = low.sigma / low.alpha, high.sigma / high.alpha
    ratio = ((variances + v1**2) / (variances + v0**2)).sqrt().reshape(mean.shape)
    torch.testing.assert_close(moved / high.alpha - mean, ratio * (x / low.alpha - mean), rtol=1e-12, atol=1e-13)
    composed = model.flow(model.flow(x, low, middle), middle, high)
    torch.testing.assert_close(composed, moved, rtol=1e-12, atol=1e-13)


def test_natural_gaussian_has_the_power_spectrum_it_names() -> None:
    """Orthonormal cosine basis; power (1 + |f|)^-slope; mean square std^2."""
    basis = cosine_basis(8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8, dtype=torch.float64), rtol=0, atol=1e-14)
    model = natural_gaussian(8, 3, std=0.4, slope=2.0, device="cpu")
    assert float(model.variances.mean()) == pytest.approx(0.16, rel=1e-12)
    assert float(model.variances[9] / model.variances[0]) == pytest.approx((1 + 2**0.5) ** -2, rel=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_every_parameterisation_yields_the_same_reading(prediction_type: str) -> None:
    """From x = alpha x0 + sigma e, the exact output of each kind gives back (x0, e); v = alpha e - sigma x0."""
    x0, eps = states().double(), states().double().flip(0)
    node = SCHEDULE.node(432.1)
    output = {"epsilon": eps, "sample": x0, "v_prediction": node.alpha * eps - node.sigma * x0}[prediction_type]
    prediction = to_prediction(output, node.alpha * x0 + node.sigma * eps, node, prediction_type)
    torch.testing.assert_close(prediction.denoised, x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(prediction.eps, eps, rtol=0, atol=1e-12)


@pytest.mark.parametrize("t", [-1.0, -0.4])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_below_t_0_every_parameterisation_reads_the_same_noise(prediction_type: str, t: float) -> None:
    """That of t = 0, where the network is asked: the state is not replaced by its denoised image."""
    x, denoised = states().double(), states().double().flip(0)
    node, lowest = SCHEDULE.node(t), SCHEDULE.node(0.0)
    eps = (x - lowest.alpha * denoised) / lowest.sigma
    v = lowest.alpha * eps - lowest.sigma * denoised
    output = {"epsilon": eps, "sample": denoised, "v_prediction": v}[prediction_type]
    found = VariancePreserving(SCHEDULE, prediction_type).prediction(output, x, node)
    torch.testing.assert_close(found.eps, eps, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(node.alpha * found.denoised + node.sigma * found.eps, x, rtol=0, atol=1e-12)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_the_clean_image_is_read_at_t_0_and_stays_finite(
    tiny_model_folder: TinyModelFolder, prediction_type: str
) -> None:
    """sigma = 0: no division by it, and the network sees its own lowest timestep."""
    model = DiffusersModel(str(tiny_model_folder(prediction_type=prediction_type)))
    x = states()
    denoised, eps = model.predict(x, CLEAN_NODE)
    assert bool(denoised.isfinite().all())
    assert bool(eps.isfinite().all())
    if prediction_type == "epsilon":
        torch.testing.assert_close(eps, model.network(x, torch.zeros(2)).sample, rtol=0, atol=1e-6)


def test_fractional_timesteps_reach_the_network(tiny_model_folder: TinyModelFolder) -> None:
    """UNet2DModel silently truncates Python floats: ours arrive whole."""
    model, x = DiffusersModel(str(tiny_model_folder())), states()
    half = model.predict(x, model.schedule.node(100.5)).eps
    torch.testing.assert_close(half, model.network(x, torch.full((2,), 100.5)).sample, rtol=0, atol=1e-6)
    assert float((half - model.predict(x, model.schedule.node(100.0)).eps).abs().max()) > 1e-5


def test_a_learned_variance_is_dropped(tiny_model_folder: TinyModelFolder) -> None:
    """Of 2C output channels the first C are the noise (iDDPM)."""
    model, x = DiffusersModel(str(tiny_model_folder(learned_variance=True))), states()
    output = model.network(x, torch.full((2,), 7.0)).sample
    assert output.shape[1] == 6
    torch.testing.assert_close(model.predict(x, model.schedule.node(7.0)).eps, output[:, :3], rtol=0, atol=1e-6)


@pytest.mark.parametrize("learned_variance", [False, True])
def test_pixel_unshuffled_networks_see_rearranged_images(
    tiny_model_folder: TinyModelFolder, learned_variance: bool
) -> None:
    """unseen.json's factor: unshuffle, network, shuffle, first C channels; the image keeps its plain shape."""
    folder = tiny_model_folder(pixel_unshuffle=2, size=16, learned_variance=learned_variance)
    model, x = DiffusersModel(str(folder)), states(size=16)
    assert model.shape == (3, 16, 16)
    unet = UNet2DModel.from_pretrained(folder / "unet")
    output = pixel_shuffle(unet(pixel_unshuffle(x, 2), torch.full((2,), 250.0)).sample, 2)[:, :3]
    torch.testing.assert_close(model.predict(x, model.schedule.node(250.0)).eps, output, rtol=0, atol=1e-6)


def test_networks_are_frozen_and_states_keep_their_type(tiny_model_folder: TinyModelFolder) -> None:
    model = DiffusersModel(str(tiny_model_folder()))
    assert not model.network.training
    assert not any(parameter.requires_grad for parameter in model.network.parameters())
    assert model.predict(states().double(), model.schedule.node(3.0)).eps.dtype == torch.float64


def test_evaluations_are_counted_per_image(tiny_model_folder: TinyModelFolder) -> None:
    model = DiffusersModel(str(tiny_model_folder()))
    model.predict(states(2), model.schedule.node(3.0))
    model.predict(states(5), model.schedule.node(3.0))
    assert model.evaluations == 7


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
def test_describe_reads_the_configs_alone(tiny_model_folder: TinyModelFolder, tmp_path: Path, scheduler: str) -> None:
    folder = Path(shutil.copytree(tiny_model_folder(scheduler=scheduler), tmp_path / "copy"))
    (folder / "unet" / WEIGHTS).unlink()
    spec = describe(str(folder))
    assert (spec.channels, spec.size, spec.schedule.timesteps) == (3, 8, 1000)
    # The folder's linear betas are diffusers' defaults, computed there in float32.
    torch.testing.assert_close(spec.schedule.alphas_cumprod, SCHEDULE.alphas_cumprod, rtol=1e-4, atol=1e-7)


def test_the_oldest_hub_layout_loads_too(folder: Path, tmp_path: Path) -> None:
    """All files at the root and no model_index.json, as in google/ddpm-cifar10-32's first version."""
    flat = tmp_path / "flat"
    flat.mkdir()
    for part in ("unet/config.json", f"unet/{WEIGHTS}", "scheduler/scheduler_config.json"):
        shutil.copy(folder / part, flat)
    node = SCHEDULE.node(100.0)
    assert torch.equal(
        DiffusersModel(str(flat)).predict(states(), node).eps,
        DiffusersModel(str(folder)).predict(states(), node).eps,
    )


def test_every_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights of gigabytes take seconds; whether they change meanwhile is told by their sizes and times."""
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_digest(path)

    monkeypatch.setattr(pipeline, "file_digest", counted)
    DiffusersModel(str(folder))
    assert folder / "unet" / WEIGHTS in hashed
    assert len(hashed) == len(set(hashed))


def test_weights_that_change_while_they_are_read_are_refused(
    tiny_model_folder: TinyModelFolder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else what the old ones make would be kept under the name of the new ones."""
    load = pipeline.load_checked

    def replaced(*arguments: Any) -> Any:
        network = load(*arguments)
        shutil.copyfile(tiny_model_folder(seed=1) / "unet" / WEIGHTS, folder / "unet" / WEIGHTS)
        return network

    monkeypatch.setattr(pipeline, "load_checked", replaced)
    with pytest.raises(InputError, match=rf"model.path={folder}: its files changed while they were read; run again"):
        DiffusersModel(str(folder))
    assert DiffusersModel(str(folder)).fingerprint == DiffusersModel(str(tiny_model_folder(seed=1))).fingerprint


def test_the_fingerprint_follows_everything_that_decides_the_output(
    folder: Path, tiny_model_folder: TinyModelFolder
) -> None:
    """Equal for a copy; different for other weights, another noise schedule, another pixel arrangement."""
    original = DiffusersModel(str(tiny_model_folder())).fingerprint
    assert DiffusersModel(str(folder)).fingerprint == original
    prints = {original, DiffusersModel(str(tiny_model_folder(seed=1))).fingerprint}
    edit(folder / "scheduler" / "scheduler_config.json", beta_end=0.03)
    prints.add(DiffusersModel(str(folder)).fingerprint)
    write_json(folder / "unseen.json", {"pixel_unshuffle": 1})
    prints.add(DiffusersModel(str(folder)).fingerprint)
    assert len(prints) == 4


def refuses(path: Path | str, message: str) -> None:
    """One line that names the path."""
    with pytest.raises(InputError, match=message) as caught:
        DiffusersModel(str(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    refuses(tmp_path, "no unet/config.json; give a diffusers folder")


def test_a_pipeline_without_network_is_refused(folder: Path) -> None:
    index = read_json(folder / "model_index.json")
    write_json(folder / "model_index.json", {k: v for k, v in index.items() if k != "unet"})
    refuses(folder, "no unet and no transformer in model_index.json")


def test_an_unknown_prediction_type_is_refused(folder: Path) -> None:
    edit(folder / "scheduler" / "scheduler_config.json", prediction_type="flow")
    refuses(folder, "prediction_type flow; known: epsilon, sample, v_prediction")


def test_an_oblong_network_is_refused(folder: Path) -> None:
    edit(folder / "unet" / "config.json", sample_size=[8, 16])
    refuses(folder, r"sample_size \[8, 16\]; only networks of one square size")


def test_absent_weights_are_refused(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    refuses(folder, f"no unet/{WEIGHTS}; download")


def test_broken_json_is_refused(folder: Path) -> None:
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json: not a readable JSON file"):
        DiffusersModel(str(folder))


@pytest.mark.parametrize("path", ["/no/such/folder", "./missing", "a/b/c", "embedded:nothing"])
def test_missing_folders_are_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"model\.path=.*no such") as caught:
        DiffusersModel(path)
    assert "\n" not in str(caught.value)


def test_a_hub_id_offline_is_refused() -> None:
    """HF_HUB_OFFLINE=1 for all tests: the one line says what to do about it."""
    refuses("nobody/no-such-model", "not a local folder, not cached, and not found on the hub")
