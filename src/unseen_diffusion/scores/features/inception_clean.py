"""Inception-v3 features behind clean-fid's resize (Parmar et al. 2022, arXiv 2104.11222): mode ``clean`` of clean-fid.

Each channel is resized to 299 x 299 by Pillow's antialiased bicubic filter in 32-bit floats, without rounding or
clipping, and scaled to (x - 128) / 128. The network is that of ``inception``, behind its own resize.
"""

from typing import cast

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image
from torch import Tensor, nn

from unseen_diffusion.scores.features.base import check_images
from unseen_diffusion.scores.features.inception import SHA256, URL, Inception
from unseen_diffusion.utils.checked import Count, Text, checked_arguments
from unseen_diffusion.utils.digests import digest

_VERSION = "inception-clean-1"
SIDE = 299


class InceptionClean(Inception):
    """The 2048 pooled features of Inception-v3 after clean-fid's resize; not comparable with those of ``inception``."""

    name = "inception_clean"

    @checked_arguments("features")
    def __init__(
        self,
        path: Text | None = None,
        cache: Text = "~/.cache/unseen-diffusion",
        url: Text = URL,
        sha256: Text = SHA256,
        batch_size: Count = 64,
    ) -> None:
        """Locates the file, or downloads it; arguments and errors are those of ``Inception``."""
        super().__init__(path=path, cache=cache, url=url, sha256=sha256, batch_size=batch_size)
        self.fingerprint = digest(f"{_VERSION}/{sha256}")

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, 2048); grey is repeated to RGB."""
        check_images(images)
        resized = resize(images).expand(-1, 3, -1, -1).to(self._device)
        layers = cast(nn.Module, self._network.layers)  # a scripted module has no get_submodule
        return layers((resized - 128) / 128).flatten(1).float()


def resize(images: Tensor) -> Float32[Tensor, "n c 299 299"]:
    """uint8 (N, C, H, W) -> (N, C, 299, 299) float32, in 0..255 but for the filter's overshoot at edges."""
    channels = images.cpu().flatten(0, 1).numpy().astype(np.float32)
    resized = [
        np.asarray(Image.fromarray(one).resize((SIDE, SIDE), resample=Image.Resampling.BICUBIC)) for one in channels
    ]
    return torch.from_numpy(np.stack(resized)).unflatten(0, images.shape[:2])
