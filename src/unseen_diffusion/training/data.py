"""The user's own images to train on, decoded once into a file beside the checkpoint."""

import logging
import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from unseen_diffusion.domains.base import Domain, Pool, fingerprint
from unseen_diffusion.domains.pixel_check import check_contents, judge_pixels
from unseen_diffusion.utils.checked import Text, WholeNumber, settings
from unseen_diffusion.utils.digests import array_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, read_json, write_json
from unseen_diffusion.utils.renamed import new_names
from unseen_diffusion.utils.seeds import generator

log = logging.getLogger(__name__)

CHUNK = 64  # images that a thread decodes at a time
CHECKED = 2000  # images whose pixels are checked
NAMED = 3  # unreadable images that the log names
STEP = 8  # the networks halve the size three times


@settings("data")
class OwnImages:
    """Images to train on: what the ``data`` group of ``unseen train`` builds."""

    kind: str
    """name of the option of the data group, for the command in the model card"""
    path: Text
    """where the images are: a folder, Parquet files, or the data set's name on the hub"""
    images: Domain
    """the domain that reads the images; its split is not used"""
    size: Annotated[int, Field(ge=16)]
    """height and width to train on, in pixels: a multiple of 8"""
    channels: Annotated[Literal[1, 3], WholeNumber]
    """1 for grey, 3 for RGB"""
    fit: Literal["crop", "refuse"]
    """crop: cut out the largest centred square and resize it; refuse: stop at images of another size"""
    validation: Annotated[float, Field(ge=0, le=0.5)]
    """share of the images that is held out for the validation loss"""

    def __post_init__(self) -> None:
        if self.size % STEP:
            raise InputError(f"data.size={self.size}: give a multiple of {STEP}, 16 or more")

    def pool(self) -> Pool:
        """The images, decoded on demand.

        Raises:
            InputError: no such folder, file or data set, or no image there.
        """
        with data_keys():
            pool = self.images.pool(self.size, self.channels)
            check_contents(self.images.name, pool)
        if self.fit == "refuse":
            pool = self._of_one_size(pool)
        return replace(pool, fingerprint=f"{self.fit}-{pool.fingerprint}")

    def _of_one_size(self, pool: Pool) -> Pool:
        """The pool with a ``load`` that refuses images of another size."""
        load_uncropped, size = pool.load_uncropped, self.size
        if load_uncropped is None:
            raise InputError(f"data.fit=refuse: {type(self.images).__name__} has no image files; set data.fit=crop")

        def load(indices: Sequence[int]) -> Tensor:
            images = load_uncropped(indices)
            for index, image in zip(indices, images, strict=True):
                height, width = image.shape[1:]
                if (height, width) != (size, size):
                    name = pool.names[index]
                    raise InputError(f"{name}: {width}x{height} pixels, not {size}x{size}; set data.fit=crop")
            return torch.stack(images)

        return replace(pool, load=load)


@contextmanager
def data_keys() -> Iterator[None]:
    """Replaces the keys of ``unseen run`` in a domain's error messages by those of ``unseen train``."""
    try:
        yield
    except InputError as error:
        raise InputError(_data_keys(str(error))) from error


def _data_keys(text: str) -> str:
    text = text.replace("domain.path", "data.path").replace("domain.id", "data.path")
    return text.replace("domain.", "data.images.").replace("domain=", "data=", 1)


def check_decoded(name: str, images: Tensor, pool: Pool | None) -> None:
    """The check of ``unseen run`` for pixels that collapsed, on at most ``CHECKED`` images, evenly spaced.

    Args:
        name: of the images, for messages.
        images: (n, channels, size, size) uint8.
        pool: where they come from, or None.

    Raises:
        InputError: all are equal.
    """
    with data_keys():
        line = judge_pixels(name, [images[:: math.ceil(len(images) / CHECKED) or 1]], pool)
    if line:
        log.warning("%s", _data_keys(line))


def decode_once(pool: Pool, size: int, channels: int, folder: Path) -> None:
    """Decodes all images into ``folder``/images.raw, (N, channels, size, size) uint8, unless it has them already.

    The file is mapped into memory later: images may need more space than there is memory, and the processes of one
    machine share them.

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
        for chunk, images in zip(chunks, threads.map(lambda c: _load(pool, c, unreadable), chunks), strict=True):
            for image in images:
                file.write(image.numpy().tobytes())
            progress.update(len(chunk))
    if unreadable:
        names = "; ".join(sorted(unreadable)[:NAMED])
        tqdm.write(f"{len(unreadable)} of {count} images are unreadable and skipped: {names}")
    if len(unreadable) == count:
        raise InputError(f"none of {count} images could be read; the first: {min(unreadable)}")
    shape = [count - len(unreadable), channels, size, size]
    write_json(facts, {"fingerprint": pool.fingerprint, "shape": shape})


def _load(pool: Pool, indices: Sequence[int], unreadable: list[str]) -> list[Tensor]:
    """Decoded images; adds the errors of skipped ones to ``unreadable``."""
    images: list[Tensor] = []
    with data_keys():
        if not pool.skip_unreadable:
            return list(pool.load(indices))
        for index in indices:
            try:
                images.append(pool.load([index])[0])
            except InputError as error:
                unreadable.append(str(error))
    return images


def open_images(folder: Path) -> UInt8[Tensor, "n c s s"]:
    """The images that ``decode_once`` wrote, mapped into memory."""
    shape = read_json(folder / "images.json")["shape"]
    if not math.prod(shape):
        raise InputError(f"{folder}: none of the images could be read; give PNG, JPEG or WebP files")
    # Copy on write ("c"), because torch warns of tensors that cannot be written to.
    return torch.from_numpy(np.memmap(folder / "images.raw", np.uint8, "c", shape=tuple(shape)))


def images_digest(*tensors: Tensor) -> str:
    """SHA-256 over the values of images and their labels, independent of their files' paths."""
    return fingerprint(arrays=[array_digest(tensor.numpy()) for tensor in tensors])


def hold_out(count: int, share: float, seed: int) -> tuple[Int64[Tensor, " t"], Int64[Tensor, " v"]]:
    """Rows to train on and rows to validate on, both ascending; ``seed`` alone chooses them."""
    held = math.ceil(share * count)
    order = torch.randperm(count, generator=generator(seed, "validation"))
    return order[held:].sort().values, order[:held].sort().values


__getattr__ = new_names(__name__)
