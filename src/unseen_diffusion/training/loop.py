"""The training loop of every network; randomness is a function of (seed, step), so resuming changes no result."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from unseen_diffusion.training.journal import Journal
from unseen_diffusion.training.optimisation import epoch_rows, update_ema
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.resume import remove_unfinished
from unseen_diffusion.training.state import CHECKPOINT, TrainState, load_checkpoint, save_progress
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.seeds import generator

Rate = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]


@settings("training.loop")
class LoopSettings:
    """Optimisation of one network."""

    steps: Count
    """number of optimisation steps"""
    batch_size: Count
    """images per step, all processes together"""
    accumulate: Count
    """number of parts in which a process computes its share of a batch: the same step with less memory"""
    learning_rate: Rate
    """highest learning rate of AdamW, after the warm-up"""
    weight_decay: Rate
    """weight decay of AdamW"""
    warmup_steps: Annotated[int, Field(ge=0)]
    """steps over which the learning rate rises"""
    ema_decay: Decay
    """decay of the averaged weights per step"""
    gradient_clip: Rate
    """greatest L2 norm of the gradient"""
    bf16: bool | Literal["auto"]
    """mixed precision in bfloat16; auto uses it where the device has instructions for it"""
    fp16: bool
    """mixed precision in float16"""
    seed: Annotated[int, Field(ge=0)]
    """seed of the initial weights, the order of the images and the noise"""
    checkpoint_every: Count
    """steps between two checkpoints"""
    sample_every: Count
    """steps between two validation losses and sheets of samples"""
    keep: Sequence[Count] = ()
    """steps at which samples are drawn and the averaged weights are kept"""
    ema_others: Sequence[Decay] = ()
    """decays of further averages, whose validation loss is recorded too; 0 for the weights themselves"""

    def __post_init__(self) -> None:
        if len({self.ema_decay, *self.ema_others}) <= len(self.ema_others):
            raise InputError(
                f"training.loop.ema_others={list(self.ema_others)}: give every decay once, and not ema_decay"
            )
        if late := [step for step in self.keep if step > self.steps]:
            raise InputError(f"training.loop.keep={late[0]}: give steps between 1 and steps={self.steps}")
        if self.bf16 is True and self.fp16:
            raise InputError("training.loop.bf16=true, training.loop.fp16=true: choose one of them")

    @property
    def precision(self) -> str:
        """The name that ``accelerate`` has for the precision; ``bf16`` must not be auto any more."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "no"


@runtime_checkable
class Loss(Protocol):
    """A loss on images that are chosen by their index."""

    def batch(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draws everything random of a step: (image indices (B,), its generator) -> tensors with B rows each."""
        ...

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """The mean loss of some rows of a batch, a scalar."""
        ...


def new_state(network: nn.Module, settings: LoopSettings, device: torch.device) -> TrainState:
    """A fresh AdamW state; the averaged weights start as copies of the network."""
    network = network.to(device).train()
    ema, *others = (copy.deepcopy(network).requires_grad_(False).eval() for _ in (None, *settings.ema_others))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    averages = dict(zip(settings.ema_others, others, strict=True))
    return TrainState(network, ema, averages, optimizer, 0, torch.empty((0, 3), dtype=torch.float64), {})


def seeded(config: Any, seed: int) -> nn.Module:
    """Builds the network of a config with initial weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return build(config, "training.network")


def learning_rate(settings: LoopSettings, step: int) -> float:
    """The learning rate of a step: a linear warm-up, then a cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    settings: LoopSettings,
    state: TrainState,
    image_count: int,
    loss: Loss,
    folder: Path,
    processes: Processes,
    on_sample: Callable[[TrainState], None],
    journal: Journal,
) -> TrainState:
    """Trains to ``settings.steps``, resuming from ``folder``/checkpoint.safetensors where there is one.

    Every process computes its rows of the same batches: the number of processes, and ``accumulate``, change only how
    sums are rounded. The first process writes checkpoint.safetensors, loss.csv and validation.csv every
    ``checkpoint_every`` steps, calls ``on_sample`` with the state when samples are due, and reports every step to
    ``journal``.

    Raises:
        InputError: the batch cannot be divided, the checkpoint is beyond ``settings.steps``, memory is exhausted, or
            the loss is no longer finite.
    """
    parts = processes.parts(settings.batch_size, settings.accumulate)
    network, optimizer = processes.prepare(state.network, state.optimizer)
    state.scaler = processes.accelerator.scaler
    restore(settings, state, folder)
    if processes.first:
        remove_unfinished(folder)
    rows: list[list[float]] = state.history.tolist()
    shown: dict[str, Any] = {"desc": "train", "mininterval": 5, "dynamic_ncols": True, "disable": not processes.first}
    bar = tqdm(total=settings.steps, initial=state.step, **shown)
    while state.step < settings.steps:
        started = time.monotonic()
        rate = learning_rate(settings, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with memory_errors(settings, processes):
            value, norm = optimise(settings, state, image_count, loss, processes, network, optimizer, parts)
        update_averages(settings, state)
        state.step += 1
        rows.append([state.step, value, norm])
        bar.update()
        bar.set_postfix(loss=f"{value:.4f}", seconds=f"{time.monotonic() - started:.2f}", refresh=False)
        if processes.first:
            journal.write(state.step, {"loss": value, "learning_rate": rate, "gradient_norm": norm})
            if due(settings, state.step, settings.sample_every) or state.step in settings.keep:
                on_sample(state)
            if due(settings, state.step, settings.checkpoint_every):
                save_progress(folder, state, rows)
    bar.close()
    return state


def due(settings: LoopSettings, step: int, every: int) -> bool:
    """Whether an action that runs every ``every`` steps, and after the last step, is due after ``step``."""
    return step % every == 0 or step == settings.steps


def restore(settings: LoopSettings, state: TrainState, folder: Path) -> None:
    """Loads the checkpoint of ``folder`` into ``state``, if there is one.

    Raises:
        InputError: the checkpoint is beyond ``settings.steps``, or of another network.
    """
    if (folder / CHECKPOINT).exists():
        load_checkpoint(folder / CHECKPOINT, state)
    if state.step > settings.steps:
        raise InputError(
            f"training.loop.steps={settings.steps}: the checkpoint in {folder} is at step {state.step}; give as many "
            "or more, or choose another training.folder"
        )


def update_averages(settings: LoopSettings, state: TrainState) -> None:
    """Updates all averages of the weights with the weights after a step."""
    update_ema(state.ema, state.network, settings.ema_decay, state.step)
    for decay, average in state.others.items():
        update_ema(average, state.network, decay, state.step)


def optimise(
    settings: LoopSettings,
    state: TrainState,
    image_count: int,
    loss: Loss,
    processes: Processes,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    parts: Sequence[slice],
) -> tuple[float, float]:
    """One step on this process's ``parts`` of the batch; returns (loss, gradient norm) of the whole batch.

    Raises:
        InputError: the loss is not finite.
    """
    rows = epoch_rows(image_count, settings.batch_size, state.step, settings.seed)
    batch = loss.batch(rows, generator(settings.seed, "step", state.step))
    optimizer.zero_grad(set_to_none=True)
    total = torch.zeros((), device=processes.device)
    for part in parts:
        with processes.backward(network, last=part is parts[-1]):
            value = loss(network, *(tensor[part] for tensor in batch)) / len(parts)
            processes.accelerator.backward(value)
        total += value.detach()
    mean = processes.mean(total)
    if not math.isfinite(mean) and state.scaler is None:  # with a scaler, such a step is skipped
        raise InputError(
            f"training.loop.learning_rate={settings.learning_rate}: the loss is {mean} at step {state.step + 1}; "
            "lower it, and delete the training's folder"
        )
    norm = processes.accelerator.clip_grad_norm_(list(state.network.parameters()), settings.gradient_clip)
    optimizer.step()
    return mean, float(norm)


@contextmanager
def memory_errors(settings: LoopSettings, processes: Processes) -> Iterator[None]:
    """Turns exhausted memory into one line with the remedy; other errors pass.

    Raises:
        InputError: out of memory.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error)
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "allocate memory" not in text and "out of memory" not in text:
            raise
        share = settings.batch_size // processes.count
        more = [n for n in range(settings.accumulate + 1, share + 1) if share % n == 0]
        smaller = f"training.loop.accumulate={more[0]} (the same training in smaller parts), or " if more else ""
        raise InputError(
            f"training.loop.batch_size={settings.batch_size}: out of memory on {processes.device} with "
            f"{share // settings.accumulate} images at a time; set {smaller}a smaller network or data.size"
        ) from error
