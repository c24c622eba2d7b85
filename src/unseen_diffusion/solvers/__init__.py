"""Time grids, ODE solvers, deterministic inversion and denoising with bandwidth eta."""

from unseen_diffusion.solvers.sampling import ImplicitSettings, SolverSettings, denoise, invert
from unseen_diffusion.utils.renamed import old_names

__all__ = ["ImplicitSettings", "SolverSettings", "denoise", "invert"]

__getattr__ = old_names("solvers")
