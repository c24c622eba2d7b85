"""A checkpoint of random weights with keys and shapes of AFHQ-Dog P2, for the rehearsal of run.sh."""

import sys
from pathlib import Path

import torch

from unseen_diffusion.models.conversion.architecture import Architecture, expected_shapes
from unseen_diffusion.models.conversion.families import AdmNaming
from unseen_diffusion.utils.files import atomic_path
from unseen_diffusion.utils.seeds import generator

# 3 channels, learned variance, six levels of one residual block, attention at 16x16 (ADM with P2 weighting).
P2 = Architecture(3, 6, (128, 128, 256, 256, 512, 512), 1, (False,) * 4 + (True, False), True, True, 1e-5)


def random_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """Weights of standard deviation 1 / sqrt(inputs), biases 0, norms 1: activations of order 1."""
    state = {}
    for key, shape in expected_shapes(P2, AdmNaming()).items():
        if len(shape) == 1:
            state[key] = torch.full(shape, float(key.endswith("weight")))
        else:
            inputs = torch.Size(shape[1:]).numel()
            state[key] = torch.randn(shape, generator=generator(seed, key)) / inputs**0.5
    return state


if __name__ == "__main__":
    with atomic_path(Path(sys.argv[1])) as path:
        torch.save(random_state(), path)
