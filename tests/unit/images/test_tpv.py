"""Conversion of a WCS to a header that SWarp can read."""

import numpy as np
import pytest
from astropy.wcs import WCS

from otrain_core.errors import ImageError
from otrain_core.images.tpv import swarp_header
from tests.unit.synthetic_wcs import distorted, frame


def test_a_plain_wcs_is_passed_on():
    wcs = frame((400, 500), scale=0.7, angle=0.3, shift=(3.0, -2.0))
    header = swarp_header(wcs, (400, 500), name="a")
    assert (header["CTYPE1"], header["NAXIS1"], header["NAXIS2"]) == ("RA---TAN", 500, 400)
    assert not [key for key in header if key.startswith("PC")]
    np.testing.assert_allclose(WCS(header).pixel_to_world_values(17, 390), wcs.pixel_to_world_values(17, 390))


@pytest.mark.parametrize("shape", [(300, 200), (1500, 2200)])
def test_sip_becomes_tpv_over_the_whole_frame(shape):
    wcs = distorted(shape)
    header = swarp_header(wcs, shape, name="a")
    assert header["CTYPE1"] == "RA---TPV"
    assert not [key for key in header if key.startswith(("A_", "B_"))]
    x, y = np.meshgrid(np.linspace(0, shape[1] - 1, 9), np.linspace(0, shape[0] - 1, 7))
    px, py = WCS(header).wcs_world2pix(*wcs.all_pix2world(x, y, 0), 0)
    assert np.hypot(px - x, py - y).max() < 0.01
    plain = frame(shape).wcs_world2pix(*wcs.all_pix2world(x, y, 0), 0)
    assert np.hypot(plain[0] - x, plain[1] - y).max() > 0.04


def test_other_projections_become_tpv():
    header = swarp_header(frame((300, 200), kind="SIN"), (300, 200), name="a")
    assert header["CTYPE2"] == "DEC--TPV"


def test_galactic_coordinates_are_refused():
    wcs = frame((300, 200))
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"]
    wcs.wcs.set()
    with pytest.raises(
        ImageError, match="image a: wcs: subtract.align: swarp needs a WCS in right ascension and declination"
    ):
        swarp_header(wcs, (300, 200), name="a")


@pytest.mark.parametrize("make", [lambda: frame((300, 200), scale=0.7, angle=0.3), lambda: distorted((300, 200))])
def test_declination_first_is_turned_round(make):
    wcs = make()
    header = wcs.to_header(relax=True)
    swapped = header.copy()
    for one, other in (
        ("CTYPE1", "CTYPE2"),
        ("CRVAL1", "CRVAL2"),
        ("PC1_1", "PC2_1"),
        ("PC1_2", "PC2_2"),
        ("CDELT1", "CDELT2"),
    ):
        default = 1.0 if one in ("PC1_1", "PC2_2") else 0.0
        a, b = header.get(one, default), header.get(other, 1.0 if other in ("PC1_1", "PC2_2") else 0.0)
        swapped[one], swapped[other] = b, a
    axes = WCS(swapped)
    assert axes.wcs.lng == 1
    written = WCS(swarp_header(axes, (300, 200), name="a"))
    assert written.wcs.lng == 0
    x, y = np.array([3.0, 150, 190]), np.array([7.0, 20, 290])
    here, there = wcs.pixel_to_world(x, y), written.pixel_to_world(x, y)
    assert here.separation(there).arcsec.max() < 0.02


@pytest.mark.parametrize(("system", "equinox"), [("FK4", 1950.0), ("FK5", 1975.0)])
def test_another_equinox_is_refused(system, equinox):
    wcs = frame((300, 200))
    wcs.wcs.radesys, wcs.wcs.equinox = system, equinox
    wcs.wcs.set()
    with pytest.raises(
        ImageError, match=f"image a: wcs: subtract.align: swarp needs a WCS in ICRS or FK5 J2000, not {system}"
    ):
        swarp_header(wcs, (300, 200), name="a")
