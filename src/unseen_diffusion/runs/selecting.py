"""Selection by images in a run: candidates are generated in blocks until enough of them are kept.

Each block of ``samples`` candidates is an artefact of its own, and so are its features and the choice among all blocks
so far: an interrupted selection goes on where it was, and runs with other selections share the candidates.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from unseen_diffusion.rejection.images.base import ImageTask, Seen
from unseen_diffusion.runs.image_stages import ImageChoice, network_features
from unseen_diffusion.runs.methods.base import Generated
from unseen_diffusion.runs.stage import Identified
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.store.artefacts import Artefact
from unseen_diffusion.utils.errors import InputError

if TYPE_CHECKING:
    import unseen_diffusion.runs.run

log = logging.getLogger(__name__)

Candidates = Callable[[range], Generated]


def selected(run: "unseen_diffusion.runs.run.Run", candidates: Candidates) -> Generated:
    """The images that the run's selection keeps, as many as it wants; all candidates with selection=none.

    Args:
        run: with the selection among its settings.
        candidates: generates the candidates of these numbers; the same whatever other numbers are asked for.

    Raises:
        InputError: ``rejection.max_images`` was reached (the message says how many were kept), or the model has no
            features.
    """
    s = run.settings
    if not s.selection.judges:
        return candidates(range(s.samples))
    choosing, most = Choosing(run), s.rejection.max_images
    references = choosing.seen(f"{run.split.key}/references", run.split.tensors["references"], 0)
    blocks: list[Generated] = []
    while True:
        start = sum(len(block.images.tensors["images"]) for block in blocks)
        stop = min(start + s.samples, most)
        blocks.append(candidates(range(start, stop)))
        chosen = choosing.choose(blocks, references)
        count, judged = len(chosen.tensors["positions"]), chosen.facts["judged"]
        if count >= s.samples:
            break
        # Blocks may also end because the rejection was allowed to find fewer latents.
        if stop == most or len(blocks[-1].images.tensors["images"]) < stop - start:
            if s.rejection.allow_fewer and count >= s.scores.minimum:
                break
            raise InputError(
                f"selection={s.selection.name}: {count} of {s.samples} images kept after {judged} candidates; raise "
                "rejection.max_images, lower samples, or set rejection.allow_fewer=true"
            )
    if not all(one.independent for one in s.selection.every()):
        message = "selection=%s: its images are a set and no independent draws, so intervals are too narrow"
        log.warning(message, s.selection.name)
    return _joined(blocks, chosen)


@dataclass(frozen=True)
class Choosing:
    """The stages of a selection by images."""

    run: "unseen_diffusion.runs.run.Run"

    def seen(self, key: str, images: Tensor, start: int) -> Seen:
        """Images as the selection sees them, numbered from ``start`` on."""
        run, features = self.run, None
        pixels = run.stages.features(Pixels(), key, images, run.settings.device)
        if run.settings.selection.needs_features:
            features = network_features(run.stages, run.model, key, images)
        return Seen(pixels, features, torch.arange(start, start + len(images)))

    def choose(self, blocks: list[Generated], references: Seen) -> Artefact:
        """The choice among the candidates of all blocks: tensors images and positions; facts: counts, thresholds."""
        run, s = self.run, self.run.settings
        parts, start = [], 0
        for block in blocks:
            images = block.images.tensors["images"]
            parts.append(self.seen(block.images.key, images, start))
            start += len(images)
        every = torch.cat([block.images.tensors["images"] for block in blocks])
        stage = ImageChoice(
            selection=Identified(s.plain["selection"], s.selection),
            candidates=Identified([block.images.key for block in blocks], (every, _together(parts))),
            references=Identified(f"{run.split.key}/references", references),
            model=run.model if s.selection.needs_features else None,
            task=ImageTask(s.samples, s.seed, s.domain.symmetries),
        )
        return run.stages.run(stage)


def _together(parts: list[Seen]) -> Seen:
    """The candidates of several blocks as one set."""
    features = [part.features for part in parts if part.features is not None]
    return Seen(
        torch.cat([part.pixels for part in parts]),
        torch.cat(features) if features else None,
        torch.cat([part.numbers for part in parts]),
    )


def _joined(blocks: list[Generated], chosen: Artefact) -> Generated:
    """The images that were chosen, with their latents if they have any, and the records of both selections."""
    latents, positions = None, chosen.tensors["positions"].tolist()
    sets = [block.latents for block in blocks if block.latents is not None]
    if sets:
        together = replace(
            sets[0],
            latents=torch.cat([one.latents for one in sets]),
            indices=[index for one in sets for index in one.indices],
        )
        latents = together.at(positions)
    return replace(blocks[-1], images=chosen, latents=latents, choice=chosen)
