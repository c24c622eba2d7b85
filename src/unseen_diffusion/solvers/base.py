"""The base class of all solvers of the probability flow ODE, and the building blocks that their steps share.

With xbar = x / alpha and the noise-to-signal ratio v = sigma / alpha, the probability flow is d xbar / d v = eps(x, v).
Every method integrates it in v (DPM-Solver++ in log v), written so that a node without signal (alpha = 0, v infinite)
needs no division. A step that starts or ends at such a node, or at the clean image, is a DDIM step of one network
evaluation in every method, so all methods share one limit. ``HalfCleanEnd`` replaces the step at the clean image.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.schedules import Node, Schedule
from unseen_diffusion.solvers.grids import CleanEnd, GridKind
from unseen_diffusion.utils.renamed import new_names


class Solver(ABC):
    """A numerical method for the probability flow ODE. One instance follows one trajectory.

    It is called once per step, in order, and may remember earlier predictions. To add a method, write one file in
    ``solvers/methods``: its name is the method's name in configs. Your own class is given by its import path.

    Attributes:
        order: of convergence in the number of intervals.
        nfe: network function evaluations per interval.
        extra_nfe: evaluations that the ends of a trajectory add; negative where they save some.
        clean_ends: the choices of ``solver.clean_end`` that the method supports.
        pairings: (grid, clean_end) with which ``unseen solvers`` measures the method.
        residual: largest relative residual so far of an implicit method; None for an explicit method.
        diverged: how many implicit steps of an image did not converge.
    """

    order: ClassVar[int]
    nfe: ClassVar[int]
    extra_nfe: ClassVar[int] = 0
    clean_ends: ClassVar[tuple[CleanEnd, ...]] = ("full", "half")
    pairings: ClassVar[tuple[tuple[GridKind, CleanEnd], ...]] = (("karras", "full"),)
    residual: float | None = None
    diverged: int = 0

    @abstractmethod
    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        """The state at node ``there``, from the state ``x`` (B, C, H, W) at node ``here``."""


class Evaluated(NamedTuple):
    """A node and the network's prediction there."""

    node: Node
    prediction: Prediction


def to_node(prediction: Prediction, there: Node) -> Tensor:
    """alpha' denoised + sigma' eps: the deterministic step of DDIM (Euler in v)."""
    return there.alpha * prediction.denoised + there.sigma * prediction.eps


def euler_step(x: Tensor, here: Node, there: Node, eps: Tensor) -> Tensor:
    """xbar' = xbar + (v' - v) eps, where alpha > 0 at ``here``; ``eps`` is the mean slope of the step."""
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - ratio * here.sigma) * eps


def is_on_schedule(node: Node, schedule: Schedule) -> bool:
    """Whether a node has the noise of its timestep. The deterministic part of a noisy step ends below it."""
    return node == schedule.node(node.t)


def is_boundary(*nodes: Node) -> bool:
    """Whether one of the nodes is the clean image or pure noise."""
    return any(node.sigma == 0 or node.alpha == 0 for node in nodes)


def predict_at(model: DiffusionModel, x: Tensor, node: Node) -> Prediction:
    """(denoised, eps) at any node; off the schedule, at the timestep with the same noise-to-signal ratio."""
    if is_on_schedule(node, model.schedule):
        return model.predict(x, node)
    equal = model.schedule.node_at_noise(node.noise_to_signal)
    return model.predict(x * (equal.alpha / node.alpha), equal)


__getattr__ = new_names(__name__)
