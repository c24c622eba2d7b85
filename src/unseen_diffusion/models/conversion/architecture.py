"""One description for the U-Nets of both families, and the name of each tensor in UNet2DModel."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from unseen_diffusion.utils.errors import InputError

State = Mapping[str, Tensor]
NORM_GROUPS = 32  # fixed in both families; no tensor's shape depends on it


@dataclass(frozen=True)
class Architecture:
    """A U-Net without conditioning.

    Attributes:
        in_channels: of the image.
        out_channels: as many, or twice as many with a learned variance.
        widths: channels per level, from the full resolution down.
        blocks: residual blocks per level on the downward path; one more on the upward path.
        attention: which levels have attention; the middle always has it.
        scale_shift: the timestep scales and shifts the second norm, instead of being added before it.
        resnet_resampling: levels are joined by residual blocks, not by convolutions.
        norm_eps: of every group norm.
    """

    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[bool, ...]
    scale_shift: bool
    resnet_resampling: bool
    norm_eps: float

    @property
    def attention_widths(self) -> tuple[int, ...]:
        """The widths that have attention, ascending."""
        here = {width for width, wanted in zip(self.widths, self.attention, strict=True) if wanted}
        return tuple(sorted(here | {self.widths[-1]}))


class Naming(ABC):
    """The module names of a family; levels count from the full resolution."""

    name: ClassVar[str]
    conv_in: ClassVar[str]
    time: ClassVar[tuple[str, str]]
    middle: ClassVar[tuple[str, str, str]]
    norm_out: ClassVar[str]
    conv_out: ClassVar[str]
    resnet: ClassVar[Mapping[str, str]]
    attention: ClassVar[Mapping[str, str]]
    down_conv: ClassVar[str]
    time_options: ClassVar[Mapping[str, Any]]

    @abstractmethod
    def infer(self, state: State) -> Architecture:
        """The architecture, inferred from keys and shapes.

        Raises:
            InputError: it cannot be inferred.
        """

    @abstractmethod
    def block(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of the residual block; ``side`` is "down" or "up"."""

    @abstractmethod
    def attention_at(self, arch: Architecture, side: str, level: int, layer: int) -> str:
        """Name of the attention that follows the block."""

    @abstractmethod
    def resampler(self, arch: Architecture, side: str, level: int) -> str:
        """Name of the module between this level and the next."""


class Leaf(NamedTuple):
    """A weight and its bias: the prefix in the checkpoint, the prefixes in UNet2DModel, the shape in the checkpoint."""

    source: str
    targets: tuple[str, ...]  # three prefixes for a fused projection to queries, keys and values
    shape: tuple[int, ...]


def leaves(arch: Architecture, names: Naming) -> Iterator[Leaf]:
    """Every weight of the network with its bias, in UNet2DModel's order."""
    first, last = arch.widths[0], arch.widths[-1]
    yield Leaf(names.conv_in, ("conv_in",), (first, arch.in_channels, 3, 3))
    yield Leaf(names.time[0], ("time_embedding.linear_1",), (4 * first, first))
    yield Leaf(names.time[1], ("time_embedding.linear_2",), (4 * first, 4 * first))
    for level in range(len(arch.widths)):
        yield from _down_leaves(arch, names, level)
    yield from _resnet_leaves(arch, names, names.middle[0], "mid_block.resnets.0", last, last)
    yield from _attention_leaves(names, names.middle[1], "mid_block.attentions.0", last)
    yield from _resnet_leaves(arch, names, names.middle[2], "mid_block.resnets.1", last, last)
    for level in reversed(range(len(arch.widths))):
        yield from _up_leaves(arch, names, level)
    yield Leaf(names.norm_out, ("conv_norm_out",), (first,))
    yield Leaf(names.conv_out, ("conv_out",), (arch.out_channels, first, 3, 3))


def _down_leaves(arch: Architecture, names: Naming, level: int) -> Iterator[Leaf]:
    width, target = arch.widths[level], f"down_blocks.{level}"
    before = arch.widths[max(level - 1, 0)]
    for layer in range(arch.blocks):
        block = names.block(arch, "down", level, layer)
        yield from _resnet_leaves(arch, names, block, f"{target}.resnets.{layer}", width if layer else before, width)
        if arch.attention[level]:
            attention = names.attention_at(arch, "down", level, layer)
            yield from _attention_leaves(names, attention, f"{target}.attentions.{layer}", width)
    if level < len(arch.widths) - 1:
        source = names.resampler(arch, "down", level)
        yield from _resampler_leaves(arch, names, source, f"{target}.downsamplers.0", width, names.down_conv)


def _up_leaves(arch: Architecture, names: Naming, level: int) -> Iterator[Leaf]:
    width, target = arch.widths[level], f"up_blocks.{len(arch.widths) - 1 - level}"
    below = arch.widths[min(level + 1, len(arch.widths) - 1)]
    above = arch.widths[max(level - 1, 0)]
    for layer in range(arch.blocks + 1):
        # The last block receives the input of this level from the downward path.
        inputs = (width if layer else below) + (above if layer == arch.blocks else width)
        block = names.block(arch, "up", level, layer)
        yield from _resnet_leaves(arch, names, block, f"{target}.resnets.{layer}", inputs, width)
        if arch.attention[level]:
            attention = names.attention_at(arch, "up", level, layer)
            yield from _attention_leaves(names, attention, f"{target}.attentions.{layer}", width)
    if level > 0:
        source = names.resampler(arch, "up", level)
        yield from _resampler_leaves(arch, names, source, f"{target}.upsamplers.0", width, "conv")


def _resnet_leaves(
    arch: Architecture, names: Naming, source: str, target: str, inputs: int, outputs: int
) -> Iterator[Leaf]:
    shapes: dict[str, tuple[int, ...]] = {
        "norm1": (inputs,),
        "conv1": (outputs, inputs, 3, 3),
        "time_emb_proj": (outputs * (2 if arch.scale_shift else 1), 4 * arch.widths[0]),
        "norm2": (outputs,),
        "conv2": (outputs, outputs, 3, 3),
    }
    if inputs != outputs:
        shapes["conv_shortcut"] = (outputs, inputs, 1, 1)
    for part, shape in shapes.items():
        yield Leaf(f"{source}.{names.resnet[part]}", (f"{target}.{part}",), shape)


def _attention_leaves(names: Naming, source: str, target: str, width: int) -> Iterator[Leaf]:
    yield Leaf(f"{source}.{names.attention['norm']}", (f"{target}.group_norm",), (width,))
    if "qkv" in names.attention:
        targets = tuple(f"{target}.to_{part}" for part in "qkv")
        yield Leaf(f"{source}.{names.attention['qkv']}", targets, (3 * width, width, 1))
        yield Leaf(f"{source}.{names.attention['out']}", (f"{target}.to_out.0",), (width, width, 1))
        return
    for part in "qkv":
        yield Leaf(f"{source}.{names.attention[part]}", (f"{target}.to_{part}",), (width, width, 1, 1))
    yield Leaf(f"{source}.{names.attention['out']}", (f"{target}.to_out.0",), (width, width, 1, 1))


def _resampler_leaves(
    arch: Architecture, names: Naming, source: str, target: str, width: int, conv: str
) -> Iterator[Leaf]:
    if arch.resnet_resampling:
        yield from _resnet_leaves(arch, names, source, target, width, width)
    else:
        yield Leaf(f"{source}.{conv}", (f"{target}.conv",), (width, width, 3, 3))


def expected_shapes(arch: Architecture, names: Naming) -> dict[str, tuple[int, ...]]:
    """Every key of a checkpoint of this architecture, with its tensor's shape."""
    shapes = {}
    for leaf in leaves(arch, names):
        shapes[f"{leaf.source}.weight"] = leaf.shape
        shapes[f"{leaf.source}.bias"] = leaf.shape[:1]
    return shapes


def check_complete(state: State, arch: Architecture, names: Naming) -> None:
    """Refuses a state dict whose tensors are not exactly those of the architecture.

    Raises:
        InputError: tensors are missing, unexpected, or of another shape; the line names the first of them.
    """
    expected = expected_shapes(arch, names)
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        found = [f"{len(missing)} missing, first {missing[0]}"] if missing else []
        found += [f"{len(unexpected)} unexpected, first {unexpected[0]}"] if unexpected else []
        raise InputError(
            f"{names.name} checkpoint, {arch.blocks} blocks at each of levels {arch.widths}: tensors "
            f"{'; '.join(found)}; give a complete checkpoint of an unconditional network"
        )
    for key, shape in expected.items():
        if tuple(state[key].shape) != shape:
            raise InputError(f"{names.name} checkpoint: {key} has shape {tuple(state[key].shape)}; expected {shape}")


def check_supported(state: State, arch: Architecture, names: Naming) -> None:
    """Refuses architectures that UNet2DModel cannot represent.

    Raises:
        InputError: another base width, widths that 32 groups do not divide, or another number of outputs.
    """
    base = state[f"{names.time[0]}.weight"].shape[1]
    if base != arch.widths[0]:
        raise InputError(
            f"{names.name} checkpoint: timesteps are embedded in {base} channels, but the first level has "
            f"{arch.widths[0]}; UNet2DModel can represent only equal numbers"
        )
    odd = [width for width in arch.widths if width % NORM_GROUPS]
    if odd:
        raise InputError(f"{names.name} checkpoint: {odd[0]} channels; both families have multiples of {NORM_GROUPS}")
    # Super-resolution networks also take the small image: 6 input channels.
    if arch.in_channels not in (1, 3) or arch.out_channels not in (arch.in_channels, 2 * arch.in_channels):
        raise InputError(
            f"{names.name} checkpoint: {arch.in_channels} input and {arch.out_channels} output channels; "
            "only unconditional image networks can be converted (1 or 3 in; as many out, twice as many with a variance)"
        )


def unet_config(arch: Architecture, names: Naming, size: int, head_channels: int | None) -> dict[str, Any]:
    """Arguments of UNet2DModel.

    Args:
        arch: the network.
        names: its family.
        size: height and width of its images.
        head_channels: channels per attention head; None for a single head at every width.
    """
    plain = "Resnet{}sampleBlock2D" if arch.resnet_resampling else "{}Block2D"
    down = ["AttnDownBlock2D" if wanted else plain.format("Down") for wanted in arch.attention]
    up = ["AttnUpBlock2D" if wanted else plain.format("Up") for wanted in reversed(arch.attention)]
    resampling = "resnet" if arch.resnet_resampling else "conv"
    return {
        "sample_size": size,
        "in_channels": arch.in_channels,
        "out_channels": arch.out_channels,
        "block_out_channels": arch.widths,
        "layers_per_block": arch.blocks,
        "down_block_types": tuple(down),
        "up_block_types": tuple(up),
        "downsample_type": resampling,
        "upsample_type": resampling,
        "resnet_time_scale_shift": "scale_shift" if arch.scale_shift else "default",
        "attention_head_dim": head_channels,
        "norm_num_groups": NORM_GROUPS,
        "attn_norm_num_groups": NORM_GROUPS,
        "norm_eps": arch.norm_eps,
        **names.time_options,
    }


def unet_weights(
    state: State, arch: Architecture, names: Naming, head_channels: int | None, new_attention_order: bool
) -> dict[str, Tensor]:
    """The checkpoint's tensors under UNet2DModel's names, float32.

    Args:
        state: a complete checkpoint of ``arch``.
        arch: the network.
        names: its family.
        head_channels: channels per attention head; None for a single head at every width.
        new_attention_order: the rows of a fused projection are (3, heads, channels), not (heads, 3, channels).
    """
    weights: dict[str, Tensor] = {}
    for leaf in leaves(arch, names):
        for kind in ("weight", "bias"):
            tensor = state[f"{leaf.source}.{kind}"].float()
            if kind == "weight" and ".to_" in leaf.targets[0]:
                tensor = tensor.flatten(1)  # a convolution of one pixel as a linear map
            parts: tuple[Tensor, ...] = (tensor,)
            if len(leaf.targets) == 3:
                width = len(tensor) // 3
                heads = 1 if new_attention_order else width // (head_channels or width)
                parts = split_qkv(tensor, heads)
            weights |= {f"{target}.{kind}": part.contiguous() for target, part in zip(leaf.targets, parts, strict=True)}
    return weights


def split_qkv(rows: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, heads one after another, of a fused projection in legacy order.

    Args:
        rows: (3 width, ...), rows ordered as (heads, 3, width / heads).
        heads: their number; 1 also reads the new order, (3, heads, width / heads).

    Returns:
        Three tensors (width, ...).
    """
    split = rows.reshape(heads, 3, -1, *rows.shape[1:])
    q, k, v = (split[:, part].reshape(-1, *rows.shape[1:]).clone() for part in range(3))
    return q, k, v
