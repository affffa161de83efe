"""Tests of cutouts from a difference image, and of their PSF."""

import numpy as np
import pytest
from astropy.io import fits

from otrain_core.classify.new_candidates import MoffatPSF, choose_psf, cut_candidates
from otrain_core.errors import ConfigError, ImageError
from tests.unit.synthetic_difference import SEEING, grid_of_sources, tangential


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    (diff, _, _), _, sources = grid_of_sources(30)
    path = tmp_path_factory.mktemp("field") / "diff.fits"
    diff[:, 100] = np.nan
    fits.PrimaryHDU(diff, tangential().to_header()).writeto(path)
    return path, sources


def test_cutouts_of_a_list(field):
    path, sources = field
    cutouts, table = cut_candidates(path, {"x": [*sources["x"], 1e6], "y": [*sources["y"], 3.0]}, size=21, psf=SEEING)
    assert cutouts["cube"].shape == (len(sources), 21, 21, 5)
    assert table["candid"].tolist() == [str(k + 1) for k in range(len(sources))]
    difference, psf = cutouts["cube"][..., 0], cutouts["cube"][..., 4]
    near_column = np.abs(np.floor(sources["x"].to_numpy() + 0.5) - 100) < 10
    assert (np.isnan(difference).any(axis=(1, 2)) == near_column).all()
    clear = ~near_column
    flux = np.nansum(difference[clear] * psf[clear], axis=(1, 2)) / np.nansum(psf[clear] ** 2, axis=(1, 2))
    assert np.median(flux / sources["flux"][clear]) == pytest.approx(1, abs=0.03)
    assert (cutouts["seeing"] == SEEING).all() and cutouts["pixel_scale"][0] == pytest.approx(1.0)


def test_masked_pixels_of_an_array_are_missing():
    diff = np.random.default_rng(1).normal(0, 5, (64, 64)).astype(np.float32)
    diff[30, 30] = 1e6
    for plane in (np.ma.masked_greater(diff, 1e5), np.where(diff > 1e5, np.nan, diff)):
        cutouts, _ = cut_candidates(plane, {"x": [32.0], "y": [32.0]}, size=21, psf=3.0)
        assert np.argwhere(np.isnan(cutouts["cube"][0, ..., 0])).tolist() == [[8, 8]]


def test_detection_where_there_is_no_list(field):
    path, sources = field
    _, table = cut_candidates(path, size=21, psf=str(SEEING))
    assert 0.85 * len(sources) <= len(table["x"]) <= 1.1 * len(sources)


def test_detection_with_nothing_but_a_difference(field, caplog):
    """The FWHM is estimated from bright sources, but the cutouts do not contain it."""
    path, sources = field
    cutouts, table = cut_candidates(path, size=21)
    assert 0.85 * len(sources) <= len(table["x"]) <= 1.1 * len(sources)
    told = float(caplog.text.split("FWHM of ")[1].split()[0])
    assert told == pytest.approx(SEEING, rel=0.25)
    assert "seeing" not in cutouts and np.isnan(cutouts["cube"][..., 4]).all()
    noise = np.random.default_rng(1).normal(0, 5, (200, 200)).astype(np.float32)
    cut_candidates(noise, size=21)
    assert "diff: no PSF" in caplog.text and "difference: no PSF and no science image" in caplog.text


def test_binned_images(field, tmp_path):
    """Positions are in pixels of the image; flux and PSF are summed over the same pixels."""
    path, sources = field
    whole, _ = cut_candidates(path, sources, size=64, psf=SEEING)
    cutouts, table = cut_candidates(path, sources, size=32, psf=SEEING, bin=2)
    assert np.allclose(table["x"], sources.x) and np.allclose(table["y"], sources.y)
    assert (cutouts["seeing"] == SEEING / 2).all() and cutouts["pixel_scale"][0] == pytest.approx(2.0)
    difference, psf = cutouts["cube"][..., 0], cutouts["cube"][..., 4]
    of_column = np.isnan(difference).all(axis=1).sum(axis=1)  # binned, a missing column is one of twice the width
    near_column = np.abs(sources["x"].to_numpy() - 100) < 30
    assert (of_column[near_column] == 1).all()
    flux = np.nansum(difference * psf, axis=(1, 2)) / np.nansum(psf**2, axis=(1, 2))
    assert np.median(flux / sources.flux) == pytest.approx(1, abs=0.05)
    assert psf.sum(axis=(1, 2)) == pytest.approx(whole["cube"][..., 4].sum(axis=(1, 2)), abs=0.03)
    _, found = cut_candidates(path, size=16, psf=SEEING, bin=2)
    distance = np.hypot(found["x"][:, None] - sources.x.to_numpy(), found["y"][:, None] - sources.y.to_numpy())
    assert np.median(distance.min(axis=1)) < 0.5
    sky = tangential().all_pix2world(found["x"], found["y"], 0)
    assert np.allclose(found["ra"], sky[0]) and np.allclose(found["dec"], sky[1])
    for wrong in (0, 1000):
        with pytest.raises(ConfigError, match="bin: must be from 1 to"):
            cut_candidates(path, sources, size=16, psf=SEEING, bin=wrong)


def test_the_sky_of_science_and_reference_is_subtracted(field, tmp_path):
    path, sources = field
    data = fits.getdata(path)
    for name, sky in (("science", 500.0), ("reference", 80.0)):
        fits.PrimaryHDU(data + np.float32(sky)).writeto(tmp_path / f"{name}.fits")
    planes = {name: tmp_path / f"{name}.fits" for name in ("science", "reference")}
    cube = cut_candidates(path, sources, size=16, psf=SEEING, **planes)[0]["cube"]
    for channel in (1, 2):
        assert abs(np.nanmedian(cube[..., channel])) < 3
        assert np.nanmax(np.abs(cube[..., channel] - cube[..., 0])) < 10


def test_psfs_and_planes_that_cannot_be_used(field, tmp_path):
    with pytest.raises(ConfigError, match="FWHM must be from 0.5 to 100 px"):
        choose_psf(0.0)
    with pytest.raises(ImageError, match="neither a number nor an existing file"):
        choose_psf("wide")
    fits.PrimaryHDU(np.zeros((5, 5), np.float32)).writeto(tmp_path / "small.fits")
    with pytest.raises(ImageError, match="differs from that of the difference image"):
        cut_candidates(field[0], {"x": [9.0], "y": [9.0]}, size=9, reference=tmp_path / "small.fits", psf=2.0)
    stamp, y0, x0 = MoffatPSF(3.0).stamp(20.3, 10.0)
    rows, columns = np.mgrid[: stamp.shape[0], : stamp.shape[1]]
    assert stamp.sum() == pytest.approx(1)
    assert (stamp * (columns + x0)).sum() == pytest.approx(20.3, abs=0.02)
    assert (stamp * (rows + y0)).sum() == pytest.approx(10.0, abs=0.02)


def test_candidates_outside_the_image_are_counted(caplog):
    data = np.zeros((60, 80), np.float32)
    table = {"x": [30.0, 500.0, -7.0], "y": [30.0, 10.0, 20.0]}
    cutouts, found = cut_candidates(data, table, size=21)
    assert found["candid"].tolist() == ["1"] and len(cutouts["cube"]) == 1
    assert "2 of 3 candidates lie outside" in caplog.text
    with pytest.raises(ConfigError, match="none of the 2 candidates lies in the image of 80 x 60 px"):
        cut_candidates(data, {key: values[1:] for key, values in table.items()}, size=21)


def test_a_candidate_on_the_other_side_of_the_sky_is_outside(tmp_path, caplog):
    wcs = tangential(2.0)
    fits.PrimaryHDU(np.zeros((60, 80), np.float32), wcs.to_header()).writeto(tmp_path / "diff.fits")
    ra, dec = wcs.all_pix2world([30.0], [25.0], 0)
    table = {"ra": [float(ra[0]), float(ra[0]) + 180, 12.0], "dec": [float(dec[0]), -float(dec[0]), -89.0]}
    _, found = cut_candidates(tmp_path / "diff.fits", table, size=21)
    assert found["x"] == pytest.approx([30.0], abs=1e-4) and found["y"] == pytest.approx([25.0], abs=1e-4)
    assert "2 of 3 candidates lie outside" in caplog.text


def test_an_image_smaller_than_a_cutout_says_so():
    with pytest.raises(ImageError, match="the image of 30 x 20 px is smaller than a cutout of the model, 32 x 32 px"):
        cut_candidates(np.zeros((20, 30), np.float32), {"x": [10.0], "y": [10.0]}, size=32)
