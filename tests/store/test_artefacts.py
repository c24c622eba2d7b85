"""The store: keys follow every input; artefacts are whole, checked, made once, and readable by others."""

import errno
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from support.store_workers import Workers
from unseen_diffusion.store.artefacts import RECORD, TENSORS, Artefact, Store, environment, key_of
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_folder, atomic_path, read_json, write_json

INPUTS = {"domain": {"name": "faces", "references": 200}, "t": 500.0, "solver": ["ddim", 80]}
Made = tuple[dict[str, Tensor], dict[str, Any]]


def make() -> Made:
    return {"latents": torch.arange(6.0).reshape(2, 3), "count": torch.tensor(7)}, {
        "fid": 1.5,
        "names": ["a", "b"],
    }


def forbidden() -> Made:
    raise AssertionError("made although it is stored")


def put(root: Path) -> Artefact:
    return Store(root).get_or_make("stage", 1, INPUTS, make)


def get(root: Path) -> Artefact:
    return Store(root).get_or_make("stage", 1, INPUTS, forbidden)


def test_the_key_follows_every_input() -> None:
    """Stage, version, and each value at any depth."""
    variants = [
        ("other", 1, INPUTS),
        ("stage", 2, INPUTS),
        ("stage", 1, INPUTS | {"t": 500.5}),
        ("stage", 1, INPUTS | {"seed": None}),
        ("stage", 1, INPUTS | {"domain": {"name": "faces", "references": 201}}),
        ("stage", 1, INPUTS | {"solver": [80, "ddim"]}),
        ("stage", 1, {}),
    ]
    assert len({key_of("stage", 1, INPUTS), *(key_of(*variant) for variant in variants)}) == len(variants) + 1


def test_the_key_does_not_follow_the_order_of_entries() -> None:
    shuffled = {"solver": ["ddim", 80], "t": 500.0, "domain": {"references": 200, "name": "faces"}}
    assert key_of("stage", 1, shuffled) == key_of("stage", 1, INPUTS)


def test_the_key_is_stable_between_sessions() -> None:
    """SHA-256 of canonical JSON: a change of this value would orphan every stored artefact."""
    assert key_of("s", 1, {}) == "cc5d3b6c2840db7556da9e2e9cf53c597943f0668d5e23f787416f539ccb8a78"


def test_inputs_that_json_cannot_carry_are_refused(tmp_path: Path) -> None:
    for value in (float("nan"), torch.zeros(1), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            Store(tmp_path).get_or_make("stage", 1, {"value": value}, make)
    assert list(tmp_path.iterdir()) == []


def test_the_second_call_reuses_the_first(tmp_path: Path) -> None:
    first, second = put(tmp_path), get(tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert (second.key, second.folder, second.facts) == (first.key, first.folder, first.facts)
    assert second.seconds == first.seconds
    assert set(second.tensors) == set(first.tensors)
    assert all(torch.equal(second.tensors[name], first.tensors[name]) for name in first.tensors)


def test_another_key_is_another_artefact(tmp_path: Path) -> None:
    """Versions and inputs live side by side."""
    folders = {put(tmp_path).folder}
    folders.add(Store(tmp_path).get_or_make("stage", 2, INPUTS, make).folder)
    folders.add(Store(tmp_path).get_or_make("stage", 1, {}, make).folder)
    assert len(folders) == 3
    assert get(tmp_path).reused


def test_the_record_tells_how_it_was_made(tmp_path: Path) -> None:
    """Provenance beside the tensors: inputs, facts, library versions, checksum."""
    artefact = put(tmp_path)
    record = read_json(artefact.folder / RECORD)
    assert (record["stage"], record["stage_version"], record["inputs"]) == ("stage", 1, INPUTS)
    assert (record["key"], record["facts"]) == (artefact.key, artefact.facts)
    assert record["environment"] == environment()
    assert len(record["sha256"]) == 64


def test_views_are_stored_by_value(tmp_path: Path) -> None:
    """A stage may return slices, transposes and expanded tensors, of one storage too."""
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"first": base[:2], "last": base[2:], "columns": base.T, "same": base[:1].expand(5, -1)}
    Store(tmp_path).get_or_make("stage", 1, INPUTS, lambda: (tensors, {}))
    stored = get(tmp_path).tensors
    assert all(torch.equal(stored[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap record", "break record", "change fact"])
def test_a_damaged_artefact_is_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    """Never read; one line of the log names the file."""
    folder = put(tmp_path).folder
    path = folder / TENSORS
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-1] ^= 1
        path.write_bytes(content)
    elif damage == "truncate":
        path.write_bytes(content[:-4])
    elif damage == "delete":
        path.unlink()
    elif damage == "swap record":
        write_json(folder / RECORD, read_json(folder / RECORD) | {"key": "0" * 64})
    elif damage == "change fact":
        (folder / RECORD).write_text((folder / RECORD).read_text().replace("1.5", "1.6"))
    else:
        (folder / RECORD).write_text("{")
    again = put(tmp_path)
    assert (again.reused, again.facts["fid"]) == (False, 1.5)
    named = folder / (RECORD if "record" in damage or "fact" in damage else TENSORS)
    assert [r.getMessage().split(":")[0] for r in caplog.records if r.levelname == "WARNING"] == [str(named)]
    assert get(tmp_path).reused


def test_artefacts_without_a_seal_are_read(tmp_path: Path) -> None:
    """Those of version 0.2."""
    folder = put(tmp_path).folder
    record = read_json(folder / RECORD)
    del record["checksum"]
    write_json(folder / RECORD, record)
    assert get(tmp_path).facts == record["facts"]


def test_an_error_while_making_leaves_nothing(tmp_path: Path) -> None:
    """No half artefact, and the next call makes it."""
    with pytest.raises(AssertionError):
        get(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert not put(tmp_path).reused


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    """Facts that JSON cannot carry fail after the tensors were written."""
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).get_or_make("stage", 1, INPUTS, lambda: (make()[0], {"fid": float("nan")}))
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_what_a_crash_left_behind_is_harmless(tmp_path: Path) -> None:
    """A temporary file, tensors without their record, and a lock of version 0.2: neither read nor waited for."""
    folder = tmp_path / "stage" / put(tmp_path / "elsewhere").folder.name
    folder.mkdir(parents=True)
    (folder / ".tensors-abc123.safetensors").write_bytes(b"half")
    (folder / TENSORS).write_bytes(b"half")
    (folder.parent / f".{folder.name}.lock").touch()
    assert not put(tmp_path).reused
    assert get(tmp_path).reused


def test_two_processes_make_an_artefact_once(workers: Workers) -> None:
    """The second one asks while the first one makes it, and reads what that wrote."""
    reports = workers.reports["once"]
    assert [len(report["made"]) for report in reports] in ([0, 1], [1, 0])
    assert sorted(report["reused"] for report in reports) == [False, True]
    assert reports[0]["x"] == reports[1]["x"] == [1.0, 1.0]


def test_artefacts_are_readable_by_others(tmp_path: Path) -> None:
    """As open as the umask allows, not the owner-only mode of temporary files."""
    before = os.umask(0o022)
    try:
        folder = put(tmp_path).folder
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o755
    for name in (TENSORS, RECORD):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o644


def test_atomic_path_is_all_or_nothing(tmp_path: Path) -> None:
    """Old content until the block ends; unchanged by an error; no temporary file stays; parents are made."""
    path = tmp_path / "new folder" / "file.txt"
    with atomic_path(path) as temporary:
        assert (temporary.parent, temporary.suffix) == (path.parent, ".txt")
        temporary.write_text("one")
        assert not path.exists()

    def fail() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("two")
            assert path.read_text() == "one"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "one"
    with atomic_path(path) as temporary:
        temporary.write_text("three")
    assert path.read_text() == "three"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/x.csv", "file/sub/x.csv", "folder"])
def test_a_file_in_the_way_is_one_line(tmp_path: Path, name: str) -> None:
    """Of a folder that is to be made, or the other way round."""
    (tmp_path / "file").touch()
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(InputError, match=rf"{tmp_path / name}: a file is in the way .*; choose another"):
        write_json(tmp_path / name, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_atomic_folder_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "result"

    def fail() -> None:
        with atomic_folder(path) as temporary:
            (temporary / "file").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(path.parent.iterdir()) == []
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("whole")
        assert not path.exists()
    assert (path / "file").read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o755), (0o027, 0o750), (0o002, 0o775), (0o077, 0o700)])
def test_folders_and_files_are_as_open_as_the_umask_allows(tmp_path: Path, mask: int, mode: int) -> None:
    """A temporary folder or file is its owner's alone; the finished one is not, whatever it replaces."""
    before = os.umask(mask)
    try:
        with atomic_folder(tmp_path / "new" / "model") as temporary:
            (temporary / "file").touch()
        for _ in range(2):
            write_json(tmp_path / "new" / "value.json", {})
        assert os.umask(mask) == mask  # asking for the mask has not changed it
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("new", "new/model", "new/model/file")]
    assert modes == [mode, mode, mode & 0o666]
    assert stat.S_IMODE((tmp_path / "new/value.json").stat().st_mode) == mode & 0o666


def test_atomic_folders_tell_of_the_disk(tmp_path: Path) -> None:
    """A full disk and a file in the way are one line, and leave nothing."""
    with pytest.raises(InputError, match=rf"^{tmp_path}/model: no space left"), atomic_folder(tmp_path / "model"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is in the way"), atomic_folder(tmp_path / "file" / "model"):
        pass


def test_atomic_folder_keeps_what_another_process_completed(tmp_path: Path) -> None:
    path = tmp_path / "result"
    with atomic_folder(path) as temporary:
        (temporary / "file").write_text("late")
        path.mkdir()
        (path / "file").write_text("first")
    assert (path / "file").read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_json_is_strict(tmp_path: Path) -> None:
    """NaN is refused on writing and leaves the old file; a missing file is an InputError."""
    path = tmp_path / "value.json"
    write_json(path, {"b": 1, "a": "ä"})
    assert list(read_json(path)) == ["b", "a"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, float("inf"))
    assert read_json(path) == {"b": 1, "a": "ä"}
    with pytest.raises(InputError, match="not a readable JSON file"):
        read_json(tmp_path / "missing.json")
