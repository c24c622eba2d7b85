"""Baseline: samples of the network fine-tuned on the references until the validation images stop it."""

from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.utils.checked import settings

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@settings("method")
class FineTuned(Method):
    """Samples of the fine-tuned model, drawn in the same way as those of the base model."""

    source: ClassVar = "tuned"
    fine_tunes: ClassVar = True

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        s, stages = run.settings, run.stages
        model = run.tuned[1]
        latents = stages.base_latents(model, s.solver, s.t, s.samples, s.seed)
        return Generated(stages.denoising(model, latents, s.solver, s.eta, s.seed), latents)
