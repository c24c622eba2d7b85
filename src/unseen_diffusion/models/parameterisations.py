"""The families of networks: their (alpha, sigma), their inputs, and (denoised, eps) from their output.

The tables come from the configs of diffusers' schedulers. Their stepping, clipping and variance are not used.

| family | alpha, sigma | time argument | output |
| --- | --- | --- | --- |
| variance-preserving (Ho et al. 2020) | sqrt(ac), sqrt(1 - ac) | t | eps, x0 or v |
| score, exploding (Song et al. 2021) | 1, sigma | sigma | score |
| EDM (Karras et al. 2022) | 1, sigma | ln(sigma) / 4 | F of c_skip x + c_out F |
| flow matching (Lipman et al. 2023) | 1 - sigma, sigma | T sigma | u = eps - x0 |

Below the lowest noise level that a network knows, down to the clean image, it is evaluated at that level.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import diffusers
import torch
from torch import Tensor

from unseen_diffusion.models.base import Prediction
from unseen_diffusion.models.schedules import Node, Schedule
from unseen_diffusion.utils.errors import InputError, first_line

PREDICTION_TYPES = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}  # diffusers' names: what they predict
VP_SCHEDULERS = (
    "DDPMScheduler",
    "DDIMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)


class Parameterisation(ABC):
    """The inputs that the networks of a family take, and the meaning of their output."""

    schedule: Schedule

    @abstractmethod
    def time(self, node: Node) -> float:
        """The network's time argument."""

    @abstractmethod
    def prediction(self, output: Tensor, x: Tensor, node: Node) -> Prediction:
        """Network output -> (denoised, eps) of the state ``x``, each (B, C, H, W)."""

    def network_input(self, x: Tensor, node: Node) -> Tensor:
        """The state as the network takes it; by default unchanged."""
        return x

    def clamped_sigma(self, node: Node) -> float:
        """sigma, or that of t = 0 where it is lower: the lowest noise that the network knows."""
        return max(node.sigma, self.schedule.node(0.0).sigma)


@dataclass(frozen=True)
class VariancePreserving(Parameterisation):
    """DDPM, iDDPM, latent and Stable Diffusion, DiT."""

    schedule: Schedule
    prediction_type: str

    def time(self, node: Node) -> float:
        return max(node.t, 0.0)

    def prediction(self, output: Tensor, x: Tensor, node: Node) -> Prediction:
        """By the prediction type. Below t = 0 the network is evaluated at t = 0, and its noise is kept."""
        lowest = self.schedule.node(0.0)
        if node.sigma >= lowest.sigma:
            return to_prediction(output, x, node, self.prediction_type)
        eps = to_prediction(output, x, lowest, self.prediction_type).eps
        return Prediction((x - node.sigma * eps) / node.alpha, eps)


@dataclass(frozen=True)
class Score(Parameterisation):
    """NCSN++ (Song et al. 2021, arXiv 2011.13456): the output is the score, -eps / sigma; states in [0, 1]."""

    schedule: Schedule

    def time(self, node: Node) -> float:
        return self.clamped_sigma(node)

    def prediction(self, output: Tensor, x: Tensor, node: Node) -> Prediction:
        eps = -self.clamped_sigma(node) * output
        return Prediction(x - node.sigma * eps, eps)


@dataclass(frozen=True)
class Edm(Parameterisation):
    """EDM (Karras et al. 2022, arXiv 2206.00364, equation 7); ``sign`` is -1 for v-prediction, else 1."""

    schedule: Schedule
    sigma_data: float
    sign: float

    def time(self, node: Node) -> float:
        return math.log(self.clamped_sigma(node)) / 4

    def network_input(self, x: Tensor, node: Node) -> Tensor:
        return x / math.hypot(self.clamped_sigma(node), self.sigma_data)

    def prediction(self, output: Tensor, x: Tensor, node: Node) -> Prediction:
        """D = c_skip x + c_out F and eps = (x - D) / sigma, which needs no division by sigma."""
        sigma = self.clamped_sigma(node)
        total = math.hypot(sigma, self.sigma_data)
        eps = (sigma / total**2) * x - (self.sign * self.sigma_data / total) * output
        if node.sigma < sigma:
            return Prediction(x - node.sigma * eps, eps)
        c_skip, c_out = (self.sigma_data / total) ** 2, self.sign * sigma * self.sigma_data / total
        return Prediction(c_skip * x + c_out * output, eps)


@dataclass(frozen=True)
class Flow(Parameterisation):
    """Flow matching, u = eps - x0; well defined at alpha = 0 and at sigma = 0 alike."""

    schedule: Schedule

    def time(self, node: Node) -> float:
        return self.schedule.timesteps * self.clamped_sigma(node)

    def prediction(self, output: Tensor, x: Tensor, node: Node) -> Prediction:
        total = node.alpha + node.sigma
        return Prediction((x - node.sigma * output) / total, (x + node.alpha * output) / total)


def to_prediction(output: Tensor, x: Tensor, node: Node, prediction_type: str) -> Prediction:
    """Network output -> (denoised, eps), by the table of parameterisations (Salimans and Ho 2022, appendix D).

    Args:
        output: of the network, (B, C, H, W).
        x: the state, (B, C, H, W).
        node: where it is, with noise (sigma > 0).
        prediction_type: one of ``PREDICTION_TYPES``.

    Raises:
        InputError: a noise predictor at a node without signal, where x0 is not determined.
    """
    alpha, sigma = node.alpha, node.sigma
    if prediction_type == "epsilon":
        if alpha == 0:
            raise InputError(f"t={node.t:g}: no signal is left there, and this network predicts noise; lower mixing.t")
        return Prediction((x - sigma * output) / alpha, output)
    if prediction_type == "sample":
        return Prediction(output, (x - alpha * output) / sigma)
    return Prediction(alpha * x - sigma * output, alpha * output + sigma * x)


def parameterisation(config: Mapping[str, Any], where: str) -> Parameterisation:
    """The family that a scheduler's config describes; errors name it by ``where``.

    Raises:
        InputError: an unknown scheduler or prediction type, or values that make no noise schedule.
    """
    kind = config.get("_class_name", "DDPMScheduler")
    if kind not in (known := (*VP_SCHEDULERS, *_OTHERS)):
        raise InputError(f"{where}: scheduler {kind} is not supported; known: {', '.join(known)}")
    try:
        if kind in VP_SCHEDULERS:
            return _variance_preserving(kind, config, where)
        return _OTHERS[kind](_tables(kind, config), where)
    except Exception as error:  # diffusers raises many types
        if isinstance(error, InputError) and str(error).startswith(where):
            raise
        reason = f"scheduler_config.json describes no noise schedule of {kind} ({first_line(error)[:200]})"
        raise InputError(f"{where}: {reason}; correct its values") from error


def _tables(kind: str, config: Mapping[str, Any]) -> Any:
    """The scheduler of diffusers for a config: absent keys take its defaults, unknown keys are left out."""
    diffusers.utils.logging.set_verbosity_error()
    return getattr(diffusers, kind).from_config({k: v for k, v in config.items() if not k.startswith("_")})


def _variance_preserving(kind: str, config: Mapping[str, Any], where: str) -> VariancePreserving:
    # Configs of 2022 use predict_epsilon. diffusers ignores it now, and would take a predicted x0 for noise.
    prediction_type = config.get("prediction_type", "epsilon" if config.get("predict_epsilon", True) else "sample")
    if prediction_type not in PREDICTION_TYPES:
        raise InputError(f"{where}: prediction_type {prediction_type}; known: {', '.join(PREDICTION_TYPES)}")
    if config.get("use_flow_sigmas") or config.get("timestep_type", "discrete") != "discrete":
        raise InputError(f"{where}: {kind} with flow or continuous timesteps; save the pipeline with its own scheduler")
    return VariancePreserving(Schedule(_tables(kind, config).alphas_cumprod.double()), prediction_type)


def _score(scheduler: Any, where: str) -> Score:
    config = scheduler.config
    return Score(Schedule(_log_spaced(config.sigma_min, config.sigma_max, config.num_train_timesteps), "ve"))


def _edm(scheduler: Any, where: str) -> Edm:
    config = scheduler.config
    if config.prediction_type not in ("epsilon", "v_prediction"):
        raise InputError(f"{where}: prediction_type {config.prediction_type}; EDM knows epsilon and v_prediction")
    count = config.num_train_timesteps
    if config.sigma_schedule == "karras":
        rho = config.rho
        ramp = torch.linspace(0, 1, count, dtype=torch.float64)
        low, high = config.sigma_min ** (1 / rho), config.sigma_max ** (1 / rho)
        sigmas = (low + ramp * (high - low)) ** rho
    else:
        sigmas = _log_spaced(config.sigma_min, config.sigma_max, count)
    return Edm(Schedule(sigmas, "ve"), config.sigma_data, -1.0 if config.prediction_type == "v_prediction" else 1.0)


def _flow(scheduler: Any, where: str) -> Flow:
    """sigma = shift s / (1 + (shift - 1) s), s = 1/T, ..., 1 (Esser et al. 2024, arXiv 2403.03206, equation 23)."""
    config = scheduler.config
    for key in ("use_dynamic_shifting", "invert_sigmas"):
        if config[key]:
            raise InputError(f"{where}: {key} is not supported; set it to false in scheduler_config.json")
    s = torch.arange(1, config.num_train_timesteps + 1, dtype=torch.float64) / config.num_train_timesteps
    return Flow(Schedule(config.shift * s / (1 + (config.shift - 1) * s), "flow"))


def _log_spaced(low: float, high: float, count: int) -> Tensor:
    return torch.linspace(math.log(low), math.log(high), count, dtype=torch.float64).exp()


_OTHERS: dict[str, Callable[[Any, str], Parameterisation]] = {
    "ScoreSdeVeScheduler": _score,
    "EDMEulerScheduler": _edm,
    "EDMDPMSolverMultistepScheduler": _edm,
    "FlowMatchEulerDiscreteScheduler": _flow,
}
