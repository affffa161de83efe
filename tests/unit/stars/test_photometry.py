import numpy as np
import pandas as pd
import pytest

from otrain_core.errors import ImageError
from otrain_core.io import write_table
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.photometry import photometric_solution
from otrain_core.stars.psf import measure_psf, psf_files
from tests.unit.stars.test_astrometry import SCALE, distorted_wcs
from tests.unit.synthetic_field import field

ZERO, TERM = 24.3, 0.2


@pytest.fixture(scope="module")
def scene():
    image, x, y, flux = field(fwhm=2.2, n=200, shape=(512, 512), seed=6, logflux=(3.8, 5.2))
    image.wcs, image.pixel_scale, image.zero_point = distorted_wcs(image.shape), SCALE, 29.0
    ra, dec = image.wcs.all_pix2world(x, y, 0)
    rng = np.random.default_rng(2)
    color = rng.normal(0.6, 0.3, len(x))
    mag = ZERO - 2.5 * np.log10(flux) + TERM * color
    mag[:12] += rng.uniform(0.4, 1.5, 12)  # variables
    table = pd.DataFrame({"ra": ra, "dec": dec, "mag": mag, "magerr": 0.01, "color": color, "kind": "star"})
    model, record = measure_psf(image)
    return image, table, model, record


def test_zero_point_and_colour_term(scene):
    image, table, model, _ = scene
    record = photometric_solution(image, table, model=model)
    assert record["zero_point"] == pytest.approx(ZERO, abs=0.01)
    assert record["color_term"] == pytest.approx(TERM, abs=0.02)
    assert record["zero_point_err"] < 0.01
    assert record["scatter"] < 0.03
    assert record["n_stars"] > 80


def test_without_colours_there_is_no_colour_term(scene):
    image, table, model, _ = scene
    record = photometric_solution(image, table.assign(color=np.nan, magerr=np.nan), model=model)
    assert np.isnan(record["color_term"])
    assert record["zero_point"] == pytest.approx(ZERO + 0.6 * TERM, abs=0.03)
    assert record["scatter"] > 0.02


def test_record_takes_the_zero_point_of_the_catalogue(scene):
    image, table, _, plain = scene
    _, record = measure_psf(image, catalogue=table, options=PsfOptions(photometry="catalogue"))
    assert (plain["zero_point"], plain["zero_point_source"]) == (29.0, "header")
    assert record["zero_point_source"] == "catalogue"
    assert record["zero_point"] == record["photometry"]["zero_point"] == pytest.approx(ZERO, abs=0.01)
    change = record["zero_point"] - 29.0
    assert record["limit_mag"] == pytest.approx(plain["limit_mag"] + change, abs=1e-9)
    assert record["wcs"] is None


def test_galaxies_and_faint_fields_do_not_make_a_zero_point(scene):
    image, table, model, _ = scene
    with pytest.raises(ImageError, match="image field: photometry: too few stars"):
        photometric_solution(image, table[20:24], model=model)
    with pytest.raises(ImageError, match="image field: photometry: too few stars"):
        photometric_solution(
            image, table.assign(dec=table.dec + 0.02), model=model, options=PsfOptions(match_radius=0.5)
        )
    with pytest.raises(ImageError, match="image field: catalogue"):
        measure_psf(image, catalogue=None, options=PsfOptions(photometry="catalogue"))


def test_psf_files_reads_the_catalogue(scene, tmp_path):
    from astropy.io import fits

    from otrain_core.images.frames import read_image
    from otrain_core.io import read_json

    image, table, *_ = scene
    header = image.wcs.to_header(relax=True)
    fits.writeto(tmp_path / "science.fits", image.data, header)
    write_table(tmp_path / "catalogue.csv", table)
    detector = Detector(gain=1.5, saturation=6e4)
    psf_files(
        science=tmp_path / "science.fits",
        catalogue=tmp_path / "catalogue.csv",
        psf=tmp_path / "psf.fits",
        record=tmp_path / "psf.json",
        image="one",
        detector=detector,
        wcs=None,
        options=PsfOptions(photometry="catalogue", astrometry="astropy"),
    )
    record = read_json(tmp_path / "psf.json")
    assert record["zero_point"] == pytest.approx(ZERO, abs=0.01)
    again = read_image(tmp_path / "science.fits", name="one", detector=detector, record=record)
    expected = read_image(tmp_path / "science.fits", name="one", detector=detector)
    if record["wcs"] is not None:  # None if the original WCS was kept
        assert again.wcs.to_header_string(relax=True) == record["wcs"]
    places = (np.array([9, 300]), np.array([400, 30]))
    np.testing.assert_allclose(
        again.wcs.all_pix2world(*places, 0), expected.wcs.all_pix2world(*places, 0), atol=0.2 / 3600
    )
