import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel

SCALE = 1.2 / 3600


def header(**cards):
    """TAN about ra 150, dec 20 [deg], 1.2 arcsec/px, with other cards (None: without)."""
    base = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "CRPIX1": 320.5}
    base |= {"CRPIX2": 320.5, "CD1_1": -SCALE, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE}
    return fits.Header({key: value for key, value in (base | cards).items() if value is not None})


SWAPPED = {"CTYPE1": "DEC--TAN", "CTYPE2": "RA---TAN", "CRVAL1": 20.0, "CRVAL2": 150.0}
SWAPPED |= {"CD1_1": 0.0, "CD1_2": SCALE, "CD2_1": -SCALE, "CD2_2": 0.0}
SIP = {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-5, "B_0_2": 3e-5}
X, Y = np.array([0.0, 100.0, 639.0, -50.0]), np.array([0.0, 501.5, 639.0, 700.0])


def separation(one, two):
    """[arcsec]."""
    return SkyCoord(*one, unit="deg").separation(SkyCoord(*two, unit="deg")).arcsec


def test_the_order_of_the_axes_does_not_matter():
    straight = pixel_to_sky(WCS(header()), X, Y)
    swapped = pixel_to_sky(WCS(header(**SWAPPED)), X, Y)
    assert straight[0][0] == pytest.approx(150.1132582, abs=1e-6) and straight[1][0] == pytest.approx(
        19.8934643, abs=1e-6
    )
    np.testing.assert_allclose(swapped, straight, atol=1e-9)
    np.testing.assert_allclose(sky_to_pixel(WCS(header(**SWAPPED)), *straight), [X, Y], atol=1e-6)


@pytest.mark.parametrize(
    ("cards", "frame"),
    [
        ({"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"}, "galactic"),
        ({"RADESYS": "FK4", "EQUINOX": 1950.0}, "fk4"),
        ({"RADESYS": "FK5", "EQUINOX": 2000.0}, "fk5"),
    ],
)
def test_positions_are_icrs(cards, frame):
    wcs = WCS(header(**cards))
    truth = SkyCoord(150.0, 20.0, unit="deg", frame=frame).icrs
    ra, dec = pixel_to_sky(wcs, 319.5, 319.5)
    assert separation((ra, dec), (truth.ra.deg, truth.dec.deg)) < 1e-3
    np.testing.assert_allclose(sky_to_pixel(wcs, *pixel_to_sky(wcs, X, Y)), [X, Y], atol=1e-4)


@pytest.mark.parametrize("cards", [{}, SIP, {"CRVAL1": 0.0}, {"CRVAL2": 89.99}])
def test_there_and_back(cards):
    wcs = WCS(header(**cards))
    ra, dec = pixel_to_sky(wcs, X, Y)
    assert ((ra >= 0) & (ra < 360)).all()
    np.testing.assert_allclose(sky_to_pixel(wcs, ra, dec, shape=(640, 640)), [X, Y], atol=1e-4)


def test_what_is_not_on_the_projection_is_missing():
    x, y = sky_to_pixel(WCS(header()), np.array([150.0, 330.0, np.nan]), np.array([20.0, -20.0, 0.0]))
    np.testing.assert_allclose([x[0], y[0]], 319.5)
    assert np.isnan(x[1:]).all() and np.isnan(y[1:]).all()
    ra, dec = pixel_to_sky(WCS(header()), np.array([np.nan]), np.array([1.0]))
    assert np.isnan(ra).all() and np.isnan(dec).all()


def test_far_from_the_image_the_distortion_is_left_out():
    """The polynomial folds back: without the shape a place some degrees away would fall near the image."""
    wcs = WCS(header(**SIP))
    ra, dec = pixel_to_sky(WCS(header()), -30000.0, 320.0)
    x, y = sky_to_pixel(wcs, ra, dec, shape=(640, 640))
    assert float(x) == pytest.approx(-30000, abs=1e-3) and float(y) == pytest.approx(320, abs=1e-3)


def test_shapes_are_kept():
    ra, dec = pixel_to_sky(WCS(header()), np.zeros((2, 3)), np.zeros((2, 3)))
    assert ra.shape == dec.shape == (2, 3)
    assert sky_to_pixel(WCS(header()), ra, dec)[0].shape == (2, 3)
    assert [len(value) for value in sky_to_pixel(WCS(header()), [], [])] == [0, 0]
    assert [len(value) for value in pixel_to_sky(WCS(header()), [], [])] == [0, 0]
