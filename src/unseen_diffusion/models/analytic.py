"""The analytic model: exact eps and the exact probability flow for Gaussian data N(m, S). Tests compare with it."""

from typing import Annotated, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from unseen_diffusion.models.base import DiffusionModel, ModelSpec, Prediction
from unseen_diffusion.models.schedules import Node, Schedule
from unseen_diffusion.utils.checked import Positive, WholeNumber, checked_arguments
from unseen_diffusion.utils.digests import digest
from unseen_diffusion.utils.errors import InputError


def linear_schedule(timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """The linear-beta schedule of Ho et al. 2020."""
    betas = torch.linspace(beta_start, beta_end, timesteps, dtype=torch.float64)
    return Schedule((1 - betas).cumprod(0))


class GaussianModel(DiffusionModel):
    """Exact posterior mean for x_0 ~ N(mean, V diag(variances) V^T).

    Args:
        mean: (C, H, W).
        basis: orthonormal columns V, (d, d) with d = C H W; None for the coordinate axes.
        variances: (d,), each >= 0.
        schedule: the noise schedule.
        name: for tables.
    """

    tried = True  # its tensors are checked to fit each other

    def __init__(
        self,
        mean: Float[Tensor, "c h w"],
        basis: Float[Tensor, "d d"] | None,
        variances: Float[Tensor, " d"],
        schedule: Schedule,
        name: str = "analytic",
    ):
        super().__init__()
        channels, size, width = mean.shape
        if size != width or mean.numel() != len(variances):
            raise InputError(f"analytic model: mean {tuple(mean.shape)} and {len(variances)} variances do not fit")
        if bool((variances < 0).any()):
            raise InputError("analytic model: a variance is below 0")
        self.name = name
        self.mean, self.basis, self.variances = mean, basis, variances
        self.spec = ModelSpec(channels, size, schedule)
        self.device = mean.device
        tensors = (mean, basis, variances, schedule.table)
        parts = [b"none" if tensor is None else tensor.cpu().numpy().tobytes() for tensor in tensors]
        self.fingerprint = digest(*parts, "" if schedule.kind == "vp" else schedule.kind)

    def _scale(self, x: Tensor, factors: Tensor) -> Tensor:
        """V diag(factors) V^T x for a batch of images."""
        flat = x.flatten(1)
        if self.basis is None:
            return (flat * factors).reshape(x.shape)
        basis = self.basis.to(x.dtype)
        return (((flat @ basis) * factors) @ basis.T).reshape(x.shape)

    def _predict(self, x: Tensor, node: Node) -> Prediction:
        """E[x_0 | x] = m + alpha S (alpha^2 S + sigma^2 I)^-1 (x - alpha m), and eps likewise."""
        residual = x - node.alpha * self.mean.to(x.dtype)
        variances = self.variances.to(x.dtype)
        total = (node.alpha**2 * variances + node.sigma**2).clamp(min=torch.finfo(x.dtype).tiny)
        denoised = self.mean.to(x.dtype) + self._scale(residual, node.alpha * variances / total)
        return Prediction(denoised, self._scale(residual, node.sigma / total))

    def flow(self, x: Float[Tensor, "b c h w"], here: Node, there: Node) -> Float[Tensor, "b c h w"]:
        """The exact probability flow: scales each eigendirection of x - alpha m by its ratio of standard deviations."""
        dtype = x.dtype
        variances = self.variances.to(dtype)
        before = here.alpha**2 * variances + here.sigma**2
        after = there.alpha**2 * variances + there.sigma**2
        # A direction without variance at the clean end stays zero: no division by it.
        ratio = torch.where(before > 0, (after / before.clamp(min=torch.finfo(dtype).tiny)).sqrt(), 0)
        residual = x - here.alpha * self.mean.to(dtype)
        return there.alpha * self.mean.to(dtype) + self._scale(residual, ratio)


def cosine_basis(size: int) -> Tensor:
    """Orthonormal DCT-II basis vectors as the columns of a (size, size) float64 matrix."""
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(torch.pi * (n[:, None] + 0.5) * n[None, :] / size) * (2 / size) ** 0.5
    basis[:, 0] /= 2**0.5
    return basis


@checked_arguments("model")
def natural_gaussian(
    size: Annotated[int, Field(ge=1, le=4096)],
    channels: Annotated[Literal[1, 3], WholeNumber],
    std: Positive,
    slope: Annotated[float, Field(ge=0)],
    device: str | torch.device = "cpu",
    name: str = "analytic",
) -> GaussianModel:
    """Gaussian "natural images": zero mean, power falling as frequency^-slope, independent channels.

    Args:
        size: height and width in pixels.
        channels: 1 or 3.
        std: root mean square of the pixels, in units of [-1, 1].
        slope: exponent of the power spectrum, >= 0; about 2 for photographs.
        device: on which to compute.
        name: for tables.
    """
    one = cosine_basis(size)
    frequency = torch.arange(size, dtype=torch.float64)
    radius = (frequency[:, None] ** 2 + frequency[None, :] ** 2).sqrt()
    power = (1 + radius).pow(-slope).flatten().repeat(channels)
    variances = std**2 * power / power.mean()
    basis = torch.block_diag(*[torch.kron(one, one)] * channels)
    mean = torch.zeros(channels, size, size, dtype=torch.float64)
    return GaussianModel(mean.to(device), basis.to(device), variances.to(device), linear_schedule(), name)
