"""Scores of a run: its generated images, and the comparison rows beside them."""

from collections.abc import Iterator
from typing import Any

from unseen_diffusion.pipeline.steps import LatentSet
from unseen_diffusion.reports.rows import GENERATED
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.run import Run
from unseen_diffusion.scores.suite import DomainViews, held_out_row, score_row
from unseen_diffusion.scores.yardstick import CHANGES, LEAST, VERSION, halves, sight
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.utils.digests import tensor_digest
from unseen_diffusion.utils.seeds import normal_rows


def domain_views(run: Run) -> DomainViews:
    """The images that every row is compared with: references, held-out images, the model's own samples."""
    scores = run.settings.scores
    r, target = run.views_of("references"), run.views_of(scores.target)
    base_samples = None
    if scores.membership:
        samples = run.own_images()
        base_samples = run.views(samples.key, samples.tensors["images"]).features
    return DomainViews(r, target, base_samples, run.settings.domain.symmetries)


def compared(run: Run, generated: Generated) -> Iterator[tuple[str, Artefact | None]]:
    """Yields the images of every row, the generated ones first; None for the held-out images."""
    s = run.settings
    yield GENERATED, generated.images if s.method.generates else None
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
    """Scores of the generated images, then of the comparison rows in ``scores.rows``."""
    s, domain = run.settings, domain_views(run)

    def of(row: str, artefact: Artefact | None) -> dict[str, Any]:
        if artefact is None:
            scores = held_out_row(domain, s.samples, s.scores)
            return {**scores, "images": f"{run.split.key}/{scores['n']}"}
        # The classifier was trained on the model's own samples, so it cannot score these.
        trained_on = row == "base_samples" or (s.method.own_domain and row == GENERATED)
        against = domain._replace(base_samples=None) if trained_on else domain
        views = run.views(artefact.key, artefact.tensors["images"])
        if row == "replay" and domain.references.clusters is not None:  # they depend on each other as the references do
            views = views._replace(clusters=domain.references.clusters[: len(views.features)])
        scores = score_row(row, views, against, s.scores)
        return {**scores, "images": artefact.key}

    return [{**of(row, artefact), "row": row} for row, artefact in compared(run, generated)]


def yardstick(run: Run) -> dict[str, Any] | None:
    """What the run's feature extractor can see in its domain, measured on the images that scores compare with.

    None without permutations, or with too few images.
    """
    s, images = run.settings, run.split.tensors[run.settings.scores.target]
    if s.scores.permutations == 0 or len(images) < 2 * LEAST:
        return None
    one, other = halves(len(images))
    real = run.views_of(s.scores.target).features
    key = f"{tensor_digest(images)}/{VERSION}"  # draws of one domain share the held-out images
    changed = {
        name: run.stages.features(run.extractor, f"{key}/{name}", change(images[one]), s.device)
        for name, change in CHANGES.items()
    }
    return sight(real[one], real[other], changed, s.scores.permutations)
