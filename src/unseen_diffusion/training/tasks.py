"""The tasks that ``training.task`` may name, and the checks before a training starts."""

from collections.abc import Callable
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unseen_diffusion.reports.tracking import Tracker
from unseen_diffusion.training.data import data_keys
from unseen_diffusion.training.diffusion_recipe import train_diffusion
from unseen_diffusion.training.feature_recipe import train_features
from unseen_diffusion.training.noise import noise_schedule
from unseen_diffusion.utils.configs import build, resolve_plain
from unseen_diffusion.utils.devices import choose_device
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import check_writable

TASKS: dict[str, Callable[[DictConfig, torch.device, Tracker | None], Path]] = {
    "diffusion": train_diffusion,
    "features": train_features,
}


def check_training(config: DictConfig) -> None:
    """Runs every cheap check, before anything is written.

    Raises:
        InputError: one line naming the value and the remedy.
    """
    raw = OmegaConf.to_container(config, resolve=False)
    if not isinstance(raw, dict):
        raise InputError("the config is not a mapping")
    wants, has = raw["training"].get("data") == "${data}", raw.get("data") is not None
    if wants and not has:
        raise InputError("training: needs images; set data=folder, data=parquet or data=hub, and data.path")
    if has and not wants:
        raise InputError(
            f"data={raw['data']['kind']}: {raw['training']['name']} has its own data; leave one of them out"
        )
    try:
        plain = resolve_plain(config)
    except OmegaConfBaseException as error:
        raise InputError(f"{' '.join(str(error).split())}; see unseen train --cfg job") from error
    if plain["training"]["task"] not in TASKS:
        raise InputError(f"training.task={plain['training']['task']}: choose one of {', '.join(TASKS)}")
    build(config.training.loop, "training.loop")
    if "schedule" in plain["training"]:
        noise_schedule(config.training)
    if has:
        with data_keys():
            build(config.data, "data")
    choose_device(plain["device"])
    check_writable("hydra.run.dir", Path(config.hydra.run.dir))
    check_writable("training.folder", Path(plain["training"]["folder"]))
    build(config.tracking, "tracking").check()
