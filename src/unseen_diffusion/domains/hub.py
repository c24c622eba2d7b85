"""Any image data set of the Hugging Face hub, read with the ``datasets`` library (imported only when used)."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import fsspec

from unseen_diffusion.domains.base import LEADS, READING, SHOWN, Pool
from unseen_diffusion.domains.encoded import EncodedDomain, encoded_bytes, null_cell
from unseen_diffusion.domains.levels import Cell
from unseen_diffusion.utils.checked import Count, Text, settings
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.image_files import read_header

log = logging.getLogger(__name__)

PATIENCE = 5  # seconds that the hub has to answer; otherwise only the cache is read


@settings("domain")
class Hub(EncodedDomain):
    """A data set of the hub; only data is read, never code."""

    id: Annotated[Text, LEADS]
    """the data set, e.g. uoft-cs/cifar10"""
    name: str = ""
    source: str = "the Hugging Face hub"
    licence: str = "see the data set's card"
    config: Annotated[Text | None, LEADS] = None
    """configuration of the data set; needed where it has several"""
    split: Annotated[Text, LEADS] = "train"
    """part of the data set, e.g. train or test"""
    revision: Annotated[Text | None, LEADS] = None
    """branch, tag or commit; null takes the newest"""
    column: Annotated[Text, LEADS] = "image"
    """column of the images"""
    label: Annotated[Text, LEADS] = "label"
    """column of the classes; only needed for labels"""
    labels: Annotated[Sequence[int | str] | None, LEADS] = None
    """classes whose rows are kept; null keeps all"""
    streaming: Annotated[bool, READING] = True
    """true fetches the first rows each time; false downloads the whole data set once, for later use offline"""
    limit: Annotated[Count | None, LEADS] = 2000
    """number of rows (the first ones of the labels) that are used and held in memory; null takes all"""
    remedy: Annotated[str, SHOWN] = (
        "check domain.id, config, split and network (domain.streaming=false keeps a copy for offline use)"
    )
    """the remedy that the error message names if the data set cannot be loaded"""

    def default_name(self) -> str:
        """The last part of the data set's id."""
        return self.id.rstrip("/").rsplit("/", 1)[-1] or super().default_name()

    def pool(self, size: int, channels: int) -> Pool:
        """The rows as encoded images in memory, decoded on demand; the fingerprint is computed from their bytes."""
        log.info("reading %s (%s) from the hub", self.id, self.split)
        rows = self._rows()
        if not rows:
            raise InputError(
                f"{self.id}: no row of split {self.split!r} with labels {self.labels}; "
                "change domain.split or domain.labels"
            )
        names = [f"{self.id}:{self.split}:{number}" for number, _ in rows]
        hashes = [digest(f"null {number}" if data is None else data) for number, data in rows]
        headers = [None if data is None else read_header(data) for _, data in rows]

        def read(indices: Sequence[int]) -> list[Cell]:
            cells = [(names[index], rows[index][1]) for index in indices]
            return [null_cell(name) if data is None else data for name, data in cells]

        return self.encoded_pool(names, read, headers, hashes, names=names, images=hashes, size=size, channels=channels)

    def _rows(self) -> list[tuple[int, bytes | None]]:
        """(row number, encoded image) of the selected rows; None for a row without an image."""
        data = open_dataset(
            self.id,
            self.remedy,
            name=self.config,
            split=self.split,
            revision=self.revision,
            streaming=self.streaming,
        )
        data = undecoded(data, self.column, self.id)
        if self.labels is not None:
            _require_column(data, self.label, "label", self.id)
        try:
            return list(islice(self._selected(data), self.limit))
        except InputError:
            raise
        except Exception as error:  # the network may fail at any row, with errors of several libraries
            raise InputError(f"{self.id}: reading stopped ({first_line(error)}); try again") from error

    def _selected(self, data: Iterable[dict[str, Any]]) -> Iterator[tuple[int, bytes | None]]:
        """(row number, encoded image) of the rows whose class is among the ``labels``."""
        wanted = None if self.labels is None else set(self.labels)
        for number, row in enumerate(data):
            if wanted is None or row[self.label] in wanted:
                cell = encoded_bytes(row[self.column], f"{self.id}: column {self.column!r}, row {number}")
                yield number, None if cell is None else _fetch(cell)


def open_dataset(path: str, remedy: str, **arguments: Any) -> Any:
    """Calls ``datasets.load_dataset`` without progress bars; its many kinds of errors become one line.

    Args:
        path: a data set of the hub, or one of the library's builders.
        remedy: what the error message proposes.
        arguments: of ``datasets.load_dataset``.

    Raises:
        InputError: offline and not cached, no such data set, configuration, split or revision.
    """
    import datasets  # here, because the import takes seconds

    datasets.disable_progress_bars()
    try:
        with _offline(datasets, remote=not Path(path).exists()):
            return datasets.load_dataset(path, **arguments)
    except Exception as error:  # the library raises OSError, ValueError, RuntimeError, HTTP errors and others
        raise InputError(f"{path}: cannot be loaded ({first_line(error)}); {remedy}") from error


@contextmanager
def _offline(datasets: Any, remote: bool) -> Iterator[None]:
    """Switches the libraries to offline where the hub does not answer: they read the cache, without retries."""
    from huggingface_hub import constants, get_session

    switches = [(module, "HF_HUB_OFFLINE") for module in (datasets.config, constants)]
    if not remote or any(getattr(*switch, False) for switch in switches):
        yield
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except Exception as error:  # of the HTTP library in use: no name, no route, no answer
        log.info("%s does not answer (%s): reading the cache only", constants.ENDPOINT, first_line(error))
    else:
        yield
        return
    before = [getattr(*switch) for switch in switches]
    try:
        for module, name in switches:
            setattr(module, name, True)
        yield
    finally:
        for (module, name), value in zip(switches, before, strict=True):
            setattr(module, name, value)


def undecoded(data: Any, column: str, where: str) -> Any:
    """The same data set with images left encoded, so that ``images.decode`` is the only decoder.

    Raises:
        InputError: the data set has no such column.
    """
    import datasets

    _require_column(data, column, "column", where)
    if data.features is not None and isinstance(data.features[column], datasets.Image):
        return data.cast_column(column, datasets.Image(decode=False))
    return data


def _require_column(data: Any, column: str, key: str, where: str) -> None:
    names = data.column_names  # None where a stream does not know them before its first row
    if names is not None and column not in names:
        raise InputError(f"{where}: no column {column!r}; set domain.{key} to one of {', '.join(names)}")


def _fetch(cell: bytes | str) -> bytes:
    """The bytes of an image that is given as bytes, or as a local or remote file (``hf://...``)."""
    if isinstance(cell, bytes):
        return cell
    with fsspec.open(cell, "rb") as file:
        return bytes(file.read())
