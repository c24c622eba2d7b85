"""What ``training.task`` may name."""

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig

from unseen_diffusion.training.diffusion_recipe import train_diffusion
from unseen_diffusion.training.feature_recipe import train_features

TASKS: dict[str, Callable[[DictConfig, torch.device], Path]] = {
    "diffusion": train_diffusion,
    "features": train_features,
}
