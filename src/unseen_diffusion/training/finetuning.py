"""Fine-tuning baselines: the base model's network trained on the references, stopped early on validation images.

Everything random is a function of (seed, step), and dropout is off: on one device the same inputs give the same
weights. Arithmetic is the model's own: float32, or with ``model.dtype=bfloat16`` mixed precision whose weights,
gradients and averages stay float32.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from unseen_diffusion.models.adapters import adapter_weights, check_peft, merged, with_adapters
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.models.options import check_tunable
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.training.optimisation import epoch_rows, update_ema
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.precision import full_float32
from unseen_diffusion.utils.seeds import generator

MINIMUM_VALIDATION = 8  # images behind the decision when to stop
VALIDATION_DRAWS = 256  # noisy images of a validation loss, at least
TRAINING_COST = 3  # evaluations of an image in training: the backward pass counts as two forward ones
GRADIENT_CLIP = 1.0


@dataclass(frozen=True)
class Tuning:
    """A config of a method's ``tuning``: every weight of the network is trained, by AdamW without weight decay.

    Attributes:
        learning_rate: constant.
        max_steps: where tuning ends if validation does not end it before.
        batch_size: references of a step; epochs are seeded permutations laid end to end.
        check_every: steps between validation losses.
        patience: so many of them in a row without a new best one end the tuning.
        ema: decay of the averaged weights, which are the ones validated and kept; 0 for the last weights.
        flip: mirrors references at random. False by default: a mirror image is not of every domain (digits, text),
            and priors see the references as they are; with few images it delays overfitting where it is true.
    """

    learning_rate: float
    max_steps: int
    batch_size: int
    check_every: int
    patience: int
    ema: float
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "check_every", "patience"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"method.tuning.{name}={value}: give a whole number of 1 or more")
        if not _is_number(self.learning_rate) or not 0 < self.learning_rate <= 1:
            raise InputError(f"method.tuning.learning_rate={self.learning_rate}: give a number in (0, 1], e.g. 1e-4")
        if not _is_number(self.ema) or not 0 <= self.ema < 1:
            raise InputError(f"method.tuning.ema={self.ema}: give a number in [0, 1); 0 for none")
        if not isinstance(self.flip, bool):
            raise InputError(f"method.tuning.flip={self.flip}: give true or false")

    def check(self, model: dict[str, Any], validation: int) -> None:
        """What can be known before a model is loaded.

        Args:
            model: its config.
            validation: images that will decide when to stop.

        Raises:
            InputError: a model that cannot be tuned, or too few images.
        """
        if "path" not in model:
            raise InputError(f"model={model['name']}: has no network to tune; choose another model or method")
        check_tunable(model["path"], model.get("revision"))
        if validation < MINIMUM_VALIDATION:
            raise InputError(
                f"domain.validation={validation}: tuning stops by its loss on validation images; "
                f"give {MINIMUM_VALIDATION} or more"
            )

    def trainable(self, network: nn.Module, seed: int) -> nn.Module:
        """A copy of ``network`` that computes the same, with what is trained requiring gradients."""
        return copy.deepcopy(network).requires_grad_(True)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """What is kept of a tuned network."""
        return network.state_dict()

    def tuned(self, network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """A copy of the base model's ``network`` with what was kept of a tuned one."""
        network = copy.deepcopy(network)
        network.load_state_dict(weights)
        return network


@dataclass(frozen=True, kw_only=True)
class LoraTuning(Tuning):
    """Low-rank adapters of ``rank`` on attention and convolution layers are trained, and nothing else."""

    rank: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise InputError(f"method.tuning.rank={self.rank}: give a whole number of 1 or more")

    def check(self, model: dict[str, Any], validation: int) -> None:
        """Also whether peft is installed."""
        super().check(model, validation)
        check_peft()

    def trainable(self, network: nn.Module, seed: int) -> nn.Module:
        """A copy of ``network`` with fresh adapters."""
        return with_adapters(network, self.rank, seed)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The adapters alone."""
        return adapter_weights(network)

    def tuned(self, network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """The adapters, merged into a copy of ``network``."""
        return merged(network, self.rank, weights)


def tune(
    model: DiffusersModel, references: Tensor, validation: Tensor, settings: Tuning, seed: int, progress: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains a copy of the model's network on ``references``; the model itself stays as it is.

    Args:
        model: the base model.
        references: (n, C, H, W) uint8, all that is trained on.
        validation: (v, C, H, W) uint8; their loss decides which weights are kept, the untouched ones included.
        settings: how.
        seed: of the order of the references, the noise and the adapters.
        progress: show a progress bar.

    Returns:
        The weights of the best step (``settings.tuned`` puts them into a network), and facts: parameters (trained),
        steps, best_step, stopped (``validation`` or ``max_steps``), validation (rows of step and loss), loss (mean of
        the training loss between them), evaluations (``TRAINING_COST`` for every image of a step, 1 for every
        validated one).

    Raises:
        InputError: the loss is no longer finite.
    """
    network = settings.trainable(model.network, seed)
    ema = copy.deepcopy(network).requires_grad_(False)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=0.0)
    loss = model.loss(references, settings.flip)
    repeats = math.ceil(VALIDATION_DRAWS / len(validation))
    held = model.loss(validation, kept=torch.arange(len(validation)).repeat(repeats))
    means: list[float] = []
    losses: list[float] = []
    with same_sums():
        curve = [(0, validation_loss(ema, held, seed))]
        best, kept, step = 0, _copies(settings.weights(ema)), 0
        bar = tqdm(total=settings.max_steps, desc="tune", disable=not progress, dynamic_ncols=True, leave=False)
        while step < settings.max_steps and len(curve) - 1 - best < settings.patience:
            losses.append(optimise(network, trained, optimizer, loss, settings, seed, step))
            update_ema(ema, network, settings.ema, step)
            step += 1
            bar.update()
            if step % settings.check_every == 0 or step == settings.max_steps:
                curve.append((step, validation_loss(ema, held, seed)))
                means.append(sum(losses) / len(losses))
                losses.clear()
                if curve[-1][1] < curve[best][1]:
                    best, kept = len(curve) - 1, _copies(settings.weights(ema))
        bar.close()
    facts = {
        "parameters": sum(parameter.numel() for parameter in trained),
        "steps": step,
        "best_step": curve[best][0],
        "stopped": "validation" if len(curve) - 1 - best >= settings.patience else "max_steps",
        "validation": [list(point) for point in curve],
        "loss": means,
        "evaluations": TRAINING_COST * step * settings.batch_size + len(held.kept) * len(curve),
    }
    return kept, facts


def optimise(
    network: nn.Module,
    trained: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: DiffusionLoss,
    settings: Tuning,
    seed: int,
    step: int,
) -> float:
    """One step; its loss.

    Raises:
        InputError: the loss is not finite.
    """
    rows = epoch_rows(len(loss.kept), settings.batch_size, step, seed)
    value = loss(network, *loss.batch(rows, generator(seed, "tuning", step)))
    if not bool(value.isfinite()):
        raise InputError(
            f"method.tuning.learning_rate={settings.learning_rate}: the loss is {value.item()} at step {step + 1}; "
            "lower it"
        )
    optimizer.zero_grad(set_to_none=True)
    value.backward()
    nn.utils.clip_grad_norm_(trained, GRADIENT_CLIP)
    optimizer.step()
    return value.item()


@contextmanager
def same_sums() -> Iterator[None]:
    """Full float32 where float32 is meant, and convolutions that add in the same order every time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    try:
        cudnn.deterministic = True
        with full_float32():
            yield
    finally:
        cudnn.deterministic = before


def describe(settings: Tuning) -> dict[str, Any]:
    """All that decides a tuning beside model, images and seed, as JSON values."""
    return {"kind": type(settings).__name__, **asdict(settings)}


def _copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
