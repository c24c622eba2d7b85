"""The arithmetic of the original networks on the original state dict, to verify conversions against.

Written from the papers' descriptions (Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3) without
diffusers and without the code of the conversion: it follows the keys of the checkpoint.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv1d, conv2d, group_norm, interpolate, linear, pad, silu

from unseen_diffusion.models.conversion.architecture import State


class Weights:
    """A state dict as layers: each method applies the weight and bias stored under ``name``."""

    def __init__(self, state: State, norm_eps: float):
        self.state = state
        self.norm_eps = norm_eps

    def has(self, name: str) -> bool:
        """Whether there is such a layer."""
        return f"{name}.weight" in self.state

    def pair(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias."""
        return self.state[f"{name}.weight"], self.state[f"{name}.bias"]

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """A convolution that keeps the size by default."""
        weight, bias = self.pair(name)
        return conv2d(x, weight, bias, stride, weight.shape[-1] // 2 if padding is None else padding)

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A linear map."""
        return linear(x, *self.pair(name))

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Group norm in 32 groups."""
        return group_norm(x, 32, *self.pair(name), eps=self.norm_eps)

    def children(self, name: str) -> list[int]:
        """The numbers N of the modules ``name.N``, ascending."""
        start = f"{name}."
        return sorted({int(key[len(start) :].split(".", 1)[0]) for key in self.state if key.startswith(start)})


def adm_embedding(t: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """cos(t f_i), then sin(t f_i), f_i = 10000^(-i / half); float32, as the original computes it."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


def ddpm_embedding(t: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """sin(t f_i), then cos(t f_i), f_i = 10000^(-i / (half - 1)); float32, as the original computes it."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class AdmReference:
    """ADM and iDDPM (Dhariwal and Nichol 2021), any depth, with its own resampling and attention.

    Args:
        state: the original state dict; its dtype is the network's.
        head_channels: channels per attention head.
        new_attention_order: rows of qkv are (3, heads, channels) instead of (heads, 3, channels).
    """

    def __init__(self, state: State, head_channels: int | None, new_attention_order: bool = False):
        self.weights = Weights(state, 1e-5)
        self.head_channels = head_channels
        self.new_attention_order = new_attention_order

    def embed(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Embeds timesteps (fractions allowed), before the first linear map; float32."""
        return adm_embedding(t, self.weights.state["time_embed.0.weight"].shape[1])

    def __call__(self, x: Float[Tensor, "b c h w"], embedded: Float[Tensor, "b width"]) -> Float[Tensor, "b out h w"]:
        """The network's output for states x and embedded timesteps."""
        weights = self.weights
        temb = weights.linear("time_embed.0", embedded.to(x.dtype))
        temb = weights.linear("time_embed.2", silu(temb))
        outputs = weights.children("output_blocks")
        resampling = [i for i in outputs if self._upsampler(f"output_blocks.{i}")]
        # A level has as many entries on both paths; on the downward path, the last one is the downsampler.
        period = resampling[0] + 1 if resampling else len(outputs) + 1
        skips, h = [], x
        for i in weights.children("input_blocks"):
            down = i > 0 and i % period == 0
            h = self._sequence(f"input_blocks.{i}", h, temb, (lambda v: avg_pool2d(v, 2)) if down else None)
            skips.append(h)
        h = self._resnet("middle_block.0", h, temb)
        h = self._attention("middle_block.1", h)
        h = self._resnet("middle_block.2", h, temb)
        for i in outputs:
            h = self._sequence(f"output_blocks.{i}", torch.cat([h, skips.pop()], 1), temb, None)
        return weights.conv("out.2", silu(weights.norm("out.0", h)))

    def _upsampler(self, name: str) -> bool:
        """Whether the sequence ends in an upsampler: a convolution, or a second residual block."""
        last = f"{name}.{self.weights.children(name)[-1]}"
        return not last.endswith(".0") and (self.weights.has(f"{last}.conv") or self.weights.has(f"{last}.in_layers.0"))

    def _sequence(self, name: str, h: Tensor, temb: Tensor, resample: Callable[[Tensor], Tensor] | None) -> Tensor:
        """The layers of one numbered block, recognised by the tensors that they have."""
        weights = self.weights
        for k in weights.children(name):
            layer = f"{name}.{k}"
            if weights.has(f"{layer}.qkv"):
                h = self._attention(layer, h)
            elif weights.has(f"{layer}.in_layers.0"):
                h = self._resnet(layer, h, temb, _double if k > 0 else resample)
            elif weights.has(f"{layer}.op"):
                h = weights.conv(f"{layer}.op", h, stride=2)
            elif weights.has(f"{layer}.conv"):
                h = weights.conv(f"{layer}.conv", _double(h))
            else:
                h = weights.conv(layer, h)
        return h

    def _resnet(self, name: str, x: Tensor, temb: Tensor, resample: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Residual block; resamples after the first activation, and resamples the shortcut too."""
        weights = self.weights
        h = silu(weights.norm(f"{name}.in_layers.0", x))
        if resample is not None:
            h, x = resample(h), resample(x)
        h = weights.conv(f"{name}.in_layers.2", h)
        shift = weights.linear(f"{name}.emb_layers.1", silu(temb))[:, :, None, None]
        if shift.shape[1] == 2 * h.shape[1]:
            scale, shift = shift.chunk(2, 1)
            h = weights.norm(f"{name}.out_layers.0", h) * (1 + scale) + shift
        else:
            h = weights.norm(f"{name}.out_layers.0", h + shift)
        h = weights.conv(f"{name}.out_layers.3", silu(h))
        return h + (weights.conv(f"{name}.skip_connection", x) if weights.has(f"{name}.skip_connection") else x)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        """Self-attention over pixels; the legacy order splits heads before queries, keys and values."""
        batch, width = x.shape[:2]
        qkv = conv1d(self.weights.norm(f"{name}.norm", x).flatten(2), *self.weights.pair(f"{name}.qkv"))
        channels = self.head_channels or width
        if self.new_attention_order:
            q, k, v = (part.reshape(batch * width // channels, channels, -1) for part in qkv.chunk(3, 1))
        else:
            q, k, v = qkv.reshape(batch * width // channels, 3 * channels, -1).split(channels, 1)
        h = attend(q, k, v).reshape(batch, width, -1)
        return x + conv1d(h, *self.weights.pair(f"{name}.proj_out")).reshape(x.shape)


class DdpmReference:
    """DDPM (Ho et al. 2020) in its PyTorch port, with one head of attention.

    Args:
        state: the original state dict; its dtype is the network's.
    """

    def __init__(self, state: State):
        self.weights = Weights(state, 1e-6)

    def embed(self, t: Float[Tensor, " b"]) -> Float[Tensor, "b width"]:
        """Embeds timesteps (fractions allowed), before the first linear map; float32."""
        return ddpm_embedding(t, self.weights.state["temb.dense.0.weight"].shape[1])

    def __call__(self, x: Float[Tensor, "b c h w"], embedded: Float[Tensor, "b width"]) -> Float[Tensor, "b out h w"]:
        """The network's output for states x and embedded timesteps."""
        weights = self.weights
        temb = weights.linear("temb.dense.1", silu(weights.linear("temb.dense.0", embedded.to(x.dtype))))
        h = weights.conv("conv_in", x)
        skips = [h]
        for level in weights.children("down"):
            for layer in weights.children(f"down.{level}.block"):
                h = self._block(f"down.{level}", layer, h, temb)
                skips.append(h)
            if weights.has(f"down.{level}.downsample.conv"):
                h = weights.conv(f"down.{level}.downsample.conv", pad(h, (0, 1, 0, 1)), stride=2, padding=0)
                skips.append(h)
        h = self._resnet("mid.block_1", h, temb)
        h = self._attention("mid.attn_1", h)
        h = self._resnet("mid.block_2", h, temb)
        for level in reversed(weights.children("up")):
            for layer in weights.children(f"up.{level}.block"):
                h = self._block(f"up.{level}", layer, torch.cat([h, skips.pop()], 1), temb)
            if weights.has(f"up.{level}.upsample.conv"):
                h = weights.conv(f"up.{level}.upsample.conv", _double(h))
        return weights.conv("conv_out", silu(weights.norm("norm_out", h)))

    def _block(self, level: str, layer: int, h: Tensor, temb: Tensor) -> Tensor:
        h = self._resnet(f"{level}.block.{layer}", h, temb)
        attention = f"{level}.attn.{layer}"
        return self._attention(attention, h) if self.weights.has(f"{attention}.q") else h

    def _resnet(self, name: str, x: Tensor, temb: Tensor) -> Tensor:
        """Residual block; the timestep is added after the first convolution."""
        weights = self.weights
        h = weights.conv(f"{name}.conv1", silu(weights.norm(f"{name}.norm1", x)))
        h = h + weights.linear(f"{name}.temb_proj", silu(temb))[:, :, None, None]
        h = weights.conv(f"{name}.conv2", silu(weights.norm(f"{name}.norm2", h)))
        return h + (weights.conv(f"{name}.nin_shortcut", x) if weights.has(f"{name}.nin_shortcut") else x)

    def _attention(self, name: str, x: Tensor) -> Tensor:
        """Self-attention over pixels, one head as wide as the level."""
        h = self.weights.norm(f"{name}.norm", x)
        q, k, v = (self.weights.conv(f"{name}.{part}", h).flatten(2) for part in "qkv")
        return x + self.weights.conv(f"{name}.proj_out", attend(q, k, v).reshape(x.shape))


def attend(q: Float[Tensor, "b c n"], k: Float[Tensor, "b c n"], v: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
    """softmax(q^T k / sqrt(c)) over positions, applied to v (Vaswani et al. 2017, equation 1)."""
    shares = torch.einsum("bcq,bck->bqk", q, k).div(math.sqrt(q.shape[1])).softmax(-1)
    return torch.einsum("bqk,bck->bcq", shares, v)


def _double(x: Tensor) -> Tensor:
    """Twice the size, each pixel repeated."""
    return interpolate(x, scale_factor=2.0, mode="nearest")
