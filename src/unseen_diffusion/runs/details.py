"""What a run records beyond its scores: reconstructions, nearest images, paths, and statistics of latents."""

from pathlib import Path
from typing import Any

from torch import Tensor

from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.reports.sheets import SampleSheet, reconstructions_sheet, samples_sheet
from unseen_diffusion.runs.forgetting import forgetting
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.mixing import latent_findings
from unseen_diffusion.runs.run import Run
from unseen_diffusion.store.artefacts import Artefact

PATH_STEPS = 8  # images along a path, ends included


def tuning_of(run: Run) -> dict[str, Any] | None:
    """Cost of the fine-tuning, and what the tuned model has forgotten; None for a frozen model."""
    s, base = run.settings, run.model
    if s.method.tuning is None or not isinstance(base, DiffusersModel):
        return None
    artefact, tuned = run.tuned
    base_images = run.own_images().tensors["images"]
    lost = forgetting(run.stages, base, tuned, base_images, s.solver, s.t, s.seed, s.scores.reconstructions)
    return {**artefact.facts, "seconds": artefact.seconds, "forgetting": lost}


def round_trips(run: Run, count: int) -> dict[float, Artefact]:
    """At least the first ``count`` references, inverted and denoised at eta 0 and at the run's eta; images by eta."""
    s = run.settings

    def denoised(eta: float) -> Artefact:
        # At the run's eta, the replay row has already denoised as many references as there are samples.
        shared = eta == s.eta and "replay" in s.scores.rows and count <= s.samples
        return run.denoised(run.references.first(s.samples if shared else count), eta)

    return {eta: denoised(eta) for eta in dict.fromkeys((0.0, s.eta))} if count else {}


def reconstruct(run: Run, folder: Path) -> dict[str, Any]:
    """Fidelity of the first references, inverted and denoised at eta 0 and at the run's eta; draws their sheet."""
    s = run.settings
    count = min(s.scores.reconstructions, len(run.split.tensors["references"]))
    if count == 0:
        return {}
    originals = run.split.tensors["references"][:count]
    sets: list[tuple[str, Tensor]] = [("original", originals)]
    facts: dict[str, Any] = {}
    for eta, artefact in round_trips(run, count).items():
        images = artefact.tensors["images"][:count]
        fidelity = run.stages.fidelity(originals, artefact).tensors
        values, similar = fidelity["psnr"], fidelity["ssim"]
        error = float(values.std() / count**0.5) if count > 1 else 0.0
        facts[f"eta{eta:g}"] = {
            "count": count,
            "psnr": float(values.mean()),
            "psnr_standard_error": error,
            "ssim": float(similar.mean()),
            "images": str(artefact.folder),
        }
        sets.append((f"eta {eta:g}: PSNR {float(values.mean()):.1f} dB over {count} images", images))
    title = f"{s.domain.name} through {run.model.name}: inverted to t = {s.t:g} and back"
    reconstructions_sheet(sets, title, folder / "reconstructions.png")
    return facts


def details(run: Run, generated: Generated, name: str, folder: Path) -> dict[str, str | None]:
    """Folders of the artefacts that a report shows; draws the sheet of samples into ``folder``, titled by ``name``."""
    s, images = run.settings, generated.images
    pixels = run.views(images.key, images.tensors["images"]).pixels
    others = {
        role: (f"{run.split.key}/{part}", run.views_of(part).pixels)
        for role, part in (("reference", "references"), ("heldout", s.scores.target))
    }
    nearest = run.stages.nearest(images, pixels, others)
    index, distance = nearest.tensors["reference_index"], nearest.tensors["reference_distance"]
    sheet = SampleSheet(images.tensors["images"], run.split.tensors["references"][index], distance)
    samples_sheet(sheet, f"{s.domain.name} from {run.model.name}: {name}", folder / "samples.png")
    folders = {"split": run.split, "generated": images, "nearest": nearest, **extras(run, generated)}
    return {role: str(artefact.folder) if artefact else None for role, artefact in folders.items()}


def extras(run: Run, generated: Generated) -> dict[str, Artefact | None]:
    """Artefacts for the report that cost further NFE: paths between references, and the geometry of latents."""
    s = run.settings
    pairs = min(s.scores.paths, len(run.references.latents) // 2) if s.scores.paths else 0
    paths = None
    if pairs:
        originals = run.split.tensors["references"]
        paths = run.stages.paths(run.model, run.references, originals, s.solver, pairs, PATH_STEPS)
    return {"paths": paths, "geometry": latent_geometry(run, generated) if s.scores.geometry else None}


def latent_geometry(run: Run, generated: Generated) -> Artefact | None:
    """Distances, angles and radius of held-out, base-model, accepted and rejected latents against the references."""
    s = run.settings
    most = s.scores.geometry
    k = min(s.tolerances.k, len(run.references.latents) - 1)
    if k < 2:
        return None
    heldout = run.split.tensors[s.scores.target][:most]
    sets = {"heldout": run.stages.inversion(run.model, heldout, s.solver, s.t, s.record)[1].latents}
    # The model's own samples are inverted like the others. Their states during denoising would be no fair control,
    # because the solver's error differs (docs/theory.md).
    base_images = run.own_images().tensors["images"][:most]
    sets["own"] = run.stages.inversion(run.model, base_images, s.solver, s.t, s.record)[1].latents
    if generated.latents is not None:
        sets["accepted"] = generated.latents.latents[:most]
    # The random control and the exact route selected among other draws than these indices give.
    same_draws = s.route == "direct" and not s.tolerances.control
    if generated.prior and generated.selection and same_draws:
        accepted = set(generated.selection.tensors["indices"].tolist())
        proposals = range(generated.selection.facts["proposals"])
        rejected = [index for index in proposals if index not in accepted][:most]
        if rejected:
            sets["rejected"] = generated.prior.restored.sample(rejected, s.seed)
    return run.stages.geometry(run.references, sets, k, s.seed)


def tested_latents(run: Run) -> list[dict[str, Any]]:
    """Tests of the references' latents at every recorded step: separability from the model's own, and Gaussianity.

    The model's own latents are its samples, inverted like the references (docs/theory.md, equation 12).
    """
    s, count = run.settings, run.settings.scores.latents
    base_images = run.at(samples=count).own_images().tensors["images"]
    findings = []
    for t in sorted({s.t, *s.record}):
        at_step = run.at(t=t)
        references = at_step.references.first(count)
        inverted = run.stages.inversion(run.model, base_images, s.solver, t, at_step.settings.record)[1]
        findings.append({"t": t, **latent_findings(run.stages, references, inverted, s.seed)})
    return findings
