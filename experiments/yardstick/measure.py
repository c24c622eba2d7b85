"""Features of real and damaged images, and how well KID and precision tell them apart.

python -m experiments.yardstick.measure outputs/yardstick --data FOLDER

Every domain and extractor is a step whose result is kept, so that an interrupted measurement goes on where it was.
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.yardstick.damage import DAMAGES, SELECTIONS, STRENGTHS, Domain, damaged
from unseen_diffusion.domains.base import pool_of
from unseen_diffusion.domains.digits8 import Digits8
from unseen_diffusion.domains.faces import Faces
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.parquet import Parquet
from unseen_diffusion.domains.photographs import Photographs
from unseen_diffusion.domains.textures import Textures
from unseen_diffusion.domains.turbulence import Turbulence
from unseen_diffusion.scores.features.base import FeatureExtractor, extract
from unseen_diffusion.scores.features.dinov2 import DinoV2
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.features.inception import FILE, Inception
from unseen_diffusion.scores.features.lite0 import Lite0
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.scores.kernel import unbiased_mmd
from unseen_diffusion.scores.manifold import prdc
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

SIZE, MOST = 32, 600
COUNTS = (50, 100, 200)
SPLITS, REAL_SPLITS, PRECISION_SPLITS = 20, 100, 5
PERMUTATIONS, LEVEL, NEIGHBOURS = 199, 0.05, 5
UNSEEN = ("photographs", "bird", "deer")  # domains that no network of this project was trained on
COSTLY = ("photographs", "bird")  # where the costly extractors are measured
DAMAGED = {"faces": 50}
REAL = ("real", "none")  # kind and strength of undamaged images


@dataclass(frozen=True)
class Candidate:
    """An extractor, how to build it, and whether it is measured on ``COSTLY`` domains alone."""

    name: str
    build: Callable[[], FeatureExtractor]
    costly: bool = False


def lite0(size: int, stage: int = 8) -> Candidate:
    """EfficientNet-Lite0 at a size, whole or cut after a stage."""
    name = f"lite0-{size}" + (f"-stage{stage}" if stage < 8 else "")
    return Candidate(name, lambda: Lite0(size=size, stage=stage, batch_size=16), size > 128)


CANDIDATES = (
    Candidate("pixels", Pixels),
    Candidate("embedded", EmbeddedFeatures),
    *(lite0(size, stage) for size in (128, 96, 64) for stage in (8, 5)),
    lite0(224),
    lite0(160),
    Candidate("inception", lambda: Inception(Path(f"~/.cache/unseen-diffusion/{FILE}").expanduser()), True),
    Candidate("dinov2", lambda: DinoV2("facebook/dinov2-base"), True),
)


def domains(data: Path | None) -> Iterator[tuple[str, Callable[[], Domain]]]:
    """The domains by name, those without images left out."""
    every: dict[str, Any] = {"photographs": Photographs()}
    for name in ("bird", "deer"):
        path = (data or Path()) / f"cifar10-{name}-test.parquet"
        if path.is_file():
            every[name] = Parquet(path=str(path), name=name, source="CIFAR-10", licence="not stated")
    every |= {"hubble": Hubble(), "textures": Textures(), "digits8": Digits8(), "faces": Faces()}
    every |= {"turbulence": Turbulence()}
    for name, source in every.items():
        yield name, lambda name=name, source=source: drawn(name, source)


def drawn(name: str, source: Any) -> Domain:
    """At most ``MOST`` images of a domain in random order."""
    pool = pool_of(source, SIZE, 3)
    order = torch.randperm(len(pool.names), generator=generator(0, "yardstick", name))[:MOST]
    images = pool.load(order.tolist()).permute(0, 2, 3, 1).numpy()
    return Domain(images, DAMAGED.get(name, 200 if name in UNSEEN else 100))


def variants(domain: Domain) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
    """Undamaged images first, then those of each kind and strength."""
    yield REAL, domain.images
    for kind in DAMAGES:
        for level, strength in enumerate(STRENGTHS):
            yield (kind, strength), damaged(domain, kind, level)


def features(extractor: FeatureExtractor, domain: Domain) -> dict[tuple[str, str], Tensor]:
    """float64 features of undamaged images and of every damage."""
    return {
        key: extract(extractor, torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).double()
        for key, images in variants(domain)
    }


def kernel(x: Tensor, y: Tensor) -> Tensor:
    """KID's kernel (x.y / d + 1)^3."""
    return (x @ y.T / x.shape[1] + 1) ** 3


@lru_cache
def labels(count: int) -> Tensor:
    """(2 count, permutations + 1): 1 for the first set; column 0 as observed."""
    columns = torch.zeros(2 * count, PERMUTATIONS + 1, dtype=torch.float64)
    columns[:count, 0] = 1
    for index in range(PERMUTATIONS):
        columns[torch.randperm(2 * count, generator=generator(0, "permutation", index))[:count], index + 1] = 1
    return columns


def kid_and_p(pairs: Tensor) -> tuple[float, float]:
    """KID of two sets of equal size and its permutation p-value, from the kernel (2 n, 2 n) of their images."""
    pairs = pairs.clone().fill_diagonal_(0)
    count = len(pairs) // 2
    labelled = labels(count)
    inside = (labelled * (pairs @ labelled)).sum(0)
    across = labelled.T @ pairs.sum(1) - inside
    values = unbiased_mmd(inside, pairs.sum() - inside - 2 * across, across, count, count)
    reached = values[1:] >= values[0] - 1e-12 * float(pairs.abs().max())
    return float(values[0]), (1 + int(reached.sum())) / (PERMUTATIONS + 1)


class Judge:
    """All tests of one extractor on one domain."""

    def __init__(self, name: str, domain: Domain, found: dict[tuple[str, str], Tensor]):
        self.name, self.domain, self.found = name, domain, found
        self.clean = found[REAL]
        self.among_clean = kernel(self.clean, self.clean)
        self.brightness = torch.from_numpy(domain.images.mean((1, 2, 3)))

    def split(self, count: int, index: int, kind: str, level: int) -> tuple[Tensor, Tensor] | None:
        """Rows of the set S (damaged or chosen) and of the other, undamaged images H; None where there are too few."""
        rng = generator(0, "split", self.name, count, index)
        everything = torch.randperm(len(self.clean), generator=rng)
        if kind == "modes":
            order = self.brightness[everything].argsort()
            kept = order[: round(len(order) * (1 - SELECTIONS[kind][level]))]
            usable = everything[torch.isin(torch.arange(len(everything)), kept)]
        else:
            usable = everything[everything < self.domain.damaged]
        distinct = -(-count // int(SELECTIONS[kind][level])) if kind == "copies" else count
        chosen = usable[:distinct]
        others = everything[~torch.isin(everything, chosen)]
        if len(chosen) < distinct or len(others) < count:
            return None
        return chosen[torch.arange(count) % distinct], others[:count]

    def pairs(self, key: tuple[str, str]) -> Tensor:
        """The kernel of all undamaged images and, below them, the damaged ones."""
        if key not in self.found or key == REAL:
            return self.among_clean
        cross, inner = kernel(self.clean, self.found[key]), kernel(self.found[key], self.found[key])
        return torch.cat([torch.cat([self.among_clean, cross], 1), torch.cat([cross.T, inner], 1)])

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row for every damage, strength and number of images."""
        kids: dict[tuple[str, str, int], list[float]] = {}
        keys = [REAL, *((kind, strength) for kind in (*DAMAGES, *SELECTIONS) for strength in STRENGTHS)]
        for kind, strength in keys:
            level = STRENGTHS.index(strength) if kind != "real" else 0
            every = self.pairs((kind, strength))
            below = len(self.clean) if (kind, strength) in self.found and kind != "real" else 0
            for count in (one for one in COUNTS if one <= self.domain.damaged):
                results, precisions = [], []
                for index in range(REAL_SPLITS if kind == "real" else SPLITS):
                    sets = self.split(count, index, kind, level)
                    if sets is None:
                        break
                    s, h = sets
                    both = torch.cat([s + below, h])
                    results.append(kid_and_p(every[both][:, both]))
                    if count == 100 and index < PRECISION_SPLITS:
                        source = self.found.get((kind, strength), self.clean)
                        precisions.append(prdc(source[s], self.clean[h], NEIGHBOURS).precision)
                if results:
                    values = [kid for kid, _ in results]
                    kids[kind, strength, count] = values
                    real = kids["real", "none", count]
                    yield {
                        "domain": self.name,
                        "kind": kind,
                        "strength": strength,
                        "n": count,
                        "splits": len(results),
                        "power": float(np.mean([p <= LEVEL for _, p in results])),
                        "kid": float(np.mean(values)),
                        "kid_sd_real": float(np.std(real, ddof=1)),
                        "precision": float(np.mean(precisions)) if precisions else None,
                        "order": ordered(kids, kind, count) if strength == "strong" else None,
                    }


def ordered(kids: dict[tuple[str, str, int], list[float]], kind: str, count: int) -> float | None:
    """Share of pairs of strengths whose KIDs on the same split are in the right order."""
    levels = [kids.get((*key, count)) for key in (REAL, *((kind, strength) for strength in STRENGTHS))]
    if any(values is None for values in levels):
        return None
    table = np.array([values[:SPLITS] for values in levels if values is not None])
    pairs = [(low, high) for high in range(4) for low in range(high)]
    return float(np.mean([table[low] < table[high] for low, high in pairs]))


def seconds(extractor: FeatureExtractor, domain: Domain, count: int = 64) -> float:
    """CPU seconds an image: the smallest of three measurements."""
    images = torch.from_numpy(domain.images[:count]).permute(0, 3, 1, 2).contiguous()
    extract(extractor, images[:2])
    taken = []
    for _ in range(3):
        start = time.process_time()
        extract(extractor, images)
        taken.append(time.process_time() - start)
    return min(taken) / len(images)


def step(out: Path, candidate: Candidate, name: str, load: Callable[[], Domain]) -> None:
    """Measures one extractor on one domain, unless that has been done."""
    path = out / f"{candidate.name}_{name}.csv"
    if path.exists() or (candidate.costly and name not in COSTLY):
        return
    try:
        extractor = candidate.build()
    except InputError as error:
        print(f"{candidate.name}: left out ({error})", flush=True)
        return
    domain, start = load(), time.process_time()
    price = seconds(extractor, domain)
    table = pd.DataFrame(Judge(name, domain, features(extractor, domain)).rows())
    table.insert(0, "extractor", candidate.name)
    table["seconds"] = price
    table.to_csv(path.with_suffix(".part"), index=False, float_format="%.6g")
    path.with_suffix(".part").replace(path)
    print(f"{candidate.name} on {name}: {time.process_time() - start:.0f} s of CPU", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, the natural domains first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path)
    given = parser.parse_args(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # files that are not there are not looked for
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    every = list(domains(given.data))
    cheap = [candidate for candidate in CANDIDATES if not candidate.costly]
    for name, load in every:
        for candidate in cheap:
            step(given.out, candidate, name, load)
    for candidate in CANDIDATES:
        if candidate.costly:
            for name, load in every:
                step(given.out, candidate, name, load)


if __name__ == "__main__":
    main()
