"""Tests of sets of latents: separability of two, Gaussianity of one; theory for docs/theory.md."""
