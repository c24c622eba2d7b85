"""Reads the JSON files of a pipeline: its network, scheduler, autoencoder, shapes and conditioning."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import diffusers
from pydantic import Field

from unseen_diffusion.models.base import ModelSpec
from unseen_diffusion.models.folders import index_parts, part_file, read_config
from unseen_diffusion.models.parameterisations import Parameterisation, Score, parameterisation
from unseen_diffusion.utils.checked import checked_value
from unseen_diffusion.utils.errors import InputError, first_line

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
AUTOENCODERS = ("AutoencoderKL", "VQModel")
Size = Annotated[int, Field(ge=1, le=4096)]
Factor = Annotated[int, Field(ge=1, le=64)]
Channels = Annotated[int, Field(ge=1, le=65536)]
IMAGE_CHANNELS = (1, 3)
# What the JSON files of a pipeline may ask for.
RANGES: dict[str, Any] = {
    "num_train_timesteps": Annotated[int, Field(ge=2, le=100_000)],
    "in_channels": Channels,
    "out_channels": Channels,
    "latent_channels": Channels,
    "block_out_channels": Annotated[Sequence[Channels], Field(min_length=1, max_length=16)],
    "layers_per_block": Annotated[int, Field(ge=1, le=256)] | Sequence[Annotated[int, Field(ge=1, le=256)]],
    "num_layers": Annotated[int, Field(ge=1, le=4096)],
    "num_class_embeds": Annotated[int, Field(ge=1, le=10_000_000)],
    "num_embeds_ada_norm": Annotated[int, Field(ge=1, le=10_000_000)],
    "scaling_factor": Annotated[float, Field(gt=0)],
    "shift_factor": float,
}
# Inputs beyond the state, the time and one condition. Such networks would run, but without the right input.
FOREIGN = ("addition_embed_type", "encoder_hid_dim_type", "time_cond_proj_dim", "class_embed_type")
# What a value of another kind than a pipeline's JSON should have raises, here and in diffusers.
DAMAGED = (TypeError, KeyError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class Anatomy:
    """The parts of a checked pipeline.

    Attributes:
        folder: the pipeline's folder.
        part: ``unet`` or ``transformer``.
        network: its config.
        kind: its class in diffusers.
        family: from the scheduler's config.
        codec_part: ``vae``, ``vqvae`` or None.
        codec: the autoencoder's config, empty where there is none.
        factor: pixel-unshuffling before the network (unseen.json), else 1.
    """

    folder: Path
    part: str
    network: dict[str, Any]
    kind: str
    family: Parameterisation
    codec_part: str | None
    codec: dict[str, Any]
    factor: int

    @property
    def channels(self) -> int:
        """Channels of a state."""
        return self.network["in_channels"] // self.factor**2

    @property
    def classes(self) -> int:
        """Number of class labels that the network knows, 0 for none."""
        if self.kind == "DiTTransformer2DModel":
            return self.network["num_embeds_ada_norm"]
        return self.network.get("num_class_embeds") or 0

    @property
    def null_class(self) -> int | None:
        """The label that means "no class", or None; in DiT it is the last label."""
        return self.classes if self.kind == "DiTTransformer2DModel" else None

    @property
    def is_text(self) -> bool:
        """True if the network takes a prompt."""
        return self.kind in ("UNet2DConditionModel", "SD3Transformer2DModel")

    @property
    def text_parts(self) -> tuple[str, ...]:
        """Names of the text encoders that are loaded."""
        if not self.is_text:
            return ()
        return ("text_encoder",) if self.kind == "UNet2DConditionModel" else ("text_encoder", "text_encoder_2")

    def spec(self) -> ModelSpec:
        """Image shape, noise schedule and shape of the states."""
        size = self.network["sample_size"] * self.factor
        schedule = self.family.schedule
        if self.codec_part is None:
            return ModelSpec(self.channels, size, schedule)
        scale = 2 ** (len(self.codec["block_out_channels"]) - 1)
        return ModelSpec(self.codec["in_channels"], size * scale, schedule, (self.channels, size, size))


def examine(folder: Path) -> Anatomy:
    """Reads and checks the configs of a pipeline.

    Raises:
        InputError: not a pipeline of a known family.
    """
    try:
        anatomy = _examine(folder)
        anatomy.spec()
    except InputError as error:
        if str(folder) in str(error):
            raise
        raise InputError(f"{folder}: {error}") from error
    except DAMAGED as error:  # a list or text where the JSON of a pipeline has a number, or the like
        raise InputError(
            f"{folder}: its JSON files describe no pipeline ({type(error).__name__}: {first_line(error)}); "
            "download the model again"
        ) from error
    return anatomy


def _examine(folder: Path) -> Anatomy:
    part, codec_part = _parts(folder)
    network = _complete(read_config(part_file(folder, part, "config.json")))
    kind = _network_class(folder, network)
    scheduler = read_config(part_file(folder, "scheduler", "scheduler_config.json"))
    codec = _complete(read_config(folder / codec_part / "config.json")) if codec_part else {}
    _check_ranges(f"{folder}: {part}/config.json: ", network)
    _check_ranges(f"{folder}: {codec_part}/config.json: ", codec)
    _check_ranges(f"{folder}: scheduler/scheduler_config.json: ", scheduler)
    anatomy = Anatomy(
        folder, part, network, kind, parameterisation(scheduler, str(folder)), codec_part, codec, _factor(folder)
    )
    _check_shapes(anatomy)
    return anatomy


def _parts(folder: Path) -> tuple[str, str | None]:
    """Names of the network part and the autoencoder part; a folder without model_index.json is a U-Net alone."""
    index = folder / "model_index.json"
    if not index.is_file():
        return "unet", None
    named = index_parts(folder)
    part = next((name for name in ("unet", "transformer") if name in named), None)
    if part is None:
        raise InputError(f"{folder}: no unet and no transformer in model_index.json; give a diffusion pipeline")
    _check_entry(folder, part, named[part], (*NETWORKS, "Transformer2DModel"))
    codec = next((name for name in ("vae", "vqvae") if name in named), None)
    if codec:
        _check_entry(folder, codec, named[codec], AUTOENCODERS)
    return part, codec


def _check_entry(folder: Path, part: str, entry: list[Any], known: tuple[str, ...]) -> None:
    if len(entry) != 2 or not all(isinstance(word, str) for word in entry):
        raise InputError(f"{folder}: {part} {entry} in model_index.json; give a library and a class")
    if entry[0] != "diffusers" or entry[1] not in known:
        raise InputError(f"{folder}: {part} {'.'.join(entry)} in model_index.json; known: {', '.join(known)}")


def _network_class(folder: Path, network: dict[str, Any]) -> str:
    kind = network.get("_class_name", "UNet2DModel")
    if kind == "Transformer2DModel" and network.get("norm_type") == "ada_norm_zero":
        kind = "DiTTransformer2DModel"  # DiT's name before diffusers 0.29; the weights are the same
    if kind not in NETWORKS:
        raise InputError(f"{folder}: network {kind}; known: {', '.join(NETWORKS)}")
    if odd := [key for key in FOREIGN if network.get(key)]:
        raise InputError(f"{folder}: {kind} with {odd[0]}={network[odd[0]]} needs inputs that are not supported")
    if kind == "UNet2DConditionModel" and network.get("num_class_embeds"):
        raise InputError(f"{folder}: {kind} with text and num_class_embeds; networks with both are not supported")
    return kind


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """A config, completed by the defaults of its class."""
    name = config.get("_class_name", "UNet2DModel")
    kind = getattr(diffusers, name, None) if name in (*NETWORKS, *AUTOENCODERS) else None
    if kind is None:
        return config
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(kind.__init__).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {**defaults, **config}


def _check_shapes(anatomy: Anatomy) -> None:
    """Checks that images are square, that channels fit each other, and that the autoencoder fits the family."""
    folder, network = anatomy.folder, anatomy.network
    for key in ("in_channels", "out_channels", "num_class_embeds", "num_embeds_ada_norm"):
        count = network.get(key)
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
            raise InputError(f"{folder}: {key} {count}; give a whole number of 1 or more")
    size = network["sample_size"]
    if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
        network["sample_size"] = size = size[0]
    if isinstance(size, bool) or not isinstance(size, int):
        raise InputError(f"{folder}: sample_size {size}; only networks of one square size are supported")
    checked_value(f"{folder}: {anatomy.part}/config.json: sample_size", size, Size)
    if anatomy.channels * anatomy.factor**2 != network["in_channels"]:
        raise InputError(
            f"{folder}: {network['in_channels']} input channels are no multiple of pixel_unshuffle={anatomy.factor} "
            "squared; correct unseen.json"
        )
    outputs = (network["out_channels"] or network["in_channels"]) // anatomy.factor**2
    if outputs not in (anatomy.channels, 2 * anatomy.channels):
        raise InputError(f"{folder}: {outputs} output channels for {anatomy.channels} input channels; no such family")
    images = anatomy.codec["in_channels"] if anatomy.codec_part else anatomy.channels
    if images not in IMAGE_CHANNELS:
        what = "an autoencoder" if anatomy.codec_part else "no autoencoder in model_index.json"
        raise InputError(f"{folder}: images of {images} channels and {what}; give a model of grey or RGB images")
    if anatomy.codec_part:
        _check_entry(folder, anatomy.codec_part, ["diffusers", str(anatomy.codec.get("_class_name"))], AUTOENCODERS)
        if isinstance(anatomy.family, Score):
            raise InputError(f"{folder}: ScoreSdeVeScheduler with an autoencoder; no such family is known")
        if anatomy.codec["latent_channels"] != anatomy.channels:
            raise InputError(
                f"{folder}: the network takes {anatomy.channels} channels, the autoencoder gives "
                f"{anatomy.codec['latent_channels']}; inpainting and other networks with more inputs are not supported"
            )


def _factor(folder: Path) -> int:
    """2 for networks on 2x2 pixel-unshuffled images (unseen.json beside the pipeline), else 1."""
    path = folder / "unseen.json"
    if not path.is_file():
        return 1
    return checked_value(f"{path}: pixel_unshuffle", read_config(path).get("pixel_unshuffle"), Factor)


def _check_ranges(where: str, config: dict[str, Any]) -> None:
    """Checks the numbers of a config that decide what is allocated.

    Raises:
        InputError: the first that is out of range.
    """
    for key, annotation in RANGES.items():
        if config.get(key) is not None:
            checked_value(f"{where}{key}", config[key], annotation)
