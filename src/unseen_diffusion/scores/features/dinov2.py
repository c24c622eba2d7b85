"""DINOv2 features (Oquab et al. 2023, arXiv 2304.07193): less biased towards ImageNet's classes than Inception's.

Stein et al. 2023 (arXiv 2306.04675) recommend them for comparing generative models: the class token after the last
normalisation, of images resized to 224 x 224 with an antialiased bicubic filter. Their FD-DINOv2 is the Frechet
distance in the features of ViT-L/14, the default here: the column FID-H of a run with features=dinov2.
"""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from unseen_diffusion.models.folders import snapshot
from unseen_diffusion.scores.features.base import LazyNetwork, check_images, resized
from unseen_diffusion.utils.checked import Count, Text, checked_arguments
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

_VERSION = "dinov2-1"  # of the preprocessing and the choice of token
_SIDE = 224
_MEAN = (0.485, 0.456, 0.406)  # ImageNet, RGB in [0, 1]
_DEVIATION = (0.229, 0.224, 0.225)
_FILES = ("config.json", "*.safetensors", "*.safetensors.index.json")
_KINDS = ("dinov2", "dinov2_with_registers")


class DinoV2(LazyNetwork):
    """The class token of a DINOv2 network; its files are checked when it is built, and loaded on first use.

    Its name holds the number of features, and so the size of the network: dinov2-384, -768, -1024 or -1536.
    """

    @checked_arguments("features")
    def __init__(
        self, model: Text = "facebook/dinov2-large", revision: Text | None = None, batch_size: Count = 32
    ) -> None:
        """Locates the network's files, on the disk or on the hub.

        Args:
            model: a local folder with config.json and safetensors, or a hub id.
            revision: hub commit or branch.
            batch_size: images at a time.

        Raises:
            InputError: a value of the wrong type, transformers is not installed, or the files are missing or belong to
                another network.
        """
        transformers_or_refuse("dinov2")
        self._folder = resolve(model, revision)
        config = read_json(self._folder / "config.json")
        if config.get("model_type") not in _KINDS:
            raise InputError(
                f"{self._folder}: model_type {config.get('model_type')} in config.json; give a DINOv2 network, "
                "e.g. features.model=facebook/dinov2-large"
            )
        self.dimension = int(config["hidden_size"])
        self.name = f"dinov2-{self.dimension}"
        self.batch_size = batch_size
        self.fingerprint = fingerprint_of(self._folder, _VERSION)
        super().__init__()

    @staticmethod
    def check_files(model: str = "", **others: Any) -> None:
        """Checks that a local folder exists; a hub id is looked for when a run starts.

        Raises:
            InputError: no such folder.
        """
        is_local = model.startswith((".", "/", "~")) or model.count("/") != 1
        if model and is_local and not Path(model).expanduser().is_dir():
            raise InputError(f"features.model={model}: no such folder; give one, or a hub id such as owner/name")

    def _load(self) -> torch.nn.Module:
        return load(self._folder)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, dimension); grey is repeated to RGB."""
        check_images(images)
        tokens = self._network(pixel_values=preprocess(images.to(self._device))).last_hidden_state
        return tokens[:, 0].float()


def preprocess(images: Tensor) -> Float[Tensor, "n 3 224 224"]:
    """uint8 (N, 1 or 3, H, W) -> (N, 3, 224, 224) float32, normalised by ImageNet's mean and deviation."""
    unit = resized(images, _SIDE)
    mean, deviation = (unit.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (unit - mean) / deviation


def transformers_or_refuse(name: str) -> Any:
    """The package transformers.

    Args:
        name: of the extractor that needs it.

    Raises:
        InputError: it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"features={name} needs the package transformers ({error}); pip install 'unseen-diffusion[dinov2]'"
        ) from error
    return transformers


def resolve(model: str, revision: str | None) -> Path:
    """The local folder ``model``, or the hub's cached copy of it, downloaded once.

    Raises:
        InputError: no such folder, no safetensors in it, or the hub cannot be reached and nothing is cached.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        if model.startswith((".", "/", "~")) or model.count("/") != 1:
            raise InputError(f"features.model={model}: no such folder; give one, or a hub id such as owner/name")
        folder = snapshot("features.model", model, revision, _FILES)
    if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
        raise InputError(f"features.model={model}: no config.json or no *.safetensors there; save it in that format")
    return folder


def fingerprint_of(folder: Path, version: str) -> str:
    """SHA-256 over the preprocessing's version, the configuration and all weights."""
    parts = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    identity = "/".join([version, *(file_digest(part) for part in parts)])
    return digest(identity)


def load(folder: Path, kind: str = "AutoModel") -> torch.nn.Module:
    """Loads the frozen network in float32; runs no code of the folder and reads no pickle.

    Args:
        folder: of config.json and safetensors.
        kind: the class of transformers that reads it.

    Raises:
        InputError: weights that do not fit, or that leave a part of the network at random values.
    """
    try:
        network, found = getattr(transformers_or_refuse("dinov2"), kind).from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: config.json and the safetensors do not fit ({reason})") from error
    missing = sorted(str(key) for key in (*found["missing_keys"], *found["mismatched_keys"]))
    if missing:
        raise InputError(f"{folder}: the safetensors lack {len(missing)} of the network's tensors, first {missing[0]}")
    return network.float().requires_grad_(False).eval()
