"""Frozen diffusion models behind one interface. Only this package, training and pipeline import diffusers."""

from unseen_diffusion.models.analytic import GaussianModel
from unseen_diffusion.models.base import DiffusionModel, Prediction
from unseen_diffusion.models.pipeline import DiffusersModel

__all__ = ["DiffusersModel", "DiffusionModel", "GaussianModel", "Prediction"]
