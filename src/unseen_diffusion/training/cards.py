"""Parts of every model card: the loss curve, Markdown tables, and the command that trains the network again."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path


def save_loss_curve(history: Tensor, path: Path, measured: Mapping[str, Tensor] | None = None) -> None:
    """Writes a PNG of the loss, averaged over 50 steps, and beside it the KID of the samples if it was measured.

    Args:
        history: rows (step, loss, gradient norm).
        path: of the PNG.
        measured: rows (step, value) of validation_loss, kid, kid_low and kid_high; any may be absent.
    """
    measured = measured or {}
    width = min(50, len(history))
    means = history[: len(history) // width * width].reshape(-1, width, 3).mean(1)
    panels = 2 if "kid" in measured else 1
    figure, panel = plt.subplots(1, panels, figsize=(5 * panels, 3), layout="constrained", squeeze=False)
    axes, *beside = panel[0]
    axes.plot(means[:, 0], means[:, 1], color="black", linewidth=1, label="training")
    if "validation_loss" in measured:
        axes.plot(*measured["validation_loss"].T, ".", color="tab:red", label="validation, averaged weights")
        axes.legend(frameon=False)
    axes.set(xlabel="step", ylabel=f"loss (mean of {width} steps)")
    for right in beside:
        kid, low, high = (1000 * measured[name][:, 1] for name in ("kid", "kid_low", "kid_high"))
        right.errorbar(measured["kid"][:, 0], kid, torch.stack([kid - low, high - kid]), fmt=".-", color="tab:red")
        right.set(xlabel="step", ylabel="KID x 1000 of its own samples", ylim=(0, None))
    for panel in (axes, *beside):
        panel.spines[["top", "right"]].set_visible(False)
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
    """The command that trains this network again, with file names but without their folders.

    In a Hydra job it repeats the job's overrides; elsewhere it names the data of the config.
    """
    rest = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    left_out = ["training.notes", "training.folder", "training.start", "paths.", "device", "tracking"]
    if own_images(config):
        data = config.data
        path = data.path if data.kind == "hub" else Path(data.path).name
        start = f"unseen train data={data.kind}"
        words = [f"data.path='{path}'", f"data.size={data.size}", f"data.channels={data.channels}"]
        left_out += ["data=", "data.path", "data.size", "data.channels"]
    else:
        start = f"unseen train training={config.name}"
        given = {f"training.data.{key}": value for key, value in config.data.items() if isinstance(value, str)}
        words = [f"{key}='{Path(value).name}'" for key, value in given.items()]
        left_out += ["training=", "training.data."]
    words += [f"training.start={start_name(config)}"] if config.get("start") else []
    words += [word for word in rest if not word.startswith(tuple(left_out))]
    return " \\\n  ".join([start, *words])


def start_name(config: DictConfig) -> str:
    """The name of the weights that a training started from, without their folder."""
    local = Path(config.start).is_dir()
    return Path(config.start).name if local else str(config.start)


def own_images(config: DictConfig) -> bool:
    """Whether a training uses the user's own images, which the ``data`` group describes."""
    return "kind" in config.data


def fact_table(facts: Mapping[str, Any]) -> list[str]:
    """Lines of a two-column Markdown table of names and values."""
    return table(["", ""], ((name, str(value)) for name, value in facts.items()))
