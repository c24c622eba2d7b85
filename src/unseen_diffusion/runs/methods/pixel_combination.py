"""Control: the prior's twin in pixels, which combines the references without any model."""

from typing import TYPE_CHECKING, ClassVar

from unseen_diffusion.priors import Draws
from unseen_diffusion.runs.image_stages import pixel_combinations
from unseen_diffusion.runs.methods.base import Generated, Method
from unseen_diffusion.runs.selecting import selected
from unseen_diffusion.utils.checked import settings

if TYPE_CHECKING:
    import unseen_diffusion.runs.run


@settings("method")
class PixelCombination(Method):
    """The prior's weighted sums of references, made of their pixels instead of their latents; no network is evaluated.

    Candidate i has the references and weights of the prior's candidate i (see ``priors.combined_pixels``), so that what
    the frozen model adds is seen by comparing with ``method=full tolerances=none``.
    """

    draws_from_prior: ClassVar = True

    def generate(self, run: "unseen_diffusion.runs.run.Run") -> Generated:
        s, references = run.settings, run.split.tensors["references"]

        def candidates(rows: range) -> Generated:
            draws = Draws(run.model.shape, rows, s.seed)
            return Generated(pixel_combinations(run.stages, s.prior, s.prior_config, references, draws))

        return selected(run, candidates)
