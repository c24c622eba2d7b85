"""Row-wise artefacts: killed, damaged, shared, on a full disk, in a bucket; never a byte different."""

import errno
import json
import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from support.clocks import FakeClock, wait_for
from support.store_workers import BATCH, ROWS, Workers, get, rows_of
from support.store_workers import shards as shard_names
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store import bucket, shards
from unseen_diffusion.store.artefacts import RECORD, Recipe, Store, load_tensor, tensor_names
from unseen_diffusion.store.claims import Claims
from unseen_diffusion.store.objects import LocalObjects
from unseen_diffusion.store.shards import cut
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json
from unseen_diffusion.utils.liveness import SILENCE

COUNT = len(cut(ROWS, BATCH))


def contents(root: Path) -> dict[str, bytes]:
    """Every shard by its rows, without the seconds in its header."""
    folder = next(root.glob("slow/*"))
    return {name: load_tensor(folder, name).numpy().tobytes() for name in tensor_names(folder)}


def test_twenty_kills_lose_one_shard_each_and_change_no_byte(tmp_path: Path, workers: Workers) -> None:
    """No start computes again what was finished before it; a killed one began one shard at most in vain."""
    report, root = workers.reports["kills"], workers.root / "kills"
    *killed, last = report["starts"]
    for start in report["starts"]:
        assert not set(start["before"]) & set(start["made"])
        assert set(start["before"]) <= set(start["after"])
        assert len(start["made"]) == len(set(start["made"]))
    lost = [len(set(start["made"]) - set(start["after"])) for start in killed]
    assert max(lost) <= 1
    assert sum(len(start["made"]) for start in report["starts"]) == COUNT + sum(lost)
    assert last["after"] == [rows.start for rows in cut(ROWS, BATCH)]
    whole = get(tmp_path / "whole")
    assert report["facts"] == whole.facts
    assert contents(root) == contents(tmp_path / "whole")
    left = {path.name for path in root.glob("slow/**/*") if path.is_file() and path.name[0] != "."}
    assert left == {*shard_names(root), RECORD}


def test_three_workers_make_every_shard_once(tmp_path: Path, workers: Workers) -> None:
    reports = workers.reports["together"]
    made = sorted(start for report in reports for start in report["made"])
    assert made == [rows.start for rows in cut(ROWS, BATCH)]
    assert sum(report["evaluations"] for report in reports) == ROWS
    assert min(len(report["made"]) for report in reports) > 0
    get(tmp_path / "whole")
    assert contents(workers.root / "together") == contents(tmp_path / "whole")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "swap", "extra"])
def test_damaged_shards_are_named_and_made_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    folder, before = get(tmp_path).folder, contents(tmp_path)
    names = shard_names(tmp_path)
    path = folder / names[3]
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "delete":
        path.unlink()
    elif damage == "swap":
        path.write_bytes((folder / names[4]).read_bytes())
    else:
        (folder / RECORD).unlink()
        (folder / names[3].replace("rows-00000006", "rows-00000005")).write_bytes(data)
    made: list[int] = []
    with caplog.at_level(logging.WARNING):
        again = get(tmp_path, made)
    assert made == ([] if damage == "extra" else [6])
    assert again.spent.evaluations == BATCH * len(made)
    lines = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(lines) == 1
    assert lines[0].startswith(str(folder / "rows-0000000"))
    assert contents(tmp_path) == before
    assert get(tmp_path).reused


def test_shards_of_another_batch_size_stay_in_use(tmp_path: Path) -> None:
    """The boundaries are the first worker's."""
    folder = get(tmp_path).folder
    (folder / RECORD).unlink()
    for name in shard_names(tmp_path)[5:]:
        (folder / name).unlink()
    made: list[int] = []
    how = rows_of(made)
    other = type(how)(how.rows, 7, how.make, how.finish)
    Store(tmp_path).get_or_make_rows("slow", 1, {"seed": 0}, other)
    assert sorted(made) == list(range(10, ROWS, BATCH))


def test_a_record_of_shards_without_its_seal_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Here it has lost a shard as well; the shards themselves stay in use."""
    path = get(tmp_path).folder / RECORD
    before, record = read_json(path), read_json(path)
    del record["checksum"]
    record["shards"].pop()
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"{path}: missing or damaged"):
        tensor_names(path.parent)
    made: list[int] = []
    with caplog.at_level(logging.WARNING):
        assert get(tmp_path, made).reused
    assert [r.getMessage() for r in caplog.records] == [f"{path}: damaged; computing it again"]
    assert not made
    assert read_json(path)["shards"] == before["shards"]
    assert "checksum" in read_json(path)


def test_who_ends_second_returns_the_bytes_of_who_ended_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs may differ in last bits: while one worker reads all shards, another that takes it for dead is faster."""
    read_all, raced = shards.read_all, list[Any]()

    def slow(*arguments: Any) -> Any:
        whole = read_all(*arguments)
        if not raced:
            how = rows_of()
            other = replace(how, make=lambda rows: ({"x": how.make(rows)[0]["x"] + 1e-12}, {"evaluations": len(rows)}))
            for path in [*tmp_path.glob("slow/*/rows-*"), *tmp_path.glob("slow/*/artefact.claim")]:
                path.unlink()
            raced.append(None)
            raced[0] = Store(tmp_path).get_or_make_rows("slow", 1, {"seed": 0}, other)
        return whole

    monkeypatch.setattr(shards, "read_all", slow)
    second = get(tmp_path)
    assert torch.equal(second.tensors["x"], raced[0].tensors["x"])
    assert torch.equal(second.tensors["x"], load_tensor(second.folder, "x"))
    assert second.facts == raced[0].facts
    assert second.spent.evaluations == ROWS


def test_who_was_taken_for_dead_returns_what_its_successor_wrote(tmp_path: Path) -> None:
    """The same for artefacts without rows."""

    def other() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        return {"x": torch.ones(2)}, {"evaluations": 5}

    def late() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        next(tmp_path.rglob("artefact.claim")).unlink()
        Store(tmp_path).get_or_make("one", 1, {}, other)
        return {"x": torch.ones(2) + 1e-6}, {"evaluations": 5}

    artefact = Store(tmp_path).get_or_make("one", 1, {}, late)
    assert torch.equal(artefact.tensors["x"], torch.ones(2))
    assert torch.equal(load_tensor(artefact.folder, "x"), torch.ones(2))
    assert not artefact.reused
    assert artefact.spent.evaluations == 5


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_one_of_many_creates_where_there_are_no_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*paths: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refused)
    objects, start = LocalObjects(tmp_path), threading.Barrier(8)

    def create(index: int) -> bool:
        start.wait(60)
        return objects.create("a/x.claim", str(index).encode())

    with ThreadPoolExecutor(8) as pool:
        created = list(pool.map(create, range(8)))
    assert sum(created) == 1
    assert objects.read("a/x.claim") == str(created.index(True)).encode()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x.claim"]
    get(tmp_path)
    monkeypatch.undo()
    get(tmp_path / "whole")
    assert contents(tmp_path) == contents(tmp_path / "whole")


def test_a_claim_is_taken_over_when_its_holder_is_gone(tmp_path: Path) -> None:
    """At once where the process is known to be gone; elsewhere when its content has stood still."""
    objects = LocalObjects(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait(60)
    mine = Claims(objects)
    with mine.hold("a/x.claim") as held:
        assert held
        claim = json.loads(objects.read("a/x.claim") or b"")
        with Claims(objects).hold("a/x.claim") as second:
            assert not second
    assert objects.read("a/x.claim") is None
    objects.create("a/x.claim", json.dumps(claim | {"pid": gone.pid}).encode())
    with mine.hold("a/x.claim") as held:
        assert held
    objects.create("a/x.claim", json.dumps(claim | {"machine": "another"}).encode())
    clock = FakeClock()
    waiting = Claims(objects, clock=clock)
    with waiting.hold("a/x.claim") as held:
        assert not held
    clock.advance(SILENCE + 1)
    with waiting.hold("a/x.claim") as held:
        assert held


def test_an_empty_claim_is_taken_over(tmp_path: Path) -> None:
    """A disk that was full when its holder wrote it may leave one."""
    objects, clock = LocalObjects(tmp_path), FakeClock()
    waiting = Claims(objects, clock=clock)
    objects.create("a/x.claim", b"")
    with waiting.hold("a/x.claim") as held:
        assert not held
    clock.advance(SILENCE + 1)
    with waiting.hold("a/x.claim") as held:
        assert held


def claim_in(objects: LocalObjects) -> dict[str, Any]:
    """The claim as it is now."""
    return json.loads(objects.read("a/x.claim") or b"")


def test_a_living_holder_of_another_machine_is_waited_for(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    clock, beats = FakeClock(), 0
    with Claims(objects, beat=0.01).hold("a/x.claim") as held:
        assert held
        other = Claims(objects, clock=clock)
        for _ in range(8):
            wait_for(lambda last=beats: claim_in(objects)["beats"] > last)
            content = claim_in(objects) | {"machine": "another"}
            beats = content["beats"]
            assert not other.is_abandoned("a/x.claim", json.dumps(content).encode())
            clock.advance(SILENCE - 1)
        assert beats >= 8


def test_one_of_two_makes_what_has_no_rows(tmp_path: Path) -> None:
    calls: list[int] = []

    refused, finished = threading.Semaphore(0), threading.Event()

    def wait() -> None:
        refused.release()
        assert finished.wait(60)

    def make() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        calls.append(1)
        assert refused.acquire(timeout=60)  # until both others have met the claim
        assert refused.acquire(timeout=60)
        return {"x": torch.ones(2)}, {}

    def ask() -> None:
        store = Store(tmp_path)
        store.claims = Claims(store.objects, clock=FakeClock(wait))
        store.get_or_make("one", 1, {}, make)
        finished.set()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(calls) == 1


class Counting(LocalObjects):
    """Counts what is asked, and is asked often."""

    pause = 0.01

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.listed, self.reads = Counter[str](), Counter[str]()

    def names(self, prefix: str) -> set[str]:
        self.listed[prefix] += 1
        return super().names(prefix)

    def read(self, name: str) -> bytes | None:
        self.reads[name] += 1
        return super().read(name)


def counting(root: Path) -> tuple[Store, Counting]:
    store, objects = Store(root), Counting(root)
    store.objects, store.claims = objects, Claims(objects)
    return store, objects


def test_one_list_serves_all_shards(tmp_path: Path) -> None:
    """The folder is listed to agree on boundaries, for what is missing, when all is made, and to tidy up."""
    store, objects = counting(tmp_path)
    folder = Recipe("slow", 1, {"seed": 0}).folder
    store.get_or_make_rows("slow", 1, {"seed": 0}, rows_of())
    pieces = [f"{shards.stem(folder, rows)}." for rows in cut(ROWS, BATCH)]
    assert objects.listed == {f"{folder}/": 4} | dict.fromkeys(pieces, 1)


def test_who_waits_looks_at_claims_and_lists_nothing(tmp_path: Path) -> None:
    """One shard is claimed by a living worker, which gives it up in the end."""
    store, objects = counting(tmp_path)
    folder = Recipe("slow", 1, {"seed": 0}).folder
    claim, made = f"{shards.stem(folder, range(6, 8))}.claim", list[int]()

    def until(reads: int) -> int:
        wait_for(lambda: waiting.done() or objects.reads[claim] >= reads)
        return objects.listed[f"{folder}/"]

    with ThreadPoolExecutor(1) as pool, Claims(LocalObjects(tmp_path)).hold(claim) as held:
        assert held
        waiting = pool.submit(store.get_or_make_rows, "slow", 1, {"seed": 0}, rows_of(made))
        assert until(10) == until(18)
        assert sorted(made) == [rows.start for rows in cut(ROWS, BATCH) if rows.start != 6]
        (tmp_path / claim).unlink()
        assert waiting.result(60).spent.evaluations == ROWS
    assert made[-1] == 6


def test_three_workers_read_every_shard_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, names = shards.read, list[str]()

    def counted(objects: Any, name: str, key: str) -> Any:
        names.append(name)
        return read(objects, name, key)

    monkeypatch.setattr(shards, "read", counted)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(get, [tmp_path] * 3))
    assert set(Counter(names).values()) == {3}
    assert len(set(names)) == COUNT


def test_a_shard_that_is_lost_while_others_are_made_is_made_again(tmp_path: Path) -> None:
    made = list[int]()
    how = rows_of(made)

    def make(rows: range) -> Any:
        if len(made) == COUNT - 1:
            next(tmp_path.glob("slow/*/rows-*.safetensors")).unlink()
        return how.make(rows)

    artefact = Store(tmp_path).get_or_make_rows("slow", 1, {"seed": 0}, replace(how, make=make))
    assert len(made) == COUNT + 1
    assert artefact.spent.evaluations == ROWS + BATCH
    get(tmp_path / "whole")
    assert contents(tmp_path) == contents(tmp_path / "whole")


@pytest.mark.parametrize(("code", "remedy"), [(errno.ENOSPC, "no space left"), (errno.EROFS, "cannot write here")])
def test_a_full_or_closed_disk_is_one_line_and_the_store_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    rename, left = os.replace, [4]

    def failing(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(code, os.strerror(code))
        rename(source, target)

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(InputError, match=remedy) as caught:
        get(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    kept = len(shard_names(tmp_path))
    assert kept >= 3
    made: list[int] = []
    get(tmp_path, made)
    assert len(made) == COUNT - kept


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in ``folder``."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, timeout=60
    )
    if done.returncode:
        pytest.skip("no mounts here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, timeout=60)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True, timeout=60)


def resumes(root: Path, whole: Path) -> None:
    """Makes what is missing and nothing else; the bytes are those of an undisturbed run."""
    kept, made = len(shard_names(root)), list[int]()
    get(root, made)
    assert 0 < kept < COUNT
    assert len(made) == COUNT - kept
    get(whole)
    assert contents(root) == contents(whole)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with mounted(disk, "size=48k"):
        with pytest.raises(InputError, match="no space left"):
            get(disk)
        remount(disk, "size=4m")
        resumes(disk, tmp_path / "whole")


@contextmanager
def closed(root: Path) -> Iterator[None]:
    """A store closed to writing: by a read-only mount for root, whom no mode stops; by its mode for others."""
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]

    def close(yes: bool) -> None:
        if os.geteuid() == 0:
            return remount(root, "ro" if yes else "rw")
        for folder in folders:
            folder.chmod(0o555 if yes else 0o755)
        return None

    close(True)
    try:
        yield
    finally:
        close(False)


def test_a_store_that_is_really_closed_to_writing(tmp_path: Path) -> None:
    """One line; what is complete is read all the same, and the rest is made once it is open."""
    root = tmp_path / "store"
    with mounted(root, "size=4m") if os.geteuid() == 0 else nullcontext(root.mkdir()):
        folder = get(root).folder
        with closed(root):
            assert get(root).reused
        (folder / RECORD).unlink()
        for name in shard_names(root)[5:]:
            (folder / name).unlink()
        with closed(root), pytest.raises(InputError, match=r"make it writable or choose another folder$") as caught:
            get(root)
        assert str(caught.value).startswith(str(folder))
        assert "\n" not in str(caught.value)
        resumes(root, tmp_path / "whole")


# ---------------------------------------------------------------- stages

SOLVER = SolverSettings(name="ddim", grid="uniform_t", steps=4)
Interrupt = Callable[[], None]


def stage_results(root: Path, batch: int) -> tuple[Any, Any, Any]:
    """Inversion, base latents and noisy denoising of 10 images."""
    model = natural_gaussian(8, 1, 0.5, 2.0)
    images = torch.randint(0, 256, (10, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stages = Stages(Store(root), batch_size=batch)
    inversion, latents = stages.inversion(model, images, SOLVER, 500, [300, 500])
    own = stages.base_latents(model, SOLVER, 500, 10, seed=1)
    made = stages.denoising(model, LatentSet(500, latents.latents, list(range(10))), SOLVER, 0.5, 3)
    return inversion, own, made


def test_stages_give_the_same_in_any_shards(tmp_path: Path) -> None:
    """Latents, images and facts of one shard and of four; each is what the whole costs."""
    whole, parts = stage_results(tmp_path / "whole", 10), stage_results(tmp_path / "parts", 3)
    for a, b in zip(whole, parts, strict=True):
        if isinstance(a, LatentSet):
            assert torch.allclose(a.latents, b.latents, atol=1e-6)
            continue
        assert a.facts["evaluations"] == b.facts["evaluations"] == 40
        assert all((a.tensors[k].double() - b.tensors[k].double()).abs().max() <= 1 for k in a.tensors)
    assert whole[0].facts["geometry"].keys() == parts[0].facts["geometry"].keys()
    assert len(list((tmp_path / "parts").glob("invert/*/rows-*"))) == 4


def test_an_interrupted_inversion_counts_all_evaluations_and_spends_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, left = shards.write, [2]

    def dying(*arguments: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*arguments)

    monkeypatch.setattr(shards, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        stage_results(tmp_path, 3)
    monkeypatch.undo()
    inversion = stage_results(tmp_path, 3)[0]
    assert inversion.facts["evaluations"] == 40
    assert 0 < inversion.spent.evaluations <= 40 - 4 * 2 * 1
    assert not inversion.reused


# ---------------------------------------------------------------- bucket


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An S3 server on this machine, with one bucket."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def address(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty prefix there."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(bucket.BucketObjects, "pause", 0.05)
    client = boto3.client("s3", endpoint_url=server, region_name="us-east-1")
    name = f"store-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    return f"s3://{name}/some/prefix"


def local(cache: Path) -> Path:
    """The folder in front of the only bucket."""
    (folder,) = cache.iterdir()
    return folder


def bucket_get(address: str, cache: Path, made: list[int] | None = None) -> Any:
    return Store(address, cache).get_or_make_rows("slow", 1, {"seed": 0}, rows_of(made))


def test_two_machines_share_a_bucket_and_no_disk(address: str, tmp_path: Path) -> None:
    made: dict[str, list[int]] = {"a": [], "b": []}

    def work(name: str) -> None:
        bucket_get(address, tmp_path / name, made[name])

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made["a"] + made["b"]) == [rows.start for rows in cut(ROWS, BATCH)]
    later: list[int] = []
    assert bucket_get(address, tmp_path / "c", later).reused
    assert not later
    get(tmp_path / "whole")
    assert contents(local(tmp_path / "a")) == contents(local(tmp_path / "c")) == contents(tmp_path / "whole")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"very-secret" in path.read_bytes()]


def test_what_a_folder_has_from_elsewhere_still_reaches_the_bucket(address: str, tmp_path: Path) -> None:
    """The default store is the folder in front of a bucket: a second machine must not wait for what is only there."""
    get(tmp_path / "a")
    made: list[int] = []
    bucket_get(address, tmp_path / "a", made)
    bucket_get(f"{address}/other", tmp_path / "a", made)
    assert len(made) == 2 * COUNT
    made.clear()
    for there in (address, f"{address}/other"):
        assert bucket_get(there, tmp_path / "b", made).reused
    assert not made


def test_claims_of_a_dead_node_in_a_bucket_are_taken_over(address: str, tmp_path: Path) -> None:
    """One of a shard and that of the whole, which nobody rewrites; but not while their node still lives."""
    store, made = Store(address, tmp_path / "a"), list[int]()
    folder = Recipe("slow", 1, {"seed": 0}).folder
    claim = {"machine": "a node", "pid": 1, "started": "1", "token": "theirs", "beats": 0}
    names = [f"{folder}/rows-00000006-00000008.claim", f"{folder}/artefact.claim"]
    for name in names:
        assert store.objects.create(name, json.dumps(claim).encode())
    clock = FakeClock()
    clock.on_sleep = lambda: clock.advance(5)
    store.claims = Claims(store.objects, clock=clock)
    for beats in range(1, 4):
        clock.advance(SILENCE - 1)
        for name in names:
            with store.claims.hold(name) as mine:
                assert not mine
            store.objects.put(name, json.dumps(claim | {"beats": beats}).encode())
    store.get_or_make_rows("slow", 1, {"seed": 0}, rows_of(made))
    assert sorted(made) == [rows.start for rows in cut(ROWS, BATCH)]
    assert not [name for name in store.objects.names(f"{folder}/") if name.endswith(".claim")]
    get(tmp_path / "whole")
    assert contents(local(tmp_path / "a")) == contents(tmp_path / "whole")


def test_damage_in_a_bucket_and_before_it_is_found(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = bucket_get(address, tmp_path / "a").folder
    before = contents(folder.parents[1])
    objects = Store(address, tmp_path / "b").objects
    name = f"slow/{folder.name}/{shard_names(folder.parents[1])[2]}"
    data = objects.read(name) or b""
    objects.put(name, data[:-1] + bytes([data[-1] ^ 1]))
    (objects.folder / name).unlink()
    made: list[int] = []
    with caplog.at_level(logging.WARNING):
        bucket_get(address, tmp_path / "b", made)
    assert made == [4]
    assert f"{address}/{name}: damaged; computing it again" in caplog.text
    path = objects.folder / name
    path.write_bytes(b"cut off")
    made.clear()
    assert bucket_get(address, tmp_path / "b", made).reused
    assert not made
    assert contents(objects.folder) == before


def test_a_bucket_that_cannot_be_reached_is_one_line(address: str, tmp_path: Path) -> None:
    absent = "s3://absent-bucket/x"
    for ask in (
        lambda: bucket_get(absent, tmp_path),
        lambda: Store(absent, tmp_path).get_or_make("one", 1, {}, lambda: ({"x": torch.ones(2)}, {})),
    ):
        with pytest.raises(InputError, match=r"s3://absent-bucket/x/.*check the address, AWS_ENDPOINT_URL") as caught:
            ask()
        assert "very-secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    for bad in ("gs://bucket/x", "s3://", "s3://key:secret@bucket/x"):
        with pytest.raises(InputError, match=r"give (a folder, or )?s3://BUCKET/PREFIX"):
            bucket.check_address(bad)


def test_a_record_tells_its_shards(tmp_path: Path) -> None:
    record = read_json(get(tmp_path).folder / RECORD)
    assert record["shards"] == shard_names(tmp_path)
    assert (record["rows"], record["size"]) == (ROWS, BATCH)
