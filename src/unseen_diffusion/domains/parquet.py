"""Images in Parquet files, as the Hugging Face hub stores them: a column of encoded images, and one of labels."""

import glob
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from unseen_diffusion.domains.base import LEADS, Pool
from unseen_diffusion.domains.encoded import EncodedDomain, encoded_bytes, null_cell, require_path
from unseen_diffusion.domains.levels import Cell
from unseen_diffusion.utils.checked import Text, settings
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.image_files import Header, read_header
from unseen_diffusion.utils.images import decode, stack


@dataclass(frozen=True)
class Row:
    """The place of an image: ``position`` counts from the start of its row group, ``number`` from that of the file."""

    file: Path
    group: int
    position: int
    number: int


@settings("domain")
class Parquet(EncodedDomain):
    """Rows of Parquet files."""

    path: Annotated[Text, LEADS]
    """a file, a folder or a glob pattern"""
    name: str = ""
    source: str = "Parquet files"
    licence: str = "not stated"
    column: Text = "image"
    """column of the encoded images: bytes, or {bytes, path} as on the Hugging Face hub"""
    label: Annotated[Text, LEADS] = "label"
    """column of the classes; only needed for labels"""
    labels: Annotated[Sequence[int | str] | None, LEADS] = None
    """classes whose rows are kept; null keeps all"""

    def default_name(self) -> str:
        """The last part of the path without its suffix; of a pattern, the last part without a wildcard."""
        path = Path(os.path.abspath(Path(self.path).expanduser()))  # noqa: PTH100 - resolve() would follow links
        parts = path.parts[1:] if path.exists() else [part for part in path.parts[1:] if not glob.has_magic(part)]
        return parts[-1].removesuffix(".parquet") if parts else super().default_name()

    def files(self) -> list[Path]:
        return parquet_files(self.path)

    def pool(self, size: int, channels: int) -> Pool:
        """The rows, in the order of the files' names."""
        files = parquet_files(self.path)
        rows = [row for file in files for row in select_rows(file, self.column, self.label, self.labels)]
        if not rows and self.labels is None:
            raise InputError(f"{self.path}: no rows; give Parquet files with images")
        if not rows:
            raise InputError(
                f"{self.path}: no row with domain.labels={self.labels}; choose classes of its column {self.label!r}"
            )

        def read(indices: Sequence[int]) -> list[Cell]:
            return _encoded([rows[index] for index in indices], self.column)

        folder = os.path.commonpath([file.parent for file in files])
        names = [f"{row.file.relative_to(folder).as_posix()}:{row.number}" for row in rows]
        contents, headers = examine_rows(rows, self.column)
        return self.encoded_pool(
            names,
            read,
            headers,
            contents,
            files=[file_digest(file) for file in files],
            rows=[row.number for row in rows],
            size=size,
            channels=channels,
        )


def parquet_files(pattern: str) -> list[Path]:
    """Parquet files for a file, a folder or a glob pattern, sorted.

    Raises:
        InputError: an empty path, or nothing matches.
    """
    require_path(pattern)
    path = Path(pattern).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.parquet"))
    else:
        matches = glob.glob(str(path))  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = [path] if path.is_file() else sorted(Path(name) for name in matches)
    if not files:
        raise InputError(f"{pattern}: no Parquet file there; give a file, a folder or a glob pattern")
    return files


def select_rows(file: Path, column: str, label: str, labels: Sequence[int | str] | None) -> list[Row]:
    """All rows of a file, or the rows of some classes; reads no image.

    Raises:
        InputError: the file is no Parquet, or lacks a column that is needed.
    """
    with _open(file) as parquet:
        _require_column(file, parquet, column)
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        classes = []
        if labels is not None:
            _require_column(file, parquet, label)
            classes = parquet.read(columns=[label]).column(label).to_pylist()
    places = [(group, position) for group, size in enumerate(sizes) for position in range(size)]
    rows = [Row(file, group, position, number) for number, (group, position) in enumerate(places)]
    if labels is None:
        return rows
    wanted = set(labels)
    return [row for row in rows if classes[row.number] in wanted]


def read_rows(rows: Sequence[Row], column: str) -> list[bytes | Path]:
    """The encoded images of some rows, in their order; reads only the row groups that contain them.

    Raises:
        InputError: a row has no image.
    """
    found: list[bytes | Path] = []
    for cell in _encoded(rows, column):
        if isinstance(cell, InputError):
            raise cell
        found.append(cell)
    return found


def _encoded(rows: Sequence[Row], column: str) -> list[Cell]:
    """The encoded images of some rows, in their order, or the error of a row whose cell is null."""
    cells: dict[int, Cell] = {}
    for index, cell in _cells(rows, column):
        row = rows[index]
        where = f"{row.file}:{row.number}: column {column!r}"
        data = encoded_bytes(cell, where)
        cells[index] = null_cell(where) if data is None else _image_file(row.file, data)
    return [cells[index] for index in range(len(rows))]


def _image_file(table: Path, data: bytes | str) -> bytes | Path:
    """The bytes of a cell, or the file that it names: beside the table, or else below the working folder."""
    if isinstance(data, bytes):
        return data
    beside, here = table.parent / data, Path(data)
    return here if here.is_file() and not beside.is_file() else beside


def examine_rows(rows: Sequence[Row], column: str) -> tuple[list[str], list[Header | None]]:
    """SHA-256, hexadecimal, of each row's encoded image (or its path), and the headers of the images.

    A cell without an image equals no other and has no header.
    """
    found: dict[int, tuple[str, Header | None]] = {}
    for index, cell in _cells(rows, column):
        try:
            data = encoded_bytes(cell, "")
        except InputError:
            data = None
        known = None if data is None else read_header(_image_file(rows[index].file, data))
        found[index] = digest(f"row {index}" if data is None else data), known
    return [found[index][0] for index in range(len(rows))], [found[index][1] for index in range(len(rows))]


def _cells(rows: Sequence[Row], column: str) -> Iterator[tuple[int, object]]:
    """(index, cell) of some rows, one row group at a time."""
    by_group: dict[tuple[Path, int], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_group[row.file, row.group].append(index)
    for (file, group), indices in by_group.items():
        with _open(file) as parquet:
            table = parquet.read_row_group(group, columns=[column])
        yield from zip(indices, _take(table, column, [rows[index].position for index in indices]), strict=True)


def read_parquet(
    pattern: str, size: int | None, channels: int, column: str = "image", label: str = "label"
) -> tuple[UInt8[Tensor, "n channels height width"], Int64[Tensor, " n"]]:
    """Reads every row of Parquet files.

    Args:
        pattern: a file, a folder or a glob pattern.
        size: height and width of the result; None keeps the images' own, which must then be equal.
        channels: 1 or 3.
        column: column of the encoded images.
        label: column of the classes, if there is one.

    Returns:
        Images (N, channels, size, size) uint8 and labels (N,) int64, -1 in files without a label column.

    Raises:
        InputError: no such file or column, or an unreadable image.
    """
    images: list[Tensor] = []
    labels: list[int] = []
    for file in parquet_files(pattern):
        rows = select_rows(file, column, label, None)
        with _open(file) as parquet:
            known = label in parquet.schema_arrow.names
            labels += parquet.read(columns=[label]).column(label).to_pylist() if known else [-1] * len(rows)
        cells = zip(rows, read_rows(rows, column), strict=True)
        images += [decode(cell, size, channels, name=f"{file}:{row.number}") for row, cell in cells]
    return stack(images), torch.tensor(labels, dtype=torch.int64)


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{file}: not a readable Parquet file ({first_line(error)})") from error


def _require_column(file: Path, parquet: pq.ParquetFile, column: str) -> None:
    names = parquet.schema_arrow.names
    if column not in names:
        raise InputError(
            f"{file}: no column {column!r}; set domain.column or domain.label to one of {', '.join(names)}"
        )


def _take(table: pa.Table, column: str, positions: Sequence[int]) -> list[object]:
    cells: list[object] = table.column(column).take(pa.array(positions, pa.int64())).to_pylist()
    return cells
