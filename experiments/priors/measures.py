"""Measures how closely a prior's candidates vary like the references: three measures of latents, without a network."""

import numpy as np
from torch import Tensor


def residuals(latents: Tensor) -> np.ndarray:
    """Latents (n, C, H, W) less their mean, float64."""
    values = latents.double().numpy()
    return values - values.mean(0)


def aligned(candidates: np.ndarray, references: np.ndarray) -> float:
    """tr(C S) / tr C over tr(S S) / tr S: 1 where the candidates vary as the references; S is their covariance.

    Args:
        candidates: deviations from the references' mean (m, C, H, W).
        references: residuals (n, C, H, W).
    """
    moves, rows = candidates.reshape(len(candidates), -1), references.reshape(len(references), -1)
    freedom = len(rows) - 1
    along = ((moves @ rows.T) ** 2).sum() / freedom / (moves**2).sum()
    own = ((rows @ rows.T) ** 2).sum() / freedom / (rows**2).sum()
    return float(along / own)


def outside(candidates: np.ndarray, references: np.ndarray) -> float:
    """Share of the candidates' squared deviations outside the span of the references' residuals."""
    moves, rows = candidates.reshape(len(candidates), -1), references.reshape(len(references), -1)
    _, singular, directions = np.linalg.svd(rows, full_matrices=False)
    inside = moves @ directions[singular > 1e-9 * singular[0]].T
    return max(0.0, float(1 - (inside**2).sum() / (moves**2).sum()))


def power(values: np.ndarray) -> np.ndarray:
    """Mean power of deviations (n, C, H, W) by radial frequency 0, 1, ... up to half the side."""
    spectrum = (np.abs(np.fft.fft2(values)) ** 2).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(side, 1 / side) for side in spectrum.shape), indexing="ij"))
    radius = np.round(frequency).astype(int)
    return np.array([spectrum[radius == k].mean() for k in range(min(spectrum.shape) // 2 + 1)])


def spectrum(candidates: np.ndarray, references: np.ndarray) -> float:
    """Root mean square over radial frequencies of log10 of the candidates' power over the references'."""
    n = len(references)
    ratio = power(candidates) / (power(references) * n / (n - 1))
    return float(np.sqrt((np.log10(ratio) ** 2).mean()))


MEASURES = {"aligned": aligned, "outside": outside, "spectrum": spectrum}
