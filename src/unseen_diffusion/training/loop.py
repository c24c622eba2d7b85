"""One training loop: everything random is a function of (seed, step), so a resumed run is the same run."""

import copy
import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from unseen_diffusion.errors import InputError
from unseen_diffusion.files import atomic_path, read_json, write_json
from unseen_diffusion.seeds import generator


@dataclass(frozen=True)
class LoopSettings:
    """Optimisation of one network. Rates are per step; ``ema_decay`` is the decay of the averaged weights."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    ema_decay: float
    gradient_clip: float
    bf16: bool
    seed: int
    checkpoint_every: int
    sample_every: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "sample_every"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)}: give a whole number of 1 or more")
        if not 0 <= self.ema_decay < 1:
            raise InputError(f"ema_decay={self.ema_decay}: give a number in [0, 1)")


@runtime_checkable
class Loss(Protocol):
    """Mean loss of one batch: (network, image indices (B,), generator of this step) -> scalar."""

    def __call__(self, network: nn.Module, rows: Tensor, rng: torch.Generator) -> Tensor: ...


@dataclass
class TrainState:
    """What a checkpoint holds; ``history`` has a row (step, loss, gradient norm) per step."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int
    history: Tensor


def new_state(network: nn.Module, settings: LoopSettings, device: torch.device) -> TrainState:
    """A fresh AdamW state; the averaged weights start as a copy."""
    network = network.to(device).train()
    ema = copy.deepcopy(network).requires_grad_(False).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    return TrainState(network, ema, optimizer, 0, torch.empty((0, 3), dtype=torch.float64))


def seeded(config: Any, seed: int) -> nn.Module:
    """Instantiates a network with initial weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return instantiate(config, _convert_="all")


def epoch_rows(count: int, batch_size: int, step: int, seed: int) -> Tensor:
    """Image indices of one step: epochs are seeded permutations laid end to end. Returns (batch_size,) int64."""
    rows: list[Tensor] = []
    position, needed = step * batch_size, batch_size
    while needed:
        epoch, start = divmod(position, count)
        order = torch.randperm(count, generator=generator(seed, "epoch", epoch))
        rows.append(order[start : start + needed])
        position += len(rows[-1])
        needed -= len(rows[-1])
    return torch.cat(rows)


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def update_ema(ema: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Exponential moving average of the weights, shorter in the first steps: min(decay, (1+s)/(10+s))."""
    decay = min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        averaged: list[Tensor] = list(ema.parameters())
        current: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(ema.buffers(), network.buffers(), strict=True):
            kept.copy_(buffer)


def save_checkpoint(path: Path, state: TrainState) -> None:
    """All that an exact resume needs, in one safetensors file, written atomically."""
    tensors = {"step": torch.tensor(state.step), "history": state.history}
    tensors |= {f"network.{k}": v for k, v in state.network.state_dict().items()}
    tensors |= {f"ema.{k}": v for k, v in state.ema.state_dict().items()}
    for index, entry in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{k}": v for k, v in entry.items()}
    with atomic_path(path) as temporary:
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary)


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
    except RuntimeError as error:
        raise InputError(f"{path}: checkpoint of another network; choose another output folder") from error
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in part("optimizer.").items():
        index, key = name.split(".", 1)
        moments.setdefault(int(index), {})[key] = value
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    state.step = int(tensors["step"])
    state.history = tensors["history"]


# What may change between a training and its resumption; everything else must be what it was.
CHANGEABLE = ("steps", "checkpoint_every", "sample_every")


def check_resumable(folder: Path, config: dict[str, Any]) -> None:
    """Notes the configuration of a new training in ``folder``; refuses to resume one with another.

    Raises:
        InputError: a value differs from the one that the checkpoint was trained with.
    """
    now = {key: value for key, value in config.items() if key not in ("folder", "notes", "about", "quality_samples")}
    now["loop"] = {key: value for key, value in now["loop"].items() if key not in CHANGEABLE}
    path = folder / "training.json"
    if not (folder / "checkpoint.safetensors").exists() or not path.exists():
        write_json(path, now)
        return
    before = read_json(path)
    for key in sorted({*now, *before}):
        if now.get(key) != before.get(key):
            raise InputError(
                f"training.{key}={now.get(key)}: the checkpoint in {folder} was trained with {before.get(key)}; "
                "choose another training.folder, or delete that one"
            )


def train(
    settings: LoopSettings,
    state: TrainState,
    image_count: int,
    loss: Loss,
    folder: Path,
    on_sample: Callable[[TrainState], None],
    device: torch.device,
) -> TrainState:
    """Trains to ``settings.steps``, resuming from ``folder``/checkpoint.safetensors where there is one.

    Writes checkpoint.safetensors and loss.csv every ``checkpoint_every`` steps; calls ``on_sample`` with the
    state every ``sample_every`` steps.
    """
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.exists():
        load_checkpoint(checkpoint, state)
    rows: list[list[float]] = state.history.tolist()
    progress = tqdm(total=settings.steps, initial=state.step, desc="train", mininterval=5, dynamic_ncols=True)
    parameters = list(state.network.parameters())
    while state.step < settings.steps:
        started = time.monotonic()
        for group in state.optimizer.param_groups:
            group["lr"] = learning_rate(settings, state.step)
        batch = epoch_rows(image_count, settings.batch_size, state.step, settings.seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.bf16):
            value = loss(state.network, batch, generator(settings.seed, "step", state.step))
        state.optimizer.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, settings.gradient_clip)
        state.optimizer.step()
        update_ema(state.ema, state.network, settings.ema_decay, state.step)
        state.step += 1
        rows.append([state.step, value.item(), norm.item()])
        progress.update()
        progress.set_postfix(loss=f"{rows[-1][1]:.4f}", seconds=f"{time.monotonic() - started:.2f}", refresh=False)
        if state.step % settings.sample_every == 0 or state.step == settings.steps:
            on_sample(state)
        if state.step % settings.checkpoint_every == 0 or state.step == settings.steps:
            state.history = torch.tensor(rows, dtype=torch.float64)
            save_checkpoint(checkpoint, state)
            write_history(folder / "loss.csv", state.history)
    progress.close()
    return state


def write_history(path: Path, history: Tensor) -> None:
    """The loss curve as CSV: step, loss, gradient norm."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "loss", "gradient_norm"])
        writer.writerows([int(step), f"{loss:.6f}", f"{norm:.6f}"] for step, loss, norm in history.tolist())
