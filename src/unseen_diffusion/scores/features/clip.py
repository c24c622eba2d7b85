"""CLIP image embeddings (Radford et al. 2021), the features of CMMD (Jayasumana et al. 2024, arXiv 2401.09603).

The projected class token, scaled to unit norm, of images resized to the network's size by a bicubic filter. The release
of CMMD resizes with TensorFlow's bicubic filter, which is the same where an image is made larger.
"""

from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from unseen_diffusion.scores.features import dinov2
from unseen_diffusion.scores.features.base import LazyNetwork, check_images
from unseen_diffusion.utils.checked import Count, Text, checked_arguments
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json

_VERSION = "clip-1"  # of the preprocessing
_MEAN = (0.48145466, 0.4578275, 0.40821073)  # CLIP's, RGB in [0, 1]
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_EXAMPLE = "features.model=openai/clip-vit-large-patch14-336"


class Clip(LazyNetwork):
    """The image embedding of a CLIP network; its files are checked when it is built, and loaded on first use."""

    @checked_arguments("features")
    def __init__(
        self,
        model: Text = "openai/clip-vit-large-patch14-336",
        revision: Text | None = None,
        batch_size: Count = 32,
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
        dinov2.transformers_or_refuse("clip")
        self._folder = dinov2.resolve(model, revision)
        config = read_json(self._folder / "config.json")
        vision = config.get("vision_config", config)
        kind, size = config.get("model_type"), vision.get("image_size")
        if kind not in ("clip", "clip_vision_model") or not size:
            raise InputError(f"{self._folder}: model_type {kind} in config.json; give a CLIP network, e.g. {_EXAMPLE}")
        self._side = int(size)
        self.dimension = int(config.get("projection_dim") or vision["projection_dim"])
        self.name = f"clip-{self.dimension}"
        self.batch_size = batch_size
        self.fingerprint = dinov2.fingerprint_of(self._folder, _VERSION)
        super().__init__()

    @staticmethod
    def check_files(model: str = "", **others: Any) -> None:
        """Checks that a local folder exists; a hub id is looked for when a run starts."""
        dinov2.DinoV2.check_files(model)

    def _load(self) -> torch.nn.Module:
        return dinov2.load(self._folder, "CLIPVisionModelWithProjection")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, dimension) of unit norm; grey is repeated to RGB."""
        check_images(images)
        return normalize(
            self._network(pixel_values=preprocess(images.to(self._device), self._side)).image_embeds.float()
        )


def preprocess(images: Tensor, side: int) -> Float[Tensor, "n 3 side side"]:
    """uint8 (N, 1 or 3, H, W) -> (N, 3, side, side) float32, normalised by CLIP's mean and deviation."""
    unit = images.to(torch.float32).expand(-1, 3, -1, -1) / 255
    resized = interpolate(unit, (side, side), mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    mean, deviation = (resized.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
    return (resized - mean) / deviation
