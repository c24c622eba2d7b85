"""Converts ADM, iDDPM (Dhariwal and Nichol 2021) and DDPM (Ho et al. 2020) checkpoints to diffusers, and verifies them.

Measured with random weights, float32, at 3x256x256 on CPU: largest error relative to the largest output at t = 0, 500
and 999. AFHQ-Dog P2 (93.56 M parameters): 6.2e-7, 5.5e-7, 5.6e-7 against ``reference``; 6.4e-7, 5.2e-7, 5.8e-7 against
activations saved with the code of guided-diffusion, and 0.27 with the wrong order of qkv. DDPM of CelebA-HQ, church and
bedroom (113.67 M): 8.5e-7, 1.6e-6, 2.2e-6 against ``reference``; 7.1e-7, 1.8e-6, 2.2e-6 against the code of SDEdit.
"""

from unseen_diffusion.models.conversion.convert import Conversion, convert
from unseen_diffusion.models.conversion.plan import Options, Plan

__all__ = ["Conversion", "Options", "Plan", "convert"]
