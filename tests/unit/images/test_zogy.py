"""Proper subtraction: flux, noise, and the PSF measured for it."""

import numpy as np
import pytest

from otrain_core.images.zogy import star_psf
from tests.unit.synthetic_field import star
from tests.unit.synthetic_pair import difference, make_sky, observe

SHAPE = (320, 360)


def test_zogy_recovers_flux_and_noise():
    sky = make_sky(shape=SHAPE, n=200)
    new = [(180.3, 141.8, 6000.0)]
    science = observe(sky, seed=2, fwhm=3.0, extra=new)
    result = difference(science, observe(sky, seed=3, fwhm=2.4), method="zogy")
    assert result.record["method"] == "zogy"
    assert 0.9 < result.record["noise_spread"] < 1.1
    rows, columns = np.indices(SHAPE)
    aperture = np.hypot(columns - 180.3, rows - 141.8) < 9
    assert result.diff[aperture].sum() == pytest.approx(6000, rel=0.1)


def test_the_noise_of_an_interpolated_reference_is_known():
    sky = make_sky(shape=SHAPE, n=200)
    science = observe(sky, seed=2, fwhm=3.0, level=60)
    result = difference(science, observe(sky, seed=3, fwhm=2.4, level=300, angle=0.3, shift=(3.4, 2.5)), method="zogy")
    assert 0.93 < result.record["noise_spread"] < 1.07


def test_the_psf_is_that_of_the_stars_centred():
    image = np.zeros((120, 120))
    x, y = np.array([30.3, 80.7, 60.2]), np.array([40.4, 35.6, 90.1])
    for xi, yi, flux in zip(x, y, (3000, 2000, 1000), strict=True):
        image += flux * star(xi, yi, 4.0, image.shape)
    bad = np.zeros(image.shape, bool)
    psf = star_psf(image, bad, x, y, half=12)
    assert psf.shape == (25, 25)
    assert psf.sum() == pytest.approx(1)
    np.testing.assert_allclose(psf, star(12, 12, 4.0, psf.shape), atol=3e-3 * psf.max())
    bad[38:42, 28:33], bad[35, 80] = True, True
    np.testing.assert_allclose(star_psf(image, bad, x, y, half=12), psf, atol=3e-3 * psf.max())
    bad[90, 60] = True
    with pytest.raises(ValueError, match="no star is free of masked pixels"):
        star_psf(image, bad, x, y, half=12)
    bad[:] = False
    bad[:, :] |= np.arange(120) % 40 == 34  # no star without a masked column in its wings
    np.testing.assert_allclose(star_psf(image, bad, x, y, half=12), psf, atol=6e-3 * psf.max())
