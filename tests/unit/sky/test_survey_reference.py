"""A reference from a survey: grid, flux and assumptions; a local server stands in for hips2fits."""

import io as bytesio
import json

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS, Sip

from otrain_core.errors import ConfigError, ImageError
from otrain_core.images.frames import read_image
from otrain_core.plan.telescopes import Detector
from otrain_core.sky import answers, survey_reference
from tests.unit.loopback import loopback

HIPS = "CDS/P/PanSTARRS/DR1/r"
RNG = np.random.default_rng(5)
STARS = np.column_stack([83.6 + RNG.uniform(-0.015, 0.015, 12), 22.0 + RNG.uniform(-0.012, 0.012, 12)])
FLUXES = 10 ** RNG.uniform(3.5, 4.5, 12)
SIZE = 3.0 / 3600  # of a star, sigma [deg]


def science(*, shape=(90, 110), scale=1.3, angle=25.0, flip=-1):
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 83.6, 22.0
    header["CRPIX1"], header["CRPIX2"] = (shape[1] + 1) / 2, (shape[0] + 1) / 2
    header["CD1_1"], header["CD1_2"] = flip * c * scale / 3600, -s * scale / 3600
    header["CD2_1"], header["CD2_2"] = flip * s * scale / 3600, c * scale / 3600
    return header


def sky(query, *, asinh=True, missing=None, noise=1.0):
    """The answer of hips2fits: surface brightness of a few stars on the requested grid."""
    header = json.loads(query["wcs"])
    wcs, shape = WCS(fits.Header(header)), (header["NAXIS2"], header["NAXIS1"])
    assert query["format"] == "fits"
    assert shape[0] * shape[1] <= survey_reference.MAX_PIXELS
    y, x = np.indices(shape)
    ra, dec = wcs.pixel_to_world_values(x, y)
    data = np.random.default_rng(shape[0]).normal(0, noise, shape)
    for (ra0, dec0), flux in zip(STARS, FLUXES, strict=True):
        r2 = ((ra - ra0) * np.cos(np.radians(22))) ** 2 + (dec - dec0) ** 2
        data += flux * np.exp(-r2 / (2 * SIZE**2))
    if asinh:
        data = np.arcsinh(data / 2) / (0.4 * np.log(10))
    if missing:
        data[dec > missing] = np.nan
    file = bytesio.BytesIO()
    fits.PrimaryHDU(data.astype(">f4"), header=wcs.to_header()).writeto(file)
    return file.getvalue()


@pytest.fixture
def server(monkeypatch):
    with loopback() as state:
        monkeypatch.setattr(answers, "WAIT", 0.01)
        monkeypatch.setattr(answers, "TIMEOUT", 5)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setattr(survey_reference, "SERVERS", (f"{state.url}/first", f"{state.url}/mirror"))
        state.answers = [sky]
        yield state


def fetch(tmp_path, header=None, *, hips=HIPS, shape=(90, 110)):
    wcs = WCS(header if header is not None else science())
    return survey_reference.survey_reference(hips, wcs, shape, image="one", cache=tmp_path / "cache")


def peaks(data, header):
    """Value above the background at the expected position of each star."""
    x, y = np.rint(WCS(header).world_to_pixel_values(*STARS.T)).astype(int)
    return data[y, x] - np.median(data), x, y


@pytest.mark.parametrize("flip", [-1, 1])
def test_the_grid_covers_the_image_with_a_margin_at_its_scale_and_orientation(flip):
    wcs, shape, scale = survey_reference.reference_grid(WCS(science(flip=flip)), (90, 110), image="one")
    assert scale == pytest.approx(1.3, rel=1e-4)
    assert shape[0] == pytest.approx(90 * 1.1, abs=3) and shape[1] == pytest.approx(110 * 1.1, abs=3)
    x, y = np.meshgrid([-0.5, 109.5], [-0.5, 89.5])
    px, py = wcs.world_to_pixel_values(*WCS(science(flip=flip)).pixel_to_world_values(x, y))
    np.testing.assert_allclose(np.diff(px, axis=1), 110, rtol=1e-4)  # neither turned nor mirrored
    np.testing.assert_allclose(np.diff(py, axis=0), 90, rtol=1e-4)
    assert px.min() >= 4 and py.min() >= 4 and px.max() <= shape[1] - 5 and py.max() <= shape[0] - 5


def test_a_distorted_image_is_covered():
    header = science()
    wcs = WCS(header)
    a = np.zeros((3, 3))
    a[2, 0] = a[0, 2] = 2e-3  # corners are off by some 10 px
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.sip = Sip(a, a, None, None, wcs.wcs.crpix)
    grid, shape, _ = survey_reference.reference_grid(wcs, (90, 110), image="one")
    assert not grid.has_distortion
    x, y = np.meshgrid(np.linspace(0, 109, 20), np.linspace(0, 89, 20))
    px, py = grid.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
    assert px.min() > 0 and py.min() > 0 and px.max() < shape[1] - 1 and py.max() < shape[0] - 1
    assert max(shape) > 115


def test_tiles_cover_a_large_image_once_and_respect_the_limit():
    seen = np.zeros((9400, 9700), np.uint8)
    for rows, columns in survey_reference.tiles(9400, 9700, factor=2):
        seen[rows, columns] += 1
        assert 4 * (rows.stop - rows.start) * (columns.stop - columns.start) <= survey_reference.MAX_PIXELS
    assert seen.min() == seen.max() == 1


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_the_pixels_of_a_refined_tile_fill_those_of_the_grid(factor):
    wcs, _, _ = survey_reference.reference_grid(WCS(science()), (90, 110), image="one")
    part = survey_reference._part(wcs, slice(20, 50), slice(30, 90), factor)
    assert part.pixel_shape == (60 * factor, 30 * factor)
    middle = (factor - 1) / 2  # of the first block of fine pixels
    np.testing.assert_allclose(
        part.pixel_to_world_values(middle, middle + 4 * factor), wcs.pixel_to_world_values(30, 24), rtol=1e-10
    )


def test_stars_are_at_their_positions_with_their_flux(server, tmp_path):
    data, header = fetch(tmp_path)
    values, _, _ = peaks(data, header)
    assert data.dtype == np.float32 and np.isfinite(data).all()
    ratio = values / FLUXES
    # One scale for all: the asinh is undone. Peaks off the pixel centre and blends scatter a little.
    assert np.std(ratio) / np.mean(ratio) < 0.05
    spread = 1.4826 * np.median(np.abs(data - np.median(data)))
    assert spread == pytest.approx(10, rel=0.05) and np.median(data) == pytest.approx(100, abs=1)
    assert header["GAIN"] == 1.0 and header["RDNOISE"] == 0.0
    assert header["SATURATE"] == data.max()
    assert header["FILTER"] == "r" and header["HIPS"] == HIPS and header["ASINH"] is True
    # 1.3 arcsec/px is fetched at 0.65 and averaged.
    assert np.mean(ratio) == pytest.approx(header["NORMAL"], rel=0.1)
    width = json.loads(server_query(server)["wcs"])["NAXIS1"]
    assert width == 2 * data.shape[1]


def server_query(server, number=0):
    from urllib.parse import parse_qs

    return {key: value[0] for key, value in parse_qs(server.requests[number][1]).items()}


@pytest.mark.parametrize("hips", ["CDS/P/PanSTARRS/DR1/g", "CDS/P/DSS2/red"])
def test_linear_surveys_are_not_converted(server, tmp_path, hips):
    server.answers = [lambda query: sky(query, asinh=False)]
    data, header = fetch(tmp_path, hips=hips)
    values, _, _ = peaks(data, header)
    assert np.std(values / FLUXES) / np.mean(values / FLUXES) < 0.05
    assert header["ASINH"] is False
    assert server_query(server)["hips"] == hips


def test_tiles_join_without_a_seam(server, tmp_path, monkeypatch):
    server.answers = [lambda query: sky(query, noise=1e-3)]
    whole, header = fetch(tmp_path / "whole")
    monkeypatch.setattr(survey_reference, "TILE", 90)
    pieces, other = fetch(tmp_path / "pieces")
    assert len(server.requests) == 1 + 3 * 3
    assert list(WCS(header).wcs.crpix) == list(WCS(other).wcs.crpix)
    ratio = header["NORMAL"] / other["NORMAL"]
    difference = (pieces - np.median(pieces)) * ratio - (whole - np.median(whole))
    bright = whole > np.percentile(whole, 80)
    assert np.abs(difference[bright]).max() < 0.02 * whole.max()


def test_pixels_without_survey_data_are_nan(server, tmp_path):
    server.answers = [lambda query: sky(query, missing=22.005)]
    data, header = fetch(tmp_path)
    y, x = np.indices(data.shape)
    _, dec = WCS(header).pixel_to_world_values(x, y)
    assert np.isnan(data[dec > 22.0055]).all() and np.isfinite(data[dec < 22.0045]).all()


@pytest.mark.parametrize("missing", [-90.0, 21.98])
def test_a_survey_that_does_not_cover_the_field_is_refused(server, tmp_path, missing):
    server.answers = [lambda query: sky(query, missing=missing)]
    with pytest.raises(ImageError, match=f"image one: reference: the survey {HIPS} covers only [0-9] % of the field"):
        fetch(tmp_path)


def test_a_constant_survey_is_refused(server, tmp_path):
    def blank(query):
        file = bytesio.BytesIO()
        header = json.loads(query["wcs"])
        fits.PrimaryHDU(np.zeros((header["NAXIS2"], header["NAXIS1"]), np.float32)).writeto(file)
        return file.getvalue()

    server.answers = [blank]
    with pytest.raises(ImageError, match=f"image one: reference: the survey {HIPS} has no noise in the field"):
        fetch(tmp_path)


def wrong_size(query):
    file = bytesio.BytesIO()
    fits.PrimaryHDU(np.zeros((5, 5), np.float32)).writeto(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "failures",
    [
        pytest.param([500, 503], id="errors of the server"),
        pytest.param([b"<html>later</html>", b""], id="garbage"),
        pytest.param([wrong_size, lambda query: sky(query)[:20000]], id="wrong size, cut short"),
        pytest.param([(0.6, sky), 404], id="too slow"),
    ],
)
def test_failures_are_tried_again_at_the_mirror(server, tmp_path, failures, monkeypatch):
    monkeypatch.setattr(answers, "TIMEOUT", 0.3)
    server.answers = [*failures, sky]
    data, _ = fetch(tmp_path)
    assert np.isfinite(data).all()
    assert [path for path, _ in server.requests] == ["/first", "/mirror", "/first"]


def test_a_service_that_does_not_answer_gives_one_sentence(server, tmp_path):
    server.answers = [500]
    with pytest.raises(ConfigError) as caught:
        fetch(tmp_path)
    text = str(caught.value)
    assert text.startswith(f"hips2fits (hips {HIPS}, width ")
    assert "no answer after 4 attempts" in text and str(tmp_path / "cache") in text and "\n" not in text
    assert len(text) < 700


def test_survey_reference_files_writes_a_readable_reference_and_uses_the_cache(server, tmp_path):
    header = science()
    fits.PrimaryHDU(np.ones((90, 110), np.float32), header=header).writeto(tmp_path / "one.fits")
    names = {"science": tmp_path / "one.fits", "reference": tmp_path / "one.survey.fits"}
    for _ in range(2):
        survey_reference.survey_reference_files(**names, image="one", wcs=None, hips=HIPS, cache=tmp_path / "cache")
    assert len(server.requests) == 1
    image = read_image(names["reference"], name="one", detector=Detector(gain=10.0, saturation=4095.0))
    assert image.gain == 1.0 and image.saturation == pytest.approx(np.nanmax(image.data))
    assert image.pixel_scale == pytest.approx(1.3, rel=1e-3) and image.wcs is not None
    fits.PrimaryHDU(np.ones((90, 110), np.float32)).writeto(tmp_path / "bare.fits")
    with pytest.raises(ImageError, match="image one: WCS"):
        survey_reference.survey_reference_files(
            **names | {"science": tmp_path / "bare.fits"}, image="one", wcs=None, hips=HIPS, cache=tmp_path / "cache"
        )
