"""The two checkpoint layouts that can be read: guided-diffusion (ADM, iDDPM) and a PyTorch port of Ho et al.'s DDPM."""

import re
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from unseen_diffusion.models.conversion.architecture import Architecture, Naming, State
from unseen_diffusion.utils.errors import InputError


def _get(state: State, key: str, family: str) -> Tensor:
    """The tensor ``key``, from which the architecture is inferred."""
    if key not in state:
        raise InputError(f"{family} checkpoint: no tensor {key}, from which the architecture is read; is it complete?")
    return state[key]


def _count(state: State, prefix: str) -> int:
    """How many numbered modules ``prefix.N`` there are: the largest number plus one."""
    found = [re.match(rf"{re.escape(prefix)}\.(\d+)\.", key) for key in state]
    return max((int(match[1]) + 1 for match in found if match), default=0)


class AdmNaming(Naming):
    """Names in guided-diffusion: ``input_blocks``, ``middle_block``, ``output_blocks``, numbered through all levels."""

    name = "ADM"
    conv_in = "input_blocks.0.0"
    time = ("time_embed.0", "time_embed.2")
    middle = ("middle_block.0", "middle_block.1", "middle_block.2")
    norm_out = "out.0"
    conv_out = "out.2"
    resnet: ClassVar[Mapping[str, str]] = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    attention: ClassVar[Mapping[str, str]] = {"norm": "norm", "qkv": "qkv", "out": "proj_out"}
    down_conv = "op"
    # Cosines first, frequencies 10000^(-i / half).
    time_options: ClassVar[Mapping[str, Any]] = {"flip_sin_to_cos": True, "freq_shift": 0, "downsample_padding": 1}

    def infer(self, state: State) -> Architecture:
        """Infers it from the upward path, where the last block of each level but one contains the upsampler."""
        if "label_emb.weight" in state:
            raise InputError(
                "ADM checkpoint: class-conditional (label_emb.weight); only unconditional checkpoints can be converted"
            )
        inputs, outputs = _count(state, "input_blocks"), _count(state, "output_blocks")
        resnets = [
            i for i in range(outputs) if any(f"output_blocks.{i}.{k}.in_layers.0.weight" in state for k in (1, 2))
        ]
        convs = [i for i in range(outputs) if any(f"output_blocks.{i}.{k}.conv.weight" in state for k in (1, 2))]
        levels = len(resnets) + len(convs) + 1
        per_level = outputs // levels
        ends = [per_level * (i + 1) - 1 for i in range(levels - 1)]
        if per_level < 2 or outputs != levels * per_level or inputs != outputs or ends not in (resnets, convs):
            raise InputError(
                f"ADM checkpoint: {inputs} input blocks, {outputs} output blocks and {levels - 1} upsamplers do not "
                "form levels of equal depth; only U-Nets with as many residual blocks at every level can be converted"
            )
        starts = [per_level * i for i in reversed(range(levels))]
        wide = [_get(state, f"output_blocks.{i}.0.out_layers.3.weight", self.name).shape[0] for i in starts]
        embedded = _get(state, "middle_block.0.emb_layers.1.weight", self.name).shape[0]
        return Architecture(
            in_channels=_get(state, "input_blocks.0.0.weight", self.name).shape[1],
            out_channels=_get(state, "out.2.weight", self.name).shape[0],
            widths=tuple(wide),
            blocks=per_level - 1,
            attention=tuple(f"output_blocks.{i}.1.qkv.weight" in state for i in starts),
            scale_shift=embedded == 2 * wide[-1],
            resnet_resampling=bool(resnets),
            norm_eps=1e-5,
        )

    def block(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of a block: downwards, number 0 is the first convolution, and each downsampler has its own number."""
        if side == "down":
            return f"input_blocks.{1 + level * (arch.blocks + 1) + layer}.0"
        return f"output_blocks.{(len(arch.widths) - 1 - level) * (arch.blocks + 1) + layer}.0"

    def attention_at(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of the attention: second in the block's sequence."""
        return self.block(arch, side, level, layer)[:-1] + "1"

    def resampler(self, arch: Architecture, side: str, level: int) -> str:
        """Name of the resampler: downwards the next number, upwards the last layer of the level's last block."""
        if side == "down":
            return self.block(arch, side, level, arch.blocks)
        return self.block(arch, side, level, arch.blocks)[:-1] + str(1 + arch.attention[level])


class DdpmNaming(Naming):
    """Names in the PyTorch port of Ho et al. 2020 (SDEdit, DDIM, DiffusionCLIP): ``down``, ``mid``, ``up`` by level."""

    name = "DDPM"
    conv_in = "conv_in"
    time = ("temb.dense.0", "temb.dense.1")
    middle = ("mid.block_1", "mid.attn_1", "mid.block_2")
    norm_out = "norm_out"
    conv_out = "conv_out"
    resnet: ClassVar[Mapping[str, str]] = {
        "norm1": "norm1",
        "conv1": "conv1",
        "time_emb_proj": "temb_proj",
        "norm2": "norm2",
        "conv2": "conv2",
        "conv_shortcut": "nin_shortcut",
    }
    attention: ClassVar[Mapping[str, str]] = {"norm": "norm", "q": "q", "k": "k", "v": "v", "out": "proj_out"}
    down_conv = "conv"
    # Sines first, frequencies 10000^(-i / (half - 1)); one pixel of padding at the right and the bottom only.
    time_options: ClassVar[Mapping[str, Any]] = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0}

    def infer(self, state: State) -> Architecture:
        """Infers it from the blocks of the downward path."""
        levels, blocks = _count(state, "down"), _count(state, "down.0.block")
        keys = [f"down.{level}.block.0.conv1.weight" for level in range(levels)]
        if not levels or not blocks:
            raise InputError("DDPM checkpoint: no tensors down.0.block.0; is it complete?")
        return Architecture(
            in_channels=_get(state, "conv_in.weight", self.name).shape[1],
            out_channels=_get(state, "conv_out.weight", self.name).shape[0],
            widths=tuple(_get(state, key, self.name).shape[0] for key in keys),
            blocks=blocks,
            attention=tuple(f"down.{level}.attn.0.q.weight" in state for level in range(levels)),
            scale_shift=False,
            resnet_resampling=False,
            norm_eps=1e-6,
        )

    def block(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of a block: both paths are numbered by level, from the full resolution."""
        return f"{side}.{level}.block.{layer}"

    def attention_at(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of the attention, which is stored beside the blocks."""
        return f"{side}.{level}.attn.{layer}"

    def resampler(self, arch: Architecture, side: str, level: int) -> str:
        """Name of the resampler, which is stored beside the blocks."""
        return f"{side}.{level}.{side}sample"


# The tensor by which a family is recognised, anywhere in the file.
MARKERS: dict[str, Naming] = {"time_embed.0.weight": AdmNaming(), "temb.dense.0.weight": DdpmNaming()}
# Image sizes of published models, by channel multipliers (guided-diffusion's defaults, Ho et al., Song et al. 2021).
SIZES: dict[tuple[float, ...], int] = {
    (1, 1, 2, 2, 4, 4): 256,
    (1, 1, 2, 3, 4): 128,
    (1, 2, 3, 4): 64,
    (1, 2, 2, 2, 4): 64,
    (1, 2, 2, 2): 32,
}
