"""Selection by what comes out: candidates are denoised first, and kept or dropped by their images."""
