"""Named bytes below one root: a local folder, or an S3-compatible bucket behind a local folder.

Names are relative, with slashes. Nothing half written is ever seen under a name.
"""

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

from unseen_diffusion.utils.files import atomic_path, disk_errors

log = logging.getLogger(__name__)

Check = Callable[[bytes], bool]

NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # FAT, some FUSE and SMB mounts


@runtime_checkable
class Objects(Protocol):
    """What a store keeps its files in.

    Attributes:
        folder: where what was read or written lies as local files.
        pause: seconds at most between two looks at what other workers do.
    """

    folder: Path
    pause: float

    def names(self, prefix: str) -> set[str]:
        """Names that start with ``prefix``, which holds at least one slash."""

    def get(self, name: str, intact: Check, expected: bool = False) -> bytes | None:
        """The content, None where there is none; what is not ``intact`` is deleted, never returned.

        One line of the log names what is damaged, or missing though ``expected``.
        """

    def read(self, name: str) -> bytes | None:
        """The content as it is now, unchecked and uncached: for claims."""

    def put(self, name: str, data: bytes) -> None:
        """Writes, over what was there."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes if nothing is there, in one step: of many workers exactly one is answered True."""

    def delete(self, name: str) -> None:
        """Deletes what may be there."""

    def tidy(self, prefix: str) -> None:
        """Deletes temporary files that writers killed long ago left at ``prefix``, a folder's name and a slash."""


class LocalObjects:
    """Files below a folder, which processes and machines may share."""

    pause = 0.5

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    def names(self, prefix: str) -> set[str]:
        parent, start = prefix.rsplit("/", 1)
        try:
            with os.scandir(self.folder / parent) as entries:
                found = [entry.name for entry in entries]
        except FileNotFoundError:
            return set()
        return {f"{parent}/{name}" for name in found if name.startswith(start) and not name.startswith(".")}

    def get(self, name: str, intact: Check, expected: bool = False) -> bytes | None:
        data = self.read(name)
        if data is None:
            if expected:
                log.warning("%s: missing; made again", self.folder / name)
        elif not intact(data):
            log.warning("%s: damaged; made again", self.folder / name)
            self.delete(name)
            return None
        return data

    def read(self, name: str) -> bytes | None:
        try:
            with disk_errors(self.folder / name):
                return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def put(self, name: str, data: bytes) -> None:
        with atomic_path(self.folder / name) as temporary:
            temporary.write_bytes(data)

    def create(self, name: str, data: bytes) -> bool:
        path = self.folder / name
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A link appears with its content, or not at all.
            temporary = path.with_name(f".{path.name}-{os.urandom(6).hex()}")
            try:
                temporary.write_bytes(data)
                os.link(temporary, path)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in NO_LINKS:
                    raise
                return _create_exclusively(path, data)
            finally:
                temporary.unlink(missing_ok=True)
        return True

    def delete(self, name: str) -> None:
        with disk_errors(self.folder / name):
            (self.folder / name).unlink(missing_ok=True)

    def tidy(self, prefix: str, age: float = 600.0) -> None:
        files = [(path, _modified(path)) for path in (self.folder / prefix).iterdir()]
        newest = max((when for _, when in files), default=0.0)  # the file system's clock, not this machine's
        for path, when in files:
            if path.name.startswith(".") and when < newest - age:
                path.unlink(missing_ok=True)


def _create_exclusively(path: Path, data: bytes) -> bool:
    """``create`` without hard links: for a moment the file is there and empty, which readers take for damage."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    return True


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
