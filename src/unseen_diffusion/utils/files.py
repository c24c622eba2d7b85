"""Files that are either whole or absent: they are written under a temporary name, then renamed."""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from unseen_diffusion.utils.digests import file_digest as file_digest  # under its old name sha256
from unseen_diffusion.utils.digests import json_digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.renamed import new_names

FULL = "no space left (or quota used up); free some and run again, what was finished is kept"
CLOSED = "cannot write here; make it writable or choose another folder"
IN_THE_WAY = "a file is in the way of a folder, or a folder in that of a file; choose another path"
DISK_ERRORS = {
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: CLOSED,
    errno.EACCES: CLOSED,
    errno.EPERM: CLOSED,
    errno.EEXIST: IN_THE_WAY,
    errno.ENOTDIR: IN_THE_WAY,
    errno.EISDIR: IN_THE_WAY,
}
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}  # errors of a file system without locks


@contextmanager
def disk_errors(path: Path | str) -> Iterator[None]:
    """Turns disk errors in the block (full, read-only, a file in place of a folder) into one line that names ``path``.

    Raises:
        InputError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InputError(f"{path}: {DISK_ERRORS[error.errno]}") from error


def check_writable(key: str, folder: Path) -> None:
    """Checks that ``folder`` can be written to, or created, without creating anything.

    Raises:
        InputError: it is a file, below a file, or not writable.
    """
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)):
        raise InputError(f"{key}={folder}: cannot write to {existing}; choose another folder")


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yields a temporary sibling of ``path``, renamed onto it when the block ends without an error."""
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_umask())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yields a temporary sibling folder, renamed to ``path`` when the block ends without an error.

    If another process has completed the folder meanwhile, its folder is kept and the temporary one deleted.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
        temporary.chmod(0o777 & ~_umask())
        try:
            yield temporary
            try:
                os.rename(temporary, path)
            except OSError:
                if not path.is_dir():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def locked(path: Path | str) -> Iterator[bool | None]:
    """Holds the lock file ``path``; yields False if another process holds it, None if the file system has no locks.

    The system releases the lock when the process ends: a lock file that a killed process leaves behind locks nothing.
    """
    path = Path(path)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)
        is_held: bool | None = True
        try:
            lock.acquire(timeout=1)
        except Timeout:
            is_held = False
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            is_held = None
    try:
        yield is_held
    finally:
        lock.release()


def write_json(path: Path | str, value: Any) -> None:
    """Writes indented JSON atomically; raises ValueError for NaN, which not every reader of JSON understands."""
    text = json.dumps(value, indent=2, sort_keys=False, allow_nan=False) + "\n"
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """Reads JSON.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable JSON file ({first_line(error)})") from error


def seal(value: dict[str, Any]) -> bytes:
    """Encodes a value as JSON with a checksum of itself; raises ValueError for NaN."""
    text = json.dumps(value | {"checksum": json_digest(value)}, indent=2, allow_nan=False)
    return f"{text}\n".encode()


def unseal(data: bytes, required: bool = True) -> dict[str, Any] | None:
    """Decodes what ``seal`` encoded; None where it is damaged, or has no checksum although ``required``."""
    try:
        value = json.loads(data)
        checksum = value.pop("checksum", None)
        intact = not required if checksum is None else checksum == json_digest(value)
    except (ValueError, AttributeError, TypeError):
        return None
    return value if intact else None


def file_states(files: Sequence[Path]) -> Hashable:
    """Sizes, modification times and inodes of files, which detect a change without reading them."""
    stats = [file.stat() for file in files]
    return tuple((str(file), s.st_size, s.st_mtime_ns, s.st_ino) for file, s in zip(files, stats, strict=True))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


__getattr__ = new_names(__name__)
