"""The user's own images: any folder, listed by the ``imagefolder`` builder of the ``datasets`` library."""

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unseen_diffusion.domains.base import Pool, fingerprint
from unseen_diffusion.domains.encoded import EncodedDomain
from unseen_diffusion.domains.hub import open_dataset, undecoded
from unseen_diffusion.errors import InputError
from unseen_diffusion.files import sha256

UNREADABLE = "unreadable"  # in place of a file's digest


@dataclass(frozen=True, kw_only=True)
class Folder(EncodedDomain):
    """All images below a folder; hidden files and folders are left out.

    Attributes:
        path: the folder; subfolders are searched.
    """

    path: str
    name: str = ""
    source: str = "a folder of images"
    licence: str = "not stated"

    def own_name(self) -> str:
        """The folder's own name."""
        return self._folder().name or super().own_name()

    def pool(self, size: int, channels: int) -> Pool:
        """The images, sorted by their path below the folder, which is also their name."""
        folder = self._folder()
        files = list_images(folder)
        names = [file.relative_to(folder).as_posix() for file in files]
        digests = [self._digest(file) for file in files]
        digest = fingerprint(names=names, files=digests, size=size, channels=channels)
        contents = (name if found == UNREADABLE else found for name, found in zip(names, digests, strict=True))

        def read(indices: Sequence[int]) -> list[bytes | Path]:
            return [files[index] for index in indices]

        return replace(self.encoded_pool(names, read, digest, size, channels), contents=tuple(contents))

    def _folder(self) -> Path:
        return Path(os.path.abspath(Path(self.path).expanduser()))  # noqa: PTH100 - resolve() would follow links

    def _digest(self, file: Path) -> str:
        try:
            return sha256(file)
        except OSError as error:
            if self.on_unreadable == "skip":
                return UNREADABLE
            raise InputError(f"{file}: cannot be read ({error}); remove it or set domain.on_unreadable=skip") from error


def list_images(folder: Path) -> list[Path]:
    """Paths of all images below ``folder``, an absolute path, sorted.

    Raises:
        InputError: the folder is missing, or has no image.
    """
    if not folder.is_dir():
        raise InputError(f"domain.path={folder}: no such folder; give a folder of images")
    if not any(file.is_file() for file in folder.rglob("*")):
        raise InputError(f"domain.path={folder}: the folder is empty; give a folder of images")
    # One explicit pattern: else the builder would take a subfolder called "test" for another split.
    data = open_dataset(
        "imagefolder",
        f"check the files below domain.path={folder}",
        data_files={"train": f"{glob.escape(str(folder))}/**"},
        split="train",
        streaming=True,
        drop_labels=True,
        drop_metadata=True,
    )
    cells = [row["image"] for row in undecoded(data, "image", str(folder))]
    files = sorted(Path(cell["path"]) for cell in cells if cell["path"] and "://" not in cell["path"])
    if not files:
        raise InputError(f"domain.path={folder}: no image there; give a folder with PNG, JPEG or WebP files")
    return files
