"""What the model cards of all trained networks share: the loss curve and Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from unseen_diffusion.errors import InputError
from unseen_diffusion.files import atomic_path


def save_loss_curve(history: Tensor, path: Path) -> None:
    """A PNG of the loss, averaged over 50 steps; ``history`` has rows (step, loss, gradient norm)."""
    width = min(50, len(history))
    means = history[: len(history) // width * width].reshape(-1, width, 3).mean(1)
    figure, axes = plt.subplots(figsize=(5, 3), layout="constrained")
    axes.plot(means[:, 0], means[:, 1], color="black", linewidth=1)
    axes.set(xlabel="step", ylabel=f"loss (mean of {width} steps)")
    axes.spines[["top", "right"]].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=80, format="png")
    plt.close(figure)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def plain_config(config: DictConfig) -> dict[str, Any]:
    """A training's config as plain values."""
    plain = OmegaConf.to_container(config, resolve=True)
    if not isinstance(plain, dict):
        raise InputError("training: not a mapping")
    return {str(key): value for key, value in plain.items()}


def training_command(config: DictConfig) -> str:
    """The command that trains this network again, without the folders that its files were in.

    Within a Hydra job these are its own overrides; elsewhere the data files of the config.
    """
    given = {f"training.data.{key}": value for key, value in config.data.items() if isinstance(value, str)}
    words = [f"{key}='{Path(value).name}'" for key, value in given.items()]
    if HydraConfig.initialized() and HydraConfig.get().overrides.task:
        rest = HydraConfig.get().overrides.task
        left_out = ("training=", "training.data.", "training.notes", "training.folder", "paths.", "device")
        words += [word for word in rest if not word.startswith(left_out)]
    return " \\\n  ".join([f"unseen train training={config.name}", *words])


def fact_table(facts: Mapping[str, Any]) -> list[str]:
    """Lines of a two-column Markdown table of names and values."""
    return table(["", ""], ((name, str(value)) for name, value in facts.items()))
