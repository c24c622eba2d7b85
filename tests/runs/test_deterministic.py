"""deterministic=true: the same bytes for every batch size and number of threads.

Without it, keys and batches stay as they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.analytic import natural_gaussian
from unseen_diffusion.models.base import Prediction
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Artefact, Store
from unseen_diffusion.utils.errors import InputError

SOLVER = SolverSettings(name="ddim", grid="karras", steps=3)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pictures(count: int, size: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, size, size), generator=rng, dtype=torch.uint8)


def made(stages: Stages, model: DiffusersModel, images: Tensor) -> list[Artefact]:
    """Every stage that evaluates the network in rows."""
    inversion, latents = stages.inversion(model, images, SOLVER, 500)
    base = stages.base_latents(model, SOLVER, 500, len(images), 3)
    return [inversion, *(stages.denoising(model, one, SOLVER, 0.3, 0) for one in (latents, base))]


def test_every_batch_size_and_number_of_threads_gives_the_same_bytes(tmp_path: Path) -> None:
    """photos32: 10 images, so that the last group is not whole; batches of 1, 7 and 64, on one thread and on two."""
    model, images, found = DiffusersModel("embedded:photos32"), pictures(10, 32), []
    for count, size in ((1, 1), (1, 7), (1, 64), (2, 7), (2, 64)):
        stages = Stages(Store(tmp_path / f"{count}-{size}"), size, deterministic=True)
        with threads(count):
            found.append(made(stages, model, images))
            assert torch.get_num_threads() == count  # restored
        assert all(artefact.facts["batch_sizes"] == [8] for artefact in found[-1])
    for stage in zip(*found, strict=True):
        assert len({artefact.key for artefact in stage}) == 1
        for artefact in stage[1:]:
            for name, tensor in artefact.tensors.items():
                assert torch.equal(tensor, stage[0].tensors[name]), name
    assert not torch.are_deterministic_algorithms_enabled()


def test_keys_differ_from_those_without_and_batches_are_recorded(tmp_path: Path) -> None:
    model = natural_gaussian(size=8, channels=3, std=0.5, slope=2.0)
    plain = made(Stages(Store(tmp_path), 4), model, pictures(10, 8))
    fixed = made(Stages(Store(tmp_path), 4, deterministic=True), model, pictures(10, 8))
    assert not {artefact.key for artefact in plain} & {artefact.key for artefact in fixed}
    assert [artefact.facts["batch_sizes"] for artefact in plain] == [[4]] * 3


class Cramped(DiffusersModel):
    """On a device that holds 3 images."""

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        if len(x) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._predict(x, node)


def test_lack_of_memory_does_not_change_the_batch(tmp_path: Path) -> None:
    stages, model = Stages(Store(tmp_path), 2, deterministic=True), Cramped("embedded:digits32")
    with pytest.raises(InputError, match="deterministic=true: out of memory with 8 images at a time; give false"):
        stages.base_latents(model, SOLVER, 500, 10, 3)
