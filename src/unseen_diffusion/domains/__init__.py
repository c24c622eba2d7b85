"""Domains: one module per source of images, each split into references R, validation V and held-out H."""

from unseen_diffusion.domains.base import Domain, check_pixels, check_sizes, load_split, pool_of, read_split
from unseen_diffusion.domains.pools import Pool, array_pool, fingerprint
from unseen_diffusion.domains.split import Split, split_pool

__all__ = [
    "Domain",
    "Pool",
    "Split",
    "array_pool",
    "check_pixels",
    "check_sizes",
    "fingerprint",
    "load_split",
    "pool_of",
    "read_split",
    "split_pool",
]
