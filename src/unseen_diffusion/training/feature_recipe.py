"""Training of the feature network: from its config to a documented folder of weights."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from unseen_diffusion.domains.base import Domain
from unseen_diffusion.reports.tracking import NoTracker, Tracker
from unseen_diffusion.scores.features.embedded import EmbeddedFeatures
from unseen_diffusion.training.cards import plain_config, save_loss_curve, training_command
from unseen_diffusion.training.data import images_digest
from unseen_diffusion.training.distortions import KINDS
from unseen_diffusion.training.feature_card import (
    Evaluation,
    distorted_halves,
    halves_and_others,
    model_card,
)
from unseen_diffusion.training.features import (
    FeatureLoss,
    Source,
    TrainingSet,
    distortion_accuracy,
    domain_accuracy,
    domain_source,
    parquet_source,
)
from unseen_diffusion.training.journal import journal
from unseen_diffusion.training.loop import LoopSettings, new_state, seeded, train
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.resume import check_resumable, exclusive, resolve_precision
from unseen_diffusion.training.state import TrainState
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_path, write_json
from unseen_diffusion.utils.tensors import write_tensors

log = logging.getLogger(__name__)


def train_features(config: DictConfig, device: torch.device, tracker: Tracker | None = None) -> Path:
    """Trains the feature network on all sources of the config; returns the folder of its weights."""
    config = resolve_precision(config, device)
    settings: LoopSettings = build(config.loop, "training.loop")
    for name in ("keep", "ema_others"):
        if given := list(getattr(settings, name)):
            raise InputError(f"training.loop.{name}={given}: for base models only; leave it out")
    processes = Processes(device, settings.precision)
    training, heldout = feature_sources(config)
    data = TrainingSet.balanced(list(training.values()), config.most_repeats)
    log.info("%d training images in %d classes", len(data.images), len(data.classes))
    network = {**config.network, "classes": len(data.classes), "distortions": len(KINDS)}
    state = new_state(seeded(network, settings.seed), settings, processes.device)
    loss = FeatureLoss(data, config.distorted, config.label_smoothing, processes.device)
    folder = Path(config.folder)
    plain = plain_config(config)
    plain["data"] = {"size": config.data.size, "fingerprint": images_digest(data.images, data.labels)}
    with exclusive(folder, processes):
        if processes.first:
            check_resumable(folder, plain)
        with journal(tracker if tracker and processes.first else NoTracker(), config.name, plain) as book:
            train(settings, state, len(data.draws), loss, folder, processes, lambda _: None, book)
        if processes.first:
            document(config, state, network, data, training, heldout)
    return folder / "weights"


def document(
    config: DictConfig,
    state: TrainState,
    network: Mapping[str, Any],
    data: TrainingSet,
    training: Mapping[str, Source],
    heldout: dict[str, Source],
) -> None:
    """Writes the weights of a finished training, its loss curve and its card."""
    weights = Path(config.folder) / "weights"
    save_weights(state.ema, network, data.classes, config.data.size, weights)
    save_loss_curve(state.history, weights / "loss.png")
    evaluation = evaluate(EmbeddedFeatures(weights), heldout, data.classes, config.probe, config.loop.seed)
    card = model_card(
        card_facts(config, data, list(training), state.ema),
        training_command(config),
        evaluation,
        config.probe,
    )
    with atomic_path(weights / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def save_weights(
    network: nn.Module, arguments: Mapping[str, Any], classes: tuple[str, ...], size: int, folder: Path
) -> None:
    """Writes config.json and model.safetensors (half precision), as ``EmbeddedFeatures`` reads them."""
    plain = OmegaConf.to_container(OmegaConf.create({k: v for k, v in arguments.items() if k != "_target_"}))
    config = {"size": size, "network": plain, "classes": classes, "distortions": KINDS}
    write_json(folder / "config.json", config)
    write_tensors(folder / "model.safetensors", {name: value.half() for name, value in network.state_dict().items()})


def feature_sources(config: DictConfig) -> tuple[dict[str, Source], dict[str, Source]]:
    """The sources to train on and to test on, by name.

    Raises:
        InputError: training files without test files, or a source that cannot be read.
    """
    size, seed = config.data.size, config.loop.seed
    training, heldout = {}, {}
    paths = file_paths(config)
    for name, entry in config.sources.items():
        domain: Domain = build(entry.domain, f"training.sources.{name}.domain")
        training[name], heldout[name] = domain_source(name, domain, size, entry.classes, entry.symmetry, entry.rows)
    for name, (path, path_test) in paths.items():
        entry = config.files[name]
        form = (size, entry.symmetry, entry.rows)
        training[name] = parquet_source(name, path, *form, entry.limit, seed)
        heldout[name] = parquet_source(name, path_test, *form, entry.limit_test, seed)
    return training, heldout


def file_paths(config: DictConfig) -> dict[str, tuple[str, str]]:
    """Paths of the files to train on and to test on, by source; sources without files are skipped."""
    paths = {}
    for name in config.files:
        pair = config.data[name], config.data[f"{name}_test"]
        if (pair[0] is None) != (pair[1] is None):
            raise InputError(
                f"training.data.{name}={pair[0]}, training.data.{name}_test={pair[1]}: give both or neither"
            )
        if None not in pair:
            paths[name] = pair
    return paths


def evaluate(
    extractor: EmbeddedFeatures, heldout: dict[str, Source], classes: tuple[str, ...], probe: str, seed: int
) -> Evaluation:
    """The measurements of the card, made with the saved weights."""
    images: dict[str, Tensor] = {name: source.images for name, source in heldout.items()}
    halves, others = halves_and_others(extractor, images, probe)
    sources = list(heldout.values())
    return Evaluation(
        domain_accuracy(extractor.network, sources, classes),
        distortion_accuracy(extractor.network, sources, seed),
        halves,
        others,
        distorted_halves(extractor, images[probe], seed),
    )


def card_facts(config: DictConfig, data: TrainingSet, sources: list[str], network: nn.Module) -> dict[str, str]:
    """The first table of the card."""
    loop = config.loop
    return {
        "data": f"{len(data.images):,} images in {len(data.classes)} classes of {', '.join(sources)}",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}, stored in half precision",
        "features": str(config.network.dimension),
        "optimisation": f"{loop.steps} steps of {loop.batch_size}, AdamW at {loop.learning_rate}, "
        f"averaged weights ({loop.ema_decay})",
        "distorted images": f"{config.distorted:.0%}: {', '.join(KINDS[1:])}",
        "seed": str(loop.seed),
    }
