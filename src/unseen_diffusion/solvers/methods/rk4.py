"""The classical Runge-Kutta method in v = sigma / alpha."""

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.solvers.base import Solver, euler_step, is_boundary, predict_at, to_node


class RungeKutta4(Solver):
    """Fourth order: four evaluations per step, one at the clean image."""

    order, nfe, extra_nfe = 4, 4, -3

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        first = predict_at(model, x, here)
        if is_boundary(here, there):
            return to_node(first, there)
        middle = model.schedule.node_at_noise((here.noise_to_signal + there.noise_to_signal) / 2)
        b = predict_at(model, euler_step(x, here, middle, first.eps), middle).eps
        c = predict_at(model, euler_step(x, here, middle, b), middle).eps
        d = predict_at(model, euler_step(x, here, there, c), there).eps
        return euler_step(x, here, there, (first.eps + 2 * b + 2 * c + d) / 6)
