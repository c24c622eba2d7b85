"""Own images to train on: any folder, Parquet file or hub data set, decoded once into a file beside the checkpoint."""

import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.domains.encoded import EncodedDomain, Reader
from unseen_diffusion.domains.folder import Folder
from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.domains.parquet import Parquet
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json, write_json
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import generator

CHUNK = 64  # images that a thread decodes at a time
NAMED = 3  # unreadable images that the summary names


class ExactSize(EncodedDomain):
    """A domain that refuses images which would have to be cropped or resized."""

    def encoded_pool(self, names: Sequence[str], read: Reader, digest: str, size: int, channels: int) -> Pool:
        pool = super().encoded_pool(names, read, digest, size, channels)

        def load(indices: Sequence[int]) -> Tensor:
            cells = zip(indices, read(indices), strict=True)
            images = [self._decode(cell, None, channels, names[i]) for i, cell in cells]
            for index, image in zip(indices, images, strict=True):
                if image.shape[1:] != (size, size):
                    height, width = image.shape[1:]
                    raise InputError(f"{names[index]}: {width}x{height} pixels, not {size}x{size}; set data.fit=crop")
            return torch.stack(images)

        return replace(pool, load=load)


class ExactFolder(ExactSize, Folder):
    """A folder of images of one size."""


class ExactParquet(ExactSize, Parquet):
    """Parquet files with images of one size."""


class ExactHub(ExactSize, Hub):
    """A data set of the hub with images of one size."""


EXACT: dict[type[Domain], type[Domain]] = {Folder: ExactFolder, Parquet: ExactParquet, Hub: ExactHub}


@dataclass(frozen=True, kw_only=True)
class OwnImages:
    """What the ``data`` group of ``unseen train`` builds.

    Attributes:
        kind: the option's name, for the model card's command.
        path: where the images are.
        images: the domain that reads them; its split is not used.
        size: height and width to train on, in pixels.
        channels: 1 (grey) or 3 (RGB).
        fit: ``crop``: the largest centred square of every image, resized; ``refuse``: other sizes are an error.
        validation: share of the images that is held out for the validation loss, in [0, 0.5].
    """

    kind: str
    path: str
    images: Domain
    size: int
    channels: int
    fit: str
    validation: float

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise InputError(f"data.channels={self.channels}: choose 1 (grey) or 3 (RGB)")
        if self.size < 16 or self.size % 8:
            raise InputError(f"data.size={self.size}: give a multiple of 8, 16 or more")
        if self.fit not in ("crop", "refuse"):
            raise InputError(f"data.fit={self.fit}: choose crop or refuse")
        if not 0 <= self.validation <= 0.5:
            raise InputError(f"data.validation={self.validation}: give a share between 0 and 0.5")

    def pool(self) -> Pool:
        """The images, decoded on demand.

        Raises:
            InputError: no such folder, file or data set, or no image there.
        """
        domain = self.images
        if self.fit == "refuse":
            if type(domain) not in EXACT:
                raise InputError(f"data.fit=refuse: not known for {type(domain).__name__}; set data.fit=crop")
            values = {field.name: getattr(domain, field.name) for field in fields(domain)}
            domain = EXACT[type(domain)](**values)
        with _as_data():
            pool = domain.pool(self.size, self.channels)
        return replace(pool, fingerprint=f"{self.fit}-{pool.fingerprint}")


@contextmanager
def _as_data() -> Iterator[None]:
    """Errors of domains name the keys of ``unseen run``: here they have other names."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("domain.path", "data.path").replace("domain.id", "data.path")
        raise InputError(text.replace("domain.", "data.images.")) from error


def decode_once(pool: Pool, size: int, channels: int, folder: Path) -> None:
    """Decodes all images into ``folder``/images.raw, unless they are there: (N, channels, size, size) uint8.

    The file is mapped into memory, so that images may outgrow it, and processes of one machine share it.

    Raises:
        InputError: an unreadable image (unless the domain skips those), or too little space.
    """
    facts, path = folder / "images.json", folder / "images.raw"
    if facts.is_file() and path.is_file() and read_json(facts)["fingerprint"] == pool.fingerprint:
        return
    count = len(pool.names)
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = count * channels * size**2, shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(
            f"{folder}: {needed / 1e9:.1f} GB needed for {count} decoded images, but {free / 1e9:.1f} GB are free; "
            "set training.folder to a larger disk, or a smaller data.size"
        )
    chunks = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
    unreadable: list[str] = []
    with (
        atomic_path(path) as temporary,
        temporary.open("wb") as file,
        ThreadPoolExecutor() as threads,
        tqdm(total=count, desc="decode", mininterval=5, dynamic_ncols=True) as progress,
    ):
        for chunk, found in zip(chunks, threads.map(lambda c: _load(pool, c, unreadable), chunks), strict=True):
            for image in found:
                file.write(image.numpy().tobytes())
            progress.update(len(chunk))
    if unreadable:
        names = "; ".join(sorted(unreadable)[:NAMED])
        tqdm.write(f"{len(unreadable)} of {count} images unreadable, left out: {names}")
    shape = [count - len(unreadable), channels, size, size]
    write_json(facts, {"fingerprint": pool.fingerprint, "shape": shape})


def _load(pool: Pool, indices: Sequence[int], unreadable: list[str]) -> list[Tensor]:
    """Decoded images; those that may be skipped are named in ``unreadable``."""
    found: list[Tensor] = []
    with _as_data():
        if not pool.skip_unreadable:
            return list(pool.load(indices))
        for index in indices:
            try:
                found.append(pool.load([index])[0])
            except InputError as error:
                unreadable.append(str(error))
    return found


def open_images(folder: Path) -> UInt8[Tensor, "n c s s"]:
    """What ``decode_once`` wrote, mapped into memory."""
    shape = read_json(folder / "images.json")["shape"]
    if not math.prod(shape):
        raise InputError(f"{folder}: none of the images could be read; give PNG, JPEG or WebP files")
    # Copy on write: torch warns of tensors that cannot be written to.
    return torch.from_numpy(np.memmap(folder / "images.raw", np.uint8, "c", shape=tuple(shape)))


def images_digest(*tensors: Tensor) -> str:
    """What tells images, and their labels, from others: SHA-256 over their values, wherever their files lie."""
    return fingerprint(arrays=[array_digest(tensor.numpy()) for tensor in tensors])


def hold_out(count: int, share: float, seed: int) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " v"]]:
    """Rows to train on and rows to validate on, both ascending; ``seed`` alone decides which."""
    held = math.ceil(share * count)
    order = torch.randperm(count, generator=generator(seed, "validation"))
    return order[held:].sort().values, order[:held].sort().values


__getattr__ = new_names(__name__)
