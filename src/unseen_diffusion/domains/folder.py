"""The user's own images: all image files below a folder."""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated

from PIL import Image

from unseen_diffusion.domains.base import LEADS, SPLITS, Pool
from unseen_diffusion.domains.encoded import EncodedDomain, require_path
from unseen_diffusion.domains.levels import Cell
from unseen_diffusion.utils.checked import Text, as_written, settings
from unseen_diffusion.utils.digests import file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.image_files import read_header

log = logging.getLogger(__name__)

UNREADABLE = "unreadable"  # stands for the digest of a file that cannot be read
UNSUPPORTED = {".h5", ".hdf", ".pfm"}  # Pillow has no decoder for the first two; the range of the last is unknown
Patterns = str | Sequence[str] | None


@settings("domain")
class Folder(EncodedDomain):
    """All images below a folder, recognised by their suffix; hidden ones and folders that start with __ are skipped."""

    path: Annotated[Text, LEADS]
    """the folder; its subfolders are searched too, linked ones included"""
    name: str = ""
    source: str = "a folder of images"
    licence: str = "not stated"
    include: Annotated[Patterns, LEADS] = None
    """patterns such as 'train/*' of the images that are used, by their path below the folder (* matches / too); null
    uses all"""
    exclude: Annotated[Patterns, LEADS] = None
    """patterns such as '*mask*' of the images that are left out"""
    cluster: Annotated[Text | None, SPLITS] = None
    """regular expression of what the paths of one cluster share, such as '^(.*)_frame' for frames of one picture (its
    first group, or the whole match); a cluster stays on one side of the split, and tests permute it whole; null: only
    equal images are one cluster"""

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            re.compile(self.cluster or "")
        except re.error as error:
            raise InputError(f"domain.cluster={self.cluster}: no regular expression ({error}); correct it") from error

    def default_name(self) -> str:
        """The name of the folder."""
        return self._folder().name or super().default_name()

    def files(self) -> list[Path]:
        require_path(self.path)
        return find_images(self._folder(), self.include, self.exclude)[0]

    def pool(self, size: int, channels: int) -> Pool:
        """The images, named and sorted by their path below the folder."""
        require_path(self.path)
        folder = self._folder()
        files = list_images(folder, self.include, self.exclude)
        names = [file.relative_to(folder).as_posix() for file in files]
        digests = [self._digest(file) for file in files]
        contents = [name if one == UNREADABLE else one for name, one in zip(names, digests, strict=True)]
        headers = [read_header(file) for file in files]

        def read(indices: Sequence[int]) -> list[Cell]:
            return [files[index] for index in indices]

        pool = self.encoded_pool(
            names, read, headers, contents, names=names, files=digests, size=size, channels=channels
        )
        return pool if self.cluster is None else replace(pool, clusters=cluster_names(names, self.cluster))

    def _folder(self) -> Path:
        return Path(os.path.abspath(Path(self.path).expanduser()))  # noqa: PTH100 - resolve() would follow links

    def _digest(self, file: Path) -> str:
        try:
            return file_digest(file)
        except OSError as error:
            if self.on_unreadable == "skip":
                return UNREADABLE
            raise InputError(f"{file}: cannot be read ({error}); remove it or set domain.on_unreadable=skip") from error


def cluster_names(names: Sequence[str], pattern: str) -> tuple[str, ...]:
    """The part of each name that a regular expression finds (its first group, if it has one); else the name itself."""
    found = [re.search(pattern, name) for name in names]
    parts = [match and (match[1] if match.re.groups else match[0]) for match in found]
    return tuple(name if part is None else f"{part}/" for name, part in zip(names, parts, strict=True))


def list_images(folder: Path, include: Patterns = None, exclude: Patterns = None) -> list[Path]:
    """Sorted paths of all images below ``folder`` (absolute); logs their number, and the skipped files by reason.

    Raises:
        InputError: the folder is missing, or has no image, or the patterns leave none.
    """
    if not folder.is_dir():
        raise InputError(f"domain.path={folder}: no such folder; give a folder of images")
    if not any(folder.iterdir()):
        raise InputError(f"domain.path={folder}: the folder is empty; give a folder of images")
    files, skipped = find_images(folder, include, exclude)
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(skipped.items()))
    if not files and skipped["by domain.include"] + skipped["by domain.exclude"]:
        example = find_images(folder)[0][0].relative_to(folder).as_posix()
        raise InputError(
            f"domain.include={as_written(include)}, domain.exclude={as_written(exclude)}: no image is left below "
            f"{folder} ({reasons}); give patterns that match paths such as {example!r}"
        )
    if not files:
        others = f" (only {reasons})" if reasons else ""
        raise InputError(f"domain.path={folder}: no image there{others}; give a folder with PNG, JPEG or WebP files")
    notes = [f"left out: {reasons}"] if reasons else []
    log.log(logging.WARNING if notes else logging.INFO, "; ".join([f"{folder}: {len(files)} images", *notes]))
    return files


def find_images(folder: Path, include: Patterns = None, exclude: Patterns = None) -> tuple[list[Path], Counter[str]]:
    """Sorted paths of all images below ``folder``, and the number of skipped files by reason.

    A pattern that leaves out no image has a count of 0.
    """
    files: list[Path] = []
    given = {"by domain.include": include, "by domain.exclude": exclude}
    skipped: Counter[str] = Counter({reason: 0 for reason, patterns in given.items() if patterns is not None})
    for here, names in _folders(folder):
        for file in (here / name for name in names):
            parts = file.relative_to(folder).parts
            reason = _reason(file, parts) or _pattern_reason("/".join(parts), include, exclude)
            if reason:
                skipped[reason] += 1
            else:
                files.append(file)
    return sorted(files), skipped


def _folders(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """``root`` and all folders below it with the names of their files; linked folders last, each folder once.

    Links inside skipped folders are not followed, nor links to a folder that contains ``root``.
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
                links += [path for path in below if path.is_symlink() and not _skipped(path.relative_to(root).parts)]
                yield Path(here), files
        waiting = links


def _skipped(folders: Sequence[str], name: str = "") -> str | None:
    """The reason why a path is skipped (its folders, and the file's name), or None."""
    if any(part.startswith(".") for part in (*folders, name)):
        return "hidden"
    return "in folders that start with __" if any(part.startswith("__") for part in folders) else None


def _pattern_reason(path: str, include: Patterns, exclude: Patterns) -> str | None:
    """The reason why patterns leave an image out, or None; ``path`` is that below the folder."""
    if include is not None and not _matches(path, include):
        return "by domain.include"
    return "by domain.exclude" if exclude is not None and _matches(path, exclude) else None


def _matches(path: str, patterns: str | Sequence[str]) -> bool:
    return any(fnmatchcase(path, one) for one in ([patterns] if isinstance(patterns, str) else patterns))


def _reason(file: Path, parts: Sequence[str]) -> str | None:
    """The reason why a file is skipped, or None where it is an image; ``parts`` is its path below the folder."""
    if reason := _skipped(parts[:-1], parts[-1]):
        return reason
    if not file.is_file():
        return "broken links"
    if not file.suffix:
        return "without a suffix"
    return None if file.suffix.lower() in suffixes() else file.suffix.lower()


@cache
def suffixes() -> frozenset[str]:
    """File suffixes, with the dot, of the formats that Pillow can read."""
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN) - UNSUPPORTED
