"""The simulated radiation field: its columns of dust and its colours obey the physics that they stand for."""

import numpy as np

from support.options import option
from unseen_diffusion.domains.radiation import columns


def test_uniform_dust_gives_columns_equal_to_distances() -> None:
    """Density 1: the dust between the star and a pixel is their distance."""
    distance, column = columns(np.ones((33, 33)), np.array([0.5, 0.25], dtype=np.float32))
    assert np.abs(column - distance).max() < 1e-6
    assert distance[16, 8] == 0
    assert distance[16, 32] == 0.75


def test_a_cloud_casts_a_shadow() -> None:
    """Pixels behind a dense block see its dust, pixels beside it see none."""
    density = np.zeros((65, 65))
    density[28:37, 40:44] = 10
    _, column = columns(density, np.array([0.5, 0.25], dtype=np.float32))
    assert column[32, 60] > 0.5
    assert column[32, 20] == 0
    assert column[5, 16] == 0


def test_dust_dims_and_reddens() -> None:
    """Without opacity all bands are equal; with it blue is weakest, and each image has its own stream."""
    domain = option("domain", "radiation", resolution=32)
    picture = domain.picture(3)
    assert picture.shape == (32, 32, 3)
    assert (picture[..., 0] >= picture[..., 2]).all()
    assert domain.intensity(3, 0.0).sum() > domain.intensity(3, 6.0).sum() > 0
    assert np.array_equal(picture, option("domain", "radiation", resolution=32).picture(3))
    assert not np.array_equal(picture, domain.picture(4))
