"""A diffusers pipeline of any family as a frozen model: parameterisation x network x autoencoder x condition."""

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from unseen_diffusion.models.anatomy import Anatomy, examine
from unseen_diffusion.models.autoencoders import Codec, QuantisedCodec, UnitRange, VariationalCodec, convert_all
from unseen_diffusion.models.base import DiffusionModel, ModelSpec, Prediction
from unseen_diffusion.models.folders import part_file, resolve, weight_files, weighted_parts
from unseen_diffusion.models.loading import initialise, load_checked, weights_digest
from unseen_diffusion.models.losses import DiffusionLoss
from unseen_diffusion.models.parameterisations import Score, VariancePreserving
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.models.text import check_text, stable_diffusion_3_embedding, stable_diffusion_embedding
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.utils.batching import Size
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import file_states
from unseen_diffusion.utils.precision import mixed_precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Options:
    """How a pipeline is used, apart from where it lies and computes.

    Attributes:
        condition: a class number, or a prompt; None for the null class, the empty prompt or no condition.
        guidance: classifier-free guidance of the denoising (Ho and Salimans 2022), 1 for none. Inversion is never
            guided: it follows the conditional network.
        dtype: float32, or bfloat16 for automatic mixed precision in the network.
        latent_scale: overrides the autoencoder's scaling factor.
        initial_seed: draws the network's weights at initialisation with this seed instead of reading trained ones.
        channels_last: keeps the network's weights and activations as NHWC, which convolutions prefer.
        compile: torch.compile, once a batch shape; it needs a C++ compiler on the CPU, Triton on CUDA.
    """

    condition: int | str | None = None
    guidance: float = 1.0
    dtype: str = "float32"
    latent_scale: float | None = None
    initial_seed: int | None = None
    channels_last: bool = False
    compile: bool = False


# Options that change the speed, and results by float rounding alone: they name no artefact.
SPEED = ("channels_last", "compile")


def describe(path: str, revision: str | None = None) -> ModelSpec:
    """Shapes and schedule of a model, from its JSON files alone.

    Raises:
        InputError: not the folder of a pipeline whose family is known.
    """
    return examine(resolve(path, revision, weights=False)).spec()


def check_local_weights(path: str) -> None:
    """Refuses a local folder with a part's weights missing; says nothing of hub ids.

    Raises:
        InputError: no such file.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        _needed_weights(examine(folder), trained=True)


def inspect_model(
    path: str,
    revision: str | None = None,
    condition: int | str | None = None,
    guidance: int | float = 1.0,
    dtype: str = "float32",
    latent_scale: int | float | None = None,
    initial_seed: int | None = None,
    channels_last: bool = False,
    compile: bool = False,
) -> ModelSpec:
    """Checks a ``DiffusersModel``'s arguments without reading weights; those of local folders must be there.

    Raises:
        InputError: an unknown family, an absent file, or an option that the network cannot take.
    """
    anatomy = examine(resolve(path, revision, weights=False))
    _check_options(anatomy, Options(condition, guidance, dtype, latent_scale, initial_seed, channels_last, compile))
    if Path(path).expanduser().is_dir():
        _needed_weights(anatomy, trained=initial_seed is None)
    return anatomy.spec()


def check_tunable(path: str, revision: str | None = None) -> None:
    """Refuses models whose network ``tuning`` does not know how to train.

    Raises:
        InputError: another network, family or condition.
    """
    anatomy = examine(resolve(path, revision, weights=False))
    plain = anatomy.kind == "UNet2DModel" and not anatomy.codec_part and not anatomy.classes
    if not plain or not isinstance(anatomy.family, VariancePreserving):
        raise InputError(
            f"model.path={path}: fine-tuning trains unconditional UNet2DModels on pixels that predict eps, x0 or v; "
            "choose such a model, or another method"
        )


def _check_options(anatomy: Anatomy, options: Options) -> None:
    folder, condition = anatomy.folder, options.condition
    if options.dtype not in DTYPES:
        raise InputError(f"model.dtype={options.dtype}: choose one of {', '.join(DTYPES)}")
    if not _is_number(options.guidance) or options.guidance < 1:
        raise InputError(f"model.guidance={options.guidance}: give 1 (none) or more")
    seed = options.initial_seed
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise InputError(f"model.initial_seed={seed}: give a whole number, or null for the trained weights")
    for name in SPEED:
        if not isinstance(getattr(options, name), bool):
            raise InputError(f"model.{name}={getattr(options, name)}: give true or false")
    scale = options.latent_scale
    if scale is not None and not (anatomy.codec_part and _is_number(scale) and scale > 0):
        why = "give a number above 0" if anatomy.codec_part else f"{folder} has no autoencoder; leave it out"
        raise InputError(f"model.latent_scale={scale}: {why}")
    for part in anatomy.text_parts:
        check_text(folder, part)
    if anatomy.is_text:
        if not isinstance(condition, str | None):
            raise InputError(f"model.condition={condition}: {folder} takes a prompt; give a text, or null for none")
    elif anatomy.classes:
        _check_class(anatomy, condition)
    elif condition is not None:
        raise InputError(f"model.condition={condition}: {folder} takes no condition; leave it out")
    if options.guidance > 1 and not (anatomy.is_text or anatomy.null_class is not None):
        raise InputError(f"model.guidance={options.guidance}: {folder} has no null condition to guide by; give 1")
    if options.guidance > 1 and not condition and condition != 0:
        raise InputError(f"model.guidance={options.guidance}: nothing to guide to; give model.condition, or 1")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_class(anatomy: Anatomy, condition: int | str | None) -> None:
    if condition is None and anatomy.null_class is not None:
        return
    if isinstance(condition, bool) or not isinstance(condition, int) or not 0 <= condition < anatomy.classes:
        null = ", or null for no class" if anatomy.null_class is not None else ""
        raise InputError(
            f"model.condition={condition}: {anatomy.folder} takes a class; give 0 to {anatomy.classes - 1}{null}"
        )


def _needed_weights(anatomy: Anatomy, trained: bool) -> dict[str, list[Path]]:
    """Weight files by part; without the network's own where it is not ``trained``."""
    parts = [anatomy.part] if trained else []
    parts += [anatomy.codec_part] if anatomy.codec_part else []
    return {part: weight_files(anatomy.folder, part) for part in (*parts, *anatomy.text_parts)}


class DiffusersModel(DiffusionModel):
    """A frozen diffusers pipeline; its family follows from model_index.json and the parts' configs.

    Args:
        path: local diffusers folder, hub id, or ``embedded:NAME``.
        revision: hub commit or branch.
        condition, guidance, dtype, latent_scale, initial_seed, channels_last, compile: see ``Options``.
        device: where the network computes.
        name: for tables; by default the last part of ``path``.

    Raises:
        InputError: see ``inspect_model``; or weights that cannot be read, do not fit, or change while they are read.
    """

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        device: str | torch.device = "cpu",
        name: str | None = None,
        condition: int | str | None = None,
        guidance: int | float = 1.0,
        dtype: str = "float32",
        latent_scale: int | float | None = None,
        initial_seed: int | None = None,
        channels_last: bool = False,
        compile: bool = False,
    ):
        super().__init__()
        folder = resolve(path, revision)
        anatomy = examine(folder)
        self.options = Options(condition, guidance, dtype, latent_scale, initial_seed, channels_last, compile)
        _check_options(anatomy, self.options)
        weights = _needed_weights(anatomy, trained=initial_seed is None)
        self.spec = anatomy.spec()
        self.name = name or path.removeprefix("embedded:").rstrip("/").rsplit("/", 1)[-1]
        self.device = torch.device(device)
        self.factor = anatomy.factor
        self.family = anatomy.family
        files = _deciding(anatomy, weights)
        before = file_states(files)
        digests = [file_digest(file) for file in files]
        self.network = _load_network(anatomy, weights, initial_seed).to(self.device)
        self.codec = _load_codec(anatomy, weights, latent_scale, self.device)
        self.condition = _condition(anatomy, condition, self.network, self.device)
        self.null = _condition(anatomy, None, self.network, self.device) if guidance > 1 else {}
        self.guided = False
        if file_states(files) != before and digests != [file_digest(file) for file in files]:
            raise InputError(f"model.path={path}: its files changed while they were read; run again")
        self.fingerprint = _fingerprint(digests, self.options, self.network)
        if channels_last:
            convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        if compile:
            self.network.compile()

    @property
    def unet(self) -> nn.Module:
        """The network, by the name of its commonest kind."""
        return self.network

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        t = torch.full((len(x),), self.family.time(node), dtype=torch.float32, device=self.device)
        state = self.family.input(x.to(self.device, torch.float32), node)
        output = self._output(state, t, self.condition)
        if self.guided:
            self.evaluations += len(x)
            null = self._output(state, t, self.null)
            output = null + self.options.guidance * (output - null)
        return self.family.read(output.to(x.device, x.dtype), x, node)

    def _output(self, state: Tensor, t: Tensor, condition: dict[str, Tensor]) -> Tensor:
        """The network's output without a learned variance, float32."""
        rows = {name: value.expand(len(state), *value.shape[1:]) for name, value in condition.items()}
        with mixed_precision(self.device, DTYPES[self.options.dtype]):
            output = unet_forward(self.network, state, t, self.factor, **rows)
        return output[:, : self.shape[0]].float()

    def encode(self, images: Float[Tensor, "n c h w"], batch_size: Size = 64) -> Float[Tensor, "n c2 h2 w2"]:
        """Images in [-1, 1] -> clean states, float32 on the CPU: images in [0, 1], latents, or the images."""
        return images if self.codec is None else convert_all(self.codec.encode, images, batch_size, self.device)

    def decode(self, states: Float[Tensor, "n c2 h2 w2"], batch_size: Size = 64) -> Float[Tensor, "n c h w"]:
        """Clean states -> images around [-1, 1], unclamped float32 on the CPU."""
        return states if self.codec is None else convert_all(self.codec.decode, states, batch_size, self.device)

    def loss(self, images: Tensor, flip: bool = False, kept: Tensor | None = None) -> DiffusionLoss:
        """The training loss of this network's own parameterisation on uint8 ``images``, on its device.

        Raises:
            InputError: see ``check_tunable``.
        """
        if not isinstance(self.family, VariancePreserving) or self.codec is not None or self.condition:
            raise InputError(f"model={self.name}: no training loss is known for it; see model families in the README")
        return DiffusionLoss(
            images,
            self.schedule.table,
            self.factor,
            flip,
            self.device,
            kept,
            self.family.prediction_type,
            DTYPES[self.options.dtype],
        )

    def with_network(self, network: nn.Module, fingerprint: str) -> "DiffusersModel":
        """This model with another network of the same architecture, frozen; ``fingerprint`` says which."""
        other = copy.copy(self)
        other.network = network.to(self.device).requires_grad_(False).eval()
        other.fingerprint, other.evaluations = fingerprint, 0
        return other

    @cached_property
    def _guided(self) -> "DiffusersModel":
        guided = copy.copy(self)
        guided.guided, guided.evaluations = True, 0
        guided.fingerprint = digest(f"{self.fingerprint}{float(self.options.guidance)}")
        return guided

    def for_denoising(self) -> "DiffusersModel":
        """This model, or with ``guidance`` above 1 the guided one, which shares its weights and counts by itself."""
        return self if self.guided or self.options.guidance == 1 else self._guided


def _load_network(anatomy: Anatomy, weights: dict[str, list[Path]], initial_seed: int | None) -> nn.Module:
    kind = getattr(diffusers, anatomy.kind)
    if initial_seed is not None:
        return initialise(kind, part_file(anatomy.folder, anatomy.part, "config.json"), initial_seed)
    return load_checked(kind, anatomy.folder, anatomy.part, weights[anatomy.part])


def _load_codec(
    anatomy: Anatomy, weights: dict[str, list[Path]], latent_scale: float | None, device: torch.device
) -> Codec | None:
    """The way from images to states and back; None where they are the same."""
    if isinstance(anatomy.family, Score):
        return UnitRange()
    if anatomy.codec_part is None:
        return None
    kind = anatomy.codec["_class_name"]
    network = load_checked(getattr(diffusers, kind), anatomy.folder, anatomy.codec_part, weights[anatomy.codec_part])
    if kind == "VQModel":
        # Published VQ diffusions (CelebA-HQ, FFHQ, LSUN) are unscaled, whatever the config's default of 0.18215
        # says: https://github.com/huggingface/diffusers/issues/6725
        return QuantisedCodec(network.to(device), latent_scale or 1.0)
    scale = latent_scale or anatomy.codec["scaling_factor"]
    return VariationalCodec(network.to(device), scale, anatomy.codec.get("shift_factor") or 0.0)


def _condition(
    anatomy: Anatomy, condition: int | str | None, network: nn.Module, device: torch.device
) -> dict[str, Tensor]:
    """The network's further inputs, one row each."""
    if anatomy.kind == "SD3Transformer2DModel":
        return stable_diffusion_3_embedding(anatomy.folder, str(condition or ""), network, device)
    if anatomy.is_text:
        return stable_diffusion_embedding(anatomy.folder, str(condition or ""), device)
    if not anatomy.classes:
        return {}
    return {"class_labels": torch.tensor([anatomy.null_class if condition is None else condition], device=device)}


def _deciding(anatomy: Anatomy, weights: dict[str, list[Path]]) -> list[Path]:
    """Every file that decides the output of a model."""
    folder = anatomy.folder
    found = list(weights.get(anatomy.part, []))
    found += [
        part_file(folder, anatomy.part, "config.json"),
        part_file(folder, "scheduler", "scheduler_config.json"),
    ]
    extra = folder / "unseen.json"
    found += [extra] if extra.is_file() else []
    for part in weighted_parts(folder):
        if part in weights and part != anatomy.part:
            found += [folder / part / "config.json", *weights[part]]
    for part in anatomy.text_parts:
        words = folder / part.replace("text_encoder", "tokenizer")
        found += sorted(path for path in words.iterdir() if path.suffix in (".json", ".txt"))
    return found


def _fingerprint(digests: Sequence[str], options: Options, network: nn.Module) -> str:
    """SHA-256 over the ``digests`` of every deciding file and the options of an unguided model."""
    parts = list(digests)
    if options.initial_seed is not None:
        parts.append(weights_digest(network))
    chosen = {k: v for k, v in asdict(options).items() if k not in ("guidance", *SPEED) and v != getattr(Options, k)}
    parts += [json.dumps(chosen, sort_keys=True)] if chosen else []
    return digest(*parts)
