"""What domains of image files share: encoded images that are read, and decoded, on demand."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from unseen_diffusion.domains.base import Domain, Pool
from unseen_diffusion.utils import images
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import file_states

Reader = Callable[[Sequence[int]], Sequence[bytes | Path]]


@dataclass(frozen=True, kw_only=True)
class EncodedDomain(Domain):
    """A domain of image files, or of their bytes.

    Attributes:
        name: what reports and error messages call it; empty takes ``own_name``.
        on_unreadable: ``error``, or ``skip``: the next image takes an unreadable one's place, with a warning.
    """

    on_unreadable: str = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            object.__setattr__(self, "name", self.own_name())
        if self.on_unreadable not in ("error", "skip"):
            raise InputError(f"domain.on_unreadable={self.on_unreadable}: choose error or skip")

    def state(self) -> Hashable:
        """Names, sizes and times of the files; of a data set elsewhere nothing, for it is read once a process."""
        return file_states(self.files())

    def files(self) -> Sequence[Path]:
        """The local files that the images are read from.

        Raises:
            InputError: there are none where there should be.
        """
        return ()

    def own_name(self) -> str:
        """What the images are called where the user gives no name."""
        return type(self).__name__.lower()

    def encoded_pool(self, names: Sequence[str], read: Reader, digest: str, size: int, channels: int) -> Pool:
        """A pool that decodes what ``read`` returns for some indices: bytes of files, or paths."""

        def load(indices: Sequence[int]) -> Tensor:
            cells = zip(indices, read(indices), strict=True)
            return images.stack([self._decode(cell, size, channels, names[i]) for i, cell in cells])

        return Pool(tuple(names), load, digest, skip_unreadable=self.on_unreadable == "skip")

    def _decode(self, cell: bytes | Path, size: int | None, channels: int, name: str) -> Tensor:
        try:
            return images.decode(cell, size, channels, name=name)
        except InputError as error:
            if self.on_unreadable == "skip":
                raise
            raise InputError(f"{error}, or set domain.on_unreadable=skip") from error


def require_path(path: str) -> None:
    """Refuses a path of nothing but blanks, which would be the current folder.

    Raises:
        InputError: it is one.
    """
    if not path.strip():
        raise InputError(f"domain.path={path!r}: an empty path; write domain.path=. for the current folder")


def encoded_bytes(cell: Any, where: str) -> bytes | str:
    """The encoded image in a cell of a table: bytes, or bytes or else path of the hub's ``{bytes, path}``.

    Raises:
        InputError: the cell has neither.
    """
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, dict) and cell.get("bytes"):
        return bytes(cell["bytes"])
    if isinstance(cell, dict) and cell.get("path"):
        return str(cell["path"])
    raise InputError(f"{where}: {type(cell).__name__} without image bytes; name the column of encoded images")
