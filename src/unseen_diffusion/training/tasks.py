"""The tasks that ``training.task`` may name, and the checks before a training starts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from unseen_diffusion.domains.hub import Hub
from unseen_diffusion.domains.parquet import parquet_files
from unseen_diffusion.models.folders import resolve
from unseen_diffusion.reports.tracking import Tracker
from unseen_diffusion.training.data import OwnImages, data_keys
from unseen_diffusion.training.diffusion_recipe import train_diffusion
from unseen_diffusion.training.feature_recipe import file_paths, train_features
from unseen_diffusion.training.keys import DiffusionKeys, FeatureKeys, ParquetData
from unseen_diffusion.training.loop import LoopSettings
from unseen_diffusion.training.noise import noise_schedule
from unseen_diffusion.utils.checked import Text, as_written, checked_value
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
    _check_keys(plain["training"])
    build(config.training.loop, "training.loop", kind=LoopSettings)
    if "schedule" in plain["training"]:
        noise_schedule(config.training)
    own: OwnImages | None = None
    if has:
        with data_keys():
            own = build(config.data, "data", kind=OwnImages)
    choose_device(checked_value("device", plain["device"], Text))
    check_writable("hydra.run.dir", Path(config.hydra.run.dir))
    check_writable("training.folder", Path(plain["training"]["folder"]))
    build(config.tracking, "tracking", kind=Tracker).check()
    _check_network(plain["training"])
    _check_images(config.training, own)


def _check_keys(training: Any) -> None:
    """The keys of ``training`` by themselves.

    Raises:
        InputError: a task that is not known, or a value that does not fit.
    """
    if not isinstance(training, Mapping) or training.get("task") not in TASKS:
        task = training.get("task") if isinstance(training, Mapping) else training
        raise InputError(f"training.task={as_written(task)}: choose one of {', '.join(TASKS)}")
    if training["task"] == "features":
        keys = FeatureKeys(**training)
        if keys.probe not in keys.sources:
            raise InputError(f"training.probe={keys.probe}: no such source; choose one of {', '.join(keys.sources)}")
        return
    DiffusionKeys(**training)
    if "_target_" not in training["data"]:
        ParquetData(**training["data"])


def _check_network(training: Mapping[str, Any]) -> None:
    """Builds the network without memory for its weights, and finds the folder that training starts from.

    Raises:
        InputError: arguments that give no network, or no such folder.
    """
    heads = {"classes": 2, "distortions": 2} if training["task"] == "features" else {}
    with torch.device("meta"):
        build(OmegaConf.create({**training["network"]}), "training.network", kind=nn.Module, **heads)
    start = training.get("start")
    if start is not None and (start.startswith((".", "/", "~", "embedded:")) or start.count("/") != 1):
        try:
            resolve(start, weights=False)
        except InputError as error:
            raise InputError(str(error).replace("model.path", "training.start")) from error


def _check_images(training: DictConfig, own: OwnImages | None) -> None:
    """The images are there; those on the hub are looked for when the training starts.

    Raises:
        InputError: no such file or folder, or no image in it.
    """
    if own is not None:
        with data_keys():
            if not isinstance(own.images, Hub) and not own.images.state():
                own.images.pool(own.size, own.channels)  # which says why there is none
    elif training.task == "features":
        for pair in file_paths(training).values():
            for path in pair:
                parquet_files(path)
    else:
        for path in (training.data.path, training.data.test_path):
            if path is not None:
                parquet_files(path)
