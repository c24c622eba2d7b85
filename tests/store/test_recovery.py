"""An artefact whose record or plan is lost: its intact shards stay in use, whatever else is in its folder."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support.store_workers import rows_of
from unseen_diffusion.store.artefacts import RECORD, Artefact, Recipe, Store
from unseen_diffusion.store.shards import PLAN, cut, plan_of, recovered_size

Damage = Callable[[Path], None]


def make(root: Path, rows: int, batch: int, made: list[int] | None = None) -> Artefact:
    """The same artefact of that many rows, by a worker with that batch size."""
    how = replace(rows_of(made), rows=rows, batch=batch)
    return Store(root).get_or_make_rows("slow", 1, {"rows": rows}, how)


def shards_in(folder: Path) -> dict[range, bytes]:
    """The shards of an artefact, by their rows."""
    starts = {tuple(map(int, path.name.split(".")[0].split("-")[1:])): path for path in folder.glob("rows-*.saf*")}
    return {range(*rows): path.read_bytes() for rows, path in starts.items()}


@pytest.mark.parametrize(
    ("shards", "rows", "batch", "size"),
    [
        ([(0, 64), (64, 100)], 100, 64, 64),  # one whole shard and a shorter last one
        ([(0, 64), (64, 100)], 100, 16, 64),
        ([(64, 100)], 100, 16, 64),  # the last alone: 64 is the only divisor of 64 that is 36 or more
        ([(0, 64)], 100, 16, 64),
        ([(60, 64)], 64, 10, 10),  # several sizes fit: that of the worker is one of them
        ([(60, 64)], 64, 16, 15),  # ... or the nearest
        ([(0, 7)], 7, 3, 7),
        ([(0, 7)], 7, 64, 64),
        ([], 100, 48, 48),
        ([(0, 0)], 0, 5, 5),
        ([(0, 2), (2, 4), (8, 10), (12, 14), (0, 7)], 40, 7, 2),  # 8 rows against 7
        ([(0, 2), (2, 4), (4, 6), (0, 6)], 40, 9, 2),  # as many rows: most shards
        ([(0, 2), (2, 4), (0, 20)], 40, 2, 20),  # most rows: the least to make again
        ([(0, 4), (36, 40)], 40, 20, 4),
        ([(0, 8), (5, 8)], 40, 2, 8),  # a name that no cut gives
        ([(5, 8), (0, 50)], 40, 2, 2),
        ([(0, 2), (2, 4), (0, 3), (3, 4)], 4, 1, 2),  # two boundaries that are both complete
    ],
)
def test_the_size_of_existing_shards(shards: Sequence[tuple[int, int]], rows: int, batch: int, size: int) -> None:
    assert recovered_size([range(*one) for one in shards], rows, batch) == size


@pytest.mark.parametrize(("rows", "batch"), [(100, 64), (40, 2), (41, 2), (7, 3), (3, 7), (12, 4), (65, 64)])
def test_every_subset_with_a_whole_shard_gives_its_boundaries(rows: int, batch: int) -> None:
    pieces = cut(rows, batch)
    for first in range(len(pieces)):
        for step in (1, 2, 5):
            some = pieces[first::step]
            size = recovered_size(some, rows, 1)
            assert set(some) <= set(cut(rows, size))
            if any(len(piece) == batch for piece in some):
                assert cut(rows, size) == pieces


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, Path.unlink])
@pytest.mark.parametrize(("rows", "batch"), [(100, 64), (40, 16), (9, 4), (5, 8), (12, 4)])
@pytest.mark.parametrize("other", [64, 3])
def test_a_damaged_record_costs_no_shard(
    tmp_path: Path, rows: int, batch: int, other: int, damage: Damage, caplog: pytest.LogCaptureFixture
) -> None:
    """The next start may have another batch size."""
    folder = make(tmp_path, rows, batch).folder
    before, made = shards_in(folder), list[int]()
    damage(folder / RECORD)
    with caplog.at_level(logging.WARNING):
        again = make(tmp_path, rows, other, made)
    assert again.reused
    assert not made
    assert shards_in(folder) == before
    assert [one.getMessage() for one in caplog.records] == [
        f"{folder / RECORD}: damaged; computing it again" for _ in range(damage is not Path.unlink)
    ]


@pytest.mark.parametrize("damage", [truncated, flipped, Path.unlink])
@pytest.mark.parametrize(("rows", "batch"), [(100, 64), (9, 4), (12, 4)])
@pytest.mark.parametrize("which", [0, -1])
def test_a_damaged_record_and_a_damaged_shard_cost_that_shard(
    tmp_path: Path, rows: int, batch: int, which: int, damage: Damage
) -> None:
    folder = make(tmp_path, rows, batch).folder
    before, made = shards_in(folder), list[int]()
    truncated(folder / RECORD)
    damage(sorted(folder.glob("rows-*"))[which])
    make(tmp_path, rows, batch, made)
    assert made == [cut(rows, batch)[which].start]
    assert shards_in(folder).keys() == before.keys()


@pytest.mark.parametrize("lost", [truncated, Path.unlink])
def test_a_lost_plan_is_recovered_from_the_shards(tmp_path: Path, lost: Damage) -> None:
    """Here of an unfinished artefact, of which the shorter last shard and one other exist."""
    folder = make(tmp_path, 100, 16).folder
    (folder / RECORD).unlink()
    for path in sorted(folder.glob("rows-*"))[1:-1]:
        path.unlink()
    (folder / PLAN).write_bytes(plan_of(100, 16))
    lost(folder / PLAN)
    made = list[int]()
    make(tmp_path, 100, 64, made)
    assert sorted(made) == [16, 32, 48, 64, 80]


def test_damaged_shards_do_not_vote(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Many damaged shards of one size do not outweigh one that is intact; each is named once."""
    folder = make(tmp_path, 100, 64).folder
    (folder / RECORD).unlink()
    sorted(folder.glob("rows-*"))[1].unlink()
    for rows in cut(100, 4):
        (folder / f"rows-{rows.start:08d}-{rows.stop:08d}.{'0' * 16}.safetensors").write_bytes(b"cut off")
    made = list[int]()
    with caplog.at_level(logging.WARNING):
        make(tmp_path, 100, 4, made)
    assert made == [64]
    assert len(shards_in(folder)) == 2
    assert len(caplog.records) == len(cut(100, 4))


def test_intact_shards_are_deleted_only_when_other_boundaries_are_complete(tmp_path: Path) -> None:
    """Two workers that did not see each other: the boundaries of most rows are completed, then the rest goes."""
    folder, aside = make(tmp_path / "a", 100, 16).folder, make(tmp_path / "b", 100, 64).folder
    (folder / RECORD).unlink()
    extra, *_ = sorted(aside.glob("rows-*"))
    (folder / extra.name).write_bytes(extra.read_bytes())
    for path in sorted(folder.glob("rows-*"))[-2:]:
        path.unlink()
    how, seen = replace(rows_of(), rows=100, batch=7), list[bool]()
    inner = how.make

    def watching(rows: range) -> Any:
        seen.append((folder / extra.name).exists())
        return inner(rows)

    Store(tmp_path / "a").get_or_make_rows("slow", 1, {"rows": 100}, replace(how, make=watching))
    assert seen == [True, True]
    assert set(shards_in(folder)) == set(cut(100, 16))
    assert folder == tmp_path / "a" / Recipe("slow", 1, {"rows": 100}).folder
