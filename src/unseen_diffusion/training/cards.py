"""What the model cards of all trained networks share: the loss curve and Markdown tables."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

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


def fact_table(facts: Mapping[str, Any]) -> list[str]:
    """Lines of a two-column Markdown table of names and values."""
    return table(["", ""], ((name, str(value)) for name, value in facts.items()))
