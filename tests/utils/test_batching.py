"""Running out of memory: batches are halved, nothing is lost, nothing changes."""

import gc
import logging
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._dynamo.utils import counters

from support import TinyModelFolder
from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.analytic import GaussianModel, linear_schedule
from unseen_diffusion.models.autoencoders import convert_all
from unseen_diffusion.models.base import Prediction
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.runs.stages import Stages
from unseen_diffusion.scores.features.base import extract
from unseen_diffusion.scores.features.pixels import Pixels
from unseen_diffusion.solvers.grids import make_grid
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.store.artefacts import Store
from unseen_diffusion.utils.batching import BatchSize, in_batches, start_size
from unseen_diffusion.utils.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def quick_collection() -> Iterator[None]:
    """Each lack of memory collects garbage, which would go through all modules that the tests have loaded."""
    gc.freeze()
    yield
    gc.unfreeze()


class Oracle(GaussianModel):
    """Independent coordinates: its arithmetic is the same for every batch size, so results must agree to the bit."""

    def __init__(self) -> None:
        super().__init__(torch.zeros(1, 4, 4), None, torch.linspace(0.1, 2, 16), linear_schedule())


class Small(Oracle):
    """The same on a device that holds 3 images, and fails in the midst of a trajectory."""

    calls = 0

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        self.calls += 1
        if len(x) > 3 and self.calls % 3 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super()._predict(x, node)


def test_a_trajectory_that_runs_out_of_memory_ends_the_same(caplog: pytest.LogCaptureFixture) -> None:
    """Latents, images under eta = 0.5 and counted evaluations are those of a device with room for all."""
    roomy, small = Oracle(), Small()
    images = torch.randn(10, *roomy.shape, generator=torch.Generator().manual_seed(0))
    grid = make_grid(roomy.schedule, "uniform_t", 6, 500, [250])
    with caplog.at_level(logging.WARNING):
        ours, theirs = (invert(m, images, grid, [250, 500], batch_size=8) for m in (small, roomy))
    assert "continuing with batches of 4" in caplog.text
    assert "batches of 2" in caplog.text
    for t in (250, 500):
        assert torch.equal(ours[t], theirs[t])
    down = [denoise(m, theirs[500], grid, 0.5, 3, range(5, 15), batch_size=8) for m in (small, roomy)]
    assert torch.equal(*down)
    assert small.evaluations == roomy.evaluations == 10 * 12


def test_encoders_and_features_halve_too() -> None:
    """The ways into and out of the states, and the feature networks."""
    rows = torch.rand(9, 1, 4, 4, generator=torch.Generator().manual_seed(0))

    def convert(batch: Tensor) -> Tensor:
        if len(batch) > 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )
        return 2 * batch

    assert torch.equal(convert_all(convert, rows, 9, CPU), 2 * rows)
    assert convert_all(convert, rows[:0], 9, CPU).shape == (0, 1, 4, 4)
    whole = Pixels(side=4)

    class Cramped(Pixels):
        def __call__(self, images: Tensor) -> Tensor:
            if len(images) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(images)

    pictures = (rows * 255).byte()
    assert torch.equal(extract(Cramped(side=4), pictures), extract(whole, pictures))


@pytest.mark.parametrize(("count", "size", "room"), [(10, 8, 3), (1, 64, 1), (7, 7, 1), (0, 4, 1), (5, 2, 9)])
def test_every_row_is_done_once_in_order(count: int, size: int, room: int) -> None:
    """Whatever fits, the slices that succeed tile the rows, and never grow again after a failure."""
    tried: list[int] = []

    def job(rows: slice) -> range:
        tried.append(rows.stop - rows.start)
        if tried[-1] > room:
            raise MemoryError
        return range(rows.start, rows.stop)

    done = list(in_batches(job, count, size))
    assert [row for part in done for row in part] == list(range(count))
    assert tried == sorted(tried, reverse=True)


def test_a_stage_keeps_the_smaller_batches_for_its_following_shards(tmp_path: Path) -> None:
    """Memory runs out once per stage and not once per shard; the next stage begins with whole batches again."""
    tried: list[int] = []

    class Cramped(Oracle):
        def _predict(self, x: Tensor, node: Node) -> Prediction:
            tried.append(len(x))
            if len(x) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super()._predict(x, node)

    class CrampedPixels(Pixels):
        def __call__(self, images: Tensor) -> Tensor:
            tried.append(len(images))
            if len(images) > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(images)

    model, solver = Cramped(), SolverSettings(name="ddim", grid="uniform_t", steps=2)
    images = torch.randint(0, 256, (16, *model.shape), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    stages = Stages(Store(tmp_path), batch_size=8)
    latents = stages.inversion(model, images, solver, 500)[1]
    assert [size for size in tried if size > 3] == [8, 4]
    for stage in (
        lambda: stages.denoising(model, latents, solver, 0.5, 3),
        lambda: stages.base_latents(model, solver, 500, 16, 1),
        lambda: stages.features(CrampedPixels(4, batch_size=8), "images", images, CPU),
    ):
        tried.clear()
        stage()
        assert [size for size in tried if size > 3] == [8, 4]
    whole = Stages(Store(tmp_path / "whole"), batch_size=16).inversion(Oracle(), images, solver, 500)[1]
    assert torch.equal(latents.latents, whole.latents)


def failing(error: Exception) -> Callable[[slice], int]:
    """A job that always raises this."""

    def job(rows: slice) -> int:
        raise error

    return job


def test_one_image_too_many_is_one_clear_line() -> None:
    """Less than one image cannot be tried; other failures are not taken for a lack of memory."""
    with pytest.raises(InputError, match="out of memory with one image at a time"):
        list(in_batches(failing(torch.OutOfMemoryError("CUDA out of memory")), 4, 4))
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        list(in_batches(failing(RuntimeError("mat1 and mat2 shapes cannot be multiplied")), 4, 4))


def test_auto_is_a_number_per_kind_of_device() -> None:
    """So that two runs on one machine make the same batches."""
    assert start_size("auto", CPU) == 64
    assert start_size("auto", torch.device("cuda")) == 256
    assert start_size(7, CPU) == 7
    for wrong in (0, -1, 2.5, True, "large"):
        with pytest.raises(InputError, match="batch_size"):
            start_size(wrong, CPU)


def test_layout_and_compilation_change_neither_results_nor_keys(
    tiny_model_folder: TinyModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same latents to float rounding, same fingerprint; the network is in NHWC, and really captured."""
    folder = str(tiny_model_folder())
    plain, fast = DiffusersModel(folder), DiffusersModel(folder, channels_last=True)
    images = torch.randn(2, *plain.shape, generator=torch.Generator().manual_seed(0))
    grid = make_grid(plain.schedule, "uniform_t", 4, 500)
    expected = invert(plain, images, grid, [500])[500]
    weights = [p for p in fast.network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    torch.testing.assert_close(invert(fast, images, grid, [500])[500], expected, rtol=1e-4, atol=1e-4)
    # Without the code generator, which takes minutes on a busy machine; what it must be given is what is tested.
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="eager"))
    compiled = DiffusersModel(folder, compile=True)
    before = counters["frames"]["ok"]
    torch.testing.assert_close(invert(compiled, images, grid, [500])[500], expected, rtol=1e-4, atol=1e-4)
    assert counters["frames"]["ok"] > before
    assert plain.fingerprint == fast.fingerprint == compiled.fingerprint


@given(st.integers(0, 40), st.integers(1, 50), st.integers(1, 50))
def test_batches_cover_every_row_once(count: int, size: int, fits: int) -> None:
    """In order, none larger than asked or than fits; what did not fit once is not tried again."""
    tried: list[int] = []

    def job(rows: slice) -> range:
        tried.append(rows.stop - rows.start)
        if tried[-1] > fits:
            raise MemoryError
        return range(rows.start, rows.stop)

    limit = BatchSize(size)
    parts = list(in_batches(job, count, limit))
    assert [row for part in parts for row in part] == list(range(count))
    assert all(0 < len(part) <= min(size, fits) for part in parts)
    failed = [rows for rows in tried if rows > fits]
    assert failed == sorted(set(failed), reverse=True)
    assert limit.size == size or failed
