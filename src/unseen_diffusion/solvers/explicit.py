"""One step of each solver on (alpha, sigma), upwards and downwards alike.

With xbar = x / alpha and vs = sigma / alpha the probability flow is d xbar / d vs = eps(x, vs). Every method follows
it in vs (DPM-Solver++ in log vs), written so that a node without signal (alpha = 0, vs infinite) costs no division.
A step from or to such a node, or the clean end, is a DDIM step for every method, of one evaluation: so all of them
share one limit. ``HalfCleanEnd`` replaces the clean end's.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.schedules import Node


@runtime_checkable
class Stepper(Protocol):
    """One trajectory of a solver: called once per step, in order; may remember earlier predictions."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor: ...


def move(prediction: Prediction, there: Node) -> Tensor:
    """alpha' denoised + sigma' eps: DDIM's deterministic step (Euler in vs)."""
    return there.alpha * prediction.denoised + there.sigma * prediction.eps


def advance(x: Tensor, here: Node, there: Node, eps: Tensor) -> Tensor:
    """xbar' = xbar + (vs' - vs) eps, for alpha > 0 at ``here``; ``eps`` is the step's mean slope."""
    ratio = there.alpha / here.alpha
    return ratio * x + (there.sigma - ratio * here.sigma) * eps


def noise_ratio(node: Node) -> float:
    """vs = sigma / alpha, infinite without signal."""
    return node.sigma / node.alpha if node.alpha else math.inf


def on_schedule(model: DiffusionModel, node: Node) -> bool:
    """False for the end of a stochastic step's deterministic part, which lies below the timestep it is named by."""
    return node == model.schedule.node(node.t)


def touches_end(*nodes: Node) -> bool:
    """True if a node is the clean image or pure noise."""
    return any(node.sigma == 0 or node.alpha == 0 for node in nodes)


def read(model: DiffusionModel, x: Tensor, node: Node) -> Prediction:
    """(denoised, eps) at any node: off the schedule at the t that has the same vs."""
    if on_schedule(model, node):
        return model.predict(x, node)
    known = model.schedule.node_at_noise(noise_ratio(node))
    return model.predict(x * (known.alpha / node.alpha), known)


class Ddim:
    """First order: one evaluation a step, at the step's start."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        return move(model.predict(x, here), there)


class Known(NamedTuple):
    """What the network said at a node."""

    node: Node
    prediction: Prediction


def multistep(model: DiffusionModel, x: Tensor, now: Known, before: Known | None, there: Node) -> Tensor:
    """A step of DPM-Solver++(2M), with noise to come that of its SDE form (Lu et al. 2022, arXiv 2211.01095, A.6).

    The denoised image is extrapolated linearly in log(alpha / sigma) to the middle between the two timesteps, also
    where the deterministic part ends below the second one. First order without a step before, and from or to the
    clean end or pure noise, where that coordinate is infinite.
    """
    (here, prediction), end = now, model.schedule.node(there.t)
    if before is None or any(math.isinf(node.log_snr_half) for node in (before.node, here, there)):
        return move(prediction, there)
    ratio = (end.log_snr_half - here.log_snr_half) / (here.log_snr_half - before.node.log_snr_half)
    denoised = prediction.denoised + 0.5 * ratio * (prediction.denoised - before.prediction.denoised)
    return move(Prediction(denoised, (x - here.alpha * denoised) / here.sigma), there)


@dataclass
class DpmSolver2M:
    """DPM-Solver++(2M): second order, one evaluation a step, both directions."""

    previous: Known | None = field(default=None)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        before, self.previous = self.previous, Known(here, model.predict(x, here))
        return multistep(model, x, self.previous, before, there)


@dataclass
class Trapezoid:
    """The trapezoid rule in vs with a two-step Adams-Bashforth predictor (PEC): second order.

    The evaluation at the predicted end corrects this step and opens the next: one evaluation a step, and one to
    start. Noise between two steps (eta > 0) makes it stale, and differences of eps no derivative: a noisy step is
    DPM-Solver++(2M)'s, which extrapolates denoised images, so that results jump a little between eta = 0 and the
    smallest other (1 dB in a round trip of 16 steps).
    """

    ahead: Known | None = field(default=None)
    behind: Known | None = field(default=None)

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        ahead, behind, self.ahead, self.behind = self.ahead, self.behind, None, None
        first = ahead.prediction if ahead is not None and ahead.node == here else read(model, x, here)
        if touches_end(here, there):
            return move(first, there)
        self.behind = Known(here, first)
        if not on_schedule(model, there):
            return multistep(model, x, self.behind, behind, there)
        second = read(model, advance(x, here, there, self._slope(self.behind, behind, there)), there)
        self.ahead = Known(there, second)
        return advance(x, here, there, (first.eps + second.eps) / 2)

    def _slope(self, start: Known, behind: Known | None, there: Node) -> Tensor:
        """Adams-Bashforth's mean eps of the step; the start's own where there was no step before."""
        if behind is None:
            return start.prediction.eps
        vs = noise_ratio(start.node)
        ratio = (noise_ratio(there) - vs) / (vs - noise_ratio(behind.node))
        return start.prediction.eps + 0.5 * ratio * (start.prediction.eps - behind.prediction.eps)


class Heun:
    """Heun's method in vs (Karras et al. 2022, algorithm 1): second order, two evaluations a step."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        first = read(model, x, here)
        if touches_end(here, there):
            return move(first, there)
        second = read(model, advance(x, here, there, first.eps), there)
        return advance(x, here, there, (first.eps + second.eps) / 2)


class RungeKutta4:
    """The classical Runge-Kutta method in vs: fourth order, four evaluations a step."""

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        first = read(model, x, here)
        if touches_end(here, there):
            return move(first, there)
        middle = model.schedule.node_at_noise((noise_ratio(here) + noise_ratio(there)) / 2)
        b = read(model, advance(x, here, middle, first.eps), middle).eps
        c = read(model, advance(x, here, middle, b), middle).eps
        d = read(model, advance(x, here, there, c), there).eps
        return advance(x, here, there, (first.eps + 2 * b + 2 * c + d) / 6)


@dataclass
class HalfCleanEnd:
    """Any explicit solver with half a step at the clean end: the trapezoid rule with eps = 0 at the clean image.

    eps = -sigma score vanishes with sigma where the data have a density, so eps rises linearly from the clean
    image to the lowest node: half of that node's eps is its mean. A whole step (DDIM's) removes all noise that the
    network sees, which no inversion can bring back. One evaluation, at the lowest node, in both directions.
    """

    inner: Stepper

    def __call__(self, model: DiffusionModel, x: Tensor, here: Node, there: Node) -> Tensor:
        if here.sigma > 0 and there.sigma > 0:
            return self.inner(model, x, here, there)
        if there.alpha == 0 or here.alpha == 0:
            return Ddim()(model, x, here, there)
        noisy = there if here.sigma == 0 else here
        eps = model.predict(x * (noisy.alpha / here.alpha), noisy).eps
        return advance(x, here, there, eps / 2)
