"""What a tuned model has lost of its original domain (claim M5); a frozen model loses exactly nothing."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import Tensor

from unseen_diffusion.models.pipeline import DiffusersModel
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.intervals import paired_difference
from unseen_diffusion.solvers.settings import SolverSettings


def forgetting(
    stages: Stages,
    base: DiffusersModel,
    tuned: DiffusersModel,
    images: Tensor,
    solver: SolverSettings,
    t: float,
    seed: int,
    reconstructions: int,
) -> dict[str, Any]:
    """Both networks on samples of the base model, which stand for the domain that it was trained on.

    Args:
        stages: what computes and keeps it.
        base: the frozen model.
        tuned: the same, tuned.
        images: (n, C, H, W) uint8 samples of ``base``, n >= 2.
        solver: of the round trip.
        t: its top.
        seed: of the noise of the losses, which is the same for both.
        reconstructions: images of the round trip at most; below 2, there is none.

    Returns:
        images: n. loss: of predicting the noise (or x0, v) of the images at ``stages.LOSS_DRAWS`` levels each. psnr: of
        inversion to ``t`` and back, dB. Either as ``base``, ``tuned`` (means) and ``difference`` (tuned - base,
        paired by image: mean, low, high of the 95% interval).
    """
    losses = [stages.image_losses(model, images, seed) for model in (base, tuned)]
    found: dict[str, Any] = {"images": len(images), "loss": _compared(*losses)}
    some = images[:reconstructions]
    if len(some) > 1:
        found["psnr"] = _compared(*(round_trip(stages, model, some, solver, t) for model in (base, tuned)))
    return found


def round_trip(stages: Stages, model: DiffusersModel, images: Tensor, solver: SolverSettings, t: float) -> Tensor:
    """PSNR, (n,) in dB, of images inverted to ``t`` and denoised."""
    latents = stages.inversion(model, images, solver, t)[1]
    made = stages.denoising(model, latents, solver, 0.0, 0)
    return stages.fidelity(images, made).tensors["psnr"]


def _compared(base: Tensor, tuned: Tensor) -> dict[str, Any]:
    first, second = _numbers(base), _numbers(tuned)
    difference = asdict(paired_difference(second, first))
    means = {"base": sum(first) / len(first), "tuned": sum(second) / len(second)}
    return means | {"difference": {key: difference[key] for key in ("mean", "low", "high")}}


def _numbers(values: Tensor) -> Sequence[float]:
    return [float(value) for value in values]
