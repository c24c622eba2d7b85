"""Results of one run: scores, pictures, what a report shows, and the record of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.reports.figures import SampleSheet, reconstructions_sheet, samples_sheet
from unseen_diffusion.reports.tables import RESULTS, SCHEMA
from unseen_diffusion.reports.tracking import RunRecord, secrets, without_secrets
from unseen_diffusion.runs.forgetting import forgetting
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.mixing import latent_findings
from unseen_diffusion.runs.run import Run, generate, searched
from unseen_diffusion.runs.settings import RunSettings
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.extra import description as extra_description
from unseen_diffusion.scores.suite import DomainViews, held_out_row, score_row
from unseen_diffusion.store.artefacts import Artefact, environment
from unseen_diffusion.utils.files import atomic_path, write_json
from unseen_diffusion.utils.seeds import normal_rows

TABLE = "results.parquet"
PICTURES = ("samples.png", "reconstructions.png", "bandwidth.png")
PATH_STEPS = 8  # images along a path, ends included


def execute(settings: RunSettings, folder: Path, group: str) -> dict[str, Any]:
    """Runs one point and writes its results into ``folder``.

    Args:
        settings: a checked configuration.
        folder: gets results.json, results.parquet, samples.png, reconstructions.png and of a search bandwidth.png.
        group: name of the sweep, for tracking.

    Returns:
        What results.json holds.
    """
    run, found = searched(Run(settings), folder)
    settings = run.settings
    stages, eta = run.stages, settings.eta
    generated = generate(run)
    count = len(generated.images.tensors["images"])
    rows = score_rows(run, generated)
    rows[0] |= {"evaluations_per_image": generated.evaluations / count, "seconds_per_image": generated.seconds / count}
    chosen = generated.selection.facts if generated.selection else {}
    if chosen:
        rows[0] |= {"acceptance": chosen["acceptance"]["share"]}
    reconstruction = reconstruct(run, folder)
    if reconstruction and not settings.method.tuning:  # which are the base model's
        rows[0] |= {"psnr": reconstruction[f"eta{eta:g}"]["psnr"]}
    shown = details(run, generated, folder)
    if settings.scores.latents:
        found["latents"] = tested_latents(run)
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": flat_settings(settings, run.extractor.name),
        **found,
        "rows": rows,
        **extra_description(settings.scores.extra),
        "selection": chosen,
        **tuning_of(run),
        "geometry": geometry_of(stages, settings.t),
        "reconstruction": reconstruction,
        "details": shown,
        "evaluations": evaluations(stages),
        "seconds": seconds(stages),
        "artefacts": [{"stage": s, "folder": str(a.folder), "reused": a.reused} for s, a in stages.used],
        "images": {"source": settings.domain.source, "licence": settings.domain.licence},
        "config": without_secrets(settings.plain, secrets()),
        "environment": environment(),
    }
    table = pd.DataFrame([{**results["settings"], **row} for row in rows])
    with atomic_path(folder / TABLE) as temporary:
        table.to_parquet(temporary, index=False)
    write_json(folder / RESULTS, results)
    settings.tracker.record(record_of(results, table, group, folder))
    return results


def domain_views(run: Run) -> DomainViews:
    """What the rows are compared with."""
    scores = run.settings.scores
    r, target = run.views_of("references"), run.views_of(scores.target)
    own = None
    if scores.membership:
        samples = run.own_images()
        own = run.views(samples.key, samples.tensors["images"]).features
    return DomainViews(r, target, own)


def compared(run: Run, generated: Generated) -> Iterator[tuple[str, Artefact | None]]:
    """The generated images, then those of the comparison rows asked for; None for the held-out ones."""
    s = run.settings
    yield "generated", None if generated.latents is None else generated.images
    for row in s.scores.rows:
        if row == "held_out":
            yield row, None
        elif row == "replay":
            yield row, run.denoised(run.references.first(s.samples), s.eta)
        elif row == "standard":
            noise = normal_rows(run.model.shape, s.seed, "candidate", range(s.samples))
            noise = noise * run.model.schedule.state_std(s.t)
            yield row, run.denoised(LatentSet(s.t, noise, list(range(s.samples))), s.eta)
        else:
            yield row, run.own_images()


def score_rows(run: Run, generated: Generated) -> list[dict[str, Any]]:
    """The generated images' row, then the comparison rows asked for."""
    s, domain = run.settings, domain_views(run)

    def of(row: str, artefact: Artefact | None) -> dict[str, Any]:
        if artefact is None:
            scores = held_out_row(domain, s.samples, s.scores)
            return {**scores, "images": f"{run.split.key}/{scores['n']}"}
        # The classifier has been trained on the model's own samples: it cannot judge them.
        known = row == "base_samples" or (s.method.own_domain and row == "generated")
        against = domain._replace(base_samples=None) if known else domain
        scores = score_row(row, run.views(artefact.key, artefact.tensors["images"]), against, s.scores)
        return {**scores, "images": artefact.key}

    return [{**of(row, artefact), "row": row} for row, artefact in compared(run, generated)]


def tuning_of(run: Run) -> dict[str, Any]:
    """Facts of the tuning and what the tuned model has forgotten, under ``tuning``; empty for a frozen model."""
    s, base = run.settings, run.model
    if s.method.tuning is None or not isinstance(base, DiffusersModel):
        return {}
    artefact, tuned = run.tuned
    own = run.own_images().tensors["images"]
    lost = forgetting(run.stages, base, tuned, own, s.solver, s.t, s.seed, s.scores.reconstructions)
    return {"tuning": {**artefact.facts, "seconds": artefact.seconds, "forgetting": lost}}


def round_trips(run: Run, count: int) -> dict[float, Artefact]:
    """The first references, at least ``count``, there and back: by eta, 0 and the chosen one."""
    s = run.settings

    def made(eta: float) -> Artefact:
        # At the chosen eta the replay row has denoised as many references as there are samples already.
        shared = eta == s.eta and "replay" in s.scores.rows and count <= s.samples
        return run.denoised(run.references.first(s.samples if shared else count), eta)

    return {eta: made(eta) for eta in dict.fromkeys((0.0, s.eta))} if count else {}


def reconstruct(run: Run, folder: Path) -> dict[str, Any]:
    """Round trip of the first references at eta 0 and at the chosen eta: mean PSNR and SSIM, and a sheet."""
    s = run.settings
    count = min(s.scores.reconstructions, len(run.split.tensors["references"]))
    if count == 0:
        return {}
    originals = run.split.tensors["references"][:count]
    sets: list[tuple[str, Tensor]] = [("original", originals)]
    facts: dict[str, Any] = {}
    for eta, made in round_trips(run, count).items():
        images = made.tensors["images"][:count]
        fidelity = run.stages.fidelity(originals, made).tensors
        values, similar = fidelity["psnr"], fidelity["ssim"]
        error = float(values.std() / count**0.5) if count > 1 else 0.0
        facts[f"eta{eta:g}"] = {
            "count": count,
            "psnr": float(values.mean()),
            "psnr_standard_error": error,
            "ssim": float(similar.mean()),
            "images": str(made.folder),
        }
        sets.append((f"eta {eta:g}: PSNR {float(values.mean()):.1f} dB over {count} images", images))
    title = f"{s.domain.name} through {run.model.name}: inverted to t = {s.t:g} and back"
    reconstructions_sheet(sets, title, folder / "reconstructions.png")
    return facts


def details(run: Run, generated: Generated, folder: Path) -> dict[str, str | None]:
    """Folders of what a report shows beyond the numbers; writes the sheet of samples on the way."""
    s, images = run.settings, generated.images
    pixels = run.views(images.key, images.tensors["images"]).pixels
    others = {
        name: (f"{run.split.key}/{part}", run.views_of(part).pixels)
        for name, part in (("reference", "references"), ("heldout", s.scores.target))
    }
    found = run.stages.nearest(images, pixels, others)
    index, distance = found.tensors["reference_index"], found.tensors["reference_distance"]
    sheet = SampleSheet(images.tensors["images"], run.split.tensors["references"][index], distance)
    samples_sheet(sheet, f"{s.domain.name} from {run.model.name}: {description(s)}", folder / "samples.png")
    folders = {"split": run.split, "generated": images, "nearest": found, **extras(run, generated)}
    return {name: str(artefact.folder) if artefact else None for name, artefact in folders.items()}


def extras(run: Run, generated: Generated) -> dict[str, Artefact | None]:
    """What a report shows that costs further network evaluations: paths between references, latent geometry."""
    s = run.settings
    pairs = min(s.scores.paths, len(run.references.latents) // 2) if s.scores.paths else 0
    paths = None
    if pairs:
        originals = run.split.tensors["references"]
        paths = run.stages.paths(run.model, run.references, originals, s.solver, pairs, PATH_STEPS)
    return {"paths": paths, "geometry": latent_geometry(run, generated) if s.scores.geometry else None}


def latent_geometry(run: Run, generated: Generated) -> Artefact | None:
    """Distances, angles and radius of held-out, own, accepted and rejected latents against the references."""
    s = run.settings
    most = s.scores.geometry
    k = min(s.tolerances.k, len(run.references.latents) - 1)
    if k < 2:
        return None
    heldout = run.split.tensors[s.scores.target][:most]
    sets = {"heldout": run.stages.inversion(run.model, heldout, s.solver, s.t, s.record)[1].latents}
    # The model's own samples, inverted as the others: states on the way down are no fair control, since
    # the solver's error differs (docs/theory.md).
    own = run.own_images().tensors["images"][:most]
    sets["own"] = run.stages.inversion(run.model, own, s.solver, s.t, s.record)[1].latents
    if generated.latents is not None:
        sets["accepted"] = generated.latents.latents[:most]
    # The control and the exact route judged other draws than these indices give.
    judged = s.route == "direct" and not s.tolerances.control
    if generated.prior and generated.selection and judged:
        accepted = set(generated.selection.tensors["indices"].tolist())
        proposals = range(generated.selection.facts["proposals"])
        refused = [index for index in proposals if index not in accepted][:most]
        if refused:
            sets["rejected"] = generated.prior.restored.sample(refused, s.seed)
    return run.stages.geometry(run.references, sets, k, s.seed)


def tested_latents(run: Run) -> list[dict[str, Any]]:
    """Separability from the model's own and Gaussianity of the references' latents, at every recorded step.

    The model's own are its finished samples, inverted alike (docs/theory.md, equation 12).
    """
    s, count = run.settings, run.settings.scores.latents
    own = run.at(samples=count).own_images().tensors["images"]
    found = []
    for t in sorted({s.t, *s.record}):
        there = run.at(t=t)
        references = there.references.first(count)
        inverted = run.stages.inversion(run.model, own, s.solver, t, there.settings.record)[1]
        found.append({"t": t, **latent_findings(run.stages, references, inverted, s.seed)})
    return found


def description(settings: RunSettings) -> str:
    """A run's method, mixing step and bandwidth in a few words."""
    flat = flat_settings(settings, "")
    what = f"{flat['prior']} prior, {flat['tolerances']}" if flat["prior"] else flat["method"]
    return f"{what}, t {settings.t:g}, eta {settings.eta:g}"


def flat_settings(settings: RunSettings, features: str) -> dict[str, Any]:
    """What tells one point of a sweep from another, flat: columns of the tables, filters of dashboards."""
    plain, solver = settings.plain, settings.solver
    drawn = settings.method.draws_from_prior
    return {
        "domain": settings.domain.name,
        "draw": settings.domain.draw,
        "model": plain["model"].get("name") or str(plain["model"]["path"]).rstrip("/").rsplit("/", 1)[-1],
        "method": settings.method.name,
        "t": settings.t,
        "solver": "/".join([solver.name, solver.grid, str(solver.steps), *(["half"] * (solver.clean_end == "half"))]),
        "eta": settings.eta,
        "prior": settings.prior.name if drawn else None,
        "tolerances": settings.tolerances.name if drawn else None,
        "features": features,
        "target": settings.scores.target,
        "seed": settings.seed,
    }


def geometry_of(stages: Stages, t: float) -> dict[str, Any]:
    """Geometry of the reference latents at ``t``; empty where nothing was inverted."""
    inversion = next((artefact for stage, artefact in stages.used if stage == "invert"), None)
    if inversion is None:
        return {}
    return inversion.facts["geometry"][f"{t:g}"]


def evaluations(stages: Stages) -> dict[str, int]:
    """Network evaluations that this process itself spent, per stage: what is reused cost none."""
    counts: dict[str, int] = {}
    for stage, artefact in stages.used:
        if "evaluations" in artefact.facts and not artefact.reused:
            counts[stage] = counts.get(stage, 0) + artefact.spent.evaluations
    return {**counts, "total": sum(counts.values())}


def seconds(stages: Stages) -> dict[str, float]:
    """Wall time that this process itself spent, per stage."""
    spent: dict[str, float] = {}
    for stage, artefact in stages.used:
        if not artefact.reused:
            spent[stage] = round(spent.get(stage, 0.0) + artefact.spent.seconds, 3)
    return spent


def record_of(results: dict[str, Any], table: pd.DataFrame, group: str, folder: Path) -> RunRecord:
    """What tracking gets."""
    flat = results["settings"]
    scores = {f"{row['row']}/{k}": v for row in results["rows"] for k, v in row.items() if k not in ("row", "images")}
    scores |= {f"geometry/{name}": value["mean"] for name, value in results["geometry"].items()}
    for name in ("psnr", "ssim"):
        scores |= {f"{name}/{eta}": value[name] for eta, value in results["reconstruction"].items()}
    scores |= {f"bandwidth/{end}": results["bandwidth"][end] for end in ("low", "high") if "bandwidth" in results}
    scores |= {"evaluations": results["evaluations"]["total"]}
    what = f"{flat['prior']} {flat['tolerances']}" if flat["prior"] else flat["method"]
    name = f"{flat['domain']} {what} t{flat['t']:g} eta{flat['eta']:g} draw{flat['draw']} seed{flat['seed']}"
    pictures = {Path(name).stem: folder / name for name in PICTURES}
    return RunRecord(
        group=group,
        name=name,
        domain=flat["domain"],
        config={**flat, "config": results["config"]},
        scores=scores,
        table=table,
        pictures={name: path for name, path in pictures.items() if path.is_file()},
    )
