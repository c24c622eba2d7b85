"""Converts a checkpoint to a diffusers folder, and verifies the outputs of the converted network."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import Tensor, nn

from unseen_diffusion.models import DiffusersModel
from unseen_diffusion.models.conversion import verification
from unseen_diffusion.models.conversion.architecture import unet_config, unet_weights
from unseen_diffusion.models.conversion.checkpoints import read_checkpoint
from unseen_diffusion.models.conversion.plan import SCHEDULES, Options, Plan, make_plan
from unseen_diffusion.models.conversion.reference import AdmReference, DdpmReference
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.files import atomic_folder, check_writable


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        plan: the network, and what was read, inferred and assumed about it.
        parameters: number of parameters.
        comparisons: with the original; empty if none was requested.
    """

    plan: Plan
    parameters: int
    comparisons: tuple[verification.Comparison, ...]


def convert(
    source: Path,
    target: Path,
    options: Options | None = None,
    *,
    verify: bool = True,
    activations: Path | None = None,
    weights: str | None = None,
    tolerance: float = verification.TOLERANCE,
) -> Conversion:
    """Converts an ADM, iDDPM or DDPM checkpoint to a folder for ``DiffusersModel``; on failure it writes nothing.

    Args:
        source: the checkpoint.
        target: the folder to create.
        options: settings that the tensors do not show; None for the rules of the families.
        verify: compare with the original arithmetic (``reference``) at t = 0, 500 and 999.
        activations: also compare with these saved outputs of the original code.
        weights: the name of the network, if the file holds several; see ``read_checkpoint``.
        tolerance: largest difference allowed, relative to the largest output, float32.

    Raises:
        InputError: a file, layout or option that cannot be converted, a failed comparison, or no place to write to.
    """
    if target.exists():
        raise InputError(f"{target}: exists already; give a new folder")
    check_writable("target", target)
    checkpoint = read_checkpoint(source, weights)
    plan = make_plan(checkpoint, options or Options())
    saved = None if activations is None else verification.read_activations(activations, plan.architecture.in_channels)
    state = {key: value.float() for key, value in checkpoint.state.items()}
    comparisons: list[verification.Comparison] = []
    with atomic_folder(target) as folder:
        _write(folder, state, plan)
        network = as_network(DiffusersModel(str(folder)).unet)
        if verify:
            shape = (plan.architecture.in_channels, plan.size, plan.size)
            comparisons += verification.compare_networks(network, original_network(state, plan), shape)
            verification.check(comparisons, tolerance, "a defect of the conversion: report the architecture")
        if saved is not None:
            comparisons += verification.compare_activations(network, saved)
            verification.check(comparisons, tolerance, "check --head-channels, --heads and --new-attention-order")
    return Conversion(plan, sum(value.numel() for value in state.values()), tuple(comparisons))


def original_network(state: Mapping[str, Tensor], plan: Plan) -> verification.Network:
    """The reference arithmetic as a function of (x, t)."""
    if plan.names.name == "DDPM":
        ddpm = DdpmReference(state)
        return lambda x, t: ddpm(x, ddpm.embed(t))
    adm = AdmReference(state, plan.head_channels, plan.new_attention_order)
    return lambda x, t: adm(x, adm.embed(t))


def as_network(unet: nn.Module) -> verification.Network:
    """A UNet2DModel as a function of (x, t)."""
    return lambda x, t: unet(x, t, return_dict=False)[0]


def build(state: Mapping[str, Tensor], plan: Plan) -> UNet2DModel:
    """The UNet2DModel with the checkpoint's weights, float32, for evaluation."""
    config = unet_config(plan.architecture, plan.names, plan.size, plan.head_channels)
    weights = unet_weights(state, plan.architecture, plan.names, plan.head_channels, plan.new_attention_order)
    with torch.device("meta"):  # draws no random weights, which would be replaced
        unet = UNet2DModel(**config)
    unet.load_state_dict(weights, strict=True, assign=True)
    return unet.requires_grad_(False).eval()


def _write(folder: Path, state: Mapping[str, Tensor], plan: Plan) -> None:
    """Writes the files of the pipeline."""
    learned = plan.architecture.out_channels > plan.architecture.in_channels
    scheduler = DDPMScheduler(
        num_train_timesteps=1000,
        prediction_type="epsilon",
        variance_type="learned_range" if learned else "fixed_small",
        **SCHEDULES[plan.schedule],
    )
    DDPMPipeline(build(state, plan), scheduler).save_pretrained(folder)
