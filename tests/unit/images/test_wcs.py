import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ImageError
from otrain_core.images.wcs import celestial_wcs, image_wcs, pixel_to_sky, shift_wcs, sky_to_pixel, wcs_scale

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
    """The polynomial folds back: without the shape, a position some degrees away would be mapped close to the image."""
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


NO_CD = dict.fromkeys(("CD1_1", "CD1_2", "CD2_1", "CD2_2"))
PC = {"PC1_1": 1.0, "PC1_2": 0.0, "PC2_1": 0.0, "PC2_2": 1.0, "CDELT1": -SCALE, "CDELT2": SCALE}
TURNED = {"CD1_1": -SCALE * np.cos(0.3), "CD1_2": SCALE * np.sin(0.3), "CD2_1": SCALE * np.sin(0.3)}
TURNED |= {"CD2_2": SCALE * np.cos(0.3)}


def door(shape=(640, 640), **cards):
    return celestial_wcs(header(**cards), image="a", shape=shape)


@pytest.mark.parametrize(
    "cards",
    [
        SWAPPED,
        {"CRVAL1": "150.0", "CRVAL2": "20.0"},
        {"CRVAL1": "150,0", "CRVAL2": " 20,0 "},
        {"CRVAL1": "10:00:00", "CRVAL2": "+20:00:00.0"},
        {"CRPIX1": "320.5", "CD1_1": f"{-SCALE}"},
        {"PC1_1": 1.0, "PC2_2": 1.0},
        {"PC1_1": 1.0, "PC2_2": 1.0, "CDELT1": 1.0, "CDELT2": 1.0},
        {"CDELT1": 7.0, "CDELT2": 7.0},
        {"CROTA2": 30.0},
        NO_CD | PC,
        NO_CD | PC | {"CROTA2": 45.0},
        NO_CD | {"CDELT1": -SCALE, "CDELT2": SCALE},
        {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-5, "B_0_2": 3e-5},  # without effect, because CTYPE is plain TAN
        SIP | {"A_2_0": 0.0, "B_0_2": 0.0},
        {"CTYPE1": "ra---tan", "CTYPE2": "dec--tan"},
        {"EQUINOX": "J2000.0", "RADESYS": "ICRS"},
    ],
)
def test_what_is_legal_or_plain_to_a_reader_is_read(cards):
    wcs = door(**cards)
    assert wcs.wcs.lng == 0  # longitude first
    np.testing.assert_allclose(pixel_to_sky(wcs, X, Y), pixel_to_sky(WCS(header()), X, Y), atol=1e-9)
    np.testing.assert_allclose(wcs.all_pix2world(X, Y, 0), pixel_to_sky(WCS(header()), X, Y), atol=1e-9)
    assert wcs_scale(wcs) == pytest.approx(1.2, rel=1e-6)


@pytest.mark.parametrize("rotation", ["cd", "pc", "crota"])
def test_axes_are_swapped_with_any_description_of_the_rotation(rotation):
    straight = WCS(header(**TURNED))
    rows = {"CD1_1": TURNED["CD2_1"], "CD1_2": TURNED["CD2_2"], "CD2_1": TURNED["CD1_1"], "CD2_2": TURNED["CD1_2"]}
    cards = SWAPPED | rows
    if rotation == "pc":
        cards |= {f"PC{i}_{j}": cards[f"CD{i}_{j}"] / SCALE for i in (1, 2) for j in (1, 2)} | NO_CD
        cards |= {"CDELT1": SCALE, "CDELT2": SCALE}
    elif rotation == "crota":  # [[d1 cos, -d2 sin], [d1 sin, d2 cos]] with the rows of a mirrored image
        cards |= NO_CD | {"CDELT1": SCALE, "CDELT2": SCALE, "CROTA2": -60.0}
        turned = dict(zip(rows, _crota(-60.0), strict=True))
        straight = WCS(header(**turned))
    np.testing.assert_allclose(pixel_to_sky(door(**cards), X, Y), pixel_to_sky(straight, X, Y), atol=1e-9)


def _crota(angle):
    """CD1_1, CD1_2, CD2_1, CD2_2 of an image with latitude first and CDELT = SCALE, longitude first."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return SCALE * sin, SCALE * cos, SCALE * cos, -SCALE * sin


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "GLON-TAN", "CTYPE2": "GLAT-TAN"},
        {"CTYPE1": "GLON-TAN-SIP", "CTYPE2": "GLAT-TAN-SIP", "A_ORDER": 2, "B_ORDER": 2, "A_2_0": 3e-5},
        {"CTYPE1": "GLON-SIN", "CTYPE2": "GLAT-SIN"},
        {"RADESYS": "FK4", "EQUINOX": 1950.0},
        {"RADESYS": "FK5", "EQUINOX": 1975.0},
        {"EQUINOX": "B1950"},
        SWAPPED | {"CTYPE1": "GLAT-TAN", "CTYPE2": "GLON-TAN"},
    ],
)
def test_other_frames_become_icrs(cards):
    plain = cards | ({"EQUINOX": 1950.0} if "EQUINOX" in cards and isinstance(cards["EQUINOX"], str) else {})
    truth = pixel_to_sky(WCS(header(**plain)), X, Y)
    wcs = door(**cards)
    assert separation(wcs.all_pix2world(X, Y, 0), truth).max() < 0.01
    assert list(wcs.wcs.ctype)[0].startswith("RA---")


@pytest.mark.parametrize("ctype", ["TAN", "TPV"])
def test_distortions_of_scamp_are_read(ctype):
    terms = {f"PV{i}_{j}": v for i in (1, 2) for j, v in ((0, 0.0), (1, 1.0), (2, 0.0), (7, 0.2), (9, 0.2))}
    wcs = door(CTYPE1=f"RA---{ctype}", CTYPE2=f"DEC--{ctype}", **terms)
    ra, dec = pixel_to_sky(wcs, 0, 0)
    assert separation((ra, dec), pixel_to_sky(WCS(header()), 0, 0)) / 1.2 == pytest.approx(2.1, abs=0.3)
    np.testing.assert_allclose(sky_to_pixel(wcs, ra, dec), [0, 0], atol=1e-3)


@pytest.mark.parametrize(
    ("cards", "key", "message"),
    [
        (NO_CD, "WCS", "none of CD, PC and CDELT"),
        (NO_CD | {"CDELT1": 0.0, "CDELT2": 0.0}, "WCS", "singular"),
        ({"CD1_1": 0.0}, "WCS", "singular"),
        (PC | {"CDELT1": -4 * SCALE, "CDELT2": 4 * SCALE}, "CD1_1", "contradict each other"),
        ({"CRVAL1": "here"}, "CRVAL1", "must be a number, not 'here'"),
        ({"CRVAL1": "150.000,5"}, "CRVAL1", "must be a number"),
        ({"CTYPE2": "RA---TAN"}, "CTYPE1", "not a pair of sky axes"),
        ({"CTYPE1": None}, "CTYPE1", "not a pair of sky axes"),
        ({"CTYPE2": "DEC--SIN"}, "CTYPE1", "not a pair of sky axes"),
        ({"CTYPE1": "RA---XYZ", "CTYPE2": "DEC--XYZ"}, "CTYPE1|WCS", "the projection of|cannot be read"),
        ({"CTYPE1": "GLON-CAR", "CTYPE2": "GLAT-CAR"}, "CTYPE1", "galactic is not supported; give a WCS in ICRS"),
        ({"CTYPE1": "ELON-TAN", "CTYPE2": "ELAT-TAN"}, "CTYPE1", "give a WCS in RA and Dec"),
        ({"RADESYS": "NEWSYS"}, "RADESYS", "not a known celestial frame"),
        (
            {"CUNIT1": "arcsec", "CUNIT2": "arcsec"},
            "WCS",
            "the pixel scale of 0.000333 arcsec/px is outside 0.001 to 3600",
        ),
        ({"CD1_1": 1e9, "CD2_2": 1e9}, "WCS", "the pixel scale of 3.6e[+]12 arcsec/px"),
        ({"CPDIS1": "LOOKUP"}, "CPDIS1", "distortion tables are not supported"),
        (SIP | {"A_ORDER": 10**9, "B_ORDER": 10**9}, "A_ORDER", "must be a whole number from 0 to 9, not"),
        (SIP | {"A_2_0": 3e-2, "B_0_2": 3e-2}, "WCS", "the distortion moves a corner"),
    ],
)
def test_what_contradicts_itself_is_refused(cards, key, message):
    with pytest.raises(ImageError, match=f"image a: ({key}): .*({message})"):
        door(**cards)


@pytest.mark.parametrize(
    "cards",
    [
        {"CTYPE1": "RA", "CTYPE2": "DEC"},
        {"CTYPE1": "", "CTYPE2": ""},
        {"CRVAL1": None},
        {"CTYPE1": "PIXEL", "CTYPE2": "PIXEL"},
    ],
)
def test_no_wcs_is_no_error(cards):
    assert celestial_wcs(header(**cards), image="a") is None


def test_a_missing_order_of_one_axis_is_none():
    one_axis = {key: value for key, value in SIP.items() if not key.startswith("B_")}
    wcs = door(**one_axis)
    assert wcs.has_distortion and separation(pixel_to_sky(wcs, 319.5, 0), pixel_to_sky(WCS(header()), 319.5, 0)) < 1e-6


def test_the_header_is_left_alone():
    cards = header(**SWAPPED, CRVAL3="1,5")
    before = cards.tostring()
    celestial_wcs(cards, image="a", shape=(640, 640))
    assert cards.tostring() == before


def test_a_cut_frame_has_its_reference_pixel_moved(tmp_path):
    cards = header(CRPIX1="352,5")
    shift_wcs(cards, 32, 0)
    np.testing.assert_allclose(pixel_to_sky(door(**dict(cards)), X, Y), pixel_to_sky(WCS(header()), X, Y), atol=1e-9)
    whole = header(CRPIX1=352.5)
    (tmp_path / "a.wcs").write_text(whole.tostring())
    cut = fits.Header({"OTTRIMX": 32, "OTTRIMY": 0})
    wcs = image_wcs(cut, tmp_path / "a.wcs", image="a")
    np.testing.assert_allclose(pixel_to_sky(wcs, X, Y), pixel_to_sky(WCS(header()), X, Y), atol=1e-9)


def test_header_files_that_cannot_be_used(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        image_wcs(fits.Header(), tmp_path / "none.wcs", image="a")
    (tmp_path / "b.wcs").write_bytes(b"\xff\xfe" * 40)
    with pytest.raises(ImageError, match="not a FITS header|there is no celestial WCS"):
        image_wcs(fits.Header(), tmp_path / "b.wcs", image="a")
