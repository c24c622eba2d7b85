"""The noise schedule of a base model's training."""

from typing import Any

from diffusers import DDPMScheduler
from omegaconf import DictConfig

from unseen_diffusion.models.parameterisations import PREDICTION_TYPES
from unseen_diffusion.models.schedules import Schedule
from unseen_diffusion.utils.errors import InputError, first_line

BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")


def noise_schedule(config: DictConfig) -> DDPMScheduler:
    """The scheduler that ``training.schedule`` describes.

    Raises:
        InputError: an unknown name, or numbers that give no schedule.
    """
    given = config.schedule
    if given.get("beta_schedule", BETAS[0]) not in BETAS:
        raise InputError(f"training.schedule.beta_schedule={given.beta_schedule}: choose one of {', '.join(BETAS)}")
    if (kind := prediction_type(config)) not in PREDICTION_TYPES:
        raise InputError(f"training.schedule.prediction_type={kind}: choose one of {', '.join(PREDICTION_TYPES)}")
    try:
        scheduler = DDPMScheduler(**given)
        Schedule(scheduler.alphas_cumprod)
    except (RuntimeError, TypeError, ValueError) as error:
        shown = ", ".join(f"{key}={value}" for key, value in given.items())
        raise InputError(f"training.schedule ({shown}): {first_line(error)}; see unseen train --cfg job") from error
    return scheduler


def prediction_type(config: DictConfig) -> Any:
    """The quantity that the network learns to predict, by its name in diffusers."""
    return config.schedule.get("prediction_type", "epsilon")
