"""Folders of finished runs as ``unseen run`` writes them, with invented scores and small drawn pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from unseen_diffusion.reports.result import RESULTS, SCHEMA
from unseen_diffusion.scores.intervals import wilson
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.utils.files import write_json

# KID-H and copy rate that each method is given.
LEVELS = {
    "full": (0.31, 0.01),
    "fitted": (0.33, 0.0),
    "random_rejection": (0.34, 0.0),
    "slerp": (0.30, 0.22),
    "noised_reference": (0.12, 0.6),
    "standard_gaussian": (4.0, 0.0),
    "base_samples": (4.1, 0.0),
    "replay": (0.001, 1.0),
    "held_out": (-0.001, 0.01),
}
WITH_SELECTION = ("full", "fitted", "random_rejection")


def blobs(count: int, channels: int, size: int, seed: int) -> Tensor:
    """(count, channels, size, size) uint8: a tilted bright ellipse on a dark, noisy sky each."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    images = []
    for _ in range(count):
        angle, stretch = rng.uniform(0, np.pi), rng.uniform(1, 3)
        u, v = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
        light = np.exp(-((u**2 + (stretch * v) ** 2) * rng.uniform(4, 10)))
        tint = rng.uniform(0.5, 1, channels)[:, None, None]
        sky = rng.normal(12, 5, (channels, size, size))
        images.append(np.clip(light * tint * 230 + sky, 0, 255))
    return torch.from_numpy(np.stack(images).astype(np.uint8))


class Runs:
    """Writes runs into one folder, with one store for all of them."""

    def __init__(self, root: Path, channels: int = 3, size: int = 8, count: int = 12):
        self.root, self.channels, self.size, self.count = root, channels, size, count
        self.store = Store(root / "artefacts")

    def put(self, stage: str, inputs: dict[str, Any], make: Callable[[], Any], **facts: Any) -> str:
        """An artefact's folder."""
        return str(self.store.get_or_make(stage, 1, inputs, lambda: (make(), facts)).folder)

    def split(self, domain: str, draw: int) -> str:
        """References, validation and held-out images of a draw."""
        sizes = {"references": 20, "validation": 4, "heldout": 16}
        seeds = {"references": 100 + draw, "validation": 7, "heldout": 8}
        shape = (self.channels, self.size)
        return self.put(
            "split",
            {"domain": domain, "draw": draw, "shape": shape},
            lambda: {name: blobs(n, *shape, seeds[name]) for name, n in sizes.items()},
            names={name: [f"{name}-{i}" for i in range(n)] for name, n in sizes.items()},
        )

    def images(self, stage: str, inputs: dict[str, Any], count: int, seed: int) -> str:
        """Images below a stage's name."""
        shape = (self.channels, self.size)
        return self.put(stage, {**inputs, "shape": shape}, lambda: {"images": blobs(count, *shape, seed)})

    def nearest(self, inputs: dict[str, Any], seed: int, targets: int) -> str:
        """Indices and distances of the nearest of 20 references and of the nearest target images."""
        rng = np.random.default_rng(seed)
        tensors = {
            "reference_index": torch.from_numpy(rng.integers(0, 20, self.count)),
            "heldout_index": torch.from_numpy(rng.integers(0, targets, self.count)),
            "reference_distance": torch.from_numpy(rng.uniform(2, 6, self.count)),
            "heldout_distance": torch.from_numpy(rng.uniform(2, 6, self.count)),
        }
        return self.put("nearest", inputs, lambda: tensors)

    def paths(self, inputs: dict[str, Any]) -> str:
        """Paths between three pairs of references."""
        steps = {name: blobs(21, self.channels, self.size, 5 + i) for i, name in enumerate(("slerp", "linear", "data"))}
        stacked = {name: images.unflatten(0, (3, 7)) for name, images in steps.items()}
        shape = (self.channels, self.size)
        return self.put("paths", {**inputs, "shape": shape}, lambda: stacked, pairs=[[3, 17], [0, 5], [2, 9]])

    def geometry(self, inputs: dict[str, Any], seed: int, without: tuple[str, ...] = ("rejected",)) -> str:
        """Four statistics of every latent: of references, held-out images, own samples, accepted and rejected ones."""
        rng = np.random.default_rng(seed)
        means = {"references": 84, "heldout": 84.5, "own": 78, "accepted": 83, "rejected": 92}
        tensors = {
            name: torch.from_numpy(rng.normal((mean, 60, 86, 61), (3.5, 2.8, 1.2, 4), (200, 4)))
            for name, mean in means.items()
            if name not in without
        }
        return self.put("geometry", inputs, lambda: tensors)

    def run(
        self,
        method: str = "fitted",
        domain: str = "hubble",
        draw: int = 0,
        seed: int = 0,
        change: Callable[[dict[str, Any]], None] = lambda results: None,
        **settings: Any,
    ) -> Path:
        """Writes one run, its results changed by ``change`` first; returns the path of its results.json."""
        s = {
            "domain": domain,
            "draw": draw,
            "model": "photos32",
            "method": method,
            "t": 500.0,
            "solver": "dpmpp_2m/karras/16",
            "eta": 0.0,
            "prior": "sample_covariance",
            "tolerances": "calibrated" if method == "full" else "none",
            "features": "embedded",
            "target": "heldout",
            "seed": seed,
        } | settings
        split = self.split(domain, draw)
        s_key = {key: value for key, value in s.items() if isinstance(value, (str, int, float))}
        stream = crc32(repr((method, domain, draw, seed, s["t"], s["eta"])).encode())
        rng = np.random.default_rng(stream)
        selected = method in WITH_SELECTION
        eta = f"eta{s['eta']:g}"
        results: dict[str, Any] = {
            "schema": SCHEMA,
            "settings": s,
            "rows": self.rows(method, rng, s, split),
            "selection": self.selection(selected),
            "reconstruction": {
                name: {
                    "count": 10,
                    "psnr": 53.4 - 20 * (name != "eta0"),
                    "psnr_standard_error": 0.1,
                    "ssim": 0.9987,
                    "images": self.images("denoise", {"reconstruction": name, "domain": domain, "draw": draw}, 10, 100),
                }
                for name in dict.fromkeys(("eta0", eta))
            },
            "details": {
                "split": split,
                "generated": self.images("denoise", s_key, self.count, stream),
                "nearest": self.nearest(s_key, stream, 16 if s["target"] == "heldout" else 4),
                "paths": self.paths({"domain": domain, "draw": draw, "eta": s["eta"], "t": s["t"]}),
                "geometry": self.geometry(
                    {"domain": domain, "draw": draw, "by": method if selected else None},
                    draw,
                    () if selected else ("accepted", "rejected"),
                ),
            },
            "geometry": {"pair_distance": {"mean": 84.0, "sd": 3.5}},
            "evaluations": {"denoise": 3200, "total": 3200},
            "seconds": {"denoise": 9.9},
            "artefacts": [{"stage": "split", "folder": split, "reused": True}],
            "images": {"source": f"made-up images of {domain}", "licence": "public domain"},
            "config": {
                "domain": {"name": domain, "draw": draw},
                "method": {"name": method},
                "mixing": {"t": s["t"]},
                "bandwidth": {"eta": s["eta"]},
                "seed": seed,
                "paths": {"outputs": "outputs"},
            },
            "environment": {"python": "3.11.7", "torch": "2.13.0"},
        }
        change(results)
        name = "_".join(f"{key}-{s[key]}" for key in ("method", "draw", "seed", "t", "eta"))
        folder = self.root / "runs" / f"{''.join(c if c.isalnum() else '-' for c in domain)}_{name}"
        write_json(folder / RESULTS, results)
        return folder / RESULTS

    def selection(self, selected: bool) -> dict[str, Any]:
        """The counts of a rejection; empty for methods without one."""
        if not selected:
            return {}
        bands = {"pair_distance": [78.4, 89.7], "pair_angle": [55.6, 64.5], "origin_angle": [83.8, 87.7]}

        def share(count: int) -> dict[str, float]:
            found = wilson(count, 223)
            return {"share": found.share, "low": found.low, "high": found.high}

        passes = {name: share(count) for name, count in zip(bands, (221, 220, 202), strict=True)}
        return {"bands": bands, "proposals": 223, "passes": passes, "acceptance": share(200), "seconds": 0.2}

    def rows(self, method: str, rng: np.random.Generator, s: dict[str, Any], split: str) -> list[dict[str, Any]]:
        """The run's own scores, then the comparison rows of its draw."""
        kid, copies = LEVELS.get(method, (0.5, 0.0))
        own = self.scores(kid * (1 + s["eta"]) * (1 + 0.05 * rng.normal()), copies)
        more = {"acceptance": 0.9, "psnr": 53.4} if method in WITH_SELECTION else {"psnr": 53.4}
        found = [{"row": "generated", "n": self.count, "images": f"{method}-{rng.integers(1e9)}", **own, **more}]
        for row, like in (("held_out", "held_out"), ("replay", "replay"), ("standard", "standard_gaussian")):
            found.append({"row": row, "n": self.count, "images": f"{split}/{row}", **self.scores(*LEVELS[like])})
        return found

    def scores(self, kid: float, copies: float) -> dict[str, Any]:
        """Invented scores for a KID and a copy rate."""
        half = 0.02 + abs(kid) / 10
        return {
            "kid_h": kid,
            "kid_h_low": kid - half,
            "kid_h_high": kid + half,
            "kid_h_p": 0.4 if abs(kid) < 0.01 else 0.0005,
            "kid_r": kid * 0.9,
            "kid_r_low": kid * 0.9 - half,
            "kid_r_high": kid * 0.9 + half,
            "fid_h": 0.33 + 20 * abs(kid),
            "fid_r": 0.31 + 19 * abs(kid),
            "copy_rate": copies,
            "copy_rate_low": max(0.0, copies - 0.03),
            "copy_rate_high": min(1.0, copies + 0.03),
            "precision": max(0.0, 0.9 - kid / 5),
            "recall": max(0.0, 0.85 - kid / 5),
            "density": 0.95,
            "coverage": max(0.0, 0.9 - kid / 4),
            "vendi": 0.91,
            "target_classifier": max(0.0, 0.98 - kid / 4),
            "target_conformal": max(0.0, 0.97 - kid / 4),
            "evaluations_per_image": 16.0,
            "seconds_per_image": 0.05,
        }
