"""All decisions of a conversion: from the checkpoint, the options or a rule; each is also stated in words."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unseen_diffusion.models.conversion.architecture import Architecture, Naming, check_complete, check_supported
from unseen_diffusion.models.conversion.checkpoints import Checkpoint
from unseen_diffusion.models.conversion.families import SIZES
from unseen_diffusion.utils.errors import InputError

ADM_HEAD_CHANNELS = 64
# Linear: Ho et al. 2020. Cosine: Nichol and Dhariwal 2021. Both over the 1000 steps of the published models.
SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@dataclass(frozen=True)
class Options:
    """Settings of a conversion that the tensors do not show.

    Attributes:
        schedule: "linear" or "cosine".
        heads: attention heads, if their number is fixed.
        head_channels: channels per head, if that is fixed; 64 by ADM's rule.
        new_attention_order: trained with ``use_new_attention_order`` (ADM only).
        size: height and width of the images; by default that of published models with these widths.
    """

    schedule: str = "linear"
    heads: int | None = None
    head_channels: int | None = None
    new_attention_order: bool = False
    size: int | None = None


@dataclass(frozen=True)
class Plan:
    """All that a conversion needs.

    Attributes:
        architecture: the network.
        names: its family.
        size: height and width of its images.
        head_channels: channels per attention head; None for a single head at every width.
        new_attention_order: the rows of qkv are (3, heads, channels).
        schedule: a key of ``SCHEDULES``.
        statements: the source of each decision, one line each.
    """

    architecture: Architecture
    names: Naming
    size: int
    head_channels: int | None
    new_attention_order: bool
    schedule: str
    statements: tuple[str, ...] = ()


def make_plan(checkpoint: Checkpoint, options: Options) -> Plan:
    """Infers the architecture from keys and shapes, and the rest from options or rules.

    Raises:
        InputError: a checkpoint that is incomplete or cannot be represented, or options that do not fit it.
    """
    names = checkpoint.names
    if options.schedule not in SCHEDULES:
        raise InputError(f"--schedule {options.schedule}: choose {' or '.join(SCHEDULES)}")
    arch = names.infer(checkpoint.state)
    check_supported(checkpoint.state, arch, names)
    check_complete(checkpoint.state, arch, names)
    per_head, attention = choose_heads(arch, names, options)
    size = choose_size(arch, options.size)
    statements = (*describe(checkpoint, arch, size, options.size is None), attention)
    statements += (f"schedule: {options.schedule}, 1000 steps, which the tensors do not show",)
    return Plan(arch, names, size, per_head, options.new_attention_order, options.schedule, statements)


def choose_heads(arch: Architecture, names: Naming, options: Options) -> tuple[int | None, str]:
    """Channels per attention head (None: one head at every width), and the choice in words.

    UNet2DModel has one number of channels per head for the whole network, so a fixed number of heads over several
    widths cannot be represented, unless that number is 1.

    Raises:
        InputError: options that contradict each other, the family or the widths.
    """
    widths = arch.attention_widths
    heads, head_channels, new_order = options.heads, options.head_channels, options.new_attention_order
    shown = " and ".join(str(width) for width in widths)
    if names.name == "DDPM":
        if heads not in (None, 1) or head_channels is not None or new_order:
            raise InputError("DDPM checkpoint: its attention has one head; leave out heads and attention order")
        return None, f"attention: 1 head at width {shown}, as in the whole family"
    if heads is not None and head_channels is not None:
        raise InputError(f"--heads {heads} and --head-channels {head_channels}: give one of them")
    order = "new order of qkv" if new_order else "legacy order of qkv"
    if heads == 1:
        return None, f"attention: 1 head at width {shown}, as given; {order}"
    if heads is not None:
        if len(widths) > 1:
            raise InputError(
                f"--heads {heads}: a fixed number of heads at widths {shown} cannot be represented in UNet2DModel, "
                "which has one number of channels per head; only checkpoints with one attention width can be converted"
            )
        if heads < 1 or widths[0] % heads:
            raise InputError(f"--heads {heads}: does not divide the attention width {shown}")
        return widths[0] // heads, f"attention: {heads} heads at width {shown}, as given; {order}"
    channels = ADM_HEAD_CHANNELS if head_channels is None else head_channels
    if channels < 1 or any(width % channels for width in widths):
        raise InputError(
            f"--head-channels {channels}: does not divide attention width {shown}; give --head-channels or --heads"
        )
    source = "by ADM's rule, which the tensors do not show" if head_channels is None else "as given"
    return channels, f"attention: {channels} channels per head at width {shown}, {source}; {order}"


def choose_size(arch: Architecture, size: int | None) -> int:
    """Height and width of the images: the given size, or that of the published models with these widths.

    Raises:
        InputError: no size is known, or it is one that cannot be halved from level to level.
    """
    if size is None:
        size = SIZES.get(tuple(width / arch.widths[0] for width in arch.widths))
        if size is None:
            raise InputError(
                f"levels {arch.widths}: no published model has these, so the image size is unknown; give --size"
            )
    step = 2 ** (len(arch.widths) - 1)
    if size < step or size % step:
        raise InputError(f"--size {size}: give a multiple of {step}, for {len(arch.widths)} levels")
    return size


def describe(checkpoint: Checkpoint, arch: Architecture, size: int, by_rule: bool) -> tuple[str, ...]:
    """States in words what was read and inferred."""
    variance = "with" if arch.out_channels > arch.in_channels else "without"
    attention = [str(level) for level, wanted in enumerate(arch.attention) if wanted]
    return (
        f"weights: {checkpoint.name} ({checkpoint.reason})",
        f"architecture: {checkpoint.names.name}, levels {', '.join(map(str, arch.widths))}, {arch.blocks} "
        f"block{'s' if arch.blocks > 1 else ''} each, "
        f"attention at {'level ' + ', '.join(attention) if attention else 'no level'} and in the middle, "
        f"{variance} learned variance",
        f"image size: {size} ({'of published models with these widths' if by_rule else 'as given'})",
    )
