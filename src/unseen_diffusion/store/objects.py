"""Named byte objects: files below a local folder, or objects of an S3-compatible bucket with a local copy.

Names are relative, with slashes. No reader ever sees a partly written object.
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
    """The interface of a place in which a store keeps its files.

    Attributes:
        folder: local folder in which all objects that were read or written are files.
        pause: longest time in seconds between two checks on other workers.
    """

    folder: Path
    pause: float

    def names(self, prefix: str) -> set[str]:
        """Lists the names that start with ``prefix``, which contains at least one slash."""

    def get(self, name: str, intact: Check, expected: bool = False) -> bytes | None:
        """Reads an object; None if it does not exist. A damaged one (not ``intact``) is deleted, never returned.

        The log names an object that is damaged, or that is missing although ``expected``.
        """

    def read(self, name: str) -> bytes | None:
        """Reads an object as it is now, without check or local copy: for claims."""

    def put(self, name: str, data: bytes) -> None:
        """Writes an object, replacing an existing one."""

    def create(self, name: str, data: bytes) -> bool:
        """Writes an object unless it exists, in one step: of many workers exactly one gets True."""

    def delete(self, name: str) -> None:
        """Deletes an object if it exists."""

    def tidy(self, prefix: str) -> None:
        """Deletes old temporary files of killed writers in the folder ``prefix``, which ends with a slash."""


class LocalObjects:
    """Files below a folder, which several processes and machines may share."""

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
                log.warning("%s: missing; computing it again", self.folder / name)
        elif not intact(data):
            log.warning("%s: damaged; computing it again", self.folder / name)
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
            # A hard link appears together with its content, or not at all.
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
    """``create`` without hard links: the file is empty for a moment, which readers treat as damage."""
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
