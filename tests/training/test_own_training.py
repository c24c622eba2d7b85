"""Base models of one's own: from a folder of images to a model that ``unseen run`` takes, and what may go wrong."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from support.commands import run
from unseen_diffusion.domains.folder import Folder
from unseen_diffusion.domains.parquet import Parquet
from unseen_diffusion.models.losses import DiffusionLoss, validation_loss
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.reports.tracking import NoTracker, RunRecord, WandbTracker
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.training import loop
from unseen_diffusion.training.data import OwnImages, check_decoded, decode_once, hold_out, open_images
from unseen_diffusion.training.diffusion_recipe import first_network, train_diffusion
from unseen_diffusion.training.journal import Journal, journal
from unseen_diffusion.training.loop import LoopSettings, memory_errors, new_state
from unseen_diffusion.training.networks import levels, scaled_unet
from unseen_diffusion.training.processes import Processes
from unseen_diffusion.training.resume import LOCK, check_resumable, exclusive
from unseen_diffusion.training.state import TrainState, load_checkpoint, save_checkpoint
from unseen_diffusion.training.tasks import check_training
from unseen_diffusion.utils.configs import build
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import read_json, write_json
from unseen_diffusion.utils.images import decode, dequantise, stack
from unseen_diffusion.utils.seeds import generator

SMALL = (
    "data=folder",
    "data.size=16",
    "data.validation=0.1",
    "training.network.width=16",
    "training.network.layers_per_block=1",
    "training.loop.steps=6",
    "training.loop.batch_size=8",
    "training.loop.warmup_steps=2",
    "training.loop.checkpoint_every=2",
    "training.loop.sample_every=100",
    "training.loop.bf16=false",
    "tracking=none",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 pictures of several sizes and kinds, some in a subfolder."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    (folder / "more").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(24):
        shape = [(16, 16, 3), (20, 33, 3), (50, 18)][number % 3]
        picture = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        picture.save(folder / ("more" if number % 2 else ".") / f"{number:02}.png")
    return folder


def own(path: Path, **changes: Any) -> OwnImages:
    settings = {"kind": "folder", "path": str(path), "images": Folder(path=str(path)), "size": 16, "channels": 3}
    return OwnImages(**{**settings, "fit": "crop", "validation": 0.1, **changes})


def settings(**changes: Any) -> LoopSettings:
    values = {"steps": 4, "batch_size": 8, "learning_rate": 1e-3, "weight_decay": 0.0, "warmup_steps": 1}
    values |= {"ema_decay": 0.9, "gradient_clip": 1.0, "bf16": False, "fp16": False, "seed": 0, "accumulate": 1}
    return LoopSettings(**{**values, "checkpoint_every": 100, "sample_every": 100, **changes})


def one_of(count: int, **attributes: Any) -> Processes:
    """One of several processes that are not there."""
    process = object.__new__(Processes)
    vars(process).update(count=count, **attributes)
    return process


# ---------------------------------------------------------------- in one command


def test_one_command_from_a_folder_to_a_model_that_runs(photos: Path, here: Path) -> None:
    """Images of any size in; weights, card, curves and sheets out; and ``unseen run`` takes the folder as it is."""
    assert run("train", *SMALL, f"data.path={photos}") == 0
    folder = here / "outputs" / "training" / "folder16"
    weights = folder / "weights"
    assert {"README.md", "loss.png", "samples.png", "model_index.json", "unseen.json"} <= {
        path.name for path in weights.iterdir()
    }
    assert len(pd.read_csv(folder / "loss.csv")) == 6
    assert pd.read_csv(folder / "validation.csv")["step"].tolist() == [6]
    card = (weights / "README.md").read_text()
    assert "unseen train data=folder \\\n  data.path='photos'" in card
    assert "| data | 21 images of 3x16x16 |" in card
    assert "(averaged weights, 3 held-out images)" in card
    assert str(photos.parent) not in card
    small = ("domain=digits8", "domain.references=10", "domain.validation=4", "domain.heldout=8", "tolerances=none")
    less = ("features=pixels", "features.side=8", "solver.steps=3", "samples=8", "tracking=none", "progress=false")
    assert run("run", "model=diffusers", f"model.path={weights}", *small, *less) == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data=folder"], "data.path: required"),
        (["data=folder", "data.path=x", "data.size=20"], "data.size=20: give a multiple of 8"),
        (["data=folder", "data.path=x", "data.channels=4"], "data.channels=4: choose one of 1, 3"),
        (["data=folder", "data.path=x", "data.channels=true"], "data.channels=true: choose one of 1, 3"),
        (["data=folder", "data.path=x", "data.fit=stretch"], "data.fit=stretch: choose one of crop, refuse"),
        (["data=folder", "data.path=x", "data.validation=0.9"], "data.validation=0.9: give a number between 0 and 0.5"),
        (["training=base"], "set data=folder, data=parquet or data=hub"),
        (["data=folder", "data.path=x", "training=photos32"], "photos32 has its own data"),
        (["data=folder", "data.path=x", "training.loop.fp16=true", "training.loop.bf16=true"], "choose one of them"),
        (["data=folder", "data.path=x", "training.loop.bf16=maybe"], "bf16=maybe: give true or false or auto"),
        (["data=folder", "data.path=x", "training.loop.ema_others=[1]"], "each a number of at least 0, below 1"),
        (
            ["data=folder", "data.path=x", "training.loop.ema_others=[0.9995]"],
            "give every decay once, and not ema_decay",
        ),
        (["data=folder", "data.path=x", "training.loop.accumulate=0"], "accumulate=0: give a whole number"),
        (
            ["data=folder", "data.path=x", "training.schedule.beta_schedule=foo"],
            "training.schedule.beta_schedule=foo: choose one of linear, ",
        ),
        (["data=folder", "data.path=x", "training.schedule.beta_end=2"], "beta_end=2, beta_schedule=linear): "),
        (["training.data.path=x", "training.schedule.beta_end=2"], "; see unseen train --cfg job"),
        (
            ["data=folder", "data.path=x", "+training.schedule.prediction_type=flow"],
            "training.schedule.prediction_type=flow: choose one of epsilon, sample, v_prediction",
        ),
        (["data=folder", "data.path=x", "training.task=other"], "training.task=other: choose one of"),
        (["data=photo"], "data=photo: no such option; choose one of folder, hub, parquet"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    assert run("train", *arguments) == 2
    said = capsys.readouterr().err.strip()
    assert expected in said
    assert "\n" not in said
    assert list(here.iterdir()) == []


COUNT, RATE = "give a whole number of 1 or more", "give a number of 0 or more"
WRONG = {
    "training.loop.batch_size=1e1": f"training.loop.batch_size=10.0: {COUNT}",
    "training.loop.steps=abc": f"training.loop.steps=abc: {COUNT}",
    "training.loop.seed=true": "training.loop.seed=true: give a whole number of 0 or more",
    "training.loop.learning_rate=fast": f"training.loop.learning_rate=fast: {RATE}",
    "training.loop.gradient_clip=inf": f"training.loop.gradient_clip=inf: {RATE}",
    "training.loop.ema_decay=null": "training.loop.ema_decay=null: give a number of at least 0, below 1",
    "training.loop.keep=5": f"training.loop.keep=5: give a list whose entries are each {COUNT.removeprefix('give ')}",
    "training.loop.fp16=perhaps": "training.loop.fp16=perhaps: give true or false",
    "+training.loop.decay=1": "training.loop.decay: nothing reads this key; did you mean ema_decay?",
    "data.size=abc": "data.size=abc: give a whole number of 16 or more",
    "data.size=8": "data.size=8: give a whole number of 16 or more",
    "data.validation=half": "data.validation=half: give a number between 0 and 0.5",
    "data.images.on_unreadable=ignore": "data.images.on_unreadable=ignore: choose one of error, skip",
    "tracking.project=5": "tracking.project=5: give text that is not empty",
    "training.network.width=abc": "training.network.width=abc: give a whole number of 16 or more",
    "training.network.pixel_unshuffle=3": "training.network.pixel_unshuffle=3: choose one of 1, 2",
    "training.network.layers_per_block=0": f"training.network.layers_per_block=0: {COUNT}",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_values_of_another_type_are_named(wrong: str) -> None:
    (config,) = expand("train", ["data=folder", "data.path=x", wrong]).points
    check = (lambda: first_network(config.training)) if "network" in wrong else (lambda: check_training(config))
    with pytest.raises(InputError) as refused:
        check()
    assert str(refused.value) == WRONG[wrong]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["data.path=missing"], "data.path=.*no such folder"),
        (["data.fit=refuse"], r"02.png: 18x50 pixels, not 16x16; set data.fit=crop"),
        (["training.loop.batch_size=64"], "21 images to train on.*batch_size=21 or less"),
        (["training.loop.accumulate=3"], "batch_size=8: not divisible by 1 processes x training.loop.accumulate=3"),
        (
            ["training.loop.fp16=true", "training.loop.bf16=false"],
            "training.loop.fp16=true: .*set training.loop.bf16=true",
        ),
        (["training.network.width=20"], "training.network.width=20: give a multiple of 16"),
    ],
)
def test_what_the_recipe_refuses(photos: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    """Found in the images or the machine: one line with the remedy."""
    given = [*SMALL, f"data.path={photos}", f"paths.outputs={tmp_path}", *arguments]
    (config,) = expand("train", given).points
    with pytest.raises(InputError, match=expected):
        train_diffusion(config.training, torch.device("cpu"))


# ---------------------------------------------------------------- resume

KILLED = """
import os, signal, sys, torch
from pathlib import Path
from unseen_diffusion.sweeps.composition import expand
from unseen_diffusion.training.diffusion_recipe import train_diffusion

write, saved = Path.write_bytes, []

def killed(path, data):
    if path.name.startswith(".checkpoint"):
        saved.append(path)
        if len(saved) == 2:
            write(path, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
    return write(path, data)

Path.write_bytes = killed
torch.set_num_threads(int(sys.argv[1]))
train_diffusion(expand("train", sys.argv[2:]).points[0].training, torch.device("cpu"))
"""


def test_a_training_killed_while_it_writes_ends_with_the_same_bits(photos: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the second checkpoint; the same command again; the weights of an undisturbed run."""
    given = [*SMALL, f"data.path={photos}"]
    threads = str(torch.get_num_threads())
    cut = [*given, f"paths.outputs={tmp_path / 'cut'}"]
    child = subprocess.run([sys.executable, "-c", KILLED, threads, *cut], capture_output=True, timeout=120, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    folder = tmp_path / "cut" / "training" / "folder16"
    assert int(load_file(folder / "checkpoint.safetensors")["step"]) == 2
    assert len(list(folder.glob(".checkpoint-*"))) == 1
    for arguments in (cut, [*given, f"paths.outputs={tmp_path / 'whole'}"]):
        train_diffusion(expand("train", arguments).points[0].training, torch.device("cpu"))
    assert list(folder.glob(".checkpoint-*")) == []
    first, second = (
        load_file(tmp_path / name / "training" / "folder16" / "checkpoint.safetensors") for name in ("cut", "whole")
    )
    assert first.keys() == second.keys()
    assert {"step", "history", "measured.validation_loss"} < first.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def test_a_folder_has_one_training_at_a_time(photos: Path, tmp_path: Path) -> None:
    """A second one is refused and changes nothing; the processes of one training do not lock each other out."""
    given = [*SMALL, f"data.path={photos}", f"paths.outputs={tmp_path}"]
    config = expand("train", given).points[0].training
    folder = Path(config.folder)
    with exclusive(folder, one_of(2, first=True)), exclusive(folder, one_of(2, first=False)):
        left = folder / ".checkpoint-half"
        left.touch()
        with pytest.raises(
            InputError, match=f"training.folder={folder}: another training.*choose another folder, or wait"
        ):
            train_diffusion(config, torch.device("cpu"))
        assert {path.name for path in folder.iterdir()} == {left.name, LOCK}
    with exclusive(folder, one_of(2, first=True)):
        pass


def test_a_folder_without_locks_is_said_to_be_one(
    tmp_path: Path, without_locks: None, caplog: pytest.LogCaptureFixture
) -> None:
    """A file system without flock cannot keep a second training out: one line, from the first process alone."""
    with exclusive(tmp_path, one_of(2, first=True)), exclusive(tmp_path, one_of(2, first=False)):
        pass
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"training.folder={tmp_path}: this file system has no locks; do not start a second training in this folder"
    ]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is written on the way is a temporary file of ours, and its errors are the file system's."""
    seen: list[str] = []

    def full(path: Path, data: bytes) -> int:
        seen.extend(other.name for other in path.parent.iterdir())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    state = new_state(nn.Linear(2, 1), settings(), torch.device("cpu"))
    with pytest.raises(InputError, match=r"checkpoint\.safetensors: no space left"):
        save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    assert [name.startswith(".checkpoint-") for name in seen] == [True]
    assert list(tmp_path.iterdir()) == []


def test_older_trainings_resume(tmp_path: Path) -> None:
    """A folder from before fp16 existed is continued with its default, and with nothing else."""
    write_json(tmp_path / "training.json", {"name": "a", "loop": {"seed": 0, "bf16": True}})
    (tmp_path / "checkpoint.safetensors").touch()
    now = {"seed": 0, "bf16": True, "accumulate": 4, "steps": 9}
    check_resumable(tmp_path, {"name": "a", "loop": {**now, "fp16": False}})
    with pytest.raises(InputError, match=r"training.loop="):
        check_resumable(tmp_path, {"name": "a", "loop": {**now, "fp16": True}})


def test_validation_losses_of_older_checkpoints_are_read(tmp_path: Path) -> None:
    """They were the only thing that was measured."""
    state = new_state(nn.Linear(2, 1), settings(), torch.device("cpu"))
    save_checkpoint(tmp_path / "checkpoint.safetensors", state)
    old = load_file(tmp_path / "checkpoint.safetensors") | {
        "validation": torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    }
    save_file(old, tmp_path / "checkpoint.safetensors")
    load_checkpoint(tmp_path / "checkpoint.safetensors", state)
    assert {name: rows.tolist() for name, rows in state.measured.items()} == {"validation_loss": [[2.0, 0.5]]}


@pytest.mark.parametrize("written", ["ema_0.0.", "ema_0."])
def test_a_whole_decay_is_the_number(tmp_path: Path, written: str) -> None:
    """0 is 0.0, also in checkpoints that were written with 0, whose name begins that of 0.999."""
    chosen = settings(ema_others=[0, 0.999])
    assert [repr(decay) for decay in chosen.ema_others] == ["0.0", "0.999"]
    first, second = (new_state(nn.Linear(2, 1), chosen, torch.device("cpu")) for _ in range(2))
    save_checkpoint(tmp_path / "checkpoint.safetensors", first)
    saved = load_file(tmp_path / "checkpoint.safetensors")
    save_file({key.replace("ema_0.0.", written): v for key, v in saved.items()}, tmp_path / "checkpoint.safetensors")
    load_checkpoint(tmp_path / "checkpoint.safetensors", second)
    for decay in (0.0, 0.999):
        assert torch.equal(second.others[decay].weight, first.others[decay].weight)


def test_the_scale_of_gradients_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    """In half precision an exact resume needs it."""
    first, second = (new_state(nn.Linear(2, 1), settings(), torch.device("cpu")) for _ in range(2))
    first.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    second.scaler = torch.amp.GradScaler("cpu")
    save_checkpoint(tmp_path / "checkpoint.safetensors", first)
    load_checkpoint(tmp_path / "checkpoint.safetensors", second)
    assert second.scaler.state_dict() == first.scaler.state_dict()


# ---------------------------------------------------------------- data


def test_images_are_decoded_once(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the pool's order, as domains do; the second time they are there; other images replace them."""
    files = sorted(photos.rglob("*.png"), key=lambda path: path.relative_to(photos).as_posix())
    expected = stack([decode(file, 16, 1) for file in files])
    pool = own(photos, channels=1).pool()
    decode_once(pool, 16, 1, tmp_path)
    assert torch.equal(open_images(tmp_path), expected)
    before = (tmp_path / "images.raw").stat().st_mtime_ns
    decode_once(pool, 16, 1, tmp_path)
    assert (tmp_path / "images.raw").stat().st_mtime_ns == before
    decode_once(own(photos / "more").pool(), 16, 3, tmp_path)
    assert open_images(tmp_path).shape == (12, 3, 16, 16)


def test_parquet_gives_the_same_images(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.rglob("*.png"))
    pd.DataFrame({"image": [file.read_bytes() for file in files]}).to_parquet(tmp_path / "photos.parquet")
    path = tmp_path / "photos.parquet"
    decode_once(own(path, kind="parquet", images=Parquet(path=str(path))).pool(), 16, 3, tmp_path)
    assert torch.equal(open_images(tmp_path), stack([decode(file, 16, 3) for file in files]))


def test_unreadable_images_are_refused_or_skipped(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "photos" / "1.png").write_bytes(b"no image")
    for fit in ("crop", "refuse"):
        with pytest.raises(InputError, match=r"1\.png: not a readable image.*set data\.images\.on_unreadable=skip$"):
            decode_once(own(tmp_path / "photos", fit=fit).pool(), 16, 3, tmp_path / "a")
        skipping = Folder(path=str(tmp_path / "photos"), on_unreadable="skip")
        decode_once(own(tmp_path / "photos", images=skipping, fit=fit).pool(), 16, 3, tmp_path / fit)
        assert open_images(tmp_path / fit)[:, 0, 0, 0].tolist() == [0, 2]


def test_too_little_space_is_said_before_decoding(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=100))
    with pytest.raises(InputError, match=r"0\.0 GB needed for 24 decoded images.*training.folder"):
        decode_once(own(photos).pool(), 16, 3, tmp_path)


def test_validation_images_are_never_trained_on() -> None:
    rows, held = hold_out(50, 0.1, seed=3)
    assert sorted([*rows.tolist(), *held.tolist()]) == list(range(50))
    assert len(held) == 5
    assert torch.equal(held, hold_out(50, 0.1, seed=3)[1])
    assert not torch.equal(held, hold_out(50, 0.1, seed=4)[1])
    assert len(hold_out(50, 0.0, seed=3)[1]) == 0


@pytest.mark.parametrize("kind", ["folder", "parquet", "hub"])
@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_every_source_and_size_composes(tmp_path: Path, kind: str, size: int) -> None:
    """The images, and the network that goes with their size."""
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    pd.DataFrame({"image": [(tmp_path / "a.png").read_bytes()]}).to_parquet(tmp_path / "a.parquet")
    path = "some/images" if kind == "hub" else tmp_path
    (config,) = expand("train", [f"data={kind}", f"data.path={path}", f"data.size={size}"]).points
    check_training(config)
    images: OwnImages = build(config.training.data)
    assert (images.kind, images.size) == (kind, size)
    with torch.device("meta"):
        network = build(config.training.network)
    assert network.config.sample_size == size // 2


# ---------------------------------------------------------------- networks and losses


def test_levels_follow_the_size() -> None:
    """Attention at 16x16 and below, and at the lowest level; odd sizes are not halved."""
    assert levels(16, 64) == ([64, 128, 128], [True, True, True])
    assert levels(32, 64) == ([64, 128, 128, 128], [False, True, True, True])
    assert levels(64, 64) == ([64, 128, 192, 256], [False, False, True, True])
    assert levels(128, 64) == ([64, 64, 128, 192, 256], [False, False, False, True, True])
    assert levels(256, 64)[0] == [64, 64, 128, 128, 256, 256]
    assert levels(256, 64)[1] == [False, False, False, False, True, True]
    assert levels(36, 16) == ([16, 32, 32], [False, False, True])


@pytest.mark.parametrize(("size", "channels", "factor"), [(16, 1, 1), (24, 3, 2), (40, 3, 1), (72, 1, 2)])
def test_networks_of_any_size_keep_the_form(size: int, channels: int, factor: int) -> None:
    network = scaled_unet(size, channels, factor, 16, 1)
    x = torch.zeros(2, channels, size, size)
    with torch.no_grad():
        assert unet_forward(network, x, torch.tensor([1, 900]), factor).shape == x.shape


class Scale(nn.Module):
    """eps = a x, with a fitted number: as quick as a network can be."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (self.a * x,)


def loss_of(kept: Tensor | None = None) -> DiffusionLoss:
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    return DiffusionLoss(images, DDPMScheduler().alphas_cumprod, 1, True, torch.device("cpu"), kept)


def test_parts_of_a_batch_add_up_to_it() -> None:
    """Loss and gradient of a batch are the means over its parts, whichever process computes them."""
    loss, network = loss_of(), Scale()
    batch = loss.batch(torch.arange(8), generator(0, "step"))
    whole = loss(network, *batch)
    whole.backward()
    gradient, network.a.grad = network.a.grad, None
    total = 0.0
    for index in range(2):
        process = one_of(2, accelerator=SimpleNamespace(process_index=index))
        for part in process.parts(8, 2):
            value = loss(network, *(tensor[part] for tensor in batch)) / 4
            value.backward()
            total += value.item()
    assert total == pytest.approx(whole.item(), rel=1e-6)
    torch.testing.assert_close(network.a.grad, gradient)


class Predicts(nn.Module):
    """x0 = x / 2, in the network's own words."""

    def __init__(self, prediction_type: str) -> None:
        super().__init__()
        self.prediction_type = prediction_type

    def forward(self, x: Tensor, timestep: Tensor, return_dict: bool) -> tuple[Tensor]:
        ac = DDPMScheduler().alphas_cumprod[timestep][:, None, None, None]
        x0 = x / 2
        eps = (x - ac.sqrt() * x0) / (1 - ac).sqrt()
        v = ac.sqrt() * eps - (1 - ac).sqrt() * x0
        return ({"epsilon": eps, "sample": x0, "v_prediction": v}[self.prediction_type],)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_min_snr_weights_the_error_of_x0(kind: str) -> None:
    """By min(SNR, gamma), whatever the network predicts; without a bound, and predicting eps, it is the simple loss."""
    images = torch.randint(0, 256, (20, 1, 8, 8), generator=generator(0, "images"), dtype=torch.uint8)
    ac = DDPMScheduler().alphas_cumprod

    def loss(min_snr: float | None) -> DiffusionLoss:
        return DiffusionLoss(images, ac, 1, False, torch.device("cpu"), None, kind, min_snr=min_snr)

    _, _, t, eps = batch = loss(5).batch(torch.arange(20), generator(0, "step"))
    a = ac[t][:, None, None, None]
    x0 = dequantise(images)
    x = a.sqrt() * x0 + (1 - a).sqrt() * eps
    expected = ((a / (1 - a)).clamp(max=5) * (x0 - x / 2).square()).mean()
    torch.testing.assert_close(loss(5)(Predicts(kind), *batch), expected, rtol=1e-4, atol=0)
    if kind == "epsilon":
        torch.testing.assert_close(loss(1e9)(Predicts(kind), *batch), loss(None)(Predicts(kind), *batch))
    with pytest.raises(InputError, match="min_snr=0: give a number above 0"):
        loss(0)


def trained(accumulate: int, folder: Path, journal: Journal, **changes: Any) -> TrainState:
    chosen = settings(accumulate=accumulate, **changes)
    state = new_state(Scale(), chosen, torch.device("cpu"))
    processes = Processes(torch.device("cpu"), "no")
    return loop.train(chosen, state, 20, loss_of(), folder, processes, lambda _: None, journal)


def test_accumulation_changes_rounding_only(tmp_path: Path) -> None:
    once, often = (trained(parts, tmp_path / str(parts), Journal()) for parts in (1, 4))
    torch.testing.assert_close(once.history, often.history, rtol=1e-5, atol=0)
    assert [float(value) for value in once.history[:, 0]] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"learning_rate=1e\+30: the loss is (nan|inf) at step 2; lower it"):
        trained(1, tmp_path, Journal(), learning_rate=1e30)
    assert not (tmp_path / "checkpoint.safetensors").exists()


def test_validation_uses_the_same_noise_every_time() -> None:
    """So that its differences are those of the network; its rows are the held-out ones."""
    network, held = Scale(), torch.tensor([3, 7, 11])
    value = validation_loss(network, loss_of(held), seed=0)
    assert value == validation_loss(network, loss_of(held), seed=0)
    assert value != validation_loss(network, loss_of(held), seed=1)
    assert value != validation_loss(network, loss_of(torch.tensor([3, 7, 12])), seed=0)


# ---------------------------------------------------------------- memory and tracking


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:115] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_exhausted_memory_names_the_remedy(error: Exception) -> None:
    processes = one_of(2, device="cuda:1")
    expected = "out of memory on cuda:1 with 32 images at a time; set training.loop.accumulate=2 "
    with pytest.raises(InputError, match=expected), memory_errors(settings(batch_size=64), processes):
        raise error
    expected = "with 1 images at a time; set a smaller network"
    with pytest.raises(InputError, match=expected), memory_errors(settings(batch_size=2), processes):
        raise error


def test_other_errors_are_not_taken_for_memory() -> None:
    processes = one_of(1, device="cpu")
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(settings(), processes):
        raise RuntimeError("shapes differ")


class Session:
    """A wandb run that remembers, or breaks after some steps."""

    def __init__(self, breaks: int = 100) -> None:
        self.rows: list[tuple[int, dict[str, Any]]] = []
        self.breaks = breaks
        self.finished = False

    def log(self, row: dict[str, Any], step: int) -> None:
        if step >= self.breaks:
            raise OSError("disk full")
        self.rows.append((step, row))

    def finish(self) -> None:
        self.finished = True


def test_every_step_is_recorded_with_rate_and_norm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, asked = Session(), []

    def begin(self: WandbTracker, record: RunRecord) -> Session:
        asked.append(record)
        return session

    monkeypatch.setattr(WandbTracker, "session", begin)
    tracker = WandbTracker(project="p", mode="offline", folder=str(tmp_path / "wandb"), entity=None, pictures=True)
    with journal(tracker, "own", {"a": 1}) as book:
        trained(1, tmp_path, book)
    assert [step for step, _ in session.rows] == [1, 2, 3, 4]
    assert all(row.keys() == {"loss", "learning_rate", "gradient_norm"} for _, row in session.rows)
    assert session.rows[0][1]["learning_rate"] == 1e-3
    assert session.finished
    assert (asked[0].group, asked[0].name, asked[0].config) == ("training", "own", {"a": 1})


def test_tracking_never_stops_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(breaks=3)
    assert trained(1, tmp_path / "a", Journal(session)).step == 4
    assert len(session.rows) == 2

    def refuses(self: WandbTracker, record: RunRecord) -> Session:
        raise OSError("no wandb")

    monkeypatch.setattr(WandbTracker, "session", refuses)
    with journal(
        WandbTracker(project="p", mode="offline", folder=str(tmp_path), entity=None, pictures=True), "own", {}
    ) as book:
        assert book.session is None
    with journal(NoTracker(), "own", {}) as book:
        assert book.session is None


def test_training_json_knows_the_images_not_their_place(photos: Path, tmp_path: Path) -> None:
    """A moved folder resumes; other images do not."""
    given = [*SMALL, f"paths.outputs={tmp_path}", "training.loop.steps=1"]
    (config,) = expand("train", [*given, f"data.path={photos}"]).points
    train_diffusion(config.training, torch.device("cpu"))
    assert read_json(tmp_path / "training" / "folder16" / "training.json")["data"].keys() == {
        "validation",
        "fingerprint",
    }
    moved = photos.rename(photos.with_name("moved"))
    try:
        (config,) = expand("train", [*given, f"data.path={moved}"]).points
        train_diffusion(config.training, torch.device("cpu"))
        (config,) = expand("train", [*given, f"data.path={moved / 'more'}"]).points
        with pytest.raises(InputError, match=r"training.data=.*trained with"):
            train_diffusion(config.training, torch.device("cpu"))
    finally:
        moved.rename(photos)


# ---------------------------------------------------------------- pixels that collapsed


def collapsed(folder: Path, top: int, copies: bool = False) -> Path:
    """24 pictures of 16 bits whose counts reach ``top``."""
    folder.mkdir()
    for number in range(24):
        rng = np.random.default_rng(0 if copies else number)
        Image.fromarray(rng.integers(0, top, (16, 16)).astype(np.uint16)).save(folder / f"{number}.png")
    return folder


@pytest.mark.parametrize(
    ("top", "copies", "words"),
    [
        (100, False, "data=dark: all 24 images are equal once decoded (every pixel is 0); 16-bit counts"),
        (60000, True, "data=dark: all 24 images are equal; give different images"),
    ],
)
def test_images_of_which_nothing_can_be_learned_stop_the_training(
    top: int, copies: bool, words: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    collapsed(here / "dark", top, copies)
    assert run("train", *SMALL, "data.path=dark") != 0
    line = capsys.readouterr().err.splitlines()[-1]
    assert words in line
    assert copies or "set data.images.range" in line
    assert not [path for path in here.rglob("*") if path.name in ("images.raw", "images.json", "training.json")]


def test_few_grey_levels_are_warned_of_before_training(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = Folder(path=str(collapsed(here / "dark", 4096)))
    pool = own(here / "dark", images=images).pool()
    decode_once(pool, 16, 3, here / "training")
    check_decoded("dark", open_images(here / "training"), pool)
    assert "data=dark: look at the images: only 17 grey levels" in caplog.text
    assert "data.images.range=null" in caplog.text
