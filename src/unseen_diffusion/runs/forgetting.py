"""How much worse a fine-tuned model is on its original domain than the base model (claim M5)."""

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
    """Compares both models on samples of the base model, which stand for the domain it was trained on.

    Args:
        stages: computes losses and round trips, and stores them.
        base: the frozen model.
        tuned: the same model after fine-tuning.
        images: (n, C, H, W) uint8 samples of ``base``, n >= 2.
        solver: of the round trip.
        t: highest timestep of the round trip.
        seed: of the noise in the losses, which is the same for both models.
        reconstructions: largest number of images to invert and denoise; below 2, none.

    Returns:
        images: n. loss: of predicting the noise (or x0, v) of the images, at ``LOSS_DRAWS`` noise levels each.
        psnr: of inversion to ``t`` and back, dB. Both hold ``base`` and ``tuned`` (means) and ``difference`` (tuned -
        base, paired by image: mean, low and high of its 95% interval).
    """
    losses = [stages.image_losses(model, images, seed) for model in (base, tuned)]
    comparison: dict[str, Any] = {"images": len(images), "loss": _compared(*losses)}
    inverted = images[:reconstructions]
    if len(inverted) > 1:
        psnr = (round_trip(stages, model, inverted, solver, t) for model in (base, tuned))
        comparison["psnr"] = _compared(*psnr)
    return comparison


def round_trip(stages: Stages, model: DiffusersModel, images: Tensor, solver: SolverSettings, t: float) -> Tensor:
    """PSNR (n,), in dB, of images inverted to ``t`` and denoised."""
    latents = stages.inversion(model, images, solver, t)[1]
    denoised = stages.denoising(model, latents, solver, 0.0, 0)
    return stages.fidelity(images, denoised).tensors["psnr"]


def _compared(base: Tensor, tuned: Tensor) -> dict[str, Any]:
    """Means of both models over images, and the paired difference with its interval."""
    first, second = _numbers(base), _numbers(tuned)
    difference = asdict(paired_difference(second, first))
    means = {"base": sum(first) / len(first), "tuned": sum(second) / len(second)}
    return means | {"difference": {key: difference[key] for key in ("mean", "low", "high")}}


def _numbers(values: Tensor) -> Sequence[float]:
    return [float(value) for value in values]
