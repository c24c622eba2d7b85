"""What can a frozen diffusion model generate that it has never seen?"""
