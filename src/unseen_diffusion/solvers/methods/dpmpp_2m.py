"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095): a two-step method in log(alpha / sigma)."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Evaluated, Solver, to_node
from unseen_diffusion.utils.renamed import new_names


@dataclass
class DpmSolver2M(Solver):
    """Second order: one evaluation per step, in both directions."""

    order, nfe = 2, 1
    pairings = (("uniform_t", "full"), ("karras", "full"), ("karras", "half"), ("log_snr", "full"))
    previous: Evaluated | None = field(default=None)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        before, self.previous = self.previous, Evaluated(here, model.predict(x, here))
        return dpmpp_2m_step(model, x, self.previous, before, there)


def dpmpp_2m_step(model: DiffusionModel, x: Tensor, now: Evaluated, before: Evaluated | None, there: Node) -> Tensor:
    """One step of DPM-Solver++(2M); of its SDE form if noise is added afterwards (the paper's appendix A.6).

    The denoised image is extrapolated linearly in log(alpha / sigma) to the middle between the two timesteps, also
    where the deterministic part ends below the second one. First order without a step before, and where a node is the
    clean image or pure noise: that coordinate is infinite there.
    """
    (here, prediction), end = now, model.schedule.node(there.t)
    if before is None or any(math.isinf(node.log_snr_half) for node in (before.node, here, there)):
        return to_node(prediction, there)
    ratio = (end.log_snr_half - here.log_snr_half) / (here.log_snr_half - before.node.log_snr_half)
    denoised = prediction.denoised + 0.5 * ratio * (prediction.denoised - before.prediction.denoised)
    return to_node(Prediction(denoised, (x - here.alpha * denoised) / here.sigma), there)


__getattr__ = new_names(__name__)
