"""A diffusers pipeline of any known family as a frozen model: its network, autoencoder, condition and schedule."""

import copy
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format

from unseen_diffusion.models.anatomy import Anatomy, examine
from unseen_diffusion.models.autoencoders import Codec, QuantisedCodec, UnitRange, VariationalCodec, convert_all
from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.blocks import READ_AT, block_features, readable_blocks
from unseen_diffusion.models.folders import part_file, resolve, weighted_parts
from unseen_diffusion.models.loading import initialise, load_checked, weights_digest
from unseen_diffusion.models.losses import ConditionalLoss, DiffusionLoss
from unseen_diffusion.models.options import Options, check_options, needed_weights
from unseen_diffusion.models.options import describe as describe  # also importable from here until version 0.5
from unseen_diffusion.models.options import inspect_model as inspect_model
from unseen_diffusion.models.parameterisations import Score, VariancePreserving
from unseen_diffusion.models.schedules import Node
from unseen_diffusion.models.text import Weights, stable_diffusion_3_embedding, stable_diffusion_embedding
from unseen_diffusion.models.trial import CONFIG, try_model
from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.utils.batching import Size, in_batches
from unseen_diffusion.utils.checked import Text, checked_arguments
from unseen_diffusion.utils.digests import digest, file_digest
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import file_states
from unseen_diffusion.utils.identity import named
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.precision import full_float32, mixed_precision
from unseen_diffusion.utils.renamed import new_names

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class DiffusersModel(DiffusionModel):
    """A frozen diffusers pipeline; model_index.json and the configs of its parts determine the family.

    Args:
        path: local diffusers folder, hub id, or ``embedded:NAME``.
        revision: hub commit or branch.
        device: on which the network computes.
        name: for tables; by default the last part of ``path``.
        options: condition, guidance, dtype, latent_scale, variant, initial_seed, channels_last, compile; see
            ``Options``.

    Raises:
        InputError: see ``inspect_model``; or weights that cannot be read, do not fit, or change while they are read.
    """

    @checked_arguments("model", Options)
    def __init__(
        self,
        path: Text,
        revision: Text | None = None,
        device: str | torch.device = "cpu",
        name: str | None = None,
        **options: Any,
    ):
        super().__init__()
        self.options = chosen = Options(**options)
        anatomy = examine(resolve(path, revision, variant=chosen.variant))
        check_options(anatomy, chosen)
        weights = needed_weights(anatomy, chosen)
        self.spec = anatomy.spec()
        self.name = name or path.removeprefix("embedded:").rstrip("/").rsplit("/", 1)[-1]
        self.device = torch.device(device)
        self.factor = anatomy.factor
        self.family = anatomy.family
        files = _fingerprinted_files(anatomy, weights)
        before = file_states(files)
        digests = [file_digest(file) for file in files]
        self.network = _load_network(anatomy, weights, chosen.initial_seed).to(self.device)
        self.codec = _load_codec(anatomy, weights, chosen.latent_scale, self.device)
        self.condition = _condition(anatomy, chosen.condition, self.network, self.device, weights)
        self.null = {}
        if chosen.guidance > 1:
            self.null = _condition(anatomy, None, self.network, self.device, weights)
        self.guided = False
        if file_states(files) != before and digests != [file_digest(file) for file in files]:
            raise InputError(f"model.path={path}: its files changed while they were read; run again")
        self.fingerprint = _fingerprint(digests, chosen, self.network)
        codec = f"{anatomy.folder}: {anatomy.codec_part}" if anatomy.codec_part else ""
        try_model(self, f"{anatomy.folder}: {anatomy.part}", codec, CONFIG)
        if chosen.channels_last:
            convert_conv2d_weight_memory_format(self.network, torch.channels_last)
        if chosen.compile:
            self.network.compile()

    @property
    def unet(self) -> nn.Module:
        """The network; named after its most common kind."""
        return self.network

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        t = torch.full((len(x),), self.family.time(node), dtype=torch.float32, device=self.device)
        state = self.family.network_input(x.to(self.device, torch.float32), node)
        output = self._output(state, t, self.condition)
        if self.guided:
            self.evaluations += len(x)
            null = self._output(state, t, self.null)
            output = null + self.options.guidance * (output - null)
        return self.family.prediction(output.to(x.device, x.dtype), x, node)

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

    @torch.inference_mode()
    def features(self, images: Float[Tensor, "n c h w"], batch_size: Size = 64) -> Float[Tensor, "n d"]:
        """Means and deviations of the blocks' outputs at a low noise level, without noise (``models.blocks``)."""
        blocks = readable_blocks(self.network, self.name)
        node = self.schedule.node(float(round(READ_AT * (self.schedule.timesteps - 1))))
        states = node.alpha * self.encode(images, batch_size)

        def read(rows: slice) -> Tensor:
            state = self.family.network_input(states[rows].to(self.device, torch.float32), node)
            t = torch.full((len(state),), self.family.time(node), dtype=torch.float32, device=self.device)
            with full_float32():
                return block_features(blocks, lambda: self._output(state, t, self.condition))

        features = torch.cat(list(in_batches(read, len(states), batch_size)))
        self.evaluations += len(states)
        return features

    def loss(self, images: Tensor, flip: bool = False, kept: Tensor | None = None) -> DiffusionLoss:
        """The training loss of this network's parameterisation on uint8 ``images``, on its device.

        Raises:
            InputError: see ``check_tunable``.
        """
        if not isinstance(self.family, VariancePreserving):
            raise InputError(f"model={self.name}: no training loss is known for it; see model families in the README")
        settings = (
            self.schedule.table,
            self.factor,
            flip,
            self.device,
            kept,
            self.family.prediction_type,
            DTYPES[self.options.dtype],
        )
        if self.codec is None and not self.condition:
            return DiffusionLoss(images, *settings)
        return ConditionalLoss(self.encode(dequantise(images)), self.condition, *settings)

    def with_network(self, network: nn.Module, fingerprint: str) -> "DiffusersModel":
        """This model with another network of the same architecture, frozen; ``fingerprint`` identifies it."""
        other = copy.copy(self)
        other.__dict__.pop("_guided", None)  # which has the first network
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
        """This model; with ``guidance`` above 1 the guided one, which shares its weights and counts its NFE apart."""
        return self if self.guided or self.options.guidance == 1 else self._guided


def _load_network(anatomy: Anatomy, weights: dict[str, list[Path]], initial_seed: int | None) -> nn.Module:
    kind = getattr(diffusers, anatomy.kind)
    if initial_seed is not None:
        return initialise(kind, part_file(anatomy.folder, anatomy.part, "config.json"), initial_seed)
    return load_checked(kind, anatomy.folder, anatomy.part, weights[anatomy.part])


def _load_codec(
    anatomy: Anatomy, weights: dict[str, list[Path]], latent_scale: float | None, device: torch.device
) -> Codec | None:
    """The conversion between images and states; None where they are the same."""
    if isinstance(anatomy.family, Score):
        return UnitRange()
    if anatomy.codec_part is None:
        return None
    kind = anatomy.codec["_class_name"]
    network = load_checked(getattr(diffusers, kind), anatomy.folder, anatomy.codec_part, weights[anatomy.codec_part])
    if kind == "VQModel":
        # Published VQ diffusions (CelebA-HQ, FFHQ, LSUN) are unscaled, despite the config's default of 0.18215:
        # https://github.com/huggingface/diffusers/issues/6725
        return QuantisedCodec(network.to(device), latent_scale or 1.0)
    scale = latent_scale or anatomy.codec["scaling_factor"]
    return VariationalCodec(network.to(device), scale, anatomy.codec.get("shift_factor") or 0.0)


def _condition(
    anatomy: Anatomy, condition: int | str | None, network: nn.Module, device: torch.device, weights: Weights
) -> dict[str, Tensor]:
    """Further inputs of the network, one row each."""
    if anatomy.kind == "SD3Transformer2DModel":
        return stable_diffusion_3_embedding(anatomy.folder, str(condition or ""), network, device, weights)
    if anatomy.is_text:
        return stable_diffusion_embedding(anatomy.folder, str(condition or ""), device, weights)
    if not anatomy.classes:
        return {}
    return {"class_labels": torch.tensor([anatomy.null_class if condition is None else condition], device=device)}


def _fingerprinted_files(anatomy: Anatomy, weights: dict[str, list[Path]]) -> list[Path]:
    """All files that determine the output of a model."""
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
    """SHA-256 over the ``digests`` of all files and the options, without guidance."""
    parts = list(digests)
    if options.initial_seed is not None:
        parts.append(weights_digest(network))
    chosen = {name: value for name, value in named(options).items() if value != getattr(Options, name)}
    parts += [json.dumps(chosen, sort_keys=True)] if chosen else []
    return digest(*parts)


__getattr__ = new_names(__name__)
