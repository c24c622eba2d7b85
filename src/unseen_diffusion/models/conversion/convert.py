"""``convert``: a checkpoint becomes a diffusers folder, if the folder's network computes what the checkpoint's does."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.conversion import proof
from unseen_diffusion.models.conversion.architecture import unet_config, unet_weights
from unseen_diffusion.models.conversion.checkpoints import read_checkpoint
from unseen_diffusion.models.conversion.plan import SCHEDULES, Options, Plan, make_plan
from unseen_diffusion.models.conversion.reference import AdmReference, DdpmReference
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_folder, check_writable


@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Attributes:
        plan: the network, and what was read, inferred and assumed about it.
        parameters: their number.
        agreements: comparisons with the original; empty if none was asked for.
    """

    plan: Plan
    parameters: int
    agreements: tuple[proof.Agreement, ...]


def convert(
    source: Path,
    target: Path,
    options: Options | None = None,
    *,
    verify: bool = True,
    activations: Path | None = None,
    weights: str | None = None,
    tolerance: float = proof.TOLERANCE,
) -> Conversion:
    """Converts an ADM, iDDPM or DDPM checkpoint to a folder for ``DiffusersModel``; all or nothing.

    Args:
        source: the checkpoint.
        target: the folder to make.
        options: what no tensor tells; None for rules alone.
        verify: compare with the original arithmetic (``reference``) at t = 0, 500 and 999.
        activations: also compare with these saved outputs of the original's own code.
        weights: which network of several in the file; see ``read_checkpoint``.
        tolerance: largest difference allowed, relative to the largest output, float32.

    Raises:
        InputError: a file, layout or option that cannot be converted, a failed comparison, or no place to write to.
    """
    if target.exists():
        raise InputError(f"{target}: already there; give a new folder")
    check_writable("target", target)
    checkpoint = read_checkpoint(source, weights)
    plan = make_plan(checkpoint, options or Options())
    saved = None if activations is None else proof.read_activations(activations, plan.architecture.in_channels)
    state = {key: value.float() for key, value in checkpoint.state.items()}
    agreements: list[proof.Agreement] = []
    with atomic_folder(target) as folder:
        _write(folder, state, plan)
        network = as_network(DiffusersModel(str(folder)).unet)
        if verify:
            shape = (plan.architecture.in_channels, plan.size, plan.size)
            agreements += proof.compare_networks(network, original_network(state, plan), shape)
            proof.check(agreements, tolerance, "a defect of the conversion: report the architecture")
        if saved is not None:
            agreements += proof.compare_activations(network, saved)
            proof.check(agreements, tolerance, "check --head-channels, --heads and --new-attention-order")
    return Conversion(plan, sum(value.numel() for value in state.values()), tuple(agreements))


def original_network(state: Mapping[str, Tensor], plan: Plan) -> proof.Network:
    """The reference arithmetic as a function of (x, t)."""
    if plan.names.name == "DDPM":
        ddpm = DdpmReference(state)
        return lambda x, t: ddpm(x, ddpm.embed(t))
    adm = AdmReference(state, plan.head_channels, plan.new_attention_order)
    return lambda x, t: adm(x, adm.embed(t))


def as_network(unet: nn.Module) -> proof.Network:
    """A UNet2DModel as a function of (x, t)."""
    return lambda x, t: unet(x, t, return_dict=False)[0]


def build(state: Mapping[str, Tensor], plan: Plan) -> UNet2DModel:
    """The UNet2DModel with the checkpoint's weights, float32, for evaluation."""
    config = unet_config(plan.architecture, plan.names, plan.size, plan.head_channels)
    weights = unet_weights(state, plan.architecture, plan.names, plan.head_channels, plan.new_attention_order)
    with torch.device("meta"):  # no random weights, which would be thrown away
        unet = UNet2DModel(**config)
    unet.load_state_dict(weights, strict=True, assign=True)
    return unet.requires_grad_(False).eval()


def _write(folder: Path, state: Mapping[str, Tensor], plan: Plan) -> None:
    """The pipeline's files."""
    learned = plan.architecture.out_channels > plan.architecture.in_channels
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        prediction_type="epsilon",
        variance_type="learned_range" if learned else "fixed_small",
        **SCHEDULES[plan.schedule],
    )
    DDPMPipeline(build(state, plan), scheduler).save_pretrained(folder)
