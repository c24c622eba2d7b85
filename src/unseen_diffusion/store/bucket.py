"""An S3-compatible bucket (accessed by obstore) with a local copy: machines that share no disk share artefacts.

Every object that is read or written is also kept in a local folder, where reports and tables read it. Each address has
its own folder, because an object in it is assumed to be in the bucket too. Credentials and the endpoint come from the
usual variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL) and are never written.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from unseen_diffusion.store.objects import Check, LocalObjects
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.renamed import new_names

log = logging.getLogger(__name__)

SCHEME = "s3"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
PASSING = (".claim", "/plan.json")  # suffixes of short-lived objects, never kept locally
FORM = "s3://BUCKET/PREFIX (credentials in AWS_* variables)"
TIMES = {"timeout": "60s", "connect_timeout": "10s"}


def check_address(text: str) -> None:
    """Checks a bucket's address as far as possible without a connection.

    Raises:
        InputError: another scheme, no bucket, or obstore is not installed.
    """
    try:
        address = urlsplit(text)
    except ValueError:  # square brackets that hold no IP address
        raise InputError(f"paths.store: an address that cannot be read; give a folder, or {FORM}") from None
    if "@" in text or address.query:  # perhaps with a secret, which is not repeated
        raise InputError(f"paths.store: an address with a login or a query; give {FORM}")
    if address.scheme != SCHEME or not address.netloc:
        raise InputError(f"paths.store={text}: give a folder, or {FORM}")
    if find_spec("obstore") is None:
        raise InputError(f"paths.store={text}: needs the package obstore; pip install 'unseen-diffusion[s3]'")


class BucketObjects:
    """The objects of s3://bucket/prefix, with a local copy in a folder below ``cache``."""

    pause = 5.0

    def __init__(self, text: str, cache: Path | str):
        check_address(text)
        from obstore.store import S3Store

        address = urlsplit(text)
        endpoint = next((os.environ[name] for name in ENDPOINTS if os.environ.get(name)), None)
        config: Any = {"checksum_algorithm": "SHA256"}
        if endpoint:
            config["endpoint"] = endpoint
        options: Any = {**TIMES, "allow_http": (endpoint or "").startswith("http://")}
        prefix = address.path.strip("/") or None
        self.address = text.rstrip("/")
        self.store = S3Store(address.netloc, prefix=prefix, config=config, client_options=options)
        self.folder = Path(cache) / local_folder(self.address, endpoint)
        self.local = LocalObjects(self.folder)

    def names(self, prefix: str) -> set[str]:
        import obstore

        parent, start = prefix.rsplit("/", 1)
        with self._errors(prefix):
            found = [entry["path"] for batch in obstore.list(self.store, f"{parent}/") for entry in batch]
        depth = parent.count("/") + 1
        return {name for name in found if name.startswith(f"{parent}/{start}") and name.count("/") == depth}

    def get(self, name: str, intact: Check, expected: bool = False) -> bytes | None:
        kept = self.local.read(name) if _keeps(name) else None
        if kept is not None:
            if intact(kept):
                return kept
            log.warning("%s: damaged; reading it again", self.folder / name)
        data = self.read(name)
        if data is None:
            if expected:
                log.warning("%s/%s: missing; computing it again", self.address, name)
        elif not intact(data):
            log.warning("%s/%s: damaged; computing it again", self.address, name)
            self.delete(name)
            return None
        elif _keeps(name):
            self.local.put(name, data)
        return data

    def read(self, name: str) -> bytes | None:
        import obstore

        with self._errors(name):
            try:
                return bytes(obstore.get(self.store, name).bytes())
            except FileNotFoundError:
                return None

    def put(self, name: str, data: bytes) -> None:
        import obstore

        with self._errors(name):
            obstore.put(self.store, name, data)
        if _keeps(name):
            self.local.put(name, data)

    def create(self, name: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._errors(name):
            try:
                obstore.put(self.store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def delete(self, name: str) -> None:
        import obstore

        with self._errors(name):
            obstore.delete(self.store, name)
        self.local.delete(name)

    def tidy(self, prefix: str) -> None:
        if (self.folder / prefix).is_dir():
            self.local.tidy(prefix)

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        """Turns errors of the bucket into one line.

        Raises:
            InputError: no connection, no permission, no such bucket.
        """
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, FileNotFoundError) as error:  # FileNotFoundError: the bucket itself does not exist
            raise InputError(
                f"{self.address}/{name}: {first_line(error)}; check the address, AWS_ENDPOINT_URL and the credentials"
            ) from error


def local_folder(address: str, endpoint: str | None) -> str:
    """The name of an address's local folder; it is unique to the address and the server."""
    identity = digest(f"{endpoint or ''} {address}")
    return f"{SCHEME}-{urlsplit(address).netloc}-{identity[:12]}"


def _keeps(name: str) -> bool:
    """Whether the local folder keeps a copy of an object."""
    return not name.endswith(PASSING)


__getattr__ = new_names(__name__)
