"""Simulates workers that share one store, by discrete events: each request of ``shards.make_missing`` and ``claims``.

The store serves ``servers`` requests at a time, each for the time of its kind. Not modelled: time in
the network between the two, and other users of the store.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import simpy

from unseen_diffusion.utils.liveness import HEARTBEAT, SILENCE


@dataclass(frozen=True)
class Times:
    """Seconds that the store takes for a request of each kind.

    Attributes:
        create: a claim, or the refusal of one.
        read: a claim.
        beat: rewriting a claim.
        delete: a claim.
        write: a shard.
        listing: a folder, without its entries.
        entry: more for each entry of a folder listed.
        look: the worker's time per shard to find what is left in a listing.
    """

    create: float = 0.0
    read: float = 0.0
    beat: float = 0.0
    delete: float = 0.0
    write: float = 0.0
    listing: float = 0.0
    entry: float = 0.0
    look: float = 0.0


@dataclass(frozen=True)
class Scene:
    """The work, the workers, and the failures.

    Attributes:
        shards: independent pieces of work.
        seconds: of an average one on an undisturbed worker; each takes 0.9 to 1.1 times that.
        workers: machines, one worker each, all started at once.
        servers: requests that the store serves at a time.
        kills: per worker and hour, at random; the current shard is lost, and the worker restarts after ``restart``
            seconds.
        slow: share of workers that take ``factor`` times as long.
        pause: longest time between two checks of a worker that finds nothing to do.
    """

    shards: int
    seconds: float
    workers: int
    servers: int = 1
    kills: float = 0.0
    restart: float = 30.0
    slow: float = 0.0
    factor: float = 3.0
    pause: float = 0.5
    seed: int = 0


@dataclass
class Outcome:
    """The result of a simulation.

    Attributes:
        makespan: seconds until the last worker knew that all was done.
        work: seconds of all shards on undisturbed workers.
        lost: seconds of computing wasted by kills or double work.
        computed: seconds that workers computed, lost ones included.
        killed: number of kills.
        requests: to the store, by kind.
        busy: seconds of service, by kind.
    """

    makespan: float = 0.0
    work: float = 0.0
    lost: float = 0.0
    computed: float = 0.0
    killed: int = 0
    requests: Counter[str] = field(default_factory=Counter)
    busy: Counter[str] = field(default_factory=Counter)


@dataclass
class Claim:
    """The claim of a shard: its holder, the holder's number of starts, and its heartbeats so far."""

    worker: int
    start: int
    beats: int = 0


class Cluster:
    """The state of the store and of all workers."""

    def __init__(self, scene: Scene, times: Times):
        self.scene, self.times, self.rng = scene, times, Random(scene.seed)
        self.env = simpy.Environment()
        self.store = simpy.Resource(self.env, scene.servers)
        self.costs = [scene.seconds * self.rng.uniform(0.9, 1.1) for _ in range(scene.shards)]
        slow = set(self.rng.sample(range(scene.workers), round(scene.slow * scene.workers)))
        self.factors = [scene.factor if worker in slow else 1.0 for worker in range(scene.workers)]
        self.free = list(range(scene.shards))  # neither done nor claimed, ascending
        self.claims: dict[int, Claim] = {}
        self.done: set[int] = set()
        self.starts = [0] * scene.workers
        self.outcome = Outcome(work=sum(self.costs))

    def run(self) -> Outcome:
        """Runs the simulation to its end."""
        bodies = [self.env.process(self._life(worker)) for worker in range(self.scene.workers)]
        self.env.run(self.env.all_of(bodies))
        self.outcome.makespan = self.env.now
        return self.outcome

    def _ask(self, kind: str, entries: int = 0) -> Iterator[Any]:
        """One request: waits for a server, then for its service."""
        seconds = getattr(self.times, kind) + entries * self.times.entry
        with self.store.request() as turn:
            yield turn
            yield self.env.timeout(seconds)
        self.outcome.requests[kind] += 1
        self.outcome.busy[kind] += seconds

    def _list(self) -> Iterator[Any]:
        yield from self._ask("listing", len(self.done) + len(self.claims))

    def _life(self, worker: int) -> Iterator[Any]:
        """One worker, which is killed and started again until all shards are done."""
        rng = Random(f"{self.scene.seed}/{worker}")
        while True:
            self.starts[worker] += 1
            body = self.env.process(self._work(worker, rng))
            if not self.scene.kills:
                yield body
                return
            death = self.env.timeout(rng.expovariate(self.scene.kills / 3600))
            yield body | death
            if body.processed:
                return
            body.interrupt()
            self.outcome.killed += 1
            yield self.env.timeout(self.scene.restart)

    def _work(self, worker: int, rng: Random) -> Iterator[Any]:
        """``make_missing``: lists, computes free shards until the list is outdated; without any, waits for others."""
        seen, pause = dict[int, tuple[Claim, int, float]](), 0.02
        try:
            while True:
                yield from self._list()
                yield self.env.timeout(self.times.look * self.scene.shards)
                if len(self.done) == self.scene.shards:
                    return
                claimed = list(self.claims)
                made = yield from self._work_through(worker, rng, seen)
                while not made:
                    yield self.env.timeout(pause * rng.uniform(0.5, 1.0))
                    pause = min(self.scene.pause, 1.5 * pause)
                    shard = rng.choice(claimed) if claimed else None
                    if shard is not None:
                        yield from self._ask("read")
                    if shard is None or shard not in self.claims:
                        break
                    made = yield from self._try(shard, worker, seen)
                pause = 0.02 if made else pause
        except simpy.Interrupt:
            return

    def _work_through(self, worker: int, rng: Random, seen: dict[int, tuple[Claim, int, float]]) -> Iterator[Any]:
        """Computes free shards from a random one on, until another worker has one; returns whether it computed any."""
        first, some = rng.randrange(len(self.free)) if self.free else 0, False
        for shard in self.free[first:] + self.free[:first]:
            if (yield from self._try(shard, worker, seen)):
                some = True
            elif some:
                break
        return some

    def _try(self, shard: int, worker: int, seen: dict[int, tuple[Claim, int, float]]) -> Iterator[Any]:
        """Claims and computes a shard (``hold`` and ``_make``); True if this worker wrote it."""
        mine = yield from self._take(shard, worker, seen)
        if mine is None:
            return False
        yield from self._list()
        made = shard not in self.done
        if made:
            yield from self._make(shard, mine)
        yield from self._ask("read")
        if self.claims.get(shard) is mine:
            yield from self._ask("delete")
            self._release(shard)
        return made

    def _take(self, shard: int, worker: int, seen: dict[int, tuple[Claim, int, float]]) -> Iterator[Any]:
        """Takes the claim; None while another living worker holds it."""
        yield from self._ask("read")
        if (theirs := self.claims.get(shard)) is not None:
            if not self._dead(shard, theirs, worker, seen):
                return None
            yield from self._ask("delete")
            if self.claims.get(shard) is theirs:
                self._release(shard)
        yield from self._ask("create")
        if shard in self.claims:
            return None
        self.claims[shard] = mine = Claim(worker, self.starts[worker])
        at = bisect_left(self.free, shard)
        if at < len(self.free) and self.free[at] == shard:
            del self.free[at]
        return mine

    def _dead(self, shard: int, theirs: Claim, worker: int, seen: dict[int, tuple[Claim, int, float]]) -> bool:
        """Whether the holder is an earlier start of this worker, or showed no heartbeat for SILENCE seconds."""
        claim, beats, since = seen.get(shard, (None, 0, 0.0))
        if claim is not theirs or beats != theirs.beats:
            seen[shard] = theirs, theirs.beats, since = theirs, theirs.beats, self.env.now
        gone = theirs.worker == worker and theirs.start < self.starts[worker]
        return gone or self.env.now - since > SILENCE

    def _make(self, shard: int, mine: Claim) -> Iterator[Any]:
        """Computes with heartbeats, then writes; a kill loses what was computed."""
        seconds, began = self.costs[shard] * self.factors[mine.worker], self.env.now
        pulse = self.env.process(self._pulse(shard, mine))
        try:
            yield self.env.timeout(seconds)
            self.outcome.computed += seconds
            yield from self._ask("write")
        except simpy.Interrupt:
            spent = min(seconds, self.env.now - began)
            self.outcome.lost += spent
            self.outcome.computed += spent if spent < seconds else 0.0
            raise
        finally:
            if pulse.is_alive:
                pulse.interrupt()
        self.outcome.lost += seconds if shard in self.done else 0.0
        self.done.add(shard)

    def _pulse(self, shard: int, mine: Claim) -> Iterator[Any]:
        try:
            while True:
                yield self.env.timeout(HEARTBEAT)
                yield from self._ask("read")
                if self.claims.get(shard) is not mine:
                    return
                yield from self._ask("beat")
                mine.beats += 1
        except simpy.Interrupt:
            return

    def _release(self, shard: int) -> None:
        del self.claims[shard]
        if shard not in self.done:
            insort(self.free, shard)


def simulate(scene: Scene, times: Times) -> Outcome:
    """Simulates a scene; the same seed gives the same result."""
    return Cluster(scene, times).run()


def floor(scene: Scene, outcome: Outcome) -> float:
    """Lower bound of the makespan: all work divided among undisturbed workers, or one shard."""
    return max(outcome.work / scene.workers, 0.9 * scene.seconds)
