"""From a training config to a finished, documented folder of weights."""

import copy
import logging
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from unseen_diffusion.domains.parquet import read_parquet
from unseen_diffusion.seeds import generator
from unseen_diffusion.training.diffusion import EpsLoss
from unseen_diffusion.training.loop import LoopSettings, TrainState, train

log = logging.getLogger(__name__)


def new_state(network: nn.Module, settings: LoopSettings, device: torch.device) -> TrainState:
    """A fresh AdamW state; the averaged weights start as a copy."""
    network = network.to(device).train()
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    return TrainState(network, ema, optimizer, 0, torch.empty((0, 3), dtype=torch.float64))


def seeded(config: Any, seed: int) -> nn.Module:
    """Instantiates a network with initial weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return instantiate(config, _convert_="all")


def train_diffusion(config: DictConfig, device: torch.device) -> Path:
    """Trains a base model on images from Parquet and saves its averaged weights as a diffusers folder."""
    settings: LoopSettings = instantiate(config.loop)
    scheduler = DDPMScheduler(**config.schedule)
    images, _ = read_parquet(config.data.path, config.data.size, config.data.channels)
    log.info("%d training images from %s", len(images), config.data.path)
    factor = config.network.pixel_unshuffle
    state = new_state(seeded(config.network, settings.seed), settings, device)
    loss = EpsLoss(images, scheduler, factor, config.flip, device)
    folder = Path(config.folder)
    train(settings, state, len(images), loss, folder, lambda _: None, device)
    return folder
