"""g. FID and KID against the methods of clean-fid (matrix square root) and torchmetrics, on the same features."""

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import sqrtm
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from benchmarks.measuring import Row, clock, normal, seconds
from unseen_diffusion.scores.frechet import FeatureStatistics, frechet_distance, frechet_from_statistics
from unseen_diffusion.scores.kernel import kid

CPU = torch.device("cpu")
DIMENSION, COUNTS = 1024, (500, 5000)


def by_square_root(x: Tensor, y: Tensor) -> float:
    """The usual reference: covariances in float64 and scipy's sqrtm of their product."""
    a, b = x.double().numpy(), y.double().numpy()
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(s @ t)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s + t - 2 * np.real(root)))


class Given(nn.Module):
    """An extractor whose features are computed already."""

    num_features = DIMENSION

    def forward(self, x: Tensor) -> Tensor:
        return x


def by_torchmetrics(x: Tensor, y: Tensor) -> float:
    """torchmetrics' own sums and eigenvalues."""
    metric = FrechetInceptionDistance(feature=Given(), input_img_size=(3, 8, 8))
    metric.num_features = DIMENSION
    for start in range(0, len(x), 500):
        metric.update(x[start : start + 500], real=True)
        metric.update(y[start : start + 500], real=False)
    return float(metric.compute())


def cubic_kernel(x: Tensor, y: Tensor) -> float:
    """KID of all pairs as three whole kernel matrices, float64."""
    a, b = x.double(), y.double()
    kernel = [(u @ v.T / a.shape[1] + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
    n, m = len(a), len(b)
    own = (kernel[0].sum() - kernel[0].trace()) / (n * (n - 1)) + (kernel[1].sum() - kernel[1].trace()) / (m * (m - 1))
    return float(own - 2 * kernel[2].mean())


def timed_value(method: Callable[[Tensor, Tensor], float], x: Tensor, y: Tensor) -> tuple[float, float]:
    """The value of a method, and its processor seconds."""
    started = clock(CPU)
    value = method(x, y)
    return value, clock(CPU) - started


def scores(device: torch.device) -> list[Row]:
    """Seconds of each method and its difference from ours, on the CPU."""
    rows: list[Row] = []
    for count in COUNTS:
        x, y = normal(count, DIMENSION, stream=5), normal(count, DIMENSION, stream=6) * 1.1 + 0.1
        methods = {"sqrtm": by_square_root, "torchmetrics": by_torchmetrics, "ours": frechet_distance}
        timed = {name: timed_value(method, x, y) for name, method in methods.items()}
        ours, quickest = timed["ours"]
        for name, (value, spent) in timed.items():
            words = f"{spent / quickest:.1f} x ours; differs by {value - ours:.1e}"
            rows.append(Row(f"FID, {count} x {DIMENSION}, {name}", spent, "s", words, None, "decompositions, O(d^3)"))
    first, second = FeatureStatistics.of(x.split(500)), FeatureStatistics.of(y.split(500))
    rows.append(Row("FID of streamed moments", seconds(lambda: frechet_from_statistics(first, second), CPU), "s"))
    x, y = x[:1000], y[:1000]
    value, plain = kid(x, y).value, cubic_kernel(x, y)
    floor = seconds(lambda: cubic_kernel(x, y), CPU)
    spent = seconds(lambda: kid(x, y), CPU)
    words = f"value alone, whole matrices: {floor:.3f} s; differs by {value - plain:.1e}"
    rows.append(Row("KID with jackknife interval, 1000 x 1000", spent, "s", words, spent / floor, "three products"))
    return rows
