"""Digits: scikit-learn's 8x8 handwritten digits, a domain close to MNIST."""

from sklearn.datasets import load_digits

from unseen_diffusion.domains.base import Domain, Pool, array_pool
from unseen_diffusion.utils.checked import settings

BRIGHTEST = 16  # pixel values are 0..16


@settings("domain")
class Digits8(Domain):
    """1,797 grey digits of 8x8 pixels, enlarged."""

    name: str = "digits8"
    source: str = "UCI Optical Recognition of Handwritten Digits, 1,797 of 8x8 pixels, in scikit-learn"
    licence: str = "CC BY 4.0 (UCI Machine Learning Repository)"

    def pool(self, size: int, channels: int) -> Pool:
        """All digits, named by position and class."""
        digits = load_digits()
        names = [f"digit-{index:04d}-{label}" for index, label in enumerate(digits.target)]
        return array_pool(names, list(digits.images[..., None] * (255 / BRIGHTEST)), size, channels)
