"""Leases and shards among workers that die, are replaced, or are others than they seem; clocks are fake."""

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from support.clocks import FakeClock
from support.store_workers import BATCH, ROWS, rows_of
from unseen_diffusion.store import claims as leases
from unseen_diffusion.store.artefacts import RECORD, Recipe, Store
from unseen_diffusion.store.claims import Claims, holder_of
from unseen_diffusion.store.objects import LocalObjects
from unseen_diffusion.store.shards import PLAN, cut, header_of, plan_of, stem
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import unseal
from unseen_diffusion.utils.liveness import HEARTBEAT, SILENCE, ProcessIdentity

NAME = "a/x.claim"


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path)


@pytest.fixture
def neighbour() -> Iterator[ProcessIdentity]:
    """Another living process of this machine, as it names itself in a claim."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:  # ends with its input
        me, ticks = ProcessIdentity.current(), Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        born = psutil.Process(process.pid).create_time()
        yield ProcessIdentity(me.host, me.boot, me.space, process.pid, ticks[19], born)


def lease(process: ProcessIdentity, **values: Any) -> dict[str, Any]:
    """The content of a claim that a process wrote."""
    machine = f"{process.host}/{process.boot}/{process.space}"
    return {"machine": machine, "pid": process.pid, "started": process.ticks, "token": "theirs", "beats": 0} | values


def write(objects: LocalObjects, content: dict[str, Any]) -> bytes:
    data = json.dumps(content).encode()
    objects.put(NAME, data)
    return data


class Beats(threading.Event):
    """The event that ends heartbeats, without waiting: each wait does the next of ``steps``, the last one ends it."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self.steps, self.waited = list(steps), 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.waited += timeout or 0
        if not self.steps:
            return True
        self.steps.pop(0)()
        return False


# ---------------------------------------------------------------- holders that were replaced


def test_a_holder_deletes_its_own_claim_only(objects: LocalObjects) -> None:
    """One that was taken for dead leaves its successor's claim, also an unreadable one, and minds no absence."""
    with Claims(objects).hold(NAME) as is_held:
        assert is_held
    assert objects.read(NAME) is None
    successor = json.dumps(lease(ProcessIdentity.current())).encode()
    for content in (successor, b"", b"[]", b"cut o", None):
        with Claims(objects).hold(NAME) as is_held:
            assert is_held
            objects.put(NAME, content) if content is not None else objects.delete(NAME)
        assert objects.read(NAME) == content
        objects.delete(NAME)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_a_claim_ends_with_its_block(objects: LocalObjects, error: type[BaseException] | None) -> None:
    def work() -> None:
        with Claims(objects).hold(NAME):
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert objects.read(NAME) is None


def test_heartbeats_end_where_a_successor_took_over(objects: LocalObjects) -> None:
    """The holder beats while the claim is its own, and never writes over another one or a missing one."""
    claims = Claims(objects)
    mine = leases._new_claim()
    seen: list[Any] = []
    for successor in (json.dumps(lease(ProcessIdentity.current())).encode(), None):
        write(objects, mine)
        first = mine["beats"]

        def remember() -> None:
            seen.append(json.loads(objects.read(NAME) or b"{}").get("beats"))

        def replaced(content: bytes | None = successor) -> None:
            remember()
            objects.put(NAME, content) if content else objects.delete(NAME)

        beats = Beats(remember, remember, replaced)
        claims._send_heartbeats(NAME, mine, beats)
        assert seen == [first, first + 1, first + 2]
        assert objects.read(NAME) == successor
        assert beats.waited == 3 * HEARTBEAT
        seen.clear()


def test_heartbeats_outlive_a_disk_that_is_full_for_a_while(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = leases._new_claim()
    write(objects, mine)

    def full(name: str, data: bytes) -> None:
        raise InputError("no space left")

    fill, free = (lambda: monkeypatch.setattr(objects, "put", full)), monkeypatch.undo
    Claims(objects)._send_heartbeats(NAME, mine, Beats(fill, lambda: None, free))
    assert json.loads(objects.read(NAME) or b"")["beats"] == 3


# ---------------------------------------------------------------- whose process is it


def taken(objects: LocalObjects, clock: FakeClock | None = None) -> bool:
    """Whether another worker gets the claim now."""
    with Claims(objects, clock=clock or FakeClock()).hold(NAME) as is_held:
        return is_held


def test_a_reused_process_id_is_no_holder(objects: LocalObjects, neighbour: ProcessIdentity) -> None:
    """The claim's process has ended and another one has its number: taken over at once, but not from itself."""
    write(objects, lease(neighbour))
    assert not taken(objects)
    write(objects, lease(neighbour, started=str(int(neighbour.ticks) - 100)))
    assert taken(objects)


def test_a_claim_names_its_process_exactly(objects: LocalObjects) -> None:
    with Claims(objects).hold(NAME):
        holder = holder_of(objects.read(NAME))
    me = ProcessIdentity.current()
    assert holder
    assert (holder.host, holder.boot, holder.space, holder.pid, holder.ticks) == (
        me.host,
        me.boot,
        me.space,
        me.pid,
        me.ticks,
    )


@pytest.mark.parametrize("change", ["host", "boot", "space"])
def test_process_ids_count_on_their_own_machine_only(
    objects: LocalObjects, neighbour: ProcessIdentity, change: str
) -> None:
    """A number that nobody has here may live on another machine, before a restart or in another container."""
    where = {"host": neighbour.host, "boot": neighbour.boot, "space": neighbour.space} | {change: "another"}
    gone = ProcessIdentity(**where, pid=2**22 + 1, ticks="1")
    write(objects, lease(gone))
    clock = FakeClock()
    waiting = Claims(objects, clock=clock)
    for _ in range(2):
        with waiting.hold(NAME) as is_held:
            assert not is_held
        clock.advance(SILENCE / 2)
    clock.advance(1)
    with waiting.hold(NAME) as is_held:
        assert is_held


def test_another_user_s_process_is_waited_for(
    objects: LocalObjects, neighbour: ProcessIdentity, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system hides it, or refuses to tell of it: it counts as living until it stops beating."""

    def hidden(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    def refused(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(psutil, "Process", hidden)
    monkeypatch.setattr(os, "kill", refused)
    monkeypatch.setattr(leases, "_new_claim", lambda: lease(neighbour, token="mine"))
    write(objects, lease(neighbour))
    clock = FakeClock()
    waiting = Claims(objects, clock=clock)
    for beats in range(3):
        write(objects, lease(neighbour, beats=beats))
        assert not waiting.is_abandoned(NAME, objects.read(NAME) or b"")
        clock.advance(SILENCE)
    with waiting.hold(NAME) as is_held:
        assert not is_held  # silent for just as long as allowed
    clock.advance(1)
    with waiting.hold(NAME) as is_held:
        assert is_held


def test_a_process_that_lives_and_has_stopped_beating_is_replaced(
    objects: LocalObjects, neighbour: ProcessIdentity
) -> None:
    """Stopped, or its heartbeat has failed: after ``SILENCE`` seconds without a beat, and not before."""
    clock = FakeClock()
    waiting = Claims(objects, clock=clock)
    write(objects, lease(neighbour))
    for beats in (0, 1):
        write(objects, lease(neighbour, beats=beats))
        for _ in range(3):
            with waiting.hold(NAME) as is_held:
                assert not is_held
            clock.advance(SILENCE / 3)
    clock.advance(1)
    with waiting.hold(NAME) as is_held:
        assert is_held
    assert psutil.pid_exists(neighbour.pid)


# ---------------------------------------------------------------- plans and shards of others

INPUTS: dict[str, Any] = {"seed": 0}
FOLDER = Recipe("slow", 1, INPUTS).folder
PIECES = cut(ROWS, BATCH)


def get(root: Path, inputs: dict[str, Any] | None = None, made: list[int] | None = None) -> Any:
    return Store(root).get_or_make_rows("slow", 1, inputs or INPUTS, rows_of(made))


@pytest.mark.parametrize("rows", [ROWS - 1, ROWS + 7, 2 * ROWS, 0])
def test_a_plan_of_other_rows_is_replaced(tmp_path: Path, rows: int, caplog: pytest.LogCaptureFixture) -> None:
    """It would leave rows out, or ask for rows that the artefact does not have."""
    objects, made = LocalObjects(tmp_path), list[int]()
    objects.put(f"{FOLDER}/{PLAN}", plan_of(rows, 5))
    plans: list[dict[str, Any] | None] = []
    how = rows_of(made)

    def make(part: range) -> Any:
        plans.append(unseal(objects.read(f"{FOLDER}/{PLAN}") or b""))
        return how.make(part)

    with caplog.at_level(logging.WARNING):
        artefact = Store(tmp_path).get_or_make_rows("slow", 1, INPUTS, type(how)(ROWS, BATCH, make, how.finish))
    assert sorted(made) == [part.start for part in PIECES]
    assert plans == [{"rows": ROWS, "size": BATCH}] * len(PIECES)
    assert len(artefact.tensors["x"]) == ROWS
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / FOLDER / PLAN}: damaged; computing it again"
    ]


def test_a_plan_of_these_rows_is_kept(tmp_path: Path) -> None:
    """Its boundaries are those of the worker that began, whatever this one's batch."""
    LocalObjects(tmp_path).put(f"{FOLDER}/{PLAN}", plan_of(ROWS, 5))
    made = list[int]()
    get(tmp_path, made=made)
    assert sorted(made) == [part.start for part in cut(ROWS, 5)]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_shard_of_another_artefact_is_made_again(
    tmp_path: Path, recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Copied between folders it is intact, and its name fits, but its header has another key."""
    other = get(tmp_path, {"seed": 1}).folder
    if recorded:
        get(tmp_path)
    objects, third = LocalObjects(tmp_path), stem(FOLDER, PIECES[3])
    for name in objects.names(f"{third}."):
        objects.delete(name)
    (theirs,) = other.glob(f"{Path(third).name}.*")
    objects.put(f"{FOLDER}/{theirs.name}", theirs.read_bytes())
    if recorded:  # a record that was forged along with it does not help
        objects.delete(f"{FOLDER}/{RECORD}")
    made = list[int]()
    with caplog.at_level(logging.WARNING):
        artefact = get(tmp_path, made=made)
    assert sorted(made) == ([PIECES[3].start] if recorded else [part.start for part in PIECES])
    assert f"{tmp_path / FOLDER / theirs.name}: belongs to another artefact; computing it again" in caplog.text
    keys = {header_of(path.read_bytes())["key"] for path in artefact.folder.glob("rows-*")}
    assert keys == {artefact.key}
    assert torch.equal(artefact.tensors["x"], get(tmp_path / "whole").tensors["x"])
    assert theirs.exists()


def test_temporary_files_of_living_writers_stay(tmp_path: Path) -> None:
    """Only those that are 10 minutes older than the newest file go, by the file system's clock."""
    folder, objects = tmp_path / "a", LocalObjects(tmp_path)
    folder.mkdir()
    ages = {"record": 0.0, ".fresh-1": 1.0, ".slow-2": 590.0, ".killed-3": 610.0, ".long-ago-4": 1e6, "old": 1e6}
    now = 2e9  # in the year 2033: this machine's clock does not matter
    for name, age in ages.items():
        (folder / name).touch()
        os.utime(folder / name, (now - age, now - age))
    objects.tidy("a/")
    assert {path.name for path in folder.iterdir()} == {"record", ".fresh-1", ".slow-2", "old"}


def test_a_finished_artefact_leaves_a_writer_s_temporary_file(tmp_path: Path) -> None:
    """Of a worker that was taken for dead and still writes the shard that another one has made meanwhile."""
    how = rows_of()

    def make(part: range) -> Any:
        (tmp_path / FOLDER / ".rows-late.safetensors").write_bytes(b"half")
        return how.make(part)

    folder = Store(tmp_path).get_or_make_rows("slow", 1, INPUTS, type(how)(ROWS, BATCH, make, how.finish)).folder
    assert (folder / ".rows-late.safetensors").read_bytes() == b"half"
    assert not (folder / PLAN).exists()
