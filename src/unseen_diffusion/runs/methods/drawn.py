"""Latents drawn from a prior within tolerances: the full method, and the baselines that change one of the two."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.pipeline.steps import DrawSteps, FitSteps, LatentSet
from unseen_diffusion.priors import Prior
from unseen_diffusion.rejection import advice
from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.runs.selecting import selected
from unseen_diffusion.runs.stages import StoredPrior
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.utils.checked import settings
from unseen_diffusion.utils.errors import InputError

if TYPE_CHECKING:
    import unseen_diffusion.runs.run
    import unseen_diffusion.runs.settings


@settings("method")
class DrawnFromPrior(Method):
    """The references' latents -> a prior -> candidates within tolerances -> images."""

    draws_from_prior: ClassVar = True
    rejects: ClassVar = True
    source: ClassVar = "prior"

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        s = run.settings
        references, fitted = StoredFit(run).run(s.prior, s.spec.schedule)

        def candidates(rows: range) -> Generated:
            draw = StoredDraw(run.at(samples=rows.stop), rows.start)
            selection, latents, images = draw.run(fitted, references, s.eta, s.seed)
            return Generated(images, latents, fitted, selection)

        return selected(run, candidates)


@dataclass(frozen=True)
class StoredFit(FitSteps[StoredPrior]):
    """Fits a run's prior; each step is an artefact in its store."""

    of: "unseen_diffusion.runs.run.Run"

    def invert(self) -> LatentSet:
        return self.of.references

    def id_latents(self, count: int) -> LatentSet:
        return self.of.own_latents(count)

    def fit(self, prior: Prior, references: LatentSet, id_latents: LatentSet | None) -> StoredPrior:
        # ``at_step`` may have changed a setting of the config's prior, which the key must name too.
        given = vars(self.of.settings.prior)
        at_step = {name: value for name, value in vars(prior).items() if value != given.get(name)}
        return self.of.stages.prior(prior, self.of.settings.prior_config | at_step, references, id_latents)


@dataclass(frozen=True)
class StoredDraw(DrawSteps[StoredPrior, Artefact, Artefact]):
    """Draws a run's images; each step is an artefact in its store."""

    of: "unseen_diffusion.runs.run.Run"
    start: int = 0
    """accepted latents before this one are left out"""

    def select(self, fitted: StoredPrior, references: LatentSet, seed: int) -> tuple[Artefact, LatentSet]:
        s = self.of.settings
        selection, latents = self.of.stages.selection(
            fitted, references, s.tolerances, s.tolerances_config, s.samples, seed, s.rejection
        )
        check_kept(s, len(latents.indices), selection.facts["proposals"])
        if len(latents.indices) <= self.start:
            raise InputError(
                f"tolerances={s.tolerances.name}: no latents are left; {advice(s.tolerances, fewer=False)}"
            )
        return selection, latents.after(self.start)

    def denoise(self, latents: LatentSet, eta: float, seed: int) -> Artefact:
        return self.of.stages.denoising(self.of.model, latents, self.of.settings.solver, eta, seed)


def check_kept(s: "unseen_diffusion.runs.settings.RunSettings", kept: int, proposals: int) -> None:
    """Checks, before denoising, that ``rejection.allow_fewer`` has kept enough latents for the scores.

    Raises:
        InputError: too few.
    """
    if kept < min(s.samples, s.scores.minimum):
        raise InputError(
            f"tolerances={s.tolerances.name}: {kept} of {s.samples} latents accepted after {proposals} proposals, but "
            f"the scores need {s.scores.minimum}; {advice(s.tolerances, fewer=False)}"
        )
