"""One run: the stages in order, then scores, pictures, results and tracking."""

import json
import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unseen_diffusion.features.base import FeatureExtractor
from unseen_diffusion.features.pixels import Pixels
from unseen_diffusion.figures import SampleSheet, reconstructions_sheet, samples_sheet
from unseen_diffusion.files import atomic_path, write_json
from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.scores.memorisation import nearest
from unseen_diffusion.scores.reconstruction import psnr, ssim
from unseen_diffusion.scoring import Views, held_out_row, score_row
from unseen_diffusion.seeds import normal_rows
from unseen_diffusion.settings import RunSettings, build
from unseen_diffusion.stages import LatentSet, Stages
from unseen_diffusion.store import Artefact, Store, environment
from unseen_diffusion.tables import RESULTS, SCHEMA
from unseen_diffusion.tracking import RunRecord

log = logging.getLogger(__name__)


@lru_cache(maxsize=2)
def _model(config: str, device: torch.device) -> DiffusionModel:
    """A model by its config as JSON: the points of a sweep in one process share it."""
    return build(json.loads(config), device=device)


@lru_cache(maxsize=2)
def _extractor(config: str) -> FeatureExtractor:
    return build(json.loads(config))


class Run:
    """Everything that one run needs, and the stages bound to it."""

    def __init__(self, settings: RunSettings):
        self.settings = settings
        plain = settings.plain
        self.stages = Stages(
            Store(Path(plain["paths"]["outputs"]) / "artefacts"), settings.batch_size, settings.progress
        )
        self.split = self.stages.split(settings.domain, settings.spec)
        # The features come first: a missing file should stop a run before its inversion.
        self.extractor = _extractor(json.dumps(plain["features"], sort_keys=True))
        self.model = _model(json.dumps(plain["model"], sort_keys=True), settings.device)

    def views(self, key: str, images: Tensor) -> Views:
        """Features and pixels of images known by ``key``."""
        device = self.settings.device
        features = self.stages.features(self.extractor, key, images, device)
        return Views(features, self.stages.features(Pixels(), key, images, device))

    def views_of(self, part: str) -> Views:
        """The same of the references, validation or held-out images."""
        return self.views(f"{self.split.key}/{part}", self.split.tensors[part])

    def denoised(self, latents: LatentSet, eta: float) -> Artefact:
        """Images of latents at this run's solver and seed."""
        return self.stages.denoising(self.model, latents, self.settings.solver, eta, self.settings.seed)

    def own_latents(self, count: int) -> LatentSet:
        """The base model's own domain at the mixing step."""
        s = self.settings
        return self.stages.base_latents(self.model, s.solver, s.t, count, s.seed)


def execute(settings: RunSettings, folder: Path, group: str) -> dict[str, Any]:
    """Runs one point and writes its results into ``folder``.

    Args:
        settings: a checked configuration.
        folder: gets results.json, results.parquet, samples.png and reconstructions.png.
        group: name of the sweep, for tracking.

    Returns:
        What results.json holds.
    """
    run = Run(settings)
    stages, eta = run.stages, settings.eta
    references = stages.inversion(run.model, run.split, settings.solver, settings.t, settings.record)
    own = run.own_latents(settings.prior.id_latents) if settings.prior.id_latents else None
    prior = stages.prior(settings.prior, settings.plain["prior"], references, own)
    selection, latents = stages.selection(
        prior,
        references,
        settings.tolerances,
        settings.plain["tolerances"],
        settings.samples,
        settings.seed,
        settings.max_proposals,
        settings.allow_fewer,
    )
    generated = run.denoised(latents, eta)
    rows = score_rows(run, references, generated)
    rows[0] |= {"acceptance": selection.facts["acceptance"]["share"]}
    reconstruction = reconstruct(run, references, folder)
    if reconstruction:
        rows[0] |= {"psnr": reconstruction[f"eta{eta:g}"]["psnr"]}
    write_samples(run, generated, folder)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": flat_settings(settings, run.extractor.name),
        "rows": rows,
        "selection": selection.facts,
        "geometry": geometry_of(stages, settings.t),
        "reconstruction": reconstruction,
        "evaluations": evaluations(stages),
        "seconds": seconds(stages),
        "generated": str(generated.folder),
        "artefacts": [{"stage": s, "folder": str(a.folder), "reused": a.reused} for s, a in stages.used],
        "images": {"source": settings.domain.source, "licence": settings.domain.licence},
        "config": settings.plain,
        "environment": environment(),
    }
    table = pd.DataFrame([{**results["settings"], **row} for row in rows])
    with atomic_path(folder / "results.parquet") as temporary:
        table.to_parquet(temporary, index=False)
    write_json(folder / RESULTS, results)
    settings.tracker.record(record_of(results, table, group, folder))
    return results


def score_rows(run: Run, references: LatentSet, generated: Artefact) -> list[dict[str, Any]]:
    """The generated images' row, then the comparison rows asked for."""
    s, quantile = run.settings, run.settings.scores.copy_quantile
    r, target = run.views_of("references"), run.views_of(s.scores.target)

    def of(row: str, artefact: Artefact) -> dict[str, Any]:
        scores = score_row(row, run.views(artefact.key, artefact.tensors["images"]), r, target, quantile)
        return {**scores, "images": artefact.key}

    rows = [of("generated", generated)]
    for row in s.scores.rows:
        if row == "held_out":
            floor = held_out_row(r, target, s.samples, quantile)
            rows.append({**floor, "images": f"{run.split.key}/{floor['n']}"})
        elif row == "replay":
            rows.append(of(row, run.denoised(references.first(s.samples), s.eta)))
        elif row == "standard":
            noise = normal_rows(run.model.shape, s.seed, "candidate", range(s.samples))
            rows.append(of(row, run.denoised(LatentSet(s.t, noise, list(range(s.samples))), s.eta)))
        else:
            rows.append(of(row, run.denoised(run.own_latents(s.samples), s.eta)))
    return rows


def reconstruct(run: Run, references: LatentSet, folder: Path) -> dict[str, Any]:
    """Round trip of the first references at eta 0 and at the chosen eta: mean PSNR and SSIM, and a sheet."""
    s = run.settings
    count = min(s.scores.reconstructions, len(references.latents))
    if count == 0:
        return {}
    originals = run.split.tensors["references"][:count]
    sets: list[tuple[str, Tensor]] = [("original", originals)]
    facts: dict[str, Any] = {}
    for eta in dict.fromkeys((0.0, s.eta)):
        # At the chosen eta the replay row has denoised as many references as there are samples already.
        shared = eta == s.eta and "replay" in s.scores.rows and count <= s.samples
        chosen = references.first(s.samples if shared else count)
        images = run.denoised(chosen, eta).tensors["images"][:count]
        values, similar = psnr(originals, images), ssim(originals, images)
        error = float(values.std() / count**0.5) if count > 1 else 0.0
        facts[f"eta{eta:g}"] = {
            "count": count,
            "psnr": float(values.mean()),
            "psnr_standard_error": error,
            "ssim": float(similar.mean()),
        }
        sets.append((f"eta {eta:g}: PSNR {float(values.mean()):.1f} dB over {count} images", images))
    title = f"{s.domain.name} through {run.model.name}: inverted to t = {s.t:g} and back"
    reconstructions_sheet(sets, title, folder / "reconstructions.png")
    return facts


def write_samples(run: Run, generated: Artefact, folder: Path) -> None:
    """The sheet of uncurated samples, each above its nearest reference."""
    s = run.settings
    how = f"{s.prior.name} prior, {s.tolerances.name}, t {s.t:g}, eta {s.eta:g}"
    pixels = run.views(generated.key, generated.tensors["images"]).pixels
    distance, index = nearest(pixels, run.views_of("references").pixels)
    sheet = SampleSheet(generated.tensors["images"], run.split.tensors["references"][index], distance)
    samples_sheet(sheet, f"{s.domain.name} from {run.model.name}: {how}", folder / "samples.png")


def flat_settings(settings: RunSettings, features: str) -> dict[str, Any]:
    """What tells one point of a sweep from another, flat: columns of the tables, filters of dashboards."""
    plain, solver = settings.plain, settings.solver
    return {
        "domain": settings.domain.name,
        "draw": settings.domain.draw,
        "model": plain["model"]["name"],
        "t": settings.t,
        "solver": f"{solver.name}/{solver.grid}/{solver.steps}",
        "eta": settings.eta,
        "prior": plain["prior"]["name"],
        "tolerances": settings.tolerances.name,
        "features": features,
        "target": settings.scores.target,
        "seed": settings.seed,
    }


def geometry_of(stages: Stages, t: float) -> dict[str, Any]:
    """Geometry of the reference latents at ``t``."""
    inversion = next(artefact for stage, artefact in stages.used if stage == "invert")
    return inversion.facts["geometry"][f"{t:g}"]


def evaluations(stages: Stages) -> dict[str, int]:
    """Network evaluations that this run itself spent, per stage: reused artefacts cost none."""
    counts: dict[str, int] = {}
    for stage, artefact in stages.used:
        if "evaluations" in artefact.facts and not artefact.reused:
            counts[stage] = counts.get(stage, 0) + artefact.facts["evaluations"]
    return {**counts, "total": sum(counts.values())}


def seconds(stages: Stages) -> dict[str, float]:
    """Wall time that this run itself spent, per stage."""
    spent: dict[str, float] = {}
    for stage, artefact in stages.used:
        if not artefact.reused:
            spent[stage] = round(spent.get(stage, 0.0) + artefact.seconds, 3)
    return spent


def record_of(results: dict[str, Any], table: pd.DataFrame, group: str, folder: Path) -> RunRecord:
    """What tracking gets."""
    flat = results["settings"]
    scores = {f"{row['row']}/{k}": v for row in results["rows"] for k, v in row.items() if k not in ("row", "images")}
    scores |= {f"geometry/{name}": value["mean"] for name, value in results["geometry"].items()}
    scores |= {f"psnr/{name}": value["psnr"] for name, value in results["reconstruction"].items()}
    scores |= {"acceptance": results["selection"]["acceptance"]["share"]}
    scores |= {"evaluations": results["evaluations"]["total"]}
    name = f"{flat['domain']} {flat['prior']} {flat['tolerances']} t{flat['t']:g} eta{flat['eta']:g}"
    pictures = {name: folder / f"{name}.png" for name in ("samples", "reconstructions")}
    return RunRecord(
        group=group,
        name=name,
        domain=flat["domain"],
        config={**flat, "config": results["config"]},
        scores=scores,
        table=table,
        pictures={name: path for name, path in pictures.items() if path.is_file()},
    )
