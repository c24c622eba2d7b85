"""Half a step at the clean image, for any explicit solver."""

from dataclasses import dataclass

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Solver, euler_step, to_node


@dataclass
class HalfCleanEnd(Solver):
    """Any explicit solver, with half a step at the clean image: the trapezoid rule with eps = 0 there.

    eps = -sigma score vanishes with sigma where the data have a density. It rises linearly from the clean image to the
    lowest node, so its mean is half of eps at that node. A whole step (as in DDIM) removes all noise that the network
    sees, which no inversion can bring back. One network evaluation, at the lowest node, in both directions.
    """

    inner: Solver

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        if here.sigma > 0 and there.sigma > 0:
            end = self.inner(model, x, here, there)
            self.residual, self.diverged = self.inner.residual, self.inner.diverged
            return end
        if there.alpha == 0 or here.alpha == 0:
            return to_node(model.predict(x, here), there)
        noisy = there if here.sigma == 0 else here
        eps = model.predict(x * (noisy.alpha / here.alpha), noisy).eps
        return euler_step(x, here, there, eps / 2)
