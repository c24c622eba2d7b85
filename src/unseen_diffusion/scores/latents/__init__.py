"""Tests of latents: whether two sets are separable, and whether one set is Gaussian; theory for docs/theory.md."""
