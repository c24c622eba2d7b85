"""Tiny random pipelines of every model family, saved in diffusers' format."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    ScoreSdeVeScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)

SIZE = 8


def unet(channels: int = 3, **changes: Any) -> UNet2DModel:
    settings: dict[str, Any] = {
        "sample_size": SIZE,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return UNet2DModel(**(settings | changes))


def ncsnpp_unet() -> UNet2DModel:
    """The blocks and the embedding of google/ncsnpp-*."""
    return unet(
        block_out_channels=(32, 32),
        time_embedding_type="fourier",
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        up_block_types=("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        mid_block_scale_factor=2**0.5,
        norm_num_groups=None,
        norm_eps=1e-6,
        freq_shift=0,
    )


def dit(out_channels: int = 8) -> DiTTransformer2DModel:
    return DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=out_channels,
        num_layers=1,
        norm_num_groups=2,
        sample_size=SIZE,
        num_embeds_ada_norm=10,
    )


def kl(scale: float = 0.4, **changes: Any) -> AutoencoderKL:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    settings = {"block_out_channels": (4, 8), "norm_num_groups": 2, "latent_channels": 4, "scaling_factor": scale}
    return AutoencoderKL(**(blocks | settings | changes))


def vq() -> VQModel:
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return VQModel(**blocks, block_out_channels=(4, 8), norm_num_groups=2, num_vq_embeddings=16)


def text_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(8, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=SIZE,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=40,
        caption_projection_dim=16,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=8,
    )


def clip(projection: bool = False) -> tuple[Any, Any]:
    """A tokenizer and a text encoder whose vocabulary is the letters a to z."""
    import tempfile

    import transformers

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in letters), "ab</w>", "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\na b</w>\n")
        tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=7)
    config = transformers.CLIPTextConfig(
        vocab_size=len(words) + 4,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=7,
        projection_dim=16,
        bos_token_id=53,
        eos_token_id=54,
    )
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return tokenizer, kind(config).eval()


def save(folder: Path, **parts: Any) -> Path:
    """Saves every part with its ``save_pretrained``, and writes model_index.json."""
    index: dict[str, list[str]] = {}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        index[name] = [type(part).__module__.split(".")[0], type(part).__name__]
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "DiffusionPipeline", **index}))
    return folder


def texts(folder: Path, prediction_type: str) -> Path:
    tokenizer, encoder = clip()
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.register_to_config(prediction_type=prediction_type)
    return save(folder, unet=text_unet(), scheduler=scheduler, vae=kl(), tokenizer=tokenizer, text_encoder=encoder)


def stable_diffusion_3(folder: Path) -> Path:
    (words, first), (more, second) = clip(True), clip(True)
    return save(
        folder,
        transformer=sd3(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=kl(shift_factor=0.1),
        tokenizer=words,
        text_encoder=first,
        tokenizer_2=more,
        text_encoder_2=second,
    )


FAMILIES: dict[str, Callable[[Path], Path]] = {
    "ddpm": lambda folder: save(folder, unet=unet(), scheduler=DDPMScheduler()),
    "classes": lambda folder: save(folder, unet=unet(num_class_embeds=5), scheduler=DDPMScheduler()),
    "ncsnpp": lambda folder: save(folder, unet=ncsnpp_unet(), scheduler=ScoreSdeVeScheduler()),
    "edm": lambda folder: save(folder, unet=unet(), scheduler=EDMEulerScheduler()),
    "edm_v": lambda folder: save(
        folder,
        unet=unet(),
        scheduler=EDMEulerScheduler(
            prediction_type="v_prediction", sigma_schedule="exponential", sigma_data=1.0, sigma_max=120.0
        ),
    ),
    "dit": lambda folder: save(folder, transformer=dit(), scheduler=DDIMScheduler(clip_sample=False), vae=kl()),
    "vq": lambda folder: save(folder, unet=unet(), scheduler=DDIMScheduler(clip_sample=False), vqvae=vq()),
    "kl": lambda folder: save(folder, unet=unet(4), scheduler=DDIMScheduler(clip_sample=False), vae=kl()),
    "flow": lambda folder: save(folder, unet=unet(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)),
    "sit": lambda folder: save(folder, transformer=dit(4), scheduler=FlowMatchEulerDiscreteScheduler(), vae=kl()),
    "sd": lambda folder: texts(folder, "epsilon"),
    "sd_v": lambda folder: texts(folder, "v_prediction"),
    "sd3": stable_diffusion_3,
}


def make(name: str, folder: Path) -> Path:
    """The tiny pipeline of a family, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FAMILIES[name](folder)
