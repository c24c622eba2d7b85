"""UNet2DModel with a DDPM or DDIM scheduler config, from a local folder or the hub."""

import logging
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.files import read_json, sha256
from unseen_diffusion.models.base import DiffusionModel, ModelSpec, Prediction
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.schedules import Node, Schedule

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")
WEIGHTS = "diffusion_pytorch_model.safetensors"


def embedded_folder(name: str) -> Path:
    """The folder of a base model that ships inside the package, e.g. ``photos32``."""
    folder = Path(str(files("unseen_diffusion") / "weights" / name))
    if not folder.is_dir():
        raise InputError(f"model.path={name}: no such embedded model in this installation")
    return folder


def resolve(path: str, revision: str | None = None, weights: bool = True) -> Path:
    """A local folder with configs and weights for a folder, ``embedded:NAME`` or a hub id.

    Only JSON files and, with ``weights``, the network's safetensors are fetched from the hub.

    Raises:
        InputError: no such folder, or the hub cannot be reached and nothing is cached.
    """
    if path.startswith("embedded:"):
        return embedded_folder(path.removeprefix("embedded:"))
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise InputError(f"model.path={path}: no such folder; give a diffusers folder or a hub id such as owner/name")
    from huggingface_hub import snapshot_download

    names = ("*.json", WEIGHTS) if weights else ("*.json",)
    patterns = [f"{part}{name}" for part in ("", "unet/", "scheduler/") for name in names]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the hub library raises a dozen unrelated types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model.path={path}: neither a local folder, nor cached, nor to be had from the hub ({reason}); "
            "check the name, or download it once while online"
        ) from error


def _part(folder: Path, subfolder: str, name: str) -> Path:
    """The file of a pipeline's part: in its subfolder, or at the root as in the oldest hub models."""
    for candidate in (folder / subfolder / name, folder / name):
        if candidate.is_file():
            return candidate
    raise InputError(f"{folder}: no {subfolder}/{name}; give a diffusers folder of an unconditional UNet2DModel")


def _check_classes(folder: Path) -> None:
    """Refuses pipelines of another family, by the class names in model_index.json."""
    index = folder / "model_index.json"
    if not index.is_file():
        return
    unet = read_json(index).get("unet")
    if unet is None or unet[1] != "UNet2DModel":
        found = "no unet" if unet is None else unet[1]
        raise InputError(
            f"{folder}: {found} in model_index.json; only unconditional UNet2DModel pipelines are supported"
        )


def _scheduler(folder: Path) -> DDPMScheduler:
    config = read_json(_part(folder, "scheduler", "scheduler_config.json"))
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in ("DDPMScheduler", "DDIMScheduler"):
        raise InputError(f"{folder}: scheduler {kind}; only DDPMScheduler and DDIMScheduler configs are supported")
    if config.get("prediction_type", "epsilon") not in PREDICTION_TYPES:
        raise InputError(f"{folder}: prediction_type {config['prediction_type']}; known: {', '.join(PREDICTION_TYPES)}")
    known = {k: v for k, v in config.items() if not k.startswith("_")}
    # Variance and clipping belong to diffusers' own stepping, which is not used: only the tables are.
    wanted = (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "prediction_type",
    )
    return DDPMScheduler(
        **{k: known[k] for k in wanted if k in known},
        rescale_betas_zero_snr=bool(known.get("rescale_betas_zero_snr", False)),
    )


def describe(path: str, revision: str | None = None) -> ModelSpec:
    """Channels, size and schedule of a model, from its JSON files alone.

    Raises:
        InputError: not the folder of an unconditional UNet2DModel with a DDPM or DDIM scheduler.
    """
    folder = resolve(path, revision, weights=False)
    _check_classes(folder)
    unet = read_json(_part(folder, "unet", "config.json"))
    if unet.get("_class_name") != "UNet2DModel":
        raise InputError(f"{folder}: {unet.get('_class_name')} is not an unconditional UNet2DModel")
    if unet.get("class_embed_type") or unet.get("num_class_embeds"):
        raise InputError(f"{folder}: a class-conditional UNet2DModel; only unconditional ones are supported")
    factor = _unshuffle_factor(folder)
    size = unet["sample_size"]
    if not isinstance(size, int):
        if len(size) != 2 or size[0] != size[1]:
            raise InputError(f"{folder}: sample_size {size}; only square images are supported")
        size = size[0]
    schedule = Schedule(_scheduler(folder).alphas_cumprod.double())
    return ModelSpec(unet["in_channels"] // factor**2, size * factor, schedule)


def check_local_weights(path: str) -> None:
    """Refuses a local folder without the network's safetensors; says nothing of hub ids.

    Raises:
        InputError: no such file.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _part(folder, "unet", WEIGHTS)


def _unshuffle_factor(folder: Path) -> int:
    """2 for networks on 2x2 pixel-unshuffled images (unseen.json beside the pipeline), else 1."""
    path = folder / "unseen.json"
    return int(read_json(path)["pixel_unshuffle"]) if path.is_file() else 1


class DiffusersModel(DiffusionModel):
    """A frozen unconditional UNet2DModel with eps-, x0- or v-prediction; a learned variance is dropped.

    Args:
        path: local diffusers folder, hub id, or ``embedded:NAME``.
        revision: hub commit or branch.
        device: where the network computes.
        name: for tables; by default the last part of ``path``.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        name: str | None = None,
    ):
        super().__init__()
        folder = resolve(path, revision)
        self.spec = describe(str(folder))
        self.name = name or path.removeprefix("embedded:").rstrip("/").rsplit("/", 1)[-1]
        self.device = torch.device(device)
        weights = _part(folder, "unet", WEIGHTS)
        self.fingerprint = _fingerprint(folder, weights)
        self.factor = _unshuffle_factor(folder)
        self.prediction_type: str = _scheduler(folder).config["prediction_type"]
        self.unet = _load_unet(weights.parent).to(self.device)
        outputs = self.unet.config["out_channels"] // self.factor**2
        if outputs not in (self.spec.channels, 2 * self.spec.channels):
            raise InputError(f"{folder}: {outputs} output channels for {self.spec.channels} image channels")

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        t = torch.full((len(x),), max(node.t, 0.0), dtype=torch.float32, device=self.device)
        state = x.to(self.device, torch.float32)
        output = unet_forward(self.unet, state, t, self.factor)[:, : self.spec.channels].to(x.device, x.dtype)
        return to_prediction(output, x, node, self.prediction_type)


def to_prediction(output: Tensor, x: Tensor, node: Node, prediction_type: str) -> Prediction:
    """Network output -> (denoised, eps), by the table of parameterisations (Salimans and Ho 2022, appendix D)."""
    alpha, sigma = node.alpha, node.sigma
    if prediction_type == "epsilon":
        return Prediction((x - sigma * output) / alpha, output)
    if prediction_type == "sample":
        # At the clean end no noise is left to divide by: the state is the image, and its eps is irrelevant.
        eps = (x - alpha * output) / sigma if sigma > 0 else torch.zeros_like(x)
        return Prediction(output, eps)
    return Prediction(alpha * x - sigma * output, alpha * output + sigma * x)


def _load_unet(folder: Path) -> UNet2DModel:
    """The network in float32, frozen. Half-precision files are widened."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    unet = UNet2DModel.from_pretrained(folder, use_safetensors=True, torch_dtype=torch.float32, local_files_only=True)
    return unet.requires_grad_(False).eval()


def _fingerprint(folder: Path, weights: Path) -> str:
    """Checksums of every file that decides the output."""
    import hashlib

    parts: list[Any] = [
        weights,
        weights.parent / "config.json",
        _part(folder, "scheduler", "scheduler_config.json"),
    ]
    extra = folder / "unseen.json"
    parts += [extra] if extra.is_file() else []
    return hashlib.sha256("".join(sha256(part) for part in parts).encode()).hexdigest()
