"""The state of a training between two steps, and its checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path
from unseen_diffusion.utils.tensors import write_tensors

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class TrainState:
    """The content of a checkpoint.

    Attributes:
        network: trained weights.
        ema: averaged weights.
        others: further averages of the weights, by their decay.
        optimizer: AdamW with its moments.
        step: number of steps done.
        history: (steps, 3) float64, rows of step, loss and gradient norm.
        measured: by name, rows (step, value) of what is measured at some steps on images that are never trained on.
        scaler: the scale of the gradients in float16; None in other precisions.
    """

    network: nn.Module
    ema: nn.Module
    others: dict[float, nn.Module]
    optimizer: torch.optim.Optimizer
    step: int
    history: Tensor
    measured: dict[str, Tensor]
    scaler: torch.amp.GradScaler | None = None

    def record(self, numbers: Mapping[str, float]) -> None:
        """Appends the values that were measured at this step."""
        for name, value in numbers.items():
            row = torch.tensor([[self.step, value]], dtype=torch.float64)
            self.measured[name] = torch.cat([self.measured.get(name, row[:0]), row])


def save_checkpoint(path: Path, state: TrainState) -> None:
    """Writes everything that an exact resume needs to one safetensors file, atomically."""
    tensors = {"step": torch.tensor(state.step), "history": state.history}
    tensors |= {f"measured.{name}": rows for name, rows in state.measured.items()}
    if state.scaler is not None:
        tensors |= {f"scaler.{k}": torch.tensor(v) for k, v in state.scaler.state_dict().items()}
    tensors |= {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for decay, average in state.others.items():
        tensors |= {f"ema_{decay}.{k}": v for k, v in average.state_dict().items()}
    for index, entry in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in entry.items()}
    write_tensors(path, {k: v.detach().cpu().clone() for k, v in tensors.items()})


def load_checkpoint(path: Path, state: TrainState) -> None:
    """Restores ``state`` in place.

    Raises:
        InputError: the checkpoint belongs to another network.
    """
    tensors = load_file(path)

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    try:
        state.network.load_state_dict(part("network."))
        state.ema.load_state_dict(part("ema."))
        for decay, average in state.others.items():
            average.load_state_dict(_average(decay, average, tensors))
    except RuntimeError as error:
        raise InputError(f"{path}: checkpoint of another network; choose another output folder") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.step = int(tensors["step"])
    state.history = tensors["history"]
    state.measured = part("measured.")
    if "validation" in tensors and len(tensors["validation"]):  # of older checkpoints
        state.measured["validation_loss"] = tensors["validation"]
    if state.scaler is not None:
        state.scaler.load_state_dict({k: v.item() for k, v in part("scaler.").items()})


def _average(decay: float, network: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored average of one decay; older checkpoints may name the decay 0.0 as 0."""
    names = (f"ema_{decay}.", "ema_0.") if decay == 0 else (f"ema_{decay}.",)
    return {key: tensors[f"{name}{key}"] for name in names for key in network.state_dict() if f"{name}{key}" in tensors}


def save_progress(folder: Path, state: TrainState, rows: Sequence[Sequence[float]]) -> None:
    """Writes checkpoint.safetensors, loss.csv and validation.csv.

    Args:
        folder: of the training.
        state: the state; its history becomes ``rows``.
        rows: (step, loss, gradient norm) of every step so far.
    """
    state.history = torch.tensor(rows, dtype=torch.float64)
    save_checkpoint(folder / CHECKPOINT, state)
    history = pd.DataFrame(rows, columns=["step", "loss", "gradient_norm"])
    write_csv(folder / "loss.csv", history.astype({"step": int}).set_index("step"))
    if state.measured:
        write_csv(folder / "validation.csv", measured_table(state.measured))


def measured_table(measured: Mapping[str, Tensor]) -> pd.DataFrame:
    """A table with a column per name and a row per step."""
    columns = {name: pd.Series({int(step): value for step, value in rows.tolist()}) for name, rows in measured.items()}
    return pd.DataFrame(columns).rename_axis("step")


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes a table whose index is the step."""
    with atomic_path(path) as temporary:
        frame.to_csv(temporary, float_format="%.6f")
