"""Inception-v3 features as in published FID values (Heusel et al. 2017), from NVIDIA's TorchScript file.

The file includes the preprocessing: the resize to 299 x 299 of the original TensorFlow graph, bilinear and without
antialiasing. This is the mode ``legacy_tensorflow`` of clean-fid, and the FID of StyleGAN2-ADA; the mode ``clean`` is
``inception_clean``. The file takes images as uint8, as they are saved, so that no other library's resize changes a
score.
"""

import http.client
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.scores.features.base import LazyNetwork, check_images
from unseen_diffusion.utils.checked import Count, Text, checked_arguments
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path

FILE = "inception-2015-12-05.pt"
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
_VERSION = "inception-1"
_TIMEOUT = 30  # seconds to wait for an answer


class Inception(LazyNetwork):
    """The 2048 pooled features of Inception-v3 behind TensorFlow's resize.

    The file is checked when the extractor is built, and loaded on first use.
    """

    name = "inception_tensorflow"
    dimension = 2048

    @checked_arguments("features")
    def __init__(
        self,
        path: Text | Path | None = None,
        cache: Text | Path = "~/.cache/unseen-diffusion",
        url: Text = URL,
        sha256: Text = SHA256,
        batch_size: Count = 64,
    ) -> None:
        """Locates the file, or downloads it.

        Args:
            path: the TorchScript file; null (None) takes it from ``cache``, downloading it there once (96 MB).
            cache: folder of downloaded files.
            url: where to download from.
            sha256: checksum that the file must have; nothing is loaded before it has been checked.
            batch_size: images at a time.

        Raises:
            InputError: a value of the wrong type, a file that is missing and cannot be downloaded, or a wrong checksum.
        """
        self.batch_size = batch_size
        self.fingerprint = digest(f"{_VERSION}/{sha256}")
        if path is None:
            self._file = cached(Path(cache).expanduser(), url, sha256)
        else:
            self._file = Path(path).expanduser()
            check_file(self._file, sha256)
        super().__init__()

    @staticmethod
    def check_files(path: str | Path | None = None, sha256: str = SHA256, **others: Any) -> None:
        """Checks a given file; one of the cache is checked or downloaded when a run starts.

        Raises:
            InputError: the file is missing, or has another checksum.
        """
        if path is not None:
            check_file(Path(path).expanduser(), sha256)

    def _load(self) -> torch.nn.Module:
        return _load(self._file, self._device)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Float32[Tensor, "n d"]:
        """uint8 (N, 1 or 3, H, W) -> float32 (N, 2048); grey is repeated to RGB."""
        check_images(images)
        rgb = images.expand(-1, 3, -1, -1).to(self._device)
        return self._network(rgb, return_features=True).float()


def cached(cache: Path, url: Text, sha256: str) -> Path:
    """The file of ``url`` in ``cache``, downloaded if it is absent; complete and with the right checksum.

    Raises:
        InputError: the download fails, or the checksum is wrong.
    """
    path = cache / url.rsplit("/", 1)[-1]
    if path.exists():
        check_file(path, sha256)
        return path
    with atomic_path(path) as temporary:
        try:
            _download(url, temporary)
        except (OSError, http.client.HTTPException) as error:
            raise InputError(
                f"cannot download {url} ({error}); put the file at {path}, or set features.path to it"
            ) from error
        check_file(temporary, sha256, shown=url)
    return path


def check_file(path: Path, sha256: str, shown: str | None = None) -> None:
    """Checks a file's SHA-256; messages name it by ``shown`` if that is given.

    Raises:
        InputError: the file is missing, or has another checksum.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; download it from {URL}")
    found = file_digest(path)
    if found != sha256:
        raise InputError(
            f"{shown or path}: SHA-256 is {found}, not {sha256}; remove the file and download it from {URL}"
        )


def _download(url: Text, path: Path) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, path.open("wb") as file:
        total = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=total, unit="B", unit_scale=True, desc=url.rsplit("/", 1)[-1]) as progress:
            while block := response.read(1 << 20):
                file.write(block)
                progress.update(len(block))


def _load(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    with warnings.catch_warnings():
        # TorchScript is deprecated, but the weights behind published FID values exist in no other format.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        return torch.jit.load(path, map_location=device).eval()
