"""The user's own images: any folder, with its subfolders."""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from PIL import Image

from unseen_diffusion.domains.base import Pool, fingerprint
from unseen_diffusion.domains.encoded import EncodedDomain, require_path
from unseen_diffusion.utils.digests import file_digest
from unseen_diffusion.utils.errors import InputError

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"  # in place of a file's digest
NO_IMAGES = {".h5", ".hdf", ".pfm"}  # Pillow has no decoder for the first two, and the last has no known range
PAGED = {".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Folder(EncodedDomain):
    """All images below a folder, by their suffix; what is hidden, or in a folder that starts with __, is left out.

    Attributes:
        path: the folder; subfolders are searched, linked ones too.
    """

    path: str
    name: str = ""
    source: str = "a folder of images"
    licence: str = "not stated"

    def own_name(self) -> str:
        """The folder's own name."""
        return self._folder().name or super().own_name()

    def files(self) -> list[Path]:
        require_path(self.path)
        return find_images(self._folder())[0]

    def pool(self, size: int, channels: int) -> Pool:
        """The images, sorted by their path below the folder, which is also their name."""
        require_path(self.path)
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
            return file_digest(file)
        except OSError as error:
            if self.on_unreadable == "skip":
                return UNREADABLE
            raise InputError(f"{file}: cannot be read ({error}); remove it or set domain.on_unreadable=skip") from error


def list_images(folder: Path) -> list[Path]:
    """Paths of all images below ``folder``, an absolute path, sorted; logs how many, and what was left out and why.

    Raises:
        InputError: the folder is missing, or has no image.
    """
    if not folder.is_dir():
        raise InputError(f"domain.path={folder}: no such folder; give a folder of images")
    if not any(folder.iterdir()):
        raise InputError(f"domain.path={folder}: the folder is empty; give a folder of images")
    files, left_out = find_images(folder)
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
    if not files:
        found = f" (only {reasons})" if reasons else ""
        raise InputError(f"domain.path={folder}: no image there{found}; give a folder with PNG, JPEG or WebP files")
    paged = sum(file.suffix.lower() in PAGED and _pages(file) > 1 for file in files)
    notes = [f"left out: {reasons}"] if reasons else []
    notes += [f"{paged} of several pages: only the first is read"] if paged else []
    log.log(logging.WARNING if notes else logging.INFO, "; ".join([f"{folder}: {len(files)} images", *notes]))
    return files


def find_images(folder: Path) -> tuple[list[Path], Counter[str]]:
    """All images below ``folder``, sorted, by their suffix alone; how many other files were left out, by reason."""
    files: list[Path] = []
    left_out: Counter[str] = Counter()
    for here, names in _folders(folder):
        for file in (here / name for name in names):
            reason = _reason(file, file.relative_to(folder).parts)
            if reason:
                left_out[reason] += 1
            else:
                files.append(file)
    return sorted(files), left_out


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """``root`` and the folders below with their files' names; linked folders last, and each folder once.

    No link is followed in what is left out anyway, nor to a folder that holds ``root`` and what lies beside it.
    """
    seen: set[str] = set()
    above = {os.path.realpath(folder) for folder in Path(os.path.realpath(root)).parents}
    waiting = [root]
    while waiting:
        links: list[Path] = []
        for start in waiting:
            for here, folders, files in os.walk(start):
                real = os.path.realpath(here)
                if real in seen or real in above:
                    folders.clear()
                    continue
                seen.add(real)
                folders.sort()
                below = [Path(here, name) for name in folders]
                links += [path for path in below if path.is_symlink() and not _left_out(path.relative_to(root).parts)]
                yield Path(here), files
        waiting = links


def _left_out(folders: Sequence[str], name: str = "") -> str | None:
    """Why nothing below these folders, or no file of this name in them, is looked at; None if it is."""
    if any(part.startswith(".") for part in (*folders, name)):
        return "hidden"
    return "in folders that start with __" if any(part.startswith("__") for part in folders) else None


def _reason(file: Path, parts: Sequence[str]) -> str | None:
    """Why a file below the folder is no image of it; None if it is one."""
    if reason := _left_out(parts[:-1], parts[-1]):
        return reason
    if not file.is_file():
        return "broken links"
    if not file.suffix:
        return "without a suffix"
    return None if file.suffix.lower() in suffixes() else file.suffix.lower()


@cache
def suffixes() -> frozenset[str]:
    """Of the files that Pillow can read."""
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN) - NO_IMAGES


def _pages(file: Path) -> int:
    try:
        with Image.open(file) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # whatever is wrong with it, decoding says so
        return 1
