"""The results of one run: executes it, and writes results.json, results.parquet, the sheets and the tracking."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from unseen_diffusion.reports.populations import split_names
from unseen_diffusion.reports.result import TABLE, RunResult, UsedArtefact
from unseen_diffusion.reports.rows import run_name
from unseen_diffusion.reports.signatures import signatures
from unseen_diffusion.reports.tracking import record_of, secrets, without_secrets
from unseen_diffusion.runs.acceptance import announce, with_expectation
from unseen_diffusion.runs.details import details, reconstruct, tested_latents, tuning_of
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.run import Run, generate, searched
from unseen_diffusion.runs.scoring import score_rows, yardstick
from unseen_diffusion.runs.settings import RunSettings
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.extra import description as extra_description
from unseen_diffusion.store.artefacts import environment
from unseen_diffusion.utils.files import atomic_path

log = logging.getLogger(__name__)


def execute(settings: RunSettings, folder: Path, group: str) -> RunResult:
    """Executes one run and writes its results into ``folder``.

    Args:
        settings: a checked configuration.
        folder: gets results.json, results.parquet, samples.png, reconstructions.png and of a search bandwidth.png.
        group: name of the sweep, for tracking.
    """
    run = Run(settings)
    announce(run)
    run, searches = searched(run, folder)
    settings = run.settings  # with the values that the searches chose
    result = _result(run, generate(run), folder, searches)
    table = pd.DataFrame([{**result.settings, **row} for row in result.rows])
    with atomic_path(folder / TABLE) as temporary:
        table.to_parquet(temporary, index=False)
    result.write()
    for sign in signatures(result):
        log.warning("%s", sign.text)
    settings.tracker.record(record_of(result, table, group))
    return result


def _result(run: Run, generated: Generated, folder: Path, searches: dict[str, Any]) -> RunResult:
    """Scores the generated images, and gathers everything that results.json holds; also draws the sheets."""
    settings, stages = run.settings, run.stages
    flat = flat_settings(settings, run.extractor.name)
    count = len(generated.images.tensors["images"])
    rows = score_rows(run, generated)
    rows[0] |= {"evaluations_per_image": generated.evaluations / count, "seconds_per_image": generated.seconds / count}
    selection = generated.selection.facts if generated.selection else {}
    if selection:
        rows[0] |= {"acceptance": selection["acceptance"]["share"]}
    if generated.choice:  # of the images of latents that the tolerances accepted
        chosen = generated.choice.facts
        selection = {**selection, "images": chosen}
        rows[0] |= {"acceptance": rows[0].get("acceptance", 1.0) * chosen["acceptance"]["share"]}
    reconstruction = reconstruct(run, folder)
    if reconstruction and not settings.method.tuning:  # they are samples of the base model
        rows[0] |= {"psnr": reconstruction[f"eta{settings.eta:g}"]["psnr"]}
    return RunResult(
        folder=folder,
        settings=flat,
        **searches,
        details=details(run, generated, run_name(flat), folder),
        latents=tested_latents(run) if settings.scores.latents else None,
        rows=rows,
        **extra_description(settings.scores.extra),
        yardstick=yardstick(run),
        selection=with_expectation(selection, run),
        tuning=tuning_of(run),
        geometry=geometry_of(stages, settings.t),
        reconstruction=reconstruction,
        evaluations=evaluations(stages),
        seconds=seconds(stages),
        artefacts=[UsedArtefact(stage=s, folder=str(a.folder), reused=a.reused) for s, a in stages.used],
        images=without_secrets({"source": settings.domain.source, "licence": settings.domain.licence}, secrets()),
        split=split_names(run.split.facts["names"]),
        config=without_secrets(settings.plain, secrets()),
        environment=environment() | {"batch_size": settings.batch_size, "threads": torch.get_num_threads()},
    )


def flat_settings(settings: RunSettings, features: str) -> dict[str, Any]:
    """The settings that distinguish a run from others (``rows.SETTINGS``): columns of tables, filters of dashboards."""
    plain, solver = settings.plain, settings.solver
    selects = settings.selection.judges and settings.method.draws_from_prior
    return {
        "domain": settings.domain.name,
        "draw": settings.domain.draw,
        "model": plain["model"].get("name") or str(plain["model"]["path"]).rstrip("/").rsplit("/", 1)[-1],
        "method": settings.method.name,
        "t": settings.t,
        "solver": "/".join([solver.name, solver.grid, str(solver.steps), *(["half"] * (solver.clean_end == "half"))]),
        "eta": settings.eta,
        "prior": settings.prior.name if settings.method.draws_from_prior else None,
        "tolerances": settings.tolerances.name if settings.method.rejects else None,
        "selection": settings.selection.name if selects else None,
        "features": features,
        "target": settings.scores.target,
        "seed": settings.seed,
    }


def geometry_of(stages: Stages, t: float) -> dict[str, Any]:
    """Statistics of the references' latents at ``t``; empty if the run inverted nothing."""
    inversion = next((artefact for stage, artefact in stages.used if stage == "invert"), None)
    if inversion is None:
        return {}
    return inversion.facts["geometry"][f"{t:g}"]


def evaluations(stages: Stages) -> dict[str, int]:
    """NFE that this process spent, by stage and in total; reused artefacts cost none."""
    counts: dict[str, int] = {}
    for stage, artefact in stages.used:
        if "evaluations" in artefact.facts and not artefact.reused:
            counts[stage] = counts.get(stage, 0) + artefact.spent.evaluations
    return {**counts, "total": sum(counts.values())}


def seconds(stages: Stages) -> dict[str, float]:
    """Wall time in seconds that this process spent, by stage."""
    spent: dict[str, float] = {}
    for stage, artefact in stages.used:
        if not artefact.reused:
            spent[stage] = round(spent.get(stage, 0.0) + artefact.spent.seconds, 3)
    return spent
