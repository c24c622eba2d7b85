"""Sweeps: composing their runs, launching them, and following how far they are."""

from unseen_diffusion.utils.renamed import old_names

__getattr__ = old_names("sweeps")
