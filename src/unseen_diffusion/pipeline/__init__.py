"""The method as a diffusers pipeline: fit to a folder of images, call, save, share."""

from unseen_diffusion.pipeline.diffusers_pipeline import UnseenDomainOutput, UnseenDomainPipeline
from unseen_diffusion.pipeline.unseen_domain import UnseenDomain

__all__ = ["UnseenDomain", "UnseenDomainOutput", "UnseenDomainPipeline"]
