"""One run: its settings, stages, searches and results."""

from unseen_diffusion.utils.renamed import old_names

__getattr__ = old_names("runs")
