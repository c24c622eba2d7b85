"""Baseline: the base model's own samples, which never see the references."""

from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.utils.checked import settings

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@settings("method")
class BaseSamples(Method):
    """Pure noise, denoised deterministically to the mixing step, and from there with the run's bandwidth."""

    source: ClassVar = "base"
    own_domain: ClassVar = True

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        latents = run.own_latents(run.settings.samples)
        return Generated(run.denoised(latents, run.settings.eta), latents)
