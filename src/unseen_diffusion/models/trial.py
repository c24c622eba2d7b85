"""Tries a model once when it is loaded, so that an image that it cannot take is one line before a run starts."""

from collections.abc import Callable

import torch
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel
from unseen_diffusion.utils.batching import in_batches
from unseen_diffusion.utils.checks import require_finite
from unseen_diffusion.utils.errors import InputError, first_line
from unseen_diffusion.utils.precision import full_float32

PRECISION = "check its weights, or choose model.dtype=float32"
CONFIG = "correct sample_size and the channels in its config.json"
SPEC = "correct the size and channels of its spec"
Shape = tuple[int, ...]


@torch.inference_mode()
def try_model(model: DiffusionModel, network: str, codec: str = "", remedy: str = SPEC) -> None:
    """Encodes, predicts and decodes zeros for one image, which is not counted as NFE; draws no random numbers.

    Args:
        model: what is tried; a model that is ``tried`` already is not tried again.
        network: names the network in errors.
        codec: names what encodes and decodes; empty where images and states are the same.
        remedy: what to change where a shape does not fit.

    Raises:
        InputError: a part cannot take its input, or returns another shape or values that are not finite.
    """
    if model.tried:
        return
    image = (model.spec.channels, model.spec.size, model.spec.size)
    node = model.schedule.node(float((model.schedule.timesteps - 1) // 2))
    counted = model.evaluations
    if codec:
        _try(lambda x: model.encode(x, 1), codec, "an image", image, model.shape, remedy)
    _try(lambda x: model.predict(x, node).eps, network, "a state", model.shape, model.shape, remedy)
    if codec:
        _try(lambda x: model.decode(x, 1), codec, "a state", model.shape, image, remedy)
    model.evaluations, model.tried = counted, True


def _try(call: Callable[[Tensor], Tensor], part: str, what: str, given: Shape, wanted: Shape, remedy: str) -> None:
    x, shape = torch.zeros(1, *given), "x".join(map(str, given))
    try:
        with full_float32():
            output = next(in_batches(lambda rows: call(x), 1, 1))
    except InputError as error:
        raise InputError(f"{part}: {error}") from error
    except Exception as error:  # torch and diffusers raise many types
        raise InputError(f"{part} cannot take {what} of {shape} ({first_line(error)[:200]}); {remedy}") from error
    if tuple(output.shape[1:]) != wanted:
        made = "x".join(map(str, output.shape[1:]))
        raise InputError(
            f"{part} takes {what} of {shape} and returns {made}, not {'x'.join(map(str, wanted))}; {remedy}"
        )
    require_finite(f"{part}: output", output, PRECISION)
