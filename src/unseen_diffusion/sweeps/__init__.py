"""Sweeps: composing their runs, launching them, and showing their state."""

from unseen_diffusion.utils.renamed import old_names

__getattr__ = old_names("sweeps")
