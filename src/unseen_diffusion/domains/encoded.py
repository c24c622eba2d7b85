"""Base class of the domains of image files: encoded images that are read and decoded on demand."""

import logging
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from torch import Tensor

from unseen_diffusion.domains.base import READING, Domain, Pool, Resize, fingerprint
from unseen_diffusion.domains.levels import Cell, Levels, Range, check_range
from unseen_diffusion.utils import images
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import file_states
from unseen_diffusion.utils.identity import OmittedIf
from unseen_diffusion.utils.image_files import Header

log = logging.getLogger(__name__)

Reader = Callable[[Sequence[int]], Sequence[Cell]]
NAMED = 3  # files that a line of the log names


@settings("domain")
class EncodedDomain(Domain):
    """A domain of image files, or of their bytes; an empty ``name`` becomes ``default_name``."""

    on_unreadable: Annotated[Literal["error", "skip"], READING] = "error"
    """error: an unreadable image stops the run; skip: the next image replaces it, with a warning"""
    range: Annotated[Range | None, OmittedIf(None)] = None
    """counts that become black and white: [low, high], percentiles of all files such as [0.5%, 99.5%], or files for
    their smallest and largest count; null takes the whole range of 8 or 16 bits"""
    resize: Annotated[Resize, OmittedIf("crop")] = "crop"
    """crop: keep the centred square; stretch: squeeze the whole image into a square, as the released code does"""

    def __post_init__(self) -> None:
        check_range(self.range)
        if not self.name:
            object.__setattr__(self, "name", self.default_name())

    def state(self) -> Hashable:
        """Names, sizes and times of the local files; () for a remote data set, which is read once per process."""
        return file_states(self.files())

    def files(self) -> Sequence[Path]:
        """The local files that the images are read from.

        Raises:
            InputError: no files at the given place.
        """
        return ()

    def default_name(self) -> str:
        """The domain's name where the user gives none."""
        return type(self).__name__.lower()

    def encoded_pool(
        self,
        names: Sequence[str],
        read: Reader,
        headers: Sequence[Header | None],
        contents: Sequence[str],
        /,
        **parts: Any,
    ) -> Pool:
        """A pool that decodes what ``read`` returns for some indices: bytes of files, paths, or why there is neither.

        Args:
            names: one per image.
            read: indices -> encoded images.
            headers: of the files; None for one that cannot be opened.
            contents: a digest of each encoded image; equal ones stay on one side of a split.
            parts: JSON values that the fingerprint is computed from beside the fields, ``size`` and ``channels`` among
                them.
        """
        size, channels = parts["size"], parts["channels"]
        levels = Levels(self.range, headers, lambda index: read([index])[0])
        known = [header for header in headers if header is not None]
        self._report(names, headers)

        def decode(indices: Sequence[int], size: int | None) -> list[Tensor]:
            cells = zip(indices, read(indices), strict=True)
            return [self._decode(cell, size, channels, names[i], levels) for i, cell in cells]

        return Pool(
            tuple(names),
            lambda indices: images.stack(decode(indices, size)),
            fingerprint(**parts, **self.of_pixels(), **_conversions(headers)),
            skip_unreadable=self.on_unreadable == "skip",
            contents=tuple(contents),
            load_uncropped=lambda indices: decode(indices, None),
            levels=levels,
            sides=tuple(header.side for header in known),
        )

    def _report(self, names: Sequence[str], headers: Sequence[Header | None]) -> None:
        """Logs what is not read, or not as it is: further frames, profiles, the upper 8 of 16 bits."""
        for meaning, concerns in NOTES.items():
            concerned = [name for name, header in zip(names, headers, strict=True) if header and concerns(header)]
            if concerned:
                more = ", ..." if len(concerned) > NAMED else ""
                first = ", ".join(concerned[:NAMED])
                log.warning("domain=%s: %d %s: %s%s", self.name, len(concerned), meaning, first, more)

    def _decode(self, cell: Cell, size: int | None, channels: int, name: str, levels: Levels) -> Tensor:
        try:
            if isinstance(cell, InputError):
                raise cell
            crop = self.resize == "crop"
            return images.decode(cell, size, channels, name=name, interval=levels.interval, crop=crop)
        except InputError as error:
            if self.on_unreadable == "skip":
                raise
            raise InputError(f"{error}, or set domain.on_unreadable=skip") from error


def _conversions(headers: Sequence[Header | None]) -> dict[str, Any]:
    """What the fingerprint needs where pixels are converted in another way than those of most files."""
    special = {str(i): header.conversions for i, header in enumerate(headers) if header and header.conversions}
    return {"conversions": special} if special else {}


NOTES: dict[str, Callable[[Header], bool]] = {
    "of several frames or pages, of which the first is read": lambda header: header.frames,
    "converted from their colour profiles to sRGB": lambda header: "profile" in header.conversions,
    "in 16-bit colours, of which the upper 8 bits are read": lambda header: header.kind == "16-bit colours",
    "of more than 33 million pixels, reduced while they are decoded": lambda header: "large" in header.conversions,
}


def require_path(path: str) -> None:
    """Refuses an empty or blank path, which would mean the current folder.

    Raises:
        InputError: the path is empty or blank.
    """
    if not path.strip():
        raise InputError(f"domain.path={path!r}: an empty path; write domain.path=. for the current folder")


def encoded_bytes(cell: Any, where: str) -> bytes | str | None:
    """The encoded image in a cell of a table, or its path: a cell is bytes, or the hub's ``{bytes, path}``.

    None for a null cell, or one whose bytes and path are both missing.

    Raises:
        InputError: the cell is of another type.
    """
    if isinstance(cell, bytes):
        return cell
    if cell is None:
        return None
    if isinstance(cell, dict) and cell.keys() & {"bytes", "path"}:
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        return str(cell["path"]) if cell.get("path") else None
    raise InputError(
        f"{where}: {type(cell).__name__} without image bytes; set domain.column to the column of encoded images"
    )


def null_cell(where: str) -> InputError:
    """The error for a row without an image."""
    return InputError(f"{where}: not a readable image (the cell is null); remove the row")
