"""Reading of images: unusable files are refused with one sentence."""

import gzip

import numpy as np
import pytest
from astropy.io import fits

from otrain_core import io
from otrain_core.errors import ImageError
from otrain_core.images.frames import check_fit, read_image, read_planes, write_planes
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import image_wcs
from otrain_core.plan.telescopes import Detector

ROW = Detector(gain=1.5, pixel_scale=1.2, saturation=60000.0)


def sky(shape=(40, 50)):
    return np.random.default_rng(3).normal(100, 5, shape).astype(np.float32)


def write(path, data, **keys):
    header = fits.Header()
    for key, value in keys.items():
        header[key] = value
    fits.PrimaryHDU(data, header=header).writeto(path)
    return path


def test_header_wins_over_the_sheet(tmp_path):
    path = write(tmp_path / "a.fits", sky(), GAIN=2.5, SATURATE=50000, FILTER="R", MAGZP=24.5)
    image = read_image(path, name="a", detector=ROW)
    assert (image.gain, image.saturation, image.filter, image.zero_point) == (2.5, 50000, "R", 24.5)
    assert image.pixel_scale == 1.2
    assert image.wcs is None


def test_gzip_int16_and_extension_are_read(tmp_path):
    data = (sky() * 10).astype(np.int16)
    write(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.gz", name="a", detector=ROW).data, data)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data)])
    hdus.writeto(tmp_path / "b.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "b.fits.fz", name="b", detector=ROW).data, data)


def test_infinities_become_missing(tmp_path):
    data = sky()
    data[3, 4] = np.inf
    assert np.isnan(read_image(write(tmp_path / "a.fits", data), name="a", detector=ROW).data[3, 4])


@pytest.mark.parametrize(
    ("data", "keys", "row", "message"),
    [
        (np.full((40, 50), np.nan, np.float32), {}, ROW, "image a: data: all pixels are NaN"),
        (np.full((40, 50), 7.0, np.float32), {}, ROW, "image a: data: all pixels have the same value 7"),
        (sky() + 60000, {}, ROW, "image a: SATURATE: .* % of the pixels are saturated"),
        (np.where(np.arange(50) < 48, np.nan, sky()), {}, ROW, "image a: data: only 4.0 % of the pixels"),
        (sky(), {"GAIN": "high"}, Detector(pixel_scale=1.0), "image a: GAIN: no gain in the header .its GAIN 'high'"),
        (
            sky(),
            {},
            Detector(pixel_scale=1.0),
            "image a: GAIN: no gain in the header nor for the telescope.* --gain of",
        ),
        (sky(), {}, Detector(gain=1.0), "image a: pixel_scale: the header has no WCS .*--pixel-scale of"),
        (np.zeros((3, 40, 50), np.float32), {}, ROW, "image a: NAXIS: .*two-dimensional"),
    ],
)
def test_unusable_images_are_refused(tmp_path, data, keys, row, message):
    path = write(tmp_path / "a.fits", data, **keys)
    with pytest.raises(ImageError, match=message):
        read_image(path, name="a", detector=row)


@pytest.mark.parametrize("size", [0, 100, 2880, 5000])
def test_truncated_files_are_refused(tmp_path, size):
    path = write(tmp_path / "a.fits", sky())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ImageError, match=r"image a: path: .*a\.fits"):
        read_image(path, name="a", detector=ROW)


def test_a_truncated_file_is_told_of_once(tmp_path, recwarn):
    path = write(tmp_path / "a.fits", sky())
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(ImageError, match="truncated"):
        read_image(path, name="a", detector=ROW)
    write_planes(tmp_path / "planes.fits", {"diff": sky()})
    (tmp_path / "planes.fits").write_bytes((tmp_path / "planes.fits").read_bytes()[:9000])
    with pytest.raises(ImageError, match="truncated"):
        read_planes(tmp_path / "planes.fits", image="a")
    assert not recwarn.list


def test_without_a_wcs_the_header_may_tell_the_scale(tmp_path):
    cards = {"XPIXSZ": 9.0, "FOCALLEN": 1500.0}
    path = write(tmp_path / "a.fits", sky(), **cards)
    assert read_image(path, name="a", detector=Detector(gain=1.0)).pixel_scale == pytest.approx(206.26480625 * 9 / 1500)
    assert read_image(path, name="a", detector=ROW).pixel_scale == 1.2  # the telescope takes precedence
    path = write(tmp_path / "b.fits", sky(), XPIXSZ=9.0, FOCALLEN=0.0)
    with pytest.raises(ImageError, match="no XPIXSZ with FOCALLEN"):
        read_image(path, name="b", detector=Detector(gain=1.0))


def test_truncated_gzip_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", sky())
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "a.fits.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ImageError, match="image a: path: "):
        read_image(tmp_path / "a.fits.gz", name="a", detector=ROW)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.fits", name="a", detector=ROW)
    (tmp_path / "text.fits").write_text("hello")
    with pytest.raises(ImageError, match="not a readable FITS image"):
        read_image(tmp_path / "text.fits", name="a", detector=ROW)
    path = write(tmp_path / "a.fits", sky())
    with pytest.raises(ImageError, match="image a: wcs: .*no such file"):
        read_image(path, name="a", detector=ROW, wcs_path=tmp_path / "none.wcs")


def test_check_fit(tmp_path):
    image = read_image(write(tmp_path / "a.fits", sky()), name="a", detector=ROW)
    check_fit(image, needs_wcs=False, cutout_size=40)
    with pytest.raises(
        ImageError, match=r"image a: cutouts.size: a cutout of 41 px is larger than the image of 50 x 40 px"
    ):
        check_fit(image, needs_wcs=False, cutout_size=41)
    with pytest.raises(ImageError, match="image a: WCS: no celestial WCS"):
        check_fit(image, needs_wcs=True, cutout_size=32)


def test_refined_wcs_of_the_record_wins(tmp_path):
    keys = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 5.0, "CRPIX1": 1.0, "CRPIX2": 1.0}
    path = write(tmp_path / "a.fits", sky(), **keys, CDELT1=-3e-4, CDELT2=3e-4)
    came = read_image(path, name="a", detector=ROW)
    refined = came.wcs.deepcopy()
    refined.wcs.crval = [20.0, 6.0]
    io.write_json(tmp_path / "psf.json", {"wcs": refined.to_header_string(relax=True)})
    record = io.read_json(tmp_path / "psf.json")
    (tmp_path / "a.wcs").write_text(came.wcs.to_header_string())
    image = read_image(path, name="a", detector=ROW, wcs_path=tmp_path / "a.wcs", record=record)
    assert list(image.wcs.wcs.crval) == [20.0, 6.0]
    assert list(image_wcs(came.header, None, image="a", record=record).wcs.crval) == [20.0, 6.0]
    assert list(image_wcs(came.header, None, image="a", record={"wcs": None}).wcs.crval) == [10.0, 5.0]
    with pytest.raises(ImageError, match="image a: wcs: the record of the PSF contains no celestial WCS"):
        image_wcs(came.header, None, image="a", record={"wcs": "END" + 77 * " "})


def test_planes_round_trip(tmp_path):
    planes = {"sci": sky(), "mask": np.ones((4, 5), np.uint8)}
    write_planes(tmp_path / "p.fits", planes, fits.Header([("GAIN", 2.0)]))
    back, header = read_planes(tmp_path / "p.fits", image="a")
    np.testing.assert_array_equal(back["sci"], planes["sci"])
    assert back["mask"].dtype == np.uint8
    assert header["GAIN"] == 2.0


WCS_CARDS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "CRPIX1": 25.5}
WCS_CARDS |= {"CRPIX2": 20.5, "CD1_1": -1.2 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1.2 / 3600}


@pytest.mark.parametrize(
    ("scale", "cards", "fits_it"), [(1.2, {}, True), (4.8, {}, False), (4.8, {"XBINNING": 4}, True)]
)
def test_the_scale_of_the_wcs_is_that_of_the_telescope(tmp_path, scale, cards, fits_it):
    detector = Detector(gain=1.5, pixel_scale=scale)
    image = read_image(write(tmp_path / "a.fits", sky(), **WCS_CARDS, **cards), name="a", detector=detector)
    if fits_it:
        check_fit(image, needs_wcs=True, cutout_size=32, detector=detector)
        return
    with pytest.raises(
        ImageError, match="image a: WCS: its scale is 1.2 arcsec/px, but that of the telescope .* is 4.8"
    ):
        check_fit(image, needs_wcs=True, cutout_size=32, detector=detector)


def test_pixels_are_brought_to_counts_and_stay_so(tmp_path):
    """An image written with the header of another step is read with the same values."""
    data = sky((64, 64)) / 60
    data[:, :5] = 0
    cards = {"BUNIT": "adu/s", "EXPTIME": 60.0, "GAIN": 139, "EGAIN": 4.0, "SATURATE": 1000.0, "MAGZP": "20.0"}
    cards |= {"DATE-OBS": "2024-03-01", "UT": "02:03:04.5", "BANDE": "r"}
    detector = Detector(pixel_scale=1.2, gain=1.0, header={"filter": "BANDE"}, wins="header")
    first = read_image(write(tmp_path / "a.fits", data, **cards), name="a", detector=detector)
    np.testing.assert_allclose(first.data[:, 8:], data[:, 8:] * 60, rtol=1e-6)
    assert np.isnan(first.data[:, :5]).all() and np.isfinite(first.data[:, 7:]).all()
    assert (first.gain, first.saturation, first.filter, first.time) == (4.0, 6e4, "r", "2024-03-01T02:03:04.500")
    write_planes(tmp_path / "b.fits", {"sci": first.data}, first.header.copy(strip=True))
    again = read_image(tmp_path / "b.fits", name="a", detector=detector)
    np.testing.assert_array_equal(again.data, first.data)
    for key in ("gain", "read_noise", "saturation", "zero_point", "filter", "time", "pixel_scale"):
        assert getattr(again, key) == getattr(first, key), key
    assert again.notes == ()


def test_the_telescope_wins_where_it_says_so(tmp_path):
    path = write(tmp_path / "a.fits", sky(), GAIN=2.5, RDNOISE=9.0, SATURATE=5e4, FILTER="R")
    detector = Detector(gain=1.5, read_noise=4.0, saturation=6e4, filter="r", pixel_scale=1.2, wins="config")
    image = read_image(path, name="a", detector=detector)
    assert (image.gain, image.read_noise, image.saturation, image.filter) == (1.5, 4.0, 6e4, "r")


def test_whatever_a_library_raises_on_damaged_pixels_names_the_image(tmp_path):
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU((sky() * 10).astype(np.int16))]).writeto(tmp_path / "a.fits")
    content = bytearray((tmp_path / "a.fits").read_bytes())
    start = content.index(b"ZCMPTYPE")
    rng = np.random.default_rng(1)
    for k in range(40):
        damaged = bytearray(content)
        for place in rng.integers(start + 80, len(content), 30):
            damaged[place] = int(rng.integers(0, 256))
        (tmp_path / "b.fits").write_bytes(damaged)
        try:
            read_fits(tmp_path / "b.fits", image="a")
        except ImageError as error:
            assert str(error).startswith("image a: "), k
        try:
            read_planes(tmp_path / "b.fits", image="a")
        except ImageError as error:
            assert str(error).startswith("image a: "), k
