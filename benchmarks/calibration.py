"""Simulates intervals and tests under their null, on pools of the sizes and clusters of the bundled domains.

``python -m benchmarks.calibration [PART...]`` writes benchmarks/calibration.csv (about 15 minutes on one core). Every
simulated domain is known, so it is known how often an interval covers the domain's mean and how often a test of a true
hypothesis rejects. Features have 8 dimensions and heavy tails. Cut-outs of one cluster share 15 % of their variance:
then the test that takes them for independent rejects as often as on the real cut-outs, in 10 % of splits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from unseen_diffusion.domains.base import Pool
from unseen_diffusion.domains.hubble import Hubble
from unseen_diffusion.domains.split import clusters_of, split_pool
from unseen_diffusion.reports.populations import SplitNames, overlap_of
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.scores.intervals import crossed_interval, wilson
from unseen_diffusion.scores.kernel import kid, permutation_p_value
from unseen_diffusion.scores.membership import conformal_share

OUT = Path(__file__).with_name("calibration.csv")
DIMENSIONS, SHARED, TAIL = 8, 0.15, 0.4  # of features; variance that a cluster shares; spread of the log scale
DRAWS, SEEDS, PERMUTATIONS = 5, 3, 199


@dataclass(frozen=True)
class Scene:
    """A pool with the sizes of its comparison: images in all, references, validation and held-out images."""

    name: str
    images: int
    references: int
    validation: int
    heldout: int

    def pool(self) -> Pool:
        """The pool without its images; that of hubble has the boxes of the cut-outs."""
        if self.name == "hubble":
            return Hubble(sources=self.images).pool(32, 3)
        return Pool(tuple(map(str, range(self.images))), lambda indices: torch.empty(0), self.name)


SCENES = (
    Scene("faces", 100, 50, 15, 35),
    Scene("textures", 432, 100, 70, 160),
    Scene("hubble", 520, 100, 70, 200),
    Scene("turbulence", 1000, 100, 100, 500),
    Scene("digits8", 1797, 100, 100, 500),
)


def rate(hits: int, total: int) -> dict[str, float]:
    """A share with its Wilson interval, as columns."""
    found = wilson(hits, total)
    return {"value": found.share, "low": found.low, "high": found.high, "repetitions": total}


def features(clusters: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Features (n, 8) of a new pool of the domain."""
    count = len(clusters)
    common = rng.normal(size=(int(clusters.max()) + 1, DIMENSIONS))[clusters]
    own = rng.normal(size=(count, DIMENSIONS))
    _, sizes = np.unique(clusters, return_counts=True)
    shared = np.where(sizes[np.unique(clusters, return_inverse=True)[1]] > 1, SHARED, 0.0)[:, None]
    values = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return np.asarray(values * np.exp(TAIL * rng.normal(size=(count, 1))))


def fitted(references: Tensor, noise: Tensor) -> Tensor:
    """Samples of the Gaussian with the references' mean and covariance."""
    centred = references - references.mean(0)
    factor = torch.linalg.cholesky(centred.T @ centred / (len(references) - 1))
    return references.mean(0) + noise @ factor.T


Score = Callable[[Tensor, Tensor, Tensor], float]
# Of references, held-out images and a seed's noise; the first is linear in the images.
SCORES: dict[str, Score] = {
    "mean of the references": lambda r, h, z: float(r[:, 0].mean()),
    "KID of real images": lambda r, h, z: kid(r, h).value,
    "KID of the fitted Gaussian": lambda r, h, z: kid(fitted(r, z), h).value,
}


def coverage_rows(scene: Scene, repetitions: int) -> Iterator[dict[str, object]]:
    """How often intervals over draws and seeds cover the mean of the domain, with and without the correction."""
    pool = scene.pool()
    clusters = clusters_of(pool)
    sizes = (scene.references, scene.validation, scene.heldout)
    tables: dict[tuple[bool, str], list[NDArray[np.float64]]] = {}
    overlaps: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for repetition in range(repetitions):
        rng = np.random.default_rng([repetition, len(clusters)])
        images = torch.from_numpy(features(clusters, rng))
        noises = [torch.from_numpy(rng.normal(size=(scene.references, DIMENSIONS))) for _ in range(SEEDS)]
        for redraw in overlaps:
            splits = [split_pool(pool, *sizes, repetition, draw, redraw=redraw) for draw in range(DRAWS)]
            names = [SplitNames(*(frozenset(map(str, part)) for part in split)) for split in splits]
            found = overlap_of(names, "heldout")
            overlaps[redraw].append((found.references, found.correlation))
            for name, score in SCORES.items():
                table = [[score(images[r], images[h], z) for z in noises] for r, _, h in splits]
                tables.setdefault((redraw, name), []).append(np.array(table))
    for name in SCORES:
        pooled = np.concatenate([np.array(tables[redraw, name]) for redraw in overlaps])
        truth = float(pooled.mean()) if name == "KID of the fitted Gaussian" else 0.0
        for redraw in overlaps:
            for corrected in (False, True):
                hits = 0
                for table, (_, correlation) in zip(tables[redraw, name], overlaps[redraw], strict=True):
                    interval = crossed_interval(table.tolist(), correlation=correlation if corrected else 0.0)
                    hits += interval.low <= truth <= interval.high
                yield {
                    "part": "coverage",
                    "pool": scene.name,
                    "score": name,
                    "design": "held-out images of every draw" if redraw else "the same held-out images",
                    "correction": corrected,
                    "overlap": float(np.mean([references for references, _ in overlaps[redraw]])),
                    **rate(hits, repetitions),
                }


def level_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """How often the permutation test of KID-H = 0 rejects at 5 % where it is zero, with and without clusters."""
    hubble = SCENES[2]
    pool = hubble.pool()
    numbers = clusters_of(pool)
    clusters = torch.from_numpy(numbers)
    real = extract(EmbeddedFeatures(), pool.load(list(range(hubble.images))))
    single = torch.arange(hubble.references) + int(clusters.max()) + 1
    found: dict[tuple[str, bool], list[float]] = {}
    for seed in range(repetitions):
        rng = np.random.default_rng([seed, 1])
        r, _, h = split_pool(pool, 200, 70, 200, seed, 0)
        made = torch.from_numpy(features(numbers, rng))
        samples = torch.from_numpy(features(np.arange(hubble.references), rng))
        cases = {
            "real cut-outs, two parts of a split": (real[r], real[h], clusters[r + h]),
            "simulated cut-outs, two parts of a split": (made[r], made[h], clusters[r + h]),
            "independent samples against cut-outs": (samples, made[h], torch.cat([single, clusters[h]])),
        }
        for case, (x, y, rows) in cases.items():
            for whole in (False, True):
                p = permutation_p_value(x, y, PERMUTATIONS, seed, clusters=rows if whole else None)
                found.setdefault((case, whole), []).append(p)
    for (case, whole), p_values in found.items():
        hits = sum(p <= 0.05 for p in p_values)
        yield {"part": "level", "pool": "hubble", "score": case, "correction": whole, **rate(hits, repetitions)}


def conformal_rows(repetitions: int) -> Iterator[dict[str, object]]:
    """How often the interval of the conformal share covers it, over samples and held-out images."""
    cases = {"the domain": (1.0, 0.0), "wider": (1.3, 0.0), "shifted": (1.0, 1.0), "far": (1.0, 2.5)}
    for count, held in ((100, 200), (50, 35), (100, 160), (50, 500)):
        for case, (scale, shift) in cases.items():
            found = []
            for seed in range(repetitions):
                rng = np.random.default_rng([seed, count, held])
                samples = torch.from_numpy(scale * features(np.arange(count), rng) + shift)
                found.append(conformal_share(samples, torch.from_numpy(features(np.arange(held), rng))))
            truth = 1.0 if case == "the domain" else float(np.mean([one.value for one in found]))
            hits = sum(one.low <= truth <= one.high for one in found)
            pool = f"{count} samples, {held} held-out images"
            yield {"part": "conformal", "pool": pool, "score": f"samples: {case}", **rate(hits, repetitions)}


PARTS: dict[str, Callable[[int], Iterator[dict[str, object]]]] = {
    "coverage": lambda repetitions: (row for scene in SCENES for row in coverage_rows(scene, repetitions)),
    "level": level_rows,
    "conformal": conformal_rows,
}


def main(parts: Sequence[str], repetitions: int = 500) -> None:
    """Runs the simulations of these parts, or all, and replaces their rows in the table."""
    torch.set_num_threads(1)
    for part in parts or PARTS:
        rows = pd.DataFrame(list(PARTS[part](repetitions)))
        kept = pd.read_csv(OUT) if OUT.exists() else pd.DataFrame()
        table = pd.concat([kept[kept["part"] != part] if len(kept) else kept, rows])
        table.to_csv(OUT, index=False, float_format="%.4g")


if __name__ == "__main__":
    main(sys.argv[1:])
