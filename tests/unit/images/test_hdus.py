"""Reading of FITS files: extensions, masks, scaled pixels, overscan."""

import os

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.hdus import read_fits
from otrain_core.images.wcs import celestial_wcs, pixel_to_sky

SCALE = 1.2 / 3600
WCS = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 150.0, "CRVAL2": 20.0, "CRPIX1": 25.5, "CRPIX2": 20.5}
WCS |= {"CD1_1": -SCALE, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE}


def sky(value=500.0, shape=(40, 50), seed=3):
    return np.random.default_rng(seed).normal(value, 5, shape).astype(np.float32)


def hdu(data, name=None, **cards):
    made = fits.ImageHDU(data, fits.Header(cards))
    if name:
        made.header["EXTNAME"] = name
    return made


def write(path, *hdus, **primary):
    fits.HDUList([fits.PrimaryHDU(header=fits.Header(primary)), *hdus]).writeto(path, overwrite=True)
    return path


def test_the_image_is_found_among_its_companions(tmp_path):
    data, mask = sky(), np.zeros((40, 50), np.uint8)
    for name, hdus in {
        "mask first": [hdu(mask, "MASK"), hdu(data, "SCI")],
        "preview first": [hdu(data[::8, ::8], "PREVIEW"), hdu(data)],
        "small first": [hdu(data[::3, ::3]), hdu(data)],
        "errors after": [hdu(data, "SCI"), hdu(mask, "BPM"), hdu(data, "ERR"), hdu(data, "WHT")],
        "two named": [hdu(data + 1, "RAW"), hdu(data, "SCI")],
        "mask alone": [hdu(data, "MASK")],
    }.items():
        found, header = read_fits(write(tmp_path / "a.fits", *hdus, GAIN=2.0), image="a")
        np.testing.assert_array_equal(found, data, err_msg=name)
        assert header["GAIN"] == 2.0


def test_several_images_want_a_name(tmp_path):
    one, two = sky(), sky(700.0)
    path = write(tmp_path / "a.fits", hdu(one, "CCD1"), hdu(two, "CCD2"), hdu(one * 0, "BPM", EXTVER=2))
    with pytest.raises(ImageError, match=r"image a: extension: .*2 images \(CCD1, CCD2\).*a.fits\[CCD1\]"):
        read_fits(path, image="a")
    np.testing.assert_array_equal(read_fits(f"{path}[CCD2]", image="a")[0], two)
    np.testing.assert_array_equal(read_fits(f"{path}[1]", image="a")[0], one)
    np.testing.assert_array_equal(read_fits(path, image="a", extension="ccd2")[0], two)
    np.testing.assert_array_equal(read_fits(path, image="a", extension=2)[0], two)
    with pytest.raises(ImageError, match=r"no image extension 'CCD9'; there are CCD1, CCD2, BPM,2"):
        read_fits(path, image="a", extension="CCD9")
    alone = write(tmp_path / "c.fits", hdu(one, "SCI"))
    assert read_fits(alone, image="a", extension="CCD2")[0].shape == (40, 50)  # a file written by a step has one image
    with pytest.raises(ImageError, match="no image extension 'CCD2'"):
        read_fits(f"{alone}[CCD2]", image="a")
    versions = write(tmp_path / "b.fits", hdu(one, "SCI", EXTVER=1), hdu(two, "SCI", EXTVER=2))
    np.testing.assert_array_equal(read_fits(f"{versions}[SCI,2]", image="a")[0], two)
    np.testing.assert_array_equal(read_fits(f"{versions}[SCI]", image="a")[0], one)


def test_bad_pixels_of_an_extension_are_missing(tmp_path):
    data, bad = sky(), np.zeros((40, 50), np.uint8)
    bad[3, 4] = 1
    found, _ = read_fits(write(tmp_path / "a.fits", hdu(data, "SCI"), hdu(bad, "BPM")), image="a")
    np.testing.assert_array_equal(np.isnan(found), bad > 0)
    with pytest.raises(ImageError, match=r"image a: BPM: .*shape \(10, 50\), but the image has \(40, 50\)"):
        read_fits(write(tmp_path / "a.fits", hdu(data, "SCI"), hdu(bad[:10], "BPM")), image="a")


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.uint32, np.float32])
def test_a_mask_of_any_type_of_number_marks_the_same_pixels(tmp_path, kind):
    bad = np.zeros((40, 50), kind)  # FITS stores int8 and unsigned integers with an offset, BZERO
    bad[3, 4] = 1
    found, _ = read_fits(write(tmp_path / "a.fits", hdu(sky(), "SCI"), hdu(bad, "BPM")), image="a")
    np.testing.assert_array_equal(np.isnan(found), bad > 0)


def test_the_wcs_of_the_primary_is_not_mixed_with_that_of_the_extension(tmp_path):
    sip = {"A_ORDER": 2, "B_ORDER": 2, "A_2_0": 1e-4, "B_0_2": 1e-4}
    far = WCS | {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CD1_1": -4 * SCALE, "CD2_2": 4 * SCALE} | sip
    pc = {key: value for key, value in WCS.items() if key[:2] != "CD"} | {"PC1_1": 1.0, "PC2_2": 1.0}
    pc |= {"CDELT1": -SCALE, "CDELT2": SCALE}
    _, header = read_fits(write(tmp_path / "a.fits", hdu(sky(), **pc), **far, GAIN=2.0), image="a")
    assert not [key for key in header if key.startswith(("A_", "B_", "CD1"))] and header["GAIN"] == 2.0
    np.testing.assert_allclose(pixel_to_sky(celestial_wcs(header, image="a"), 24.5, 19.5), [150, 20], atol=1e-9)
    _, header = read_fits(write(tmp_path / "a.fits", hdu(sky()), **WCS), image="a")
    assert celestial_wcs(header, image="a") is not None  # the WCS of the primary header belongs to the only image
    _, header = read_fits(
        write(tmp_path / "a.fits", hdu(sky(), "CCD1"), hdu(sky(), "CCD2"), **WCS), image="a", extension=1
    )
    assert celestial_wcs(header, image="a") is None


def stored(path, values, compressed=False, **cards):
    """An HDU of raw integers with BZERO, BSCALE and BLANK as cards."""
    plain = fits.PrimaryHDU(values)
    plain.header.update(cards)
    plain.writeto(path, overwrite=True)
    if compressed:
        with fits.open(path, do_not_scale_image_data=True) as hdus:
            packed = fits.CompImageHDU(hdus[0].data, hdus[0].header)
            packed.header.update(cards)
            fits.HDUList([fits.PrimaryHDU(), packed]).writeto(path.with_suffix(".fz"), overwrite=True)
        return path.with_suffix(".fz")
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_blank_is_missing(tmp_path, compressed):
    counts = np.round(sky()).astype(int)
    values = (counts - 32768).astype(np.int16)
    values[:, :5] = 32767
    path = stored(tmp_path / "a.fits", values, compressed, BZERO=32768, BSCALE=1, BLANK=32767)
    found, _ = read_fits(path, image="a")
    assert np.isnan(found[:, :5]).all()
    np.testing.assert_array_equal(found[:, 5:], counts[:, 5:])
    wide = counts.astype(np.int32)
    wide[3] = -(2**31)
    found, _ = read_fits(stored(tmp_path / "b.fits", wide, compressed, BLANK=-(2**31)), image="a")
    assert np.isnan(found[3]).all() and found[4, 0] == counts[4, 0]


def test_unsigned_without_blank_and_scaled_integers(tmp_path):
    counts = np.arange(2000, dtype=np.uint16).reshape(40, 50) * 32
    fits.PrimaryHDU(counts).writeto(tmp_path / "a.fits")
    np.testing.assert_array_equal(read_fits(tmp_path / "a.fits", image="a")[0], counts)
    path = stored(tmp_path / "b.fits", (counts // 32).astype(np.int16), BSCALE=0.5, BZERO=100.0)
    np.testing.assert_allclose(read_fits(path, image="a")[0], counts / 64 + 100)


def test_a_huge_level_is_refused(tmp_path):
    fits.PrimaryHDU(sky().astype(np.float64) + 2**31).writeto(tmp_path / "a.fits")
    with pytest.raises(ImageError, match="image a: data: a level of 2.15e[+]09 with a noise of 5.*subtract the level"):
        read_fits(tmp_path / "a.fits", image="a")
    fits.PrimaryHDU(sky().astype(np.float64) + 2**14).writeto(tmp_path / "b.fits")
    assert read_fits(tmp_path / "b.fits", image="a")[0].dtype == np.float32


def test_overscan_is_cut_off_and_its_level_subtracted(tmp_path):
    data = sky()
    raw = np.random.default_rng(5).normal(1000, 2, (44, 70)).astype(np.float32)
    raw[2:42, 6:56] = data + 1000
    cards = WCS | {
        "CRPIX1": 31.5,
        "CRPIX2": 22.5,
        "BIASSEC": "[60:70,1:44]",
        "TRIMSEC": "[7:56,3:42]",
        "DATASEC": "[1:70,1:44]",
    }
    fits.PrimaryHDU(raw, fits.Header(cards)).writeto(tmp_path / "a.fits")
    found, header = read_fits(tmp_path / "a.fits", image="a")
    np.testing.assert_allclose(found, data, atol=0.5)
    assert (header["OTTRIMX"], header["OTTRIMY"]) == (6, 2) and header["OTBIAS"] == pytest.approx(1000, abs=0.5)
    np.testing.assert_allclose(pixel_to_sky(celestial_wcs(header, image="a"), 24.5, 19.5), [150, 20], atol=1e-9)
    assert not {"TRIMSEC", "DATASEC", "BIASSEC"} & set(header)


@pytest.mark.parametrize("section", ["[1:50,1:40]", "[33:2080,1:2048]"])
def test_a_frame_that_was_cut_before_is_left(tmp_path, section):
    fits.PrimaryHDU(sky(), fits.Header({"TRIMSEC": section, "BIASSEC": "[2081:2100,1:2048]"})).writeto(
        tmp_path / "a.fits"
    )
    found, header = read_fits(tmp_path / "a.fits", image="a")
    np.testing.assert_array_equal(found, sky())
    assert "OTTRIMX" not in header


def test_a_section_that_is_none_is_refused(tmp_path):
    fits.PrimaryHDU(sky(), fits.Header({"TRIMSEC": "all"})).writeto(tmp_path / "a.fits")
    with pytest.raises(ImageError, match=r"image a: TRIMSEC: must be a section \[x1:x2,y1:y2\], not 'all'"):
        read_fits(tmp_path / "a.fits", image="a")


def test_colour_planes_are_named(tmp_path):
    fits.PrimaryHDU(np.stack([sky()] * 3)).writeto(tmp_path / "a.fits")
    with pytest.raises(ImageError, match=r"image a: NAXIS: .*shape \(3, 40, 50\) \(colours\?\)"):
        read_fits(tmp_path / "a.fits", image="a")
    fits.PrimaryHDU(sky()[None]).writeto(tmp_path / "b.fits")
    assert read_fits(tmp_path / "b.fits", image="a")[0].shape == (40, 50)


def test_history_is_not_carried_along(tmp_path):
    header = fits.Header({"GAIN": 2.0})
    for k in range(100):
        header.add_history(f"step {k}")
    fits.PrimaryHDU(sky(), header).writeto(tmp_path / "a.fits")
    assert "HISTORY" not in read_fits(tmp_path / "a.fits", image="a")[1]


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(ImageError, match="image a: path: .*: a folder, not an image"):
        read_fits(tmp_path, image="a")


def test_a_named_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "a.fits")
    with pytest.raises(ImageError, match="image a: path: .*no such file"):
        read_fits(tmp_path / "a.fits", image="a")
