"""LPIPS (Zhang et al. 2018, arXiv 1801.03924) and intra-LPIPS (Ojha et al. 2021, arXiv 2104.06820).

LPIPS compares two images by the activations of a classifier: each activation is normalised over its channels, the
squared differences are weighted by channel, averaged over pixels and added up over layers. So it is the squared
Euclidean distance of one long vector for each image. The weights are read from two files, and never downloaded.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from torch import Tensor, nn

from unseen_diffusion.scores.metrics import DIVERSE, Metric
from unseen_diffusion.utils.checked import Text, settings
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.precision import full_float32

if TYPE_CHECKING:
    from unseen_diffusion.scores.suite import DomainViews, Views

log = logging.getLogger(__name__)

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of the images in [-1, 1], by channel
EPS = 1e-10  # added to the norm of an activation
# Layers as torchvision numbers them: (channels, kernel, stride, padding) of a convolution and its ReLU, or a pooling.
Stages = list[list[tuple[int, int, int, int]]]
VGG: Stages = [[(width, 3, 1, 1)] * count for width, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))]
ALEX: Stages = [[(64, 11, 4, 2)], [(192, 5, 1, 2)], [(384, 3, 1, 1)], [(256, 3, 1, 1)], [(256, 3, 1, 1)]]
HOW = (
    "the features of torchvision's vgg16 (vgg16-397923af.pth) or alexnet, and vgg.pth or alex.pth of the package lpips "
    "(lpips/weights/v0.1)"
)


def backbone(network: str) -> tuple[nn.Sequential, list[int]]:
    """The convolutions of VGG-16 or AlexNet, numbered as in torchvision, and the layers that LPIPS compares."""
    layers: list[nn.Module] = []
    taps, inputs = [], 3
    for number, stage in enumerate(VGG if network == "vgg" else ALEX):
        pooled = number and (network == "vgg" or number < 3)
        if pooled:
            layers.append(nn.MaxPool2d(2 if network == "vgg" else 3, 2))
        for width, kernel, stride, padding in stage:
            layers += [nn.Conv2d(inputs, width, kernel, stride, padding), nn.ReLU()]
            inputs = width
        taps.append(len(layers) - 1)
    return nn.Sequential(*layers), taps


class Lpips(nn.Module):
    """Images -> vectors whose squared Euclidean distance is LPIPS.

    Args:
        network: vgg or alex.
        features: state of the backbone, keys ``N.weight`` and ``N.bias`` with or without ``features.`` before them.
        linear: weights by channel, keys ``linN.model.1.weight``, (1, C, 1, 1) each, none below 0.

    Raises:
        InputError: weights that do not fit.
    """

    def __init__(self, network: str, features: Mapping[str, Tensor], linear: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.layers, self.taps = backbone(network)
        wanted = self.layers.state_dict().keys()
        given = {key.removeprefix("features."): value for key, value in features.items()}
        try:
            self.layers.load_state_dict({key: given[key] for key in wanted})
            weights = [linear[f"lin{i}.model.1.weight"].flatten() for i in range(len(self.taps))]
        except (KeyError, RuntimeError) as error:
            raise InputError(f"lpips: weights that do not fit {network} ({first_line(error)}); give {HOW}") from error
        if any(bool((weight < 0).any()) for weight in weights):
            raise InputError(f"lpips: a channel's weight is below 0; give {HOW}")
        self.roots = [weight.sqrt() for weight in weights]
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n v"]:
        """uint8 images, grey or RGB -> vectors, float32."""
        x = dequantise(images.expand(-1, 3, -1, -1))
        x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
        parts = []
        for number, layer in enumerate(self.layers):
            x = layer(x)
            if number in self.taps:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + EPS)
                root = self.roots[self.taps.index(number)][:, None, None]
                parts.append((root * unit / (x.shape[2] * x.shape[3]) ** 0.5).flatten(1))
        return torch.cat(parts, 1)


def distances(x: Float[Tensor, "n v"], y: Float[Tensor, "m v"]) -> Float[Tensor, "n m"]:
    """LPIPS of every pair of vectors: their squared Euclidean distance."""
    return torch.stack([(row - y).square().sum(1) for row in x])


def intra_lpips(
    model: Lpips, samples: UInt8[Tensor, "n c h w"], references: UInt8[Tensor, "m c h w"], cluster: int
) -> float:
    """The mean LPIPS of samples of one cluster, averaged over clusters; a cluster has one nearest reference.

    Clusters with fewer than 2 samples are left out; NaN if that leaves none.

    Args:
        model: LPIPS.
        samples: uint8 images.
        references: the few shots.
        cluster: samples of a cluster that are compared, the first ones.
    """
    with full_float32():
        centres = torch.cat([model(one) for one in references.split(1)])
        nearest = torch.cat([distances(model(one), centres).argmin(1) for one in samples.split(1)])
        means = []
        for number in range(len(references)):
            members = samples[nearest == number][:cluster]
            if len(members) > 1:
                vectors = torch.cat([model(one) for one in members.split(1)])
                pairs = [distances(vectors[i : i + 1], vectors[i + 1 :]).flatten() for i in range(len(vectors) - 1)]
                means.append(float(torch.cat(pairs).double().mean()))
    return sum(means) / len(means) if means else nan


@settings("scores.extra.intra_lpips")
class IntraLpips:
    """Diversity among the samples that share a nearest reference; 0 where they replay it.

    Without its two files of weights the column stays empty, and the log says what they are.
    """

    columns: ClassVar = {
        "intra_lpips": Metric("iLPIPS", "intra-LPIPS", "higher", "number", DIVERSE, needs_features=False)
    }
    network: Literal["vgg", "alex"]
    """the classifier"""
    backbone: Text
    """file of the classifier's convolutions"""
    linear: Text
    """file of the weights by channel"""
    cluster: Annotated[int, Field(ge=2)]
    """samples of a cluster that are compared with each other"""

    def __call__(self, samples: "Views", domain: "DomainViews") -> dict[str, float]:
        model = _loaded(self.network, self.backbone, self.linear)
        if model is None or samples.images is None or domain.references.images is None:
            return {"intra_lpips": nan}
        return {"intra_lpips": intra_lpips(model, samples.images, domain.references.images, self.cluster)}


@lru_cache(maxsize=1)
def _loaded(network: str, *files: str) -> Lpips | None:
    """LPIPS with the weights of two files; None, with a warning, where one is missing."""
    paths: Sequence[Path] = [Path(file).expanduser() for file in files]
    if missing := [path for path in paths if not path.is_file()]:
        log.warning("intra-LPIPS: %s is missing, so its column stays empty; it needs %s", missing[0], HOW)
        return None
    states = []
    for path in paths:
        try:
            states.append(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # pickle and zip raise many types
            raise InputError(f"{path}: cannot be read ({first_line(error)}); give {HOW}") from error
    return Lpips(network, *states)
