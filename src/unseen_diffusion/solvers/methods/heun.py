"""The method of Heun in v = sigma / alpha (Karras et al. 2022, arXiv 2206.00364, algorithm 1)."""

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Solver, euler_step, is_boundary, predict_at, to_node


class Heun(Solver):
    """Second order: two evaluations per step, one at the clean image."""

    order, nfe, extra_nfe = 2, 2, -1

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        first = predict_at(model, x, here)
        if is_boundary(here, there):
            return to_node(first, there)
        second = predict_at(model, euler_step(x, here, there, first.eps), there)
        return euler_step(x, here, there, (first.eps + second.eps) / 2)
