"""The simulation of workers that share a store: total work, lower bounds, killed workers, seeds."""

from dataclasses import replace

import pytest

from benchmarks.simulation import Scene, Times, simulate

TIMES = Times(create=0.002, read=0.001, beat=0.002, delete=0.001, write=0.01, listing=0.001, entry=1e-5)


def test_one_worker_takes_the_sum_of_all_works() -> None:
    """The makespan is the work, plus the time of all requests where the store takes time."""
    scene = Scene(shards=50, seconds=3.0, workers=1)
    alone = simulate(scene, Times())
    assert alone.makespan == pytest.approx(alone.work, rel=1e-12)
    assert alone.computed == pytest.approx(alone.work, rel=1e-12)
    assert 2.7 * 50 < alone.work < 3.3 * 50
    served = simulate(scene, TIMES)
    assert served.makespan == pytest.approx(served.work + sum(served.busy.values()), rel=1e-12)
    # A listing, a claim looked for, created, read and deleted, and a file written for each shard; a listing of what
    # there is to do, and one at the end.
    counts = {"listing": 52, "create": 50, "write": 50, "read": 100, "delete": 50}
    assert served.requests == counts


def test_many_workers_stay_above_the_floor_and_share_without_double_work() -> None:
    scene = Scene(shards=200, seconds=5.0, workers=20, servers=4)
    found = simulate(scene, TIMES)
    assert found.requests["write"] == 200
    assert (found.lost, found.killed) == (0.0, 0)
    assert found.work / 20 < found.makespan < 1.2 * found.work / 20
    slow = simulate(replace(scene, slow=0.2), TIMES)
    assert slow.makespan > found.makespan


def test_kills_lose_shards_and_never_all_of_the_work() -> None:
    """With about one kill per worker and minute all work is done, and lost work is accounted for."""
    scene = Scene(shards=100, seconds=10.0, workers=10, servers=2, kills=60.0)
    found = simulate(scene, TIMES)
    assert found.killed > 10
    assert found.requests["write"] >= 100
    assert found.lost > 0
    assert found.computed == pytest.approx(found.work + found.lost, rel=1e-9)
    assert found.makespan >= (found.work + found.lost) / 10


def test_a_dead_claim_waits_for_its_time() -> None:
    """When the worker that computes is killed, the other takes over after a minute."""
    for seed in range(20):
        found = simulate(Scene(1, 30.0, 2, servers=2, kills=60.0, restart=1e6, seed=seed), TIMES)
        if found.killed == 1 and found.lost:
            assert found.makespan > 60 + 27
            return
    raise AssertionError("no seed kills exactly the worker that computes")


def test_an_endless_store_is_the_bottleneck() -> None:
    """The makespan is at least the sum of all requests to one slow server."""
    found = simulate(Scene(shards=20, seconds=1.0, workers=20), Times(write=1.0, create=1.0))
    assert found.makespan >= found.busy["write"] + found.busy["create"] - 1e-9 > 40


def test_the_same_seed_gives_the_same_history() -> None:
    scene = Scene(shards=60, seconds=5.0, workers=7, servers=2, kills=20.0, slow=0.3)
    assert simulate(scene, TIMES) == simulate(scene, TIMES)
    assert simulate(scene, TIMES).makespan != simulate(replace(scene, seed=1), TIMES).makespan
