"""Time grids, ODE solvers, deterministic inversion, and denoising with bandwidth eta."""

from unseen_diffusion.solvers.base import Solver
from unseen_diffusion.solvers.methods.ddim_implicit import ImplicitSettings
from unseen_diffusion.solvers.sampling import denoise, invert
from unseen_diffusion.solvers.settings import SolverSettings
from unseen_diffusion.utils.renamed import old_names

__all__ = ["ImplicitSettings", "Solver", "SolverSettings", "denoise", "invert"]

__getattr__ = old_names("solvers")
