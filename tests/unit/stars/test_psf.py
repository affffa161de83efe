import numpy as np
import pytest
from astropy.io import fits
from scipy.special import erf

from otrain_core.errors import ImageError
from otrain_core.io import read_json
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.psf import measure_psf, psf_files
from otrain_core.stars.psf_model import PSFModel
from tests.unit.synthetic_field import field, star, width


def compare(model, fwhm, variation, shape, n=40, seed=3):
    """Largest difference from the true stars relative to their peak, and matched-filter flux, at random positions."""
    rng = np.random.default_rng(seed)
    worst, flux = [], []
    for _ in range(n):
        x, y = rng.uniform(20, shape[1] - 20), rng.uniform(20, shape[0] - 20)
        stamp, y0, x0 = model.stamp(x, y)
        truth = star(x - x0, y - y0, width(x, y, fwhm, variation, shape), stamp.shape)
        worst.append(np.abs(stamp - truth).max() / truth.max())
        flux.append((stamp * truth).sum() / (truth**2).sum())
    return np.array(worst), np.array(flux)


@pytest.mark.parametrize(("fwhm", "variation"), [(1.2, 0.0), (1.5, 0.1), (2.0, 0.15), (3.5, 0.1)])
def test_model_reproduces_stars_between_the_pixels(fwhm, variation):
    image, *_ = field(fwhm=fwhm, variation=variation, n=130)
    model, record = measure_psf(image)
    worst, flux = compare(model, fwhm, variation, image.shape)
    assert np.median(worst) < 0.015
    assert worst.max() < 0.06
    assert abs(flux.mean() - 1) < 0.01
    assert record["degree"] == 2
    # The measured width includes the pixel: it is that of the integrated profile.
    fine = np.linspace(0, 3, 3001)
    scale = fwhm / 2.3548 * np.sqrt(2)
    profile = erf((fine + 0.5) / scale) - erf((fine - 0.5) / scale)
    expected = 2 * fine[np.argmax(profile < profile[0] / 2)]
    assert record["seeing_px"] == pytest.approx(expected, rel=0.025)
    assert record["ellipticity"] < 0.05


def test_constant_model_is_worse_where_the_psf_varies():
    image, *_ = field(fwhm=2.0, variation=0.3, n=130)
    flat, varying = (
        compare(measure_psf(image, options=PsfOptions(degree=d))[0], 2.0, 0.3, image.shape)[0] for d in (0, 2)
    )
    assert np.median(varying) < 0.3 * np.median(flat)


def test_hits_hot_pixels_galaxies_and_holes_do_not_enter():
    image, *_ = field(fwhm=1.6, n=70, seed=4)
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(2, 380, 400), rng.integers(2, 380, 400)
    image.data[rows, columns] += 10 ** rng.uniform(2, 4, 400)
    image.data[rows[:200], columns[:200] + 1] += 10 ** rng.uniform(2, 4, 200)
    for _ in range(40):
        image.data += 3e4 * star(*rng.uniform(0, 384, 2), 4.0, image.shape).astype(np.float32)
    image.data[150:160] = np.nan
    image.data[:, :12] = np.nan
    model, record = measure_psf(image)
    worst, flux = compare(model, 1.6, 0.0, image.shape)
    assert record["n_stars"] >= 12
    assert np.median(worst) < 0.03
    assert abs(flux.mean() - 1) < 0.01


def test_limiting_magnitude_is_five_sigma_of_psf_photometry():
    image, *_ = field(fwhm=2.5, n=60, seed=6)
    image.zero_point = 25.0
    model, record = measure_psf(image)
    flux = 10 ** (0.4 * (25.0 - record["limit_mag"]))
    rng = np.random.default_rng(2)
    profile = model.at(190, 190)
    sky = rng.normal(0, record["background_rms"], (3000, *profile.shape))
    measured = ((sky + flux * profile) * profile).sum(axis=(1, 2)) / (profile**2).sum()
    assert measured.mean() / measured.std() == pytest.approx(5, rel=0.06)
    assert record["background_rms"] == pytest.approx(np.sqrt(200 / 1.5 + 9), rel=0.05)
    assert record["background"] == pytest.approx(200, abs=1)
    assert record["zero_point"] == 25.0


def test_degree_follows_the_number_of_stars():
    image, *_ = field(n=20, seed=9)
    assert measure_psf(image)[1]["degree"] < 2


def test_two_measurements_are_identical():
    image, *_ = field(n=40)
    first, second = measure_psf(image), measure_psf(image)
    np.testing.assert_array_equal(first[0].table, second[0].table)
    assert first[1] == second[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.data.__setitem__(..., np.random.default_rng(1).normal(100, 5, image.shape)), "0 usable"),
        (lambda image: image.data.__setitem__(..., 7.0), "no spread between pixels"),
        (lambda image: setattr(image, "saturation", 210.0), "usable stars"),
    ],
)
def test_unusable_image_is_refused(change, message):
    image, *_ = field(n=60)
    change(image)
    with pytest.raises(ImageError, match=f"image field: .*{message}"):
        measure_psf(image)


def test_too_few_stars_are_refused():
    image, *_ = field(n=60)
    with pytest.raises(ImageError, match=r"image field: psf: \d+ usable stars .* at least 500 are needed"):
        measure_psf(image, options=PsfOptions(min_stars=500))


def test_psf_files(tmp_path):
    image, *_ = field(n=60)
    fits.writeto(tmp_path / "science.fits", image.data)
    psf_files(
        science=tmp_path / "science.fits",
        psf=tmp_path / "psf.fits",
        record=tmp_path / "psf.json",
        image="one",
        detector=Detector(gain=1.5, pixel_scale=2.0, filter="r"),
        wcs=None,
        options=PsfOptions(min_stars=5),
    )
    record = read_json(tmp_path / "psf.json")
    assert record["saturation"] is None
    assert record["seeing_arcsec"] == pytest.approx(2 * record["seeing_px"])
    assert PSFModel.load(tmp_path / "psf.fits").fwhm == pytest.approx(record["seeing_px"], abs=0.02)


def test_the_record_says_where_the_zero_point_comes_from(caplog):
    image, *_ = field(n=60)
    _, record = measure_psf(image)
    assert (record["zero_point"], record["zero_point_source"]) == (30.0, "assumed")
    assert "image field: MAGZP: unknown, magnitudes are instrumental" in caplog.text
    image.zero_point = 24.5
    _, known = measure_psf(image)
    assert (known["zero_point"], known["zero_point_source"]) == (24.5, "header")
    assert known["limit_mag"] == pytest.approx(record["limit_mag"] - 5.5, abs=1e-9)


def test_trailed_stars_are_named():
    from scipy import ndimage

    image, *_ = field(fwhm=2.0, n=60, noise=False)
    image.data = ndimage.uniform_filter1d(image.data, 7, axis=1)
    image.data += np.random.default_rng(1).normal(0, 10, image.shape).astype(np.float32)
    with pytest.raises(ImageError, match=r"\d+ usable stars .*the stars are trailed \(ellipticity 0\.\d+\)") as caught:
        measure_psf(image)
    assert "raise psf.max_ellipticity" in str(caught.value)
    _, record = measure_psf(image, options=PsfOptions(max_ellipticity=0.8))
    assert record["ellipticity"] > 0.4 and abs(record["angle"]) < 5
