"""The asinh scale of Pan-STARRS is undone once, wherever an image is read."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.asinh import linear_pixels
from otrain_core.images.hdus import read_fits


def packed(flux, *, softening=40.0, offset=3.0):
    data = 1.0857362 * np.arcsinh((flux - offset) / (2 * softening))
    return data.astype(np.float32), fits.Header({"BSOFTEN": softening, "BOFFSET": offset})


def test_the_flux_comes_back():
    flux = np.array([[-50.0, 0.0, 3.0], [1e2, 1e4, 1e6]])
    data, header = packed(flux)
    np.testing.assert_allclose(linear_pixels(data, header, image="a"), flux, rtol=1e-5, atol=1e-4)
    assert "BSOFTEN" not in header
    assert "BOFFSET" not in header


def test_a_linear_image_is_left_alone():
    data = np.ones((2, 3), np.float32)
    assert linear_pixels(data, fits.Header({"BOFFSET": 7.0}), image="a") is data


@pytest.mark.parametrize("value", ["much", 0.0, -3.0])
def test_a_softening_that_is_none_is_named(value):
    with pytest.raises(ImageError, match="image a: BSOFTEN: must be (a number|positive), not"):
        linear_pixels(np.ones((2, 3), np.float32), fits.Header({"BSOFTEN": value}), image="a")


def test_reading_undoes_it_once(tmp_path):
    flux = np.linspace(-10, 1e4, 600).reshape(20, 30)
    data, header = packed(flux)
    fits.writeto(tmp_path / "packed.fits", data, header)
    read, header = read_fits(tmp_path / "packed.fits", image="a")
    np.testing.assert_allclose(read, flux, rtol=1e-5, atol=1e-3)
    fits.writeto(tmp_path / "again.fits", read, header)
    np.testing.assert_array_equal(read_fits(tmp_path / "again.fits", image="a")[0], read)
