"""DDIM (Song et al. 2021, arXiv 2010.02502): the Euler method in v = sigma / alpha."""

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Solver, to_node


class Ddim(Solver):
    """First order: one evaluation per step, at its start."""

    order, nfe = 1, 1
    pairings = (("uniform_t", "full"), ("karras", "full"))

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        return to_node(model.predict(x, here), there)
