"""Model folders whose weights or configs are broken: each case is refused in one line, or loads the right network."""

import json
import math
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from robustness.files import REMOVED, put, text
from unseen_diffusion.models import DiffusersModel

STEM = "diffusion_pytorch_model"
SAFE = f"{STEM}.safetensors"
UNET, VAE, SCHEDULER, INDEX = (
    "unet/config.json", "vae/config.json", "scheduler/scheduler_config.json", "model_index.json"
)  # fmt: skip
Weights = dict[str, Any]


@dataclass(frozen=True)
class Damage:
    """One change of a model's folder, and the words of the line that refuses it; None: it loads as before.

    Attributes:
        latent: whether it is done to the model with an autoencoder.
        options: settings of the model.
    """

    name: str
    edit: Callable[[Path], Any]
    words: str | None
    latent: bool = False
    options: tuple[tuple[str, Any], ...] = ()

    def load(self, folder: Path) -> torch.Tensor:
        """The first parameter of the network that loads."""
        return next(DiffusersModel(str(folder), **dict(self.options)).network.parameters()).detach().clone()


def weights(change: Callable[[Weights], Any], part: str = "unet") -> Callable[[Path], None]:
    """Changes tensors of a part."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / part / SAFE)
        change(tensors)
        save_file({name: one.contiguous() for name, one in tensors.items()}, folder / part / SAFE, {"format": "pt"})

    return edit


def set_one(name: str, value: float) -> Callable[[Weights], None]:
    return lambda tensors: tensors[name].view(-1)[:1].fill_(value) and None


def config(file: str, key: str, value: Any) -> Callable[[Path], None]:
    return lambda folder: put(key, value)(folder / file)


def raw(change: Callable[[bytes], bytes], part: str = "unet") -> Callable[[Path], Any]:
    """Changes the bytes of a part's weights."""
    return lambda folder: (folder / part / SAFE).write_bytes(change((folder / part / SAFE).read_bytes()))


def renamed(name: str, part: str = "unet") -> Callable[[Path], Any]:
    return lambda folder: (folder / part / SAFE).rename(folder / part / name)


def pickled(make: Callable[[Weights], bytes | Weights], name: str = f"{STEM}.bin") -> Callable[[Path], None]:
    """Replaces the weights by a .bin file of a state dict, or of bytes."""

    def edit(folder: Path) -> None:
        content = make(load_file(folder / "unet" / SAFE))
        if isinstance(content, bytes):
            (folder / "unet" / name).write_bytes(content)
        else:
            torch.save(content, folder / "unet" / name)
        (folder / "unet" / SAFE).unlink()

    return edit


def index_of(content: Any) -> Callable[[Path], None]:
    """Replaces the weights by an index of shards."""

    def edit(folder: Path) -> None:
        (folder / "unet" / SAFE).unlink()
        text(json.dumps(content))(folder / "unet" / f"{SAFE}.index.json")

    return edit


class Hostile:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("executed"),)


def tensors() -> Iterator[Damage]:
    part, first, last = "unet's tensor", "conv_in.weight", "conv_out.bias"
    for value in (math.nan, math.inf, -math.inf):
        for name in (first, last, "mid_block.resnets.0.conv1.weight"):
            yield Damage(f"{value} in {name}", weights(set_one(name, value)), f"{part} {name} is not finite")
    huge = weights(lambda w: [w[name].fill_(3e38) for name in ("conv_in.bias", "conv_out.weight", last)])
    yield Damage("weights so large that the output overflows", huge, "check its weights")
    for name in (first, last, "time_embedding.linear_1.weight"):
        yield Damage(f"{name} is missing", weights(lambda w, name=name: w.pop(name)), "do not fit its config")
        longer = weights(lambda w, name=name: w.update({name: torch.ones(3, *w[name].shape)}))
        yield Damage(f"{name} has another shape", longer, "weights")
    yield Damage("no tensors at all", weights(lambda w: w.clear()), "weights")
    yield Damage("a tensor too many", weights(lambda w: w.update(extra=torch.ones(3))), "has no place for 1 tensors")
    prefixed = weights(lambda w: [w.update({f"module.{name}": w.pop(name)}) for name in list(w)])
    yield Damage("names with module. before them", prefixed, "do not fit its config")
    yield Damage("half precision", weights(lambda w: w.update({n: one.half() for n, one in w.items()})), None)
    yield Damage("the autoencoder: NaN", weights(set_one("encoder.conv_in.weight", math.nan), "vae"),
                 "vae's tensor encoder.conv_in.weight is not finite", True)  # fmt: skip
    missing = weights(lambda w: w.pop("decoder.conv_out.bias"), "vae")
    yield Damage("the autoencoder: a tensor is missing", missing, "vae's weights do not fit its config", True)
    huge = weights(lambda w: [w[f"decoder.conv_out.{name}"].fill_(3e38) for name in ("weight", "bias")], "vae")
    yield Damage("the autoencoder: an overflow", huge, "vae: the autoencoder's output", True)


def files() -> Iterator[Damage]:
    for share in (0.0, 0.001, 0.1, 0.5, 0.99):
        cut = raw(lambda data, share=share: data[: int(share * len(data))])
        yield Damage(f"safetensors cut to {share:.1%}", cut, "cannot be read")
    whole = b'{"conv_in.weight":{"dtype":"F32","shape":[9],"data_offsets":[0,99]}}'
    for name, change in {
        "text": lambda data: b"hello",
        "a Git LFS pointer": lambda data: b"version https://git-lfs.github.com/spec/v1\nsize 3\n",
        "a web page": lambda data: b"<!DOCTYPE html><html>",
        "a header without end": lambda data: b"\xff" * 8 + data[8:],
        "a header that is no JSON": lambda data: data[:8] + b"\xff" * 20 + data[28:],
        "offsets beyond the end": lambda data: len(whole).to_bytes(8, "little") + whole,
        "more bytes at the end": lambda data: data + b"123",
        "zeros": lambda data: bytes(len(data)),
    }.items():
        yield Damage(f"safetensors: {name}", raw(change), "cannot be read")
    yield Damage("the autoencoder cut to a half", raw(lambda data: data[: len(data) // 2], "vae"), "vae", True)
    yield Damage("no weights", lambda folder: (folder / "unet" / SAFE).unlink(), "download the weights")
    yield Damage("no weights of the autoencoder", lambda folder: (folder / "vae" / SAFE).unlink(), "no vae/", True)
    for name in ("model.safetensors", "unet.ckpt", "diffusion_flax_model.msgpack"):
        yield Damage(f"weights called {name}", renamed(name), f"but unet/{name}, whose name or format is not read")
    place = lambda f: f / "unet" / SAFE  # noqa: E731
    yield Damage("a folder in place of the weights", lambda f: place(f).unlink() or place(f).mkdir(), "no unet/")
    yield Damage("only a variant", renamed(f"{STEM}.fp16.safetensors"), None)
    named = (("variant", "fp16"),)
    yield Damage("a named variant", renamed(f"{STEM}.fp16.safetensors"), None, options=named)
    yield Damage("a variant that is not there", lambda folder: None, "model.variant=fp16", options=named)
    two = lambda f: shutil.copy(f / "unet" / SAFE, f / "unet" / f"{STEM}.ema.safetensors")  # noqa: E731
    yield Damage(
        "two variants", lambda f: (two(f), renamed(f"{STEM}.fp16.safetensors")(f)), "ema, fp16 only; choose one"
    )
    yield Damage("a .bin of plain tensors", pickled(lambda w: w), None)
    yield Damage(
        "a .bin that runs code", pickled(lambda w: pickle.dumps({"conv_in.weight": Hostile()})), "cannot be read"
    )
    hostile = pickled(lambda w: {**w, "conv_in.weight": Hostile()})
    yield Damage("a .bin of torch that runs code", hostile, "cannot be read")
    yield Damage("a .bin that is text", pickled(lambda w: b"hello"), "cannot be read")
    yield Damage("a .bin that holds a list", pickled(lambda w: pickle.dumps([1, 2])), "weights")
    yield Damage("a .pt file", renamed(f"{STEM}.pt"), "whose name or format is not read")
    gone = {"weight_map": {"conv_in.weight": "gone.safetensors"}}
    yield Damage("an index of files that are gone", index_of(gone), "is listed in")
    for content in ({}, [], {"weight_map": 3}, {"weight_map": {"a": [1]}}, {"weight_map": {}}):
        yield Damage(f"an index of {content}", index_of(content), "download")


def configs() -> Iterator[Damage]:
    attention = {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    yield Damage(
        "attention edited out", lambda f: [config(UNET, *one)(f) for one in attention.items()], "has no place for"
    )
    for key, value in (("layers_per_block", 2), ("block_out_channels", [8, 32]), ("in_channels", 1),
                       ("norm_num_groups", 3), ("time_embedding_type", "nosuch"), ("act_fn", "nosuch"),
                       ("down_block_types", ["NoBlock2D", "DownBlock2D"]), ("down_block_types", ["DownBlock2D"]),
                       ("num_class_embeds", 7), ("attention_head_dim", 0), ("mid_block_type", None)):  # fmt: skip
        yield Damage(f"unet: {key}={value}", config(UNET, key, value), "odd")
    for size in (27, 9, 1):
        yield Damage(f"sample_size={size}", config(UNET, "sample_size", size), "correct sample_size")
    for size in (0, -1, 10**6, None, 2.5, "16"):
        yield Damage(f"sample_size={size}", config(UNET, "sample_size", size), "sample_size")
    for steps in (0, 1, -1, 10**9, None, 2.5, "1000"):
        words = "num_train_timesteps" if steps is not None else "odd"
        yield Damage(f"num_train_timesteps={steps}", config(SCHEDULER, "num_train_timesteps", steps), words)
    for key, value in (("beta_start", math.nan), ("beta_end", 5), ("beta_schedule", "nosuch"),
                       ("_class_name", "nosuch"), ("trained_betas", [0.5, math.inf]),
                       ("prediction_type", "nosuch")):  # fmt: skip
        yield Damage(f"scheduler: {key}={value}", config(SCHEDULER, key, value), "odd")
    for file in (UNET, SCHEDULER, INDEX):
        yield Damage(f"{file} is text", lambda folder, file=file: text("hello")(folder / file), file)
        if file != INDEX:
            yield Damage(f"no {file}", lambda folder, file=file: (folder / file).unlink(), "no ")
    for key, value in (("in_channels", 1), ("out_channels", 1), ("latent_channels", 3), ("norm_num_groups", 3),
                       ("block_out_channels", [4, 8, 8]), ("scaling_factor", 0), ("scaling_factor", "x"),
                       ("_class_name", "nosuch"), ("down_block_types", ["DownEncoderBlock2D"])):  # fmt: skip
        yield Damage(f"autoencoder: {key}={value}", config(VAE, key, value), "odd", True)
    yield Damage("autoencoder: no config", lambda folder: (folder / VAE).unlink(), "vae", True)
    yield Damage("an autoencoder that the index leaves out", config(INDEX, "vae", REMOVED), "no autoencoder", True)


def damages() -> Iterator[Damage]:
    """All of them; each is done to a fresh copy of a model's folder, which is called ``odd``."""
    for family in (tensors, files, configs):
        yield from family()
