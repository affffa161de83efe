"""A field of stars that several tests use."""

import pytest

from otrain_core.stars.psf import measure_psf
from tests.unit.synthetic_pair import make_sky, observe


@pytest.fixture(scope="session")
def sky():
    return make_sky(shape=(420, 440), n=130, seed=4, logflux=(3.0, 5.0))


@pytest.fixture(scope="session")
def science(sky):
    image = observe(sky, seed=1, fwhm=2.6)
    return image, *measure_psf(image)
