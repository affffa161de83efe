import shutil

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ImageError
from otrain_core.images.wcs import image_wcs
from otrain_core.io import read_json, write_json
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.astrometry import check_wcs, refine_wcs
from otrain_core.stars.psf import measure_psf
from tests.unit.synthetic_field import field

SCALE = 1.2
needs_scamp = pytest.mark.skipif(shutil.which("scamp") is None, reason="needs the program scamp")
METHODS = [pytest.param("scamp", marks=needs_scamp), "astropy"]


def distorted_wcs(shape, ra=150.0, dec=20.0, bend=1.5e-6):
    """TAN-SIP whose distortion reaches 0.15 px in the corners."""
    header = fits.Header({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": ra, "CRVAL2": dec})
    header.update({"CRPIX1": shape[1] / 2, "CRPIX2": shape[0] / 2, "CUNIT1": "deg", "CUNIT2": "deg"})
    header.update({"CD1_1": -SCALE / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": SCALE / 3600})
    header.update({"A_ORDER": 2, "B_ORDER": 2, "A_2_0": bend, "B_1_1": bend, "A_0_2": -bend / 2})
    return WCS(header)


def shifted(wcs, dx, dy):
    """The WCS without distortion, shifted by some pixels."""
    plain = WCS(naxis=2)
    plain.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    plain.wcs.crval, plain.wcs.crpix, plain.wcs.cd = wcs.wcs.crval, wcs.wcs.crpix + [dx, dy], wcs.wcs.cd
    plain.wcs.set()
    return plain


def scene(*, off=(2.0, -1.0), ra=150.0, n=260, shape=(640, 640), bend=1.5e-6):
    image, x, y, flux = field(fwhm=2.2, n=n, shape=shape, seed=5)
    image.pixel_scale = SCALE
    truth = distorted_wcs(shape, ra=ra, bend=bend)
    image.wcs = shifted(truth, *off)
    sky = truth.all_pix2world(x, y, 0)
    mag = 25 - 2.5 * np.log10(flux)
    catalogue = pd.DataFrame({"ra": sky[0] % 360, "dec": sky[1], "mag": mag, "magerr": 0.01, "color": 0.6})
    catalogue["kind"] = "star"
    return image, catalogue, truth, x, y


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ra", [150.0, 0.0])
def test_wcs_is_refined(method, ra):
    image, catalogue, truth, x, y = scene(ra=ra)
    wcs, record = refine_wcs(image, catalogue, options=PsfOptions(astrometry=method), fwhm=2.4)
    ra_true, dec_true = truth.all_pix2world(x, y, 0)
    found_x, found_y = wcs.all_world2pix(ra_true, dec_true, 0)
    off = np.hypot(found_x - x, found_y - y)
    assert np.median(off) < 0.03
    assert off.max() < 0.15
    assert record["method"] == method
    assert record["rms_arcsec"] < 0.2 * SCALE
    assert record["rms_arcsec_before"] > 1.5 * SCALE
    assert record["n_stars"] > 100
    assert record["n_catalogue"] == len(catalogue)
    again = WCS(fits.Header.fromstring(wcs.to_header_string(relax=True)))
    np.testing.assert_allclose(again.all_world2pix(ra_true, dec_true, 0), (found_x, found_y), atol=1e-6)


def test_a_worse_solution_is_not_taken(monkeypatch, caplog):
    from otrain_core.stars import astrometry

    image, catalogue, truth, *_ = scene()
    image.wcs = truth
    monkeypatch.setattr(astrometry, "solve_by_astropy", lambda *_, **__: (shifted(truth, 0.6, 0), 3))
    wcs, record = refine_wcs(image, catalogue, options=PsfOptions(astrometry="astropy"), fwhm=2.4)
    assert wcs is truth
    assert record["method"] == "none"
    assert "worse" in record["reason"]
    assert "the original WCS is kept" in caplog.text
    monkeypatch.setattr(astrometry, "solve_by_astropy", lambda *_, **__: (None, 0))
    assert (
        "found no solution"
        in refine_wcs(image, catalogue, options=PsfOptions(astrometry="astropy"), fwhm=2.4)[1]["reason"]
    )


def test_what_is_missing_is_named():
    image, catalogue, *_ = scene(n=60, shape=(384, 384))
    with pytest.raises(ImageError, match="image field: catalogue: .* missing or empty"):
        refine_wcs(image, catalogue[:0], options=PsfOptions(astrometry="astropy"), fwhm=2.4)
    with pytest.raises(ImageError, match="contains no star"):
        refine_wcs(image, catalogue.assign(kind="galaxy"), options=PsfOptions(astrometry="astropy"), fwhm=2.4)
    image.wcs = None
    with pytest.raises(ImageError, match="image field: WCS: there is no celestial WCS .* this pipeline needs one"):
        refine_wcs(image, catalogue, options=PsfOptions(astrometry="astropy"), fwhm=2.4)
    with pytest.raises(ImageError, match="image field: WCS"):
        measure_psf(image, catalogue=catalogue, options=PsfOptions(photometry="catalogue"))


def test_the_record_carries_the_refined_wcs(tmp_path):
    image, catalogue, truth, x, y = scene()
    _, record = measure_psf(image, catalogue=catalogue, options=PsfOptions(astrometry="astropy"))
    write_json(tmp_path / "psf.json", record)
    record = read_json(tmp_path / "psf.json")
    wcs = image_wcs(image.wcs.to_header(), None, image="field", record=record)
    places = (np.array([100, 500]), np.array([200, 30]))
    np.testing.assert_allclose(wcs.all_pix2world(*places, 0), truth.all_pix2world(*places, 0), atol=0.15 / 3600)
    assert record["astrometry"]["method"] == "astropy"
    assert record["photometry"] is None
    _, plain = measure_psf(image)
    assert plain["wcs"] is plain["astrometry"] is None


def test_a_right_wcs_passes_the_check(caplog):
    image, catalogue, truth, *_ = scene()
    image.wcs = truth
    record = check_wcs(image, catalogue, options=PsfOptions(), fwhm=2.4)
    assert record["method"] == "none" and record["reason"] == ""
    assert record["n_stars"] > 100 and record["rms_arcsec"] < 0.2 * SCALE
    assert caplog.text == ""


def test_a_common_shift_is_named_and_not_refused(caplog):
    image, catalogue, *_ = scene(off=(3.0, 1.0), bend=0.0)
    record = check_wcs(image, catalogue, options=PsfOptions(), fwhm=2.4)
    assert record["rms_arcsec"] == pytest.approx(np.hypot(3, 1) * SCALE, rel=0.1)
    assert "image field: WCS: off by 3.2 px" in caplog.text


@pytest.mark.parametrize("wrong", ["mirrored", "elsewhere", "scale"])
def test_a_wcs_that_the_stars_contradict_is_refused(wrong):
    image, catalogue, truth, *_ = scene(off=(0, 0), bend=0.0)
    if wrong == "mirrored":
        image.wcs.wcs.cd = image.wcs.wcs.cd @ np.diag([-1, 1])
    elif wrong == "elsewhere":
        image.wcs.wcs.crval = image.wcs.wcs.crval + [0.02, 0.03]
    else:
        image.wcs.wcs.cd = image.wcs.wcs.cd * 1.2
    image.wcs.wcs.set()
    with pytest.raises(ImageError, match="image field: WCS: the catalogue stars are not where this WCS puts them"):
        check_wcs(image, catalogue, options=PsfOptions(), fwhm=2.4)
    with pytest.raises(ImageError, match="image field: WCS: "):
        measure_psf(image, catalogue=catalogue)


def test_few_stars_tell_nothing_of_the_wcs():
    image, catalogue, truth, *_ = scene()
    image.wcs = shifted(truth, 60, 60)
    record = check_wcs(image, catalogue[:9], options=PsfOptions(), fwhm=2.4)
    assert record["reason"].startswith("not checked: ") and "at least 20 of each" in record["reason"]
