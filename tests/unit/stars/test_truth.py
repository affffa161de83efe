import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.stars.truth import add_light, limits, sky_positions, usable_places


def flat(*, saturation=np.inf, wcs=None):
    data = np.full((384, 384), 100, np.float32)
    return Image(name="flat", data=data, header=fits.Header(), saturation=saturation, wcs=wcs)


def test_usable_places():
    image = flat(saturation=1000.0)
    image.data[100, 100], image.data[200, 200], image.data[300, 300] = np.nan, 950.0, 850.0
    x = np.array([100.0, 102.9, 103.2, 200.0, 300.0, 1.0, 50.0])
    assert usable_places(image, x, x, fwhm=2.0).tolist() == [False, True, True, False, True, False, True]
    assert usable_places(image, x, np.full(7, 100.0), fwhm=2.0).tolist()[:3] == [False, False, False]


def test_limits_of_a_record():
    assert limits(flat(), {"limit_mag": 20.5, "zero_point": 25}) == (20.5, 25.0)


@pytest.mark.parametrize(
    "record", [{"limit_mag": None, "zero_point": 25.0}, {"zero_point": 25.0}, {"limit_mag": np.nan, "zero_point": 25.0}]
)
def test_a_limit_that_is_not_known_is_told(record):
    with pytest.raises(ImageError, match="image flat: limit_mag: .* no finite"):
        limits(flat(), record)


def test_light_stops_at_saturation_and_leaves_what_stood_above():
    image = flat(saturation=150.0)
    image.data[0, 0], image.data[0, 1] = 900.0, np.nan
    total = add_light(image, np.full(image.shape, 80.0))
    assert total.dtype == np.float32
    assert total[0, 0] == 900.0 and np.isnan(total[0, 1])
    assert (total[1:] == 150.0).all()
    assert (add_light(flat(), np.full(image.shape, 80.0)) == 180.0).all()
    assert (add_light(image, np.ones(image.shape), data=np.full(image.shape, 20.0))[1:] == 21.0).all()


def test_positions_on_the_sky():
    wcs = WCS(naxis=2)
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [0.001, 10], [193, 193], [-1e-3, 1e-3]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    ra, dec = sky_positions(flat(wcs=wcs), np.array([192.0, 194.0]), np.array([192.0, 192.0]))
    np.testing.assert_allclose(ra, [0.001, 360 + 0.001 - 2e-3 / np.cos(np.radians(10))], atol=1e-7)
    np.testing.assert_allclose(dec, 10, atol=1e-7)
    assert np.isnan(sky_positions(flat(), np.array([1.0]), np.array([1.0]))).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_the_order_of_the_axes_does_not_matter(swapped):
    """The FITS standard allows DEC before RA; the rows of the matrix are in the order of the axes."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["RA---TAN", "DEC--TAN"], [150.0, 20.0]
    wcs.wcs.crpix, wcs.wcs.cd = [193, 193], [[-1e-3, 2e-4], [2e-4, 1e-3]]
    if swapped:
        wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cd = (
            ["DEC--TAN", "RA---TAN"],
            [20.0, 150.0],
            [[2e-4, 1e-3], [-1e-3, 2e-4]],
        )
    ra, dec = sky_positions(flat(wcs=wcs), np.array([192.0, 202.0]), np.array([192.0, 192.0]))
    np.testing.assert_allclose(ra, [150.0, 150.0 - 0.01 / np.cos(np.radians(20))], atol=1e-5)
    np.testing.assert_allclose(dec, [20.0, 20.002], atol=1e-5)


def test_positions_are_icrs_whatever_the_frame():
    """The galactic centre (l = b = 0) is Sgr A* within a few arcmin: ra 266.405, dec -28.936."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval = ["GLON-TAN", "GLAT-TAN"], [0.0, 0.0]
    wcs.wcs.crpix, wcs.wcs.cdelt = [193, 193], [-1e-3, 1e-3]
    ra, dec = sky_positions(flat(wcs=wcs), np.array([192.0]), np.array([192.0]))
    assert (ra[0], dec[0]) == pytest.approx((266.40499, -28.93617), abs=1e-4)
