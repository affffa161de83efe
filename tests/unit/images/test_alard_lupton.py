"""Alard-Lupton subtraction: noise, residuals of stars, and the choice of the stars and of the order of the kernel."""

import dataclasses

import numpy as np
import pytest

from otrain_core.images import alard_lupton, kernel
from otrain_core.images.resample import Mapping, resample
from tests.unit.synthetic_pair import difference, gaussian, make_sky, observe

SHAPE = (320, 360)


@pytest.fixture(scope="module")
def sky():
    return make_sky(shape=SHAPE, n=200)


def test_the_variance_of_interpolated_and_convolved_noise():
    rng = np.random.default_rng(1)
    data = rng.normal(0, 3, (300, 300)).astype(np.float32)
    mapping = Mapping(lambda x, y: (x + 0.01 * y + 5.3, y - 0.01 * x + 7.4), (280, 280))
    planes = data, np.full_like(data, 3), np.zeros(data.shape, np.uint8)
    out, sigma, _, smoothing = resample(*planes, mapping)
    field = kernel.KernelField(gaussian(0.4, 5)[None] * 0.8, np.zeros(1), (280, 280), 0, 0)
    convolved = field.apply(np.nan_to_num(out))[20:-20, 20:-20]
    expected = alard_lupton.convolved_variance(np.nan_to_num(sigma, nan=3.0) ** 2, field, smoothing)[20:-20, 20:-20]
    assert convolved.var() == pytest.approx(expected.mean(), rel=0.03)
    white = alard_lupton.convolved_variance(np.nan_to_num(sigma, nan=3.0) ** 2, field, None)[20:-20, 20:-20]
    assert expected.mean() < 0.9 * white.mean()


@pytest.mark.parametrize(
    ("fwhm", "fwhm_reference", "convolved"), [(3.4, 2.5, "reference"), (2.5, 3.4, "science"), (3.0, 3.0, None)]
)
def test_the_noise_is_right_and_the_flux_ratio_is_found(sky, fwhm, fwhm_reference, convolved):
    science = observe(sky, seed=2, fwhm=fwhm, level=150)
    reference = observe(sky, seed=3, fwhm=fwhm_reference, angle=0.2, shift=(3.4, 2.6), factor=2.0)
    result = difference(science, reference)
    if convolved:
        assert result.record["convolved"] == convolved
    assert result.record["flux_scale"] == pytest.approx(0.5, rel=0.01)
    assert 0.95 < result.record["noise_spread"] < 1.05
    assert abs(result.record["noise_centre"]) < 0.1
    # The cores of stars are as noisy as predicted, within the errors of the kernel.
    x, y = np.rint([sky.x, sky.y]).astype(int)
    inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)
    scatter = (result.diff / result.noise)[y[inside], x[inside]]
    assert np.isfinite(scatter).mean() > 0.95
    assert np.sqrt(np.nanmedian(scatter**2)) < 1.2 * 0.6745
    assert (np.abs(scatter) > 5).mean() < 0.1


def test_a_psf_that_varies_over_the_field_needs_the_order(sky):
    science = observe(sky, seed=2, fwhm=3.2, variation=0.5)
    reference = observe(sky, seed=3, fwhm=2.3, shift=(0.4, 0.3))
    bright = sky.flux > 2e4

    def residual(order):
        result = difference(science, reference, kernel_order=order)
        x, y = np.rint([sky.x[bright], sky.y[bright]]).astype(int)
        inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)
        return np.nanmedian(np.abs(result.diff / result.noise)[y[inside], x[inside]])

    constant, varying = residual(0), residual(2)
    assert varying < 2
    assert varying < 0.2 * constant


def test_a_cosmic_ray_in_a_stamp_does_not_touch_the_kernel(sky):
    science, reference = observe(sky, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4)
    clean = difference(science, reference)
    star = np.argmax(sky.flux * (np.hypot(sky.x - 180, sky.y - 160) < 100))
    x, y = round(sky.x[star]), round(sky.y[star])
    science.data[y + 3, x + 2 : x + 5] += 20000
    hit = difference(science, reference)
    assert hit.record["flux_scale"] == pytest.approx(clean.record["flux_scale"], rel=2e-3)
    near = np.s_[y - 4 : y + 2, x - 4 : x + 2]
    assert np.abs(hit.diff[near] - clean.diff[near]).max() < 3 * clean.noise[near].max()


def test_variable_stars_are_left_out_of_the_fit(sky):
    other = dataclasses.replace(sky, flux=sky.flux * np.where(np.arange(len(sky.x)) % 8 == 0, 1.5, 1.0))
    result = difference(observe(other, seed=2, fwhm=3.0), observe(sky, seed=3, fwhm=2.4))
    assert result.record["flux_scale"] == pytest.approx(1.0, rel=0.01)
    assert result.record["n_stamps_rejected"] >= 5


def test_the_order_falls_where_stars_are_few():
    few = make_sky(shape=SHAPE, n=12, margin=40, logflux=(4, 5), seed=4)
    result = difference(observe(few, seed=2, fwhm=3.0), observe(few, seed=3, fwhm=2.4))
    assert result.record["kernel_order"] < 2
    assert 0.9 < result.record["noise_spread"] < 1.1


def test_the_order_is_what_the_psf_asks_for(sky):
    reference = observe(sky, seed=3, fwhm=2.3, shift=(0.4, 0.3))
    constant = difference(observe(sky, seed=2, fwhm=3.2), reference).record
    varying = difference(observe(sky, seed=2, fwhm=3.2, variation=0.5), reference).record
    assert constant["kernel_order"] == 0
    assert varying["kernel_order"] >= 1
    assert varying["star_residual"] < 0.01
    assert difference(observe(sky, seed=2, fwhm=3.2), reference, kernel_order=1).record["kernel_order"] == 1


def test_few_stamps_leave_no_corner_noisier_than_the_centre():
    few = make_sky(shape=(640, 640), n=45, margin=10, logflux=(3.3, 5), seed=6)
    result = difference(observe(few, seed=2, fwhm=3.2), observe(few, seed=3, fwhm=2.4, shift=(0.4, 0.3)))
    noise = result.noise
    centre = np.nanmedian(noise[256:384, 256:384])
    corners = [
        np.nanmedian(noise[rows, columns])
        for rows in (np.s_[:128], np.s_[-128:])
        for columns in (np.s_[:128], np.s_[-128:])
    ]
    np.testing.assert_allclose(corners, centre, rtol=0.05)


def test_one_fit_predicts_better_than_another():
    rng = np.random.default_rng(1)
    chi2 = rng.normal(1, 0.1, 40)
    assert alard_lupton.predicts_better(chi2, chi2 + rng.normal(0.05, 0.05, 40))
    assert not alard_lupton.predicts_better(chi2, chi2 + rng.normal(0, 0.05, 40))
    assert not alard_lupton.predicts_better(chi2 + 0.05, chi2)
    variable = chi2.copy()
    variable[7] += 50  # one stamp alone
    assert not alard_lupton.predicts_better(chi2, variable)
    bright = chi2 + np.where(np.arange(40) % 4 == 0, 1.0, 0.0)
    assert alard_lupton.predicts_better(chi2, bright)
    assert not alard_lupton.predicts_better(np.full(40, np.inf), chi2)
    assert not alard_lupton.predicts_better(chi2[:4], chi2[:4] + 1)


def test_a_few_bad_pixels_under_the_wings_of_the_kernel_do_no_harm():
    field = kernel.KernelField(gaussian(1.5, 8)[None], np.zeros(1), (60, 60), 0, 0)
    bad = np.zeros((60, 60), bool)
    bad[30, 30] = True
    contaminated = alard_lupton.contaminated_pixels(bad, field)
    # 2 % of the kernel's weight: exp(-r^2 / 4.5) / 14.1 > 0.02 within 2.39 px
    rows, columns = np.indices((60, 60))
    inner = np.s_[15:45, 15:45]
    np.testing.assert_array_equal(contaminated[inner], (np.hypot(rows - 30, columns - 30) < 2.39)[inner])
    assert contaminated[0].all()


def test_the_level_of_the_sky_is_found_between_sources():
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:320, 0:320] / 159.5 - 1
    diff = (2 + 3 * x - y + rng.normal(0, 1, x.shape)).astype(np.float32)
    noise, use = np.full(diff.shape, 6, np.float32), np.ones(diff.shape, bool)
    use[100:140, 100:140], diff[100:140, 100:140] = False, 1e4
    level = alard_lupton.sky_level(diff, noise, use, 1)
    np.testing.assert_allclose(level, 2 + 3 * x - y, atol=0.05)
    use[:200] = False  # crowded: no correction
    assert not alard_lupton.sky_level(diff, noise, use, 1).any()
