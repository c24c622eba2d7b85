"""The options of a diffusers pipeline, checked against its JSON files before any weights are read."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from unseen_diffusion.models.anatomy import Anatomy, examine
from unseen_diffusion.models.base import ModelSpec
from unseen_diffusion.models.folders import resolve, variants, weight_files
from unseen_diffusion.models.parameterisations import VariancePreserving
from unseen_diffusion.models.text import check_text
from unseen_diffusion.utils.checked import Text, checked_arguments, settings
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.identity import Unnamed

SPEED = Unnamed("changes the speed, and results only by float rounding")


@settings("model")
class Options:
    """Settings of a ``DiffusersModel`` besides its path and device. The defaults suit Python users and equal conf/."""

    condition: int | str | None = None
    """a class number or a prompt; null for the null class, the empty prompt or no condition"""
    guidance: Annotated[int | float, Field(ge=1), Unnamed("named where it takes part: by the guided model")] = 1.0
    """classifier-free guidance of the denoising (Ho and Salimans 2022), 1 for none; inversion is never guided"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: automatic mixed precision in the network"""
    latent_scale: Annotated[int | float, Field(gt=0)] | None = None
    """replaces the scaling factor of the autoencoder"""
    variant: Annotated[Text | None, Unnamed("the files that it chooses are named")] = None
    """files of weights to read where a part has them, e.g. fp16; null: full precision, or the only variant there is"""
    initial_seed: int | None = None
    """draws the weights of the network at initialisation with this seed; null reads the trained ones"""
    channels_last: Annotated[bool, SPEED] = False
    """keeps weights and activations of the network as NHWC, which is faster for convolutions"""
    compile: Annotated[bool, SPEED] = False
    """torch.compile, once per batch shape; needs a C++ compiler on the CPU, Triton on CUDA"""


def describe(path: str, revision: str | None = None) -> ModelSpec:
    """Shapes and schedule of a model, from its JSON files alone.

    Raises:
        InputError: the folder holds no pipeline of a known family.
    """
    return examine(resolve(path, revision, weights=False)).spec()


@checked_arguments("model", Options)
def inspect_model(path: Text, revision: Text | None = None, **options: Any) -> ModelSpec:
    """Checks the arguments of a ``DiffusersModel`` without reading weights; those of local folders must exist.

    Args:
        path: local diffusers folder, hub id, or ``embedded:NAME``.
        revision: hub commit or branch.
        options: see ``Options``.

    Raises:
        InputError: an unknown family, an absent file, or an option that the network does not support.
    """
    chosen = Options(**options)
    anatomy = examine(resolve(path, revision, weights=False))
    check_options(anatomy, chosen)
    if Path(path).expanduser().is_dir():
        needed_weights(anatomy, chosen)
    return anatomy.spec()


def check_tunable(path: str, revision: str | None = None) -> None:
    """Refuses models whose network fine-tuning cannot train.

    Raises:
        InputError: another network, family or condition.
    """
    anatomy = examine(resolve(path, revision, weights=False))
    plain = anatomy.kind == "UNet2DModel" and not anatomy.codec_part and not anatomy.classes
    if not plain or not isinstance(anatomy.family, VariancePreserving):
        raise InputError(
            f"model.path={path}: fine-tuning trains unconditional UNet2DModels on pixels that predict eps, x0 or v; "
            "choose such a model, or another method"
        )


def check_options(anatomy: Anatomy, options: Options) -> None:
    """Refuses options that a pipeline does not support.

    Raises:
        InputError: the first of them.
    """
    folder, condition, guidance = anatomy.folder, options.condition, options.guidance
    if options.latent_scale is not None and not anatomy.codec_part:
        raise InputError(f"model.latent_scale={options.latent_scale}: {folder} has no autoencoder; leave it out")
    for part in anatomy.text_parts:
        check_text(folder, part)
    if anatomy.is_text:
        if not isinstance(condition, str | None):
            raise InputError(f"model.condition={condition}: {folder} takes a prompt; give a text, or null for none")
    elif anatomy.classes:
        _check_class(anatomy, condition)
    elif condition is not None:
        raise InputError(f"model.condition={condition}: {folder} takes no condition; leave it out")
    if guidance > 1 and not (anatomy.is_text or anatomy.null_class is not None):
        raise InputError(f"model.guidance={guidance}: {folder} has no null condition to guide with; give 1")
    if guidance > 1 and not condition and condition != 0:
        raise InputError(f"model.guidance={guidance}: there is no condition to guide to; give model.condition, or 1")


def _check_class(anatomy: Anatomy, condition: int | str | None) -> None:
    if condition is None and anatomy.null_class is not None:
        return
    if not isinstance(condition, int) or not 0 <= condition < anatomy.classes:
        null = ", or null for no class" if anatomy.null_class is not None else ""
        raise InputError(
            f"model.condition={condition}: {anatomy.folder} takes a class; give 0 to {anatomy.classes - 1}{null}"
        )


def needed_weights(anatomy: Anatomy, options: Options) -> dict[str, list[Path]]:
    """Weight files by part; without those of the network where ``initial_seed`` draws its weights.

    Raises:
        InputError: a file is absent, or no part has weights of the variant.
    """
    folder, variant = anatomy.folder, options.variant
    parts = [anatomy.part] if options.initial_seed is None else []
    parts += [anatomy.codec_part] if anatomy.codec_part else []
    parts += anatomy.text_parts
    if variant and not any(variant in variants(folder, part) for part in parts):
        known = sorted({one for part in parts for one in variants(folder, part)})
        remedy = f"choose one of {', '.join(known)}, or leave it out" if known else "leave it out"
        raise InputError(f"model.variant={variant}: {folder} has no weights of this variant; {remedy}")
    return {part: weight_files(folder, part, variant) for part in parts}
