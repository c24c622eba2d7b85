"""Frozen diffusion models behind one interface; beside training and pipeline, the only place that imports diffusers."""

from unseen_diffusion.models.analytic import GaussianModel
from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.pipeline import DiffusersModel

__all__ = ["DiffusersModel", "DiffusionModel", "GaussianModel", "Prediction"]
