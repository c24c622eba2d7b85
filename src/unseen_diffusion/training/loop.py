"""One training loop: everything random is a function of (seed, step), so a resumed run is the same run."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch
from omegaconf import DictConfig
from torch import Tensor, nn
from tqdm import tqdm

from unseen_diffusion.training.journal import Journal
from unseen_diffusion.training.optimisation import epoch_rows, update_ema
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.state import (
    CHECKPOINT,
    TrainState,
    load_checkpoint,
    measured_table,
    save_checkpoint,
    write_csv,
)
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import locked, read_json, write_json
from unseen_diffusion.utils.seeds import generator

log = logging.getLogger(__name__)

# The least of what must be whole.
WHOLE = {"seed": 0, "warmup_steps": 0}
WHOLE |= dict.fromkeys(("steps", "batch_size", "checkpoint_every", "sample_every", "accumulate"), 1)


@dataclass(frozen=True)
class LoopSettings:
    """Optimisation of one network. Rates are per step; ``ema_decay`` is the decay of the averaged weights.

    ``batch_size`` is the images of a step, of all processes together; ``accumulate`` is how many parts a process
    takes its share in: the same step with less memory. ``ema_others`` are decays of further averages, whose validation
    loss is recorded beside that of the first (0: the weights themselves). At steps in ``keep`` samples are made and
    the averaged weights kept. ``bf16`` may be "auto": see ``settle_precision``.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup_steps: int
    ema_decay: float
    gradient_clip: float
    bf16: bool | str
    seed: int
    checkpoint_every: int
    sample_every: int
    accumulate: int = 1
    fp16: bool = False
    keep: Sequence[int] = ()
    ema_others: Sequence[float] = ()

    def __post_init__(self) -> None:
        for name, least in WHOLE.items():
            if not _is_whole(value := getattr(self, name)) or value < least:
                raise InputError(f"training.loop.{name}={value}: give a whole number of {least} or more")
        for name in ("learning_rate", "weight_decay", "gradient_clip"):
            if not _is_number(value := getattr(self, name)) or value < 0:
                raise InputError(f"training.loop.{name}={value}: give a finite number of 0 or more")
        for name in ("keep", "ema_others"):
            if isinstance(value := getattr(self, name), str) or not isinstance(value, Sequence):
                raise InputError(f"training.loop.{name}={value}: give a list, such as [1000,2000] or [0.99]")
        for name, decays in (("ema_decay", [self.ema_decay]), ("ema_others", self.ema_others)):
            if wrong := [decay for decay in decays if not _is_number(decay) or not 0 <= decay < 1]:
                raise InputError(f"training.loop.{name}={wrong[0]}: give numbers in [0, 1)")
        # A whole 0 would be written as another name than 0.0.
        object.__setattr__(self, "ema_decay", float(self.ema_decay))
        object.__setattr__(self, "ema_others", [float(decay) for decay in self.ema_others])
        if len({self.ema_decay, *self.ema_others}) <= len(self.ema_others):
            raise InputError(f"training.loop.ema_others={self.ema_others}: name each decay once, and not ema_decay")
        if wrong := [step for step in self.keep if not _is_whole(step) or not 1 <= step <= self.steps]:
            raise InputError(f"training.loop.keep={wrong[0]}: give whole steps between 1 and steps={self.steps}")
        if self.bf16 not in (True, False, "auto"):
            raise InputError(f"training.loop.bf16={self.bf16}: choose true, false or auto")
        if not isinstance(self.fp16, bool):
            raise InputError(f"training.loop.fp16={self.fp16}: choose true or false")
        if self.bf16 is True and self.fp16:
            raise InputError("training.loop.bf16=true, training.loop.fp16=true: choose one of them")

    @property
    def precision(self) -> str:
        """As ``accelerate`` calls it; of settled precisions."""
        return "fp16" if self.fp16 else "bf16" if self.bf16 else "no"


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@runtime_checkable
class Loss(Protocol):
    """What is trained on, and how well it is done."""

    def batch(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """All that is random in a step: (image indices (B,), its generator) -> tensors with B rows each."""
        ...

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """The mean loss of some rows of a batch, a scalar."""
        ...


def new_state(network: nn.Module, settings: LoopSettings, device: torch.device) -> TrainState:
    """A fresh AdamW state; the averaged weights start as a copy."""
    network = network.to(device).train()
    ema, *others = (copy.deepcopy(network).requires_grad_(False).eval() for _ in (None, *settings.ema_others))
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    averages = dict(zip(settings.ema_others, others, strict=True))
    return TrainState(network, ema, averages, optimizer, 0, torch.empty((0, 3), dtype=torch.float64), {})


def seeded(config: Any, seed: int) -> nn.Module:
    """Instantiates a network with initial weights that depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, "weights").initial_seed())
        return build(config, "training.network")


def learning_rate(settings: LoopSettings, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


LOCK = ".training.lock"
# What may change between a training and its resumption; everything else must be what it was.
CHANGEABLE = ("steps", "checkpoint_every", "sample_every", "accumulate", "keep")
UNCOMPARED = ("folder", "notes", "about", "quality_samples")
ADDED = {"fp16": False, "ema_others": []}  # what trainings from before these keys had


def settle_precision(config: DictConfig, device: torch.device) -> DictConfig:
    """A training's config with ``bf16=auto`` made true or false.

    A training that is resumed keeps its precision. A new one is in bfloat16 where the device computes in it: elsewhere
    it is emulated, and 12 times slower than float32 (measured on a CPU with AVX2).
    """
    if config.loop.bf16 != "auto":
        return config
    path = Path(config.folder) / "training.json"
    if (path.parent / CHECKPOINT).exists() and path.exists():
        chosen = bool(read_json(path)["loop"]["bf16"])
    else:
        chosen = not config.loop.get("fp16") and computes_bf16(device)
    config = copy.deepcopy(config)
    config.loop.bf16 = chosen
    return config


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return False


@contextmanager
def alone(folder: Path, processes: Processes) -> Iterator[None]:
    """Keeps other trainings out of ``folder``; the processes of one training share it, and the first locks it.

    Raises:
        InputError: another training has it.
    """
    with locked(folder / LOCK) if processes.first else nullcontext(True) as mine:
        if mine is False:
            raise InputError(
                f"training.folder={folder}: another training is going on there; choose another, or wait for its end"
            )
        if mine is None:
            log.warning("training.folder=%s: no file locks there; nothing keeps a second training out", folder)
        yield


def check_resumable(folder: Path, config: dict[str, Any]) -> None:
    """Notes the configuration of a training in ``folder``; refuses to resume one with another.

    ``data`` tells the images by a fingerprint; that of older trainings told paths, which are not compared.

    Raises:
        InputError: a value differs from the one that the checkpoint was trained with.
    """
    now = {key: value for key, value in config.items() if key not in UNCOMPARED}
    now["loop"] = {key: value for key, value in now["loop"].items() if key not in CHANGEABLE}
    path = folder / "training.json"
    if (folder / CHECKPOINT).exists() and path.exists():
        before = read_json(path)
        before["loop"] = ADDED | before["loop"]
        now["loop"] = ADDED | now["loop"]
        if "data" in before and "fingerprint" not in before["data"]:
            before["data"] = {key: before["data"].get(key, value) for key, value in now["data"].items()}
        for key in sorted({*now, *before}):
            if now.get(key) != before.get(key):
                raise InputError(
                    f"training.{key}={now.get(key)}: the checkpoint in {folder} was trained with {before.get(key)}; "
                    "choose another training.folder, or delete that one"
                )
    write_json(path, now)


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

    Every process takes its rows of the same batches: their number, and ``accumulate``, change only how sums are
    rounded. The first one writes checkpoint.safetensors, loss.csv and validation.csv every ``checkpoint_every``
    steps, calls ``on_sample`` with the state when samples are due, and reports every step to ``journal``.

    Raises:
        InputError: the batch cannot be divided, the checkpoint is beyond ``settings.steps``, memory is exhausted, or
            the loss is no longer finite.
    """
    parts = processes.parts(settings.batch_size, settings.accumulate)
    network, optimizer = processes.prepare(state.network, state.optimizer)
    state.scaler = processes.accelerator.scaler
    if (folder / CHECKPOINT).exists():
        load_checkpoint(folder / CHECKPOINT, state)
    if state.step > settings.steps:
        raise InputError(
            f"training.loop.steps={settings.steps}: the checkpoint in {folder} is at step {state.step}; give as many "
            "or more, or choose another training.folder"
        )
    if processes.first:
        remove_unfinished(folder)
    rows: list[list[float]] = state.history.tolist()
    bar = tqdm(
        total=settings.steps,
        initial=state.step,
        desc="train",
        mininterval=5,
        dynamic_ncols=True,
        disable=not processes.first,
    )
    while state.step < settings.steps:
        started = time.monotonic()
        rate = learning_rate(settings, state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        with memory_errors(settings, processes):
            value, norm = optimise(settings, state, image_count, loss, processes, network, optimizer, parts)
        update_ema(state.ema, state.network, settings.ema_decay, state.step)
        for decay, average in state.others.items():
            update_ema(average, state.network, decay, state.step)
        state.step += 1
        rows.append([state.step, value, norm])
        bar.update()
        bar.set_postfix(loss=f"{value:.4f}", seconds=f"{time.monotonic() - started:.2f}", refresh=False)
        last = state.step == settings.steps
        if processes.first:
            journal.write(state.step, {"loss": value, "learning_rate": rate, "gradient_norm": norm})
            if state.step % settings.sample_every == 0 or state.step in settings.keep or last:
                on_sample(state)
            if state.step % settings.checkpoint_every == 0 or last:
                state.history = torch.tensor(rows, dtype=torch.float64)
                save_checkpoint(folder / CHECKPOINT, state)
                history = pd.DataFrame(rows, columns=["step", "loss", "gradient_norm"])
                write_csv(folder / "loss.csv", history.astype({"step": int}).set_index("step"))
                if state.measured:
                    write_csv(folder / "validation.csv", measured_table(state.measured))
    bar.close()
    return state


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
    """One step on this process's ``parts`` of the batch: (loss, gradient norm) of the whole batch.

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
    if not math.isfinite(mean) and state.scaler is None:  # with a scaler, such a step is left out
        raise InputError(
            f"training.loop.learning_rate={settings.learning_rate}: the loss is {mean} at step {state.step + 1}; "
            "lower it, and delete the training's folder"
        )
    norm = processes.accelerator.clip_grad_norm_(list(state.network.parameters()), settings.gradient_clip)
    optimizer.step()
    return mean, float(norm)


@contextmanager
def memory_errors(settings: LoopSettings, processes: Processes) -> Iterator[None]:
    """Exhausted memory as one line with the remedy; other errors pass.

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


def remove_unfinished(folder: Path) -> None:
    """Deletes the temporary files of checkpoints and decoded images whose writing was killed."""
    for stem in (Path(CHECKPOINT).stem, "images"):
        for path in folder.glob(f".{stem}-*"):
            path.unlink(missing_ok=True)
