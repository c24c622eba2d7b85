"""Embeds prompts for text-conditional networks. Only this module needs transformers."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unseen_diffusion.models.folders import read_object, weight_files
from unseen_diffusion.models.loading import load_checked
from unseen_diffusion.utils.errors import InputError

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast")


def check_text(folder: Path, part: str = "text_encoder") -> None:
    """Checks that the text encoder is known and that transformers is installed.

    Raises:
        InputError: an unknown text encoder, or transformers is not installed.
    """
    index = read_object(folder / "model_index.json")
    words = part.replace("text_encoder", "tokenizer")
    for name, known in ((part, ENCODERS), (words, TOKENIZERS)):
        entry = index.get(name)
        found = entry[1] if isinstance(entry, list) and len(entry) == 2 else "none"
        if found not in known:
            raise InputError(f"{folder}: {name} {found} in model_index.json; known: {', '.join(known)}")
    if find_spec("transformers") is None:
        raise InputError(f"{folder}: text conditioning needs transformers; pip install 'unseen-diffusion[text]'")


def load_text(folder: Path, part: str, device: torch.device) -> tuple[Any, Any]:
    """(tokenizer, frozen encoder) of a part such as ``text_encoder_2``."""
    transformers = import_module("transformers")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    index = read_object(folder / "model_index.json")
    words = part.replace("text_encoder", "tokenizer")
    tokenizer = getattr(transformers, index[words][1]).from_pretrained(folder / words, local_files_only=True)
    encoder = load_checked(getattr(transformers, index[part][1]), folder, part, weight_files(folder, part))
    return tokenizer, encoder.to(device)


def stable_diffusion_embedding(folder: Path, prompt: str, device: torch.device) -> dict[str, Tensor]:
    """The last hidden states of CLIP's text encoder, (1, L, D), as Stable Diffusion 1 and 2 take them."""
    tokenizer, encoder = load_text(folder, "text_encoder", device)
    tokens = tokenizer(
        prompt, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
    )
    used = getattr(encoder.config, "use_attention_mask", False)
    with torch.inference_mode():
        states = encoder(tokens.input_ids.to(device), attention_mask=tokens.attention_mask.to(device) if used else None)
    return {"encoder_hidden_states": states[0].clone()}


def stable_diffusion_3_embedding(
    folder: Path, prompt: str, transformer: Any, device: torch.device
) -> dict[str, Tensor]:
    """Both CLIP encoders' states and pooled states; T5 states are zeros, as in part of the training.

    Esser et al. 2024, arXiv 2403.03206, section 5.3.3.
    """
    from diffusers import StableDiffusion3Pipeline

    first, second = (load_text(folder, part, device) for part in ("text_encoder", "text_encoder_2"))
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=None,
        vae=None,
        tokenizer=first[0],
        text_encoder=first[1],
        tokenizer_2=second[0],
        text_encoder_2=second[1],
        tokenizer_3=None,
        text_encoder_3=None,
    )
    with torch.inference_mode():
        states, _, pooled, _ = pipeline.encode_prompt(
            prompt, None, None, device=device, do_classifier_free_guidance=False
        )
    return {"encoder_hidden_states": states.clone(), "pooled_projections": pooled.clone()}
