"""Sets of latents: are two of them separable, is one Gaussian, and what theory says of both (docs/theory.md)."""
