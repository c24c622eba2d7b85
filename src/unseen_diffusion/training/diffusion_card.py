"""The documentation of a base model: the loss curve, the samples, and the card with data, settings and quality."""

import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor

from unseen_diffusion.models.parameterisations import PREDICTION_TYPES
from unseen_diffusion.training import samples
from unseen_diffusion.training.cards import fact_table, own_images, save_loss_curve, start_name, training_command
from unseen_diffusion.training.images import TrainingImages
from unseen_diffusion.training.loop import LoopSettings
from unseen_diffusion.training.noise import prediction_type
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.state import TrainState
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.files import atomic_path


def document(
    config: DictConfig,
    data: TrainingImages,
    target: Tensor | None,
    state: TrainState,
    weights: Path,
    processes: Processes,
) -> None:
    """Writes the curves, samples and card of a finished training to the folder of its weights."""
    save_loss_curve(state.history, weights / "loss.png", state.measured)
    with atomic_path(weights / "samples.png") as temporary:
        shutil.copyfile(samples.sheet_path(weights.parent, state), temporary)
    quality = None
    if target is not None and "kid" in state.measured:
        last = {name: float(rows[-1, 1]) for name, rows in state.measured.items()}
        quality = {
            "its own samples": (last["kid"], last["kid_low"], last["kid_high"]),
            "as many training images (the floor)": samples.training_kid(data.images[data.rows], target, config),
        }
    with atomic_path(weights / "README.md") as temporary:
        temporary.write_text(model_card(config, data, state, quality, processes.count), encoding="utf-8")


def model_card(
    config: DictConfig,
    data: TrainingImages,
    state: TrainState,
    quality: dict[str, tuple[float, float, float]] | None,
    processes: int,
) -> str:
    """The card in Markdown: data, optimisation, command, pictures and measured quality."""
    facts = card_facts(config, data, state, processes)
    unseen = "" if own_images(config) else "; never shown any unseen domain"
    lines = [f"# {config.name}\n", f"A base model trained by `unseen train`{unseen}.\n"]
    lines += [*fact_table(facts), f"\n```\n{training_command(config)}\n```\n"]
    if own_images(config):
        lines.append("Use it: `unseen run model=diffusers model.path=THIS_FOLDER domain=...`\n")
    if quality:
        solver = samples.SAMPLING
        drawn = f"{samples.sample_count(config, True)} samples, {solver.name}, {solver.grid} grid, {solver.steps} NFE"
        lines.append(f"\n## Quality\n\nKID x 1000 to the test images, embedded features ({drawn}):\n")
        shown = {
            name: f"{1000 * value:.1f} (95% {1000 * low:.1f} to {1000 * high:.1f})"
            for name, (value, low, high) in quality.items()
        }
        lines += fact_table(shown)
    pictures = "![64 uncurated samples](samples.png)\n\n![loss](loss.png)\n"
    return "\n".join([*lines, f"\n## {samples.SHEET} uncurated samples, and the loss\n\n{pictures}"])


def card_facts(config: DictConfig, data: TrainingImages, state: TrainState, processes: int) -> dict[str, Any]:
    """The first table of the card."""
    network: Any = state.ema
    loop, last = config.loop, state.history[-200:, 1].mean()
    shape = "x".join(str(number) for number in data.images.shape[1:])
    factor = config.network.pixel_unshuffle
    on = f"{factor}x{factor} pixel-unshuffled images" if factor > 1 else "the images"
    settings: LoopSettings = build(loop, "training.loop")
    precision = {"bf16": "bf16 autocast", "fp16": "fp16 autocast"}.get(settings.precision, "float32")
    facts: dict[str, Any] = {
        "data": f"{len(data.rows):,} images of {shape}" + (f": {config.about}" if config.about else ""),
        "parameters": f"{sum(p.numel() for p in state.ema.parameters()):,}, stored in half precision",
        "network": f"UNet2DModel on {on}, channels {list(network.config.block_out_channels)}",
        "diffusion": f"{PREDICTION_TYPES[prediction_type(config)]}-prediction, {config.schedule.beta_schedule} betas "
        f"{config.schedule.beta_start} to {config.schedule.beta_end}, {config.schedule.num_train_timesteps} steps",
        "optimisation": f"{state.step} steps of {loop.batch_size}, AdamW at {loop.learning_rate}, cosine, "
        f"averaged weights ({loop.ema_decay}), {precision}" + (f", {processes} processes" if processes > 1 else ""),
        "seed": loop.seed,
        "loss": f"{last:.4f} (mean of the last 200 steps)",
    }
    if (losses := state.measured.get("validation_loss")) is not None:
        facts["validation loss"] = f"{losses[-1, 1]:.4f} (averaged weights, {len(data.held):,} held-out images)"
    if config.get("min_snr"):
        facts["loss weights"] = f"min-SNR, gamma {config.min_snr}; the validation loss has none"
    if config.get("start"):
        facts["began as"] = start_name(config)
    if config.notes:
        facts["notes"] = config.notes
    return facts
