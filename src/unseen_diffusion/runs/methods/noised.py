"""Baseline: references under the noise of the mixing step, denoised (as in SDEdit, arXiv 2108.01073)."""

from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.utils.checked import settings

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@settings("method")
class NoisedReferences(Method):
    """Adds noise to the references in order, repeated as needed (the forward process), and denoises them."""

    source: ClassVar = "noised"

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        s = run.settings
        latents = run.stages.noised(run.model, run.split.tensors["references"], s.t, s.samples, s.seed)
        return Generated(run.denoised(latents, s.eta), latents)
