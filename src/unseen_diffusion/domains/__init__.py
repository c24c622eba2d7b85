"""Where images come from: a module per source, each split into references R, validation V and held-out H."""

from unseen_diffusion.domains.base import Domain, Pool, Split, check_sizes, load_split, pool_of, split_pool

__all__ = ["Domain", "Pool", "Split", "check_sizes", "load_split", "pool_of", "split_pool"]
