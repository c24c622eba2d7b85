"""The simple loss of Ho et al. 2020 (arXiv 2006.11239, equation 14) in the parameterisation of a network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from unseen_diffusion.models.unet import unet_forward
from unseen_diffusion.utils.errors import InputError
from unseen_diffusion.utils.images import dequantise
from unseen_diffusion.utils.precision import mixed_precision
from unseen_diffusion.utils.seeds import generator

VALIDATION_BATCH = 32  # images whose timesteps are stratified together


class DiffusionLoss:
    """Mean squared error of what the network predicts on uint8 ``images`` (N, C, H, W), flipped at random.

    With x = alpha x0 + sigma eps the target is eps (``epsilon``), x0 (``sample``) or alpha eps - sigma x0
    (``v_prediction``; Salimans and Ho 2022, arXiv 2202.00512). Timesteps are stratified over the batch (one in each
    of B equal parts of the schedule, jointly shifted): each is uniform, and the loss varies less from step to step.

    Attributes:
        images: all of them, on any device.
        alphas_cumprod: (T,) alpha^2 by timestep.
        factor: pixel-unshuffling before the network.
        kept: the rows of ``images`` that this loss counts as 0, 1, 2, ... (None: all).
        flip: mirrors every second image.
        device: of the network.
        prediction_type: a key of ``PREDICTION_TYPES``.
        dtype: of the network's arithmetic; the loss is float32.
        min_snr: gamma of Hang et al. 2023 (arXiv 2303.09556): the squared error of x0 counts min(SNR, gamma) times,
            so that timesteps with little noise count less. None: the simple loss.
    """

    def __init__(
        self,
        images: Tensor,
        alphas_cumprod: Tensor,
        factor: int,
        flip: bool,
        device: torch.device,
        kept: Tensor | None = None,
        prediction_type: str = "epsilon",
        dtype: torch.dtype = torch.float32,
        min_snr: float | None = None,
    ) -> None:
        if min_snr is not None and not min_snr > 0:
            raise InputError(f"min_snr={min_snr}: give a number above 0, e.g. 5, or null")
        self.images = images
        self.alphas_cumprod = alphas_cumprod.to(device, torch.float32)
        self.factor = factor
        self.flip = flip
        self.device = device
        self.kept = torch.arange(len(images)) if kept is None else kept
        self.prediction_type = prediction_type
        self.dtype = dtype
        self.min_snr = min_snr

    def batch(self, rows: Tensor, rng: torch.Generator) -> tuple[Tensor, ...]:
        """Draws images (B, C, H, W) uint8, which of them are mirrored (B,), timesteps (B,) and noise, on the CPU."""
        count = len(rows)
        images = self.images[self.kept[rows].to(self.images.device)]
        mirrored = torch.rand(count, generator=rng) < 0.5 if self.flip else torch.zeros(count, dtype=torch.bool)
        steps = len(self.alphas_cumprod)
        shifted = (torch.arange(count) + torch.rand((), generator=rng)) / count
        t = (shifted * steps).long().clamp(max=steps - 1)
        return images, mirrored, t, torch.randn(images.shape, generator=rng)

    def __call__(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """The loss of (a part of) a batch."""
        squares = self.squares(network, *batch)
        if self.min_snr is None:
            return squares.mean()
        return (self.weights(batch[2].to(self.device))[:, None, None, None] * squares).mean()

    def weights(self, t: Tensor) -> Tensor:
        """The weight (B,) that ``min_snr`` gives to the network's squared errors at timesteps t (B,)."""
        ac = self.alphas_cumprod[t]
        snr = ac / (1 - ac)
        # Compared with the squared errors of x0, those of eps are SNR times as large, and those of v SNR + 1 times.
        unit = {"epsilon": snr, "sample": torch.ones_like(snr), "v_prediction": snr + 1}[self.prediction_type]
        return snr.clamp(max=self.min_snr) / unit

    def clean(self, images: Tensor) -> Tensor:
        """The clean states x0 of some images."""
        return dequantise(images)

    def condition(self, count: int) -> dict[str, Tensor]:
        """What the network takes beside the noisy states, for ``count`` of them."""
        return {}

    def squares(self, network: nn.Module, *batch: Tensor) -> Tensor:
        """Squared errors of a batch, (B, C, H, W)."""
        images, mirrored, t, eps = (tensor.to(self.device) for tensor in batch)
        x0 = self.clean(images)
        x0 = torch.where(mirrored[:, None, None, None], x0.flip(-1), x0)
        ac = self.alphas_cumprod[t][:, None, None, None]
        alpha, sigma = ac.sqrt(), (1 - ac).sqrt()
        target = {"epsilon": lambda: eps, "sample": lambda: x0, "v_prediction": lambda: alpha * eps - sigma * x0}
        with mixed_precision(self.device, self.dtype):
            predicted = unet_forward(network, alpha * x0 + sigma * eps, t, self.factor, **self.condition(len(t)))
        # Some networks append a learned variance to the prediction; it is not trained.
        return (predicted[:, : x0.shape[1]].float() - target[self.prediction_type]()).square()


class ConditionalLoss(DiffusionLoss):
    """The same loss on clean states (N, C, H, W) float32, such as an autoencoder's latents, under one condition.

    Attributes:
        given: the condition, one row of each tensor.
    """

    def __init__(self, states: Tensor, given: Mapping[str, Tensor], *settings: Any) -> None:
        super().__init__(states, *settings)
        self.given = given

    def clean(self, images: Tensor) -> Tensor:
        return images

    def condition(self, count: int) -> dict[str, Tensor]:
        return {name: value.expand(count, *value.shape[1:]) for name, value in self.given.items()}


@torch.no_grad()
def validation_loss(network: nn.Module, loss: DiffusionLoss, seed: int) -> float:
    """Mean loss of all rows of ``loss``, in float32, with the same timesteps and noise at every call."""
    total, count = 0.0, len(loss.kept)
    for rows in torch.arange(count).split(VALIDATION_BATCH):
        batch = loss.batch(rows, generator(seed, "validation", int(rows[0])))
        total += len(rows) * float(loss(network, *batch))
    return total / count


@torch.no_grad()
def image_losses(network: nn.Module, loss: DiffusionLoss, seed: int, draws: int) -> Tensor:
    """The loss of every image of ``loss``, (N,) float64: the mean over ``draws`` equal parts of the schedule.

    Timesteps and noise depend on the image's row and ``seed`` alone: networks are compared on the same ones.
    """
    steps, values = len(loss.alphas_cumprod), []
    for row in range(len(loss.kept)):
        rng = generator(seed, "image loss", row)
        images = loss.images[loss.kept[[row] * draws]]
        t = ((torch.arange(draws) + torch.rand(draws, generator=rng)) / draws * steps).long().clamp(max=steps - 1)
        noise = torch.randn(images.shape, generator=rng)
        squares = loss.squares(network, images, torch.zeros(draws, dtype=torch.bool), t, noise)
        values.append(squares.double().mean().cpu())
    return torch.stack(values)
