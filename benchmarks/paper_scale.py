"""h. Networks of the paper's scale with random weights, and the price of its whole Table 2."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from diffusers import UNet2DModel
from torch import nn
from torch.nn.utils import convert_conv2d_weight_memory_format
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measuring import Row, matrix_rate, normal, seconds

TABLE = 4 * 6  # base models x unseen domains
REFERENCES, SAMPLES = 1000, 5000
STEPS = {"released, 80 + 80": (80, 80), "dpmpp_2m, karras, 16 + 16": (16, 16), "dpmpp_2m, karras, 8 + 8": (8, 8)}
H100_BF16 = 989e12  # dense, by its data sheet
BATCHES = {"cpu": (1,), "cuda": (1, 16, 64)}


def ddpm256() -> UNet2DModel:
    """The architecture of google/ddpm-celebahq-256."""
    plain, attention = "DownBlock2D", "AttnDownBlock2D"
    return UNet2DModel(
        sample_size=256,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=(plain, plain, plain, plain, attention, plain),
        up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
    )


def adm256() -> UNet2DModel:
    """The ADM of P2 weighting (128 channels, one block per level, attention at 16, learned variance)."""
    return UNet2DModel(
        sample_size=256,
        out_channels=6,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
        layers_per_block=1,
        attention_head_dim=64,
        resnet_time_scale_shift="scale_shift",
        downsample_type="resnet",
        upsample_type="resnet",
    )


def forward(network: nn.Module, x: torch.Tensor, mixed: Callable[[], AbstractContextManager[None]]) -> None:
    """One evaluation of a batch."""
    with torch.inference_mode(), mixed():
        network(x, timestep=torch.full((len(x),), 500.0, device=x.device), return_dict=False)


def variants(device: torch.device) -> dict[str, tuple[str, bool, bool]]:
    """dtype, channels_last and compile by label; bfloat16 only on CUDA: without units for it, it is far slower."""
    found = {"float32": ("float32", False, False), "float32, channels_last": ("float32", True, False)}
    if device.type == "cuda":
        found |= {
            "bfloat16": ("bfloat16", False, False),
            "bfloat16, channels_last": ("bfloat16", True, False),
            "bfloat16, channels_last, compile": ("bfloat16", True, True),
        }
    return found


def paper_scale(device: torch.device) -> list[Row]:
    """NFE per second by dtype, layout, compilation and batch; then the price of Table 2."""
    rows, flops = [], {}
    peak = matrix_rate(device)
    rows.append(Row("matrix products, float32", peak / 1e9, "GFLOP/s"))
    for name, make in (("DDPM 256", ddpm256), ("ADM 256 (P2)", adm256)):
        network = make().requires_grad_(False).eval().to(device)
        flops[name] = _flops(network, device)
        size = sum(p.numel() for p in network.parameters()) / 1e6
        rows.append(Row(f"{name}: parameters", size, "million"))
        rows.append(Row(f"{name}: work of an evaluation", flops[name] / 2e9, "GMAC"))
        rows += _rates(name, network, flops[name], peak, device)
    return rows + price(flops["DDPM 256"])


def _flops(network: nn.Module, device: torch.device) -> float:
    with FlopCounterMode(display=False) as counter:
        forward(network, normal(1, 3, 256, 256).to(device), nullcontext)
    return counter.get_total_flops()


def _rates(name: str, network: nn.Module, flops: float, peak: float, device: torch.device) -> list[Row]:
    rows = []
    for label, (dtype, last, compiled) in variants(device).items():
        layout = torch.channels_last if last else torch.contiguous_format
        convert_conv2d_weight_memory_format(network, layout)
        if compiled:
            network.compile()
        mixed = partial(torch.autocast, device.type, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext
        for batch in BATCHES[device.type]:
            x = normal(batch, 3, 256, 256).to(device)
            repeats = 10 if device.type == "cuda" else 2
            if device.type == "cuda":
                forward(network, x, mixed)
            spent = min(seconds(partial(forward, network, x, mixed), device) for _ in range(repeats))
            reached = batch * flops / spent
            top = H100_BF16 if dtype == "bfloat16" else peak
            words, what = f"matrix rate: {top / flops:.3g}/s", f"{name}: {label}, batch {batch}"
            rows.append(Row(what, batch / spent, "evaluations/s", words, top / reached, "convolutions"))
    return rows


def price(flops: float) -> list[Row]:
    """NFE of 4 x 6 cells with 1000 inverted references and 5000 samples, and their price in H100-hours."""
    rows = []
    for label, (up, down) in STEPS.items():
        count = TABLE * (REFERENCES * up + SAMPLES * down)
        needed = count / 3600
        share = needed * flops / H100_BF16
        words = f"{100 * share:.0f} % of an H100's bfloat16 peak (989 TFLOP/s), not measured here"
        rows.append(Row(f"Table 2, {label}", count / 1e6, "million evaluations"))
        rows.append(Row(f"Table 2, {label}: one H100-hour needs", needed, "evaluations/s", words, None, "the network"))
    return rows
