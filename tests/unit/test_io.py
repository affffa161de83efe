"""Reading and writing: what comes from outside is refused in one sentence."""

import gzip

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from otrain_core import io
from otrain_core.arrays import read_arrays, write_arrays
from otrain_core.errors import CubeError, ImageError, UpstreamFailed
from otrain_core.images.frames import check_fit, image_wcs, read_fits, read_image, read_planes, write_planes

ROW = {"gain": 1.5, "pixel_scale": 1.2, "saturation": 60000.0}


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
    image = read_image(path, name="a", telescope=ROW)
    assert (image.gain, image.saturation, image.filter, image.zero_point) == (2.5, 50000, "R", 24.5)
    assert image.pixel_scale == 1.2
    assert image.wcs is None


def test_gzip_int16_and_extension_are_read(tmp_path):
    data = (sky() * 10).astype(np.int16)
    write(tmp_path / "a.fits", data)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    np.testing.assert_array_equal(read_image(tmp_path / "a.fits.gz", name="a", telescope=ROW).data, data)
    hdus = fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(data)])
    hdus.writeto(tmp_path / "b.fits.fz")
    np.testing.assert_array_equal(read_image(tmp_path / "b.fits.fz", name="b", telescope=ROW).data, data)


def test_infinities_become_missing(tmp_path):
    data = sky()
    data[3, 4] = np.inf
    assert np.isnan(read_image(write(tmp_path / "a.fits", data), name="a", telescope=ROW).data[3, 4])


@pytest.mark.parametrize(
    ("data", "keys", "row", "message"),
    [
        (np.full((40, 50), np.nan, np.float32), {}, ROW, "image a: data: all pixels are NaN"),
        (np.full((40, 50), 7.0, np.float32), {}, ROW, "image a: data: all pixels have the same value 7"),
        (sky() + 60000, {}, ROW, "image a: SATURATE: .* % of the pixels are saturated"),
        (np.where(np.arange(50) < 48, np.nan, sky()), {}, ROW, "image a: data: only 4.0 % of the pixels"),
        (sky(), {"GAIN": "high"}, ROW, "image a: GAIN: a number is needed, found 'high'"),
        (sky(), {"SATURATE": -1.0}, ROW, "image a: SATURATE: a positive number is needed, found -1"),
        (sky(), {}, {"pixel_scale": 1.0}, "image a: GAIN: no gain in the header and none in the telescope sheet"),
        (sky(), {}, {"gain": 1.0}, "image a: pixel_scale: no WCS in the image"),
        (np.zeros((3, 40, 50), np.float32), {}, ROW, "image a: NAXIS: .*two-dimensional"),
    ],
)
def test_unusable_images_are_refused(tmp_path, data, keys, row, message):
    path = write(tmp_path / "a.fits", data, **keys)
    with pytest.raises(ImageError, match=message):
        read_image(path, name="a", telescope=row)


@pytest.mark.parametrize("size", [0, 100, 2880, 5000])
def test_truncated_files_are_refused(tmp_path, size):
    path = write(tmp_path / "a.fits", sky())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ImageError, match=r"image a: path: .*a\.fits"):
        read_image(path, name="a", telescope=ROW)


def test_truncated_gzip_is_refused(tmp_path):
    path = write(tmp_path / "a.fits", sky())
    packed = gzip.compress(path.read_bytes())
    (tmp_path / "a.fits.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ImageError, match="image a: path: "):
        read_image(tmp_path / "a.fits.gz", name="a", telescope=ROW)


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(ImageError, match="no such file"):
        read_image(tmp_path / "none.fits", name="a", telescope=ROW)
    (tmp_path / "text.fits").write_text("hello")
    with pytest.raises(ImageError, match="not a readable FITS image"):
        read_image(tmp_path / "text.fits", name="a", telescope=ROW)
    path = write(tmp_path / "a.fits", sky())
    with pytest.raises(ImageError, match="image a: wcs: .*no such file"):
        read_image(path, name="a", telescope=ROW, wcs_path=tmp_path / "none.wcs")


def test_check_fit(tmp_path):
    image = read_image(write(tmp_path / "a.fits", sky()), name="a", telescope=ROW)
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
    came = read_image(path, name="a", telescope=ROW)
    refined = came.wcs.deepcopy()
    refined.wcs.crval = [20.0, 6.0]
    io.write_json(tmp_path / "psf.json", {"wcs": refined.to_header_string(relax=True)})
    record = io.read_json(tmp_path / "psf.json")
    (tmp_path / "a.wcs").write_text(came.wcs.to_header_string())
    image = read_image(path, name="a", telescope=ROW, wcs_path=tmp_path / "a.wcs", record=record)
    assert list(image.wcs.wcs.crval) == [20.0, 6.0]
    assert list(image_wcs(came.header, None, image="a", record=record).wcs.crval) == [20.0, 6.0]
    assert list(image_wcs(came.header, None, image="a", record={"wcs": None}).wcs.crval) == [10.0, 5.0]
    with pytest.raises(ImageError, match="image a: wcs: the record of the PSF holds no celestial WCS"):
        image_wcs(came.header, None, image="a", record={"wcs": "END" + 77 * " "})


def test_planes_round_trip(tmp_path):
    planes = {"sci": sky(), "mask": np.ones((4, 5), np.uint8)}
    write_planes(tmp_path / "p.fits", planes, fits.Header([("GAIN", 2.0)]))
    back, header = read_planes(tmp_path / "p.fits", image="a")
    np.testing.assert_array_equal(back["sci"], planes["sci"])
    assert back["mask"].dtype == np.uint8
    assert header["GAIN"] == 2.0


def test_tables_keep_missing_values_and_text(tmp_path):
    table = pd.DataFrame({"candid": ["007", "008"], "mag": [18.123456789, np.nan], "reason": ["", "edge"]})
    io.write_table(tmp_path / "t.csv", table)
    back = io.read_table(tmp_path / "t.csv")
    assert list(back.candid) == ["007", "008"]
    assert list(back.reason) == ["", "edge"]
    assert np.isnan(back.mag[1])


def test_json_has_no_nan(tmp_path):
    io.write_json(tmp_path / "r.json", {"a": np.float32("nan"), "b": np.arange(2), "c": [np.inf, 1]})
    assert io.read_json(tmp_path / "r.json") == {"a": None, "b": [0, 1], "c": [None, 1]}


def test_failure_marks_are_recognised_by_every_reader(tmp_path):
    mark = {"otrain_failed": {"image": "a", "key": "data", "message": "all pixels are NaN", "step": "psf"}}
    path = tmp_path / "mark"
    io.write_json(path, mark)
    readers = [
        lambda: read_fits(path, image="a"),
        lambda: read_planes(path, image="a"),
        lambda: io.read_table(path),
        lambda: io.read_json(path),
        lambda: read_arrays(path),
    ]
    for reader in readers:
        with pytest.raises(UpstreamFailed, match="image a: data: all pixels are NaN"):
            reader()


def test_arrays_are_bytewise_reproducible_and_hold_no_objects(tmp_path):
    arrays = {"x": np.arange(5), "name": np.array(["a", "b"])}
    write_arrays(tmp_path / "a.npz", arrays)
    write_arrays(tmp_path / "b.npz", arrays)
    assert io.digest(tmp_path / "a.npz") == io.digest(tmp_path / "b.npz")
    np.savez(tmp_path / "numpy.npz", **arrays)
    assert io.digest(tmp_path / "a.npz") == io.digest(tmp_path / "numpy.npz")
    with pytest.raises(TypeError, match="'x' holds Python objects"):
        write_arrays(tmp_path / "c.npz", {"x": np.array([{}])})
    assert not (tmp_path / "c.npz").exists()


def test_pickles_are_never_loaded(tmp_path):
    np.savez(tmp_path / "evil.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CubeError, match=r"evil\.npz: not a readable"):
        read_arrays(tmp_path / "evil.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(CubeError, match="not a readable"):
        read_arrays(tmp_path / "text.npz")


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), io.atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
