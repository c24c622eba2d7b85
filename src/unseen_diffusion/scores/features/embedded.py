"""The embedded feature network: a small CNN trained on the embedded 32x32 domains (``unseen train``).

Scores with these features always show the network's name: they are not comparable with published FID or KID.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from safetensors.torch import load_file
from torch import Tensor, nn

from unseen_diffusion.scores.features.base import check_images
from unseen_diffusion.utils.checked import Count, Text, checked_arguments
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json
from unseen_diffusion.utils.images import PREPROCESSING, dequantise, fit_batch

FOLDER = Path(__file__).parents[2] / "weights" / "features32"
_VERSION = "features32-1"
_GROUPS = 8


class Residual(nn.Module):
    """x + f(x), at constant width and resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = _convolution(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) -> the same shape."""
        return x + self.body(x)


class FeatureNetwork(nn.Module):
    """CNN for 3x32x32 images with two linear heads on its pooled features.

    One head predicts the domain, the other how the image was distorted: a network trained on domains alone would miss
    the flaws of generated images.
    """

    @checked_arguments("training.network")
    def __init__(self, widths: Sequence[Count], dimension: Count, classes: Count, distortions: Count) -> None:
        """A network of random weights.

        Args:
            widths: channels at 32x32, 16x16 and 8x8 pixels, three multiples of 8.
            dimension: number of features; a multiple of 8.
            classes: outputs of the domain head.
            distortions: outputs of the distortion head.
        """
        super().__init__()
        fine, middle, coarse = widths
        self.dimension = dimension
        self.body = nn.Sequential(
            _convolution(3, fine, 1),
            _convolution(fine, middle, 2),
            Residual(middle),
            _convolution(middle, coarse, 2),
            Residual(coarse),
            _convolution(coarse, dimension, 1),
        )
        self.domain_head = nn.Linear(dimension, classes)
        self.distortion_head = nn.Linear(dimension, distortions)

    def features(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        """(N, 3, 32, 32) in [-1, 1] -> (N, dimension): the last activations, averaged over the image."""
        return self.body(x).mean((-2, -1))

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n kinds"]]:
        """(N, 3, 32, 32) in [-1, 1] -> logits of the domain (N, classes) and of the distortion (N, kinds)."""
        features = self.features(x)
        return self.domain_head(features), self.distortion_head(features)


class EmbeddedFeatures:
    """The penultimate features of ``FeatureNetwork``, with the package's weights or those of a folder."""

    name = "embedded"

    @checked_arguments("features")
    def __init__(self, folder: Text | Path | None = None, batch_size: Count = 256) -> None:
        """Loads the network from a folder.

        Args:
            folder: holds config.json and model.safetensors; null (None) takes the package's own.
            batch_size: images at a time.

        Raises:
            InputError: a value of the wrong type, or a file that is missing or belongs to another network.
        """
        folder = FOLDER if folder is None else Path(folder).expanduser()
        self.network, config = load_network(folder)
        self.size = int(config["size"])
        self.dimension = self.network.dimension
        self.batch_size = batch_size
        identity = f"{_VERSION}/{PREPROCESSING}/{self.size}/{file_digest(folder / 'model.safetensors')}"
        self.fingerprint = digest(identity)

    @staticmethod
    def check_files(folder: str | Path | None = None, **others: Any) -> None:
        """Checks that a folder's files are those of a network, without keeping it.

        Raises:
            InputError: a file is missing or belongs to another network.
        """
        if folder is not None:
            load_network(Path(folder).expanduser())

    def to(self, device: torch.device | str) -> None:
        """Moves the network."""
        self.network.to(device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, dimension); other sizes are resized, grey is repeated."""
        check_images(images)
        images = fit_batch(images.cpu(), self.size, 3)
        device = next(self.network.parameters()).device
        return self.network.features(dequantise(images.to(device)))


def load_network(folder: Path) -> tuple[FeatureNetwork, dict[str, Any]]:
    """The network of a folder, frozen and in float32, and the folder's config.json.

    Raises:
        InputError: a file is missing or belongs to another network.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{weights}: no such file; train it with 'unseen train training=features32'")
    config = read_json(folder / "config.json")
    try:
        network = FeatureNetwork(**config["network"])
        network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{folder}: config.json and model.safetensors do not fit ({reason})") from error
    return network.requires_grad_(False).eval(), config


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """3x3 convolution, group normalisation, SiLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(_GROUPS, outputs), nn.SiLU())
