"""Base class of the domains of image files: encoded images that are read and decoded on demand."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool
from unseen_diffusion.utils import images
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import file_states

Reader = Callable[[Sequence[int]], Sequence[bytes | Path]]


@settings("domain")
class EncodedDomain(Domain):
    """A domain of image files, or of their bytes; an empty ``name`` becomes ``default_name``."""

    on_unreadable: Literal["error", "skip"] = "error"
    """error: an unreadable image stops the run; skip: the next image replaces it, with a warning"""

    def __post_init__(self) -> None:
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

    def encoded_pool(self, names: Sequence[str], read: Reader, digest: str, size: int, channels: int) -> Pool:
        """A pool that decodes what ``read`` returns for some indices: bytes of files, or paths."""

        def decode(indices: Sequence[int], size: int | None) -> list[Tensor]:
            cells = zip(indices, read(indices), strict=True)
            return [self._decode(cell, size, channels, names[i]) for i, cell in cells]

        return Pool(
            tuple(names),
            lambda indices: images.stack(decode(indices, size)),
            digest,
            skip_unreadable=self.on_unreadable == "skip",
            load_uncropped=lambda indices: decode(indices, None),
        )

    def _decode(self, cell: bytes | Path, size: int | None, channels: int, name: str) -> Tensor:
        try:
            return images.decode(cell, size, channels, name=name)
        except InputError as error:
            if self.on_unreadable == "skip":
                raise
            raise InputError(f"{error}, or set domain.on_unreadable=skip") from error


def require_path(path: str) -> None:
    """Refuses an empty or blank path, which would mean the current folder.

    Raises:
        InputError: the path is empty or blank.
    """
    if not path.strip():
        raise InputError(f"domain.path={path!r}: an empty path; write domain.path=. for the current folder")


def encoded_bytes(cell: Any, where: str) -> bytes | str:
    """The encoded image in a cell of a table, or its path: a cell is bytes, or the hub's ``{bytes, path}``.

    Raises:
        InputError: the cell has neither.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict) and cell.get("bytes"):
        return bytes(cell["bytes"])
    if isinstance(cell, dict) and cell.get("path"):
        return str(cell["path"])
    raise InputError(
        f"{where}: {type(cell).__name__} without image bytes; set domain.column to the column of encoded images"
    )
