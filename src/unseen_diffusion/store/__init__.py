"""Content-addressed artefacts: computed once, shared by any number of processes, on disk or in a bucket."""

from unseen_diffusion.utils.renamed import old_names

__getattr__ = old_names("store")
