"""Values that are not finite are refused in one line that names the rows."""

import math

import pytest
import torch
from torch import Tensor

from unseen_diffusion.utils.checks import require_finite
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import quantise


def with_values(shape: tuple[int, ...], **at: float) -> Tensor:
    """Zeros, with these values in rows r0, r1, ..."""
    tensor = torch.zeros(shape)
    for name, value in at.items():
        tensor[int(name[1:])].view(-1)[-1] = value
    return tensor


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_rows_are_named(value: float, dtype: torch.dtype) -> None:
    rows = with_values((8, 3, 2), r1=value, r6=value).to(dtype)
    with pytest.raises(InputError, match=r"^latents: 2 of 8 \(rows 11, 16\) are not finite; do this$"):
        require_finite("latents", rows, "do this", range(10, 18))
    with pytest.raises(InputError, match=r"^latents: 1 of 2 \(row 1\) is not finite; do this$"):
        require_finite("latents", rows[:2], "do this")
    with pytest.raises(InputError, match=r"^scale: not finite; do this$"):
        require_finite("scale", rows[1, -1, -1], "do this")


def test_many_rows_are_counted_and_few_named() -> None:
    with pytest.raises(InputError, match=r"100 of 100 \(rows 0, 1, 2, 3, 4, \.\.\.\) are not finite"):
        require_finite("x", torch.full((100, 2), math.nan), "remedy")


@pytest.mark.parametrize("good", [torch.zeros(0, 3), torch.ones(2, dtype=torch.uint8), torch.tensor(1.0)])
def test_finite_values_pass(good: Tensor) -> None:
    require_finite("x", good, "remedy")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_quantise_refuses(value: float) -> None:
    with pytest.raises(InputError, match=r"images: 1 of 3 \(row 2\) is not finite"):
        quantise(with_values((3, 1, 2, 2), r2=value))
    assert quantise(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]
