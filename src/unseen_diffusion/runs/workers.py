"""One run on several workers: all take part in its stages, and worker 0 alone scores, draws and writes results."""

from unseen_diffusion.runs.details import extras, round_trips, tested_latents, tuning_of
from unseen_diffusion.runs.results import evaluations
from unseen_diffusion.runs.run import Run, generate, searched
from unseen_diffusion.runs.scoring import compared, domain_views
from unseen_diffusion.runs.settings import RunSettings


def take_part(settings: RunSettings) -> int:
    """Computes parts of the stages of ``results.execute``, in the same order, and leaves them in the store.

    The result does not depend on which worker computes which shard. Worker 0 computes the stages left out here.

    Returns:
        The network evaluations that this worker spent.
    """
    run, _ = searched(Run(settings), None)
    generated = generate(run)
    domain_views(run)
    for _, artefact in compared(run, generated):
        if artefact:
            run.views(artefact.key, artefact.tensors["images"])
    round_trips(run, min(settings.scores.reconstructions, len(run.split.tensors["references"])))
    tuning_of(run)
    extras(run, generated)
    if settings.scores.latents:
        tested_latents(run)
    return evaluations(run.stages)["total"]
