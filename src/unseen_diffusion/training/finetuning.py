"""Fine-tuning: trains the base model's network on the references until the validation loss rises.

All randomness is a function of (seed, step), and dropout is off: on one device the same inputs give the same weights.
The precision is the model's: float32, or with ``model.dtype=bfloat16`` mixed precision whose weights, gradients and
averages stay float32.
"""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from unseen_diffusion.models.adapters import adapter_weights, check_peft, merged, with_adapters
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.models.options import check_tunable
from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.training.optimisation import epoch_rows, update_ema
from unseen_diffusion.utils.checked import Count, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.precision import full_float32
from unseen_diffusion.utils.seeds import generator

MINIMUM_VALIDATION = 8  # least number of images that decide when to stop
VALIDATION_DRAWS = 256  # least number of noisy images in a validation loss
TRAINING_COST = 3  # NFE per image of a training step: the backward pass counts as two forward passes
GRADIENT_CLIP = 1.0  # greatest L2 norm of the gradient


def check_validation(count: int) -> None:
    """Checks that enough validation images decide when to stop.

    Raises:
        InputError: too few.
    """
    if count < MINIMUM_VALIDATION:
        raise InputError(
            f"domain.validation={count}: tuning stops by its loss on validation images; "
            f"give {MINIMUM_VALIDATION} or more"
        )


@settings("method.tuning")
class Tuning:
    """Fine-tuning of every weight of the network, by AdamW without weight decay."""

    learning_rate: Annotated[float, Field(gt=0, le=1)]
    """constant learning rate of AdamW"""
    max_steps: Count
    """number of steps after which tuning ends, unless validation ends it earlier"""
    batch_size: Count
    """references per step"""
    check_every: Count
    """steps between two validation losses"""
    patience: Count
    """number of validation losses in a row without a new best one that ends the tuning"""
    ema: Annotated[float, Field(ge=0, lt=1)]
    """decay of the averaged weights, which are validated and kept; 0 for the last weights"""
    flip: bool
    """true mirrors references at random; use it only where a mirror image is as good as the image"""

    def check(self, model: dict[str, Any], validation: int) -> None:
        """Checks whether the model can be tuned, before it is loaded.

        Args:
            model: its config.
            validation: number of images that decide when to stop.

        Raises:
            InputError: a model that cannot be tuned, or too few images.
        """
        if "path" not in model:
            raise InputError(f"model={model['name']}: it has no network to tune; choose another model or method")
        check_tunable(model["path"], model.get("revision"))
        check_validation(validation)

    def trainable(self, network: nn.Module, seed: int) -> nn.Module:
        """A copy of ``network`` with the same outputs, whose trained parameters require gradients."""
        return copy.deepcopy(network).requires_grad_(True)

    def weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The weights of a tuned network that are stored."""
        return network.state_dict()

    def tuned(self, network: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
        """A copy of the base model's ``network`` with the stored weights of a tuned one."""
        network = copy.deepcopy(network)
        network.load_state_dict(weights)
        return network


@settings("method.tuning")
class LoraTuning(Tuning):
    """Fine-tuning of low-rank adapters on attention and convolution layers, and of nothing else."""

    rank: Count
    """rank of the adapters"""

    def check(self, model: dict[str, Any], validation: int) -> None:
        """Checks the model, and that peft is installed."""
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
    """Trains a copy of the model's network on ``references``; the model itself does not change.

    Args:
        model: the base model.
        references: (n, C, H, W) uint8, the only images that are trained on.
        validation: (v, C, H, W) uint8; their loss chooses the weights, and may choose those of the base model.
        settings: of the tuning.
        seed: of the order of the references, the noise and the adapters.
        progress: show a progress bar.

    Returns:
        The weights of the best step (``settings.tuned`` loads them into a network), and facts: parameters (number of
        trained ones), steps, best_step, stopped (by ``validation`` or ``max_steps``), validation (rows of step and
        loss), loss (mean training loss between two validations), and evaluations (NFE: ``TRAINING_COST`` per image of a
        step, 1 per validated image).

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
    return kept, _facts(settings, trained, len(held.kept), curve, best, means)


def _facts(
    settings: Tuning,
    trained: list[nn.Parameter],
    validated: int,
    curve: list[tuple[int, float]],
    best: int,
    means: list[float],
) -> dict[str, Any]:
    """The facts that ``tune`` returns.

    Args:
        settings: of the tuning.
        trained: trained parameters.
        validated: noisy images in a validation loss.
        curve: (step, validation loss), from step 0 to the last.
        best: index of the best point of ``curve``.
        means: mean training loss between two validations.
    """
    steps = curve[-1][0]
    return {
        "parameters": sum(parameter.numel() for parameter in trained),
        "steps": steps,
        "best_step": curve[best][0],
        "stopped": "validation" if len(curve) - 1 - best >= settings.patience else "max_steps",
        "validation": [list(point) for point in curve],
        "loss": means,
        "evaluations": TRAINING_COST * steps * settings.batch_size + validated * len(curve),
    }


def optimise(
    network: nn.Module,
    trained: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    loss: DiffusionLoss,
    settings: Tuning,
    seed: int,
    step: int,
) -> float:
    """Does one step and returns its loss.

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
    """Computes in full float32, without TF32, and with convolutions that add in the same order every time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic
    try:
        cudnn.deterministic = True
        with full_float32():
            yield
    finally:
        cudnn.deterministic = before


def describe(settings: Tuning) -> dict[str, Any]:
    """Everything that determines a tuning beside model, images and seed, as JSON values."""
    return {"kind": type(settings).__name__, **asdict(settings)}


def _copies(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in weights.items()}
