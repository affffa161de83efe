from dataclasses import replace

import numpy as np
import pytest

from otrain_core.stars.psf_fit import fit_stars, misfit
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import measure_sky, select_stars
from tests.unit.synthetic_field import field, star


@pytest.fixture(scope="module")
def scene():
    image, *_ = field(fwhm=2.2, n=110, seed=8)
    sky = measure_sky(image)
    return image, sky, select_stars(image, sky, min_snr=20, max_ellipticity=0.3, max_stars=400)


def test_the_table_is_the_profile_of_the_stars(scene):
    image, sky, stars = scene
    table, oversampling, used, degree, residual = fit_stars(stars, image, sky.rms, 1, 8)
    assert (degree, table.shape[0]) == (1, 3)
    assert used > 0.7 * len(stars.x)
    assert 0 < residual < 0.05
    model = PSFModel(table, degree, oversampling, image.shape)
    truth = star(model.radius, model.radius, 2.2, (model.size, model.size))
    np.testing.assert_allclose(model.at(190.0, 190.0), truth, atol=0.01 * truth.max())


def test_the_degree_is_what_the_stars_allow(scene):
    image, sky, stars = scene
    assert fit_stars(stars, image, sky.rms, 0, 8)[3] == 0
    few = replace(stars, x=stars.x[:9], y=stars.y[:9], flux=stars.flux[:9], labels=stars.labels[:9])
    assert fit_stars(few, image, sky.rms, 4, 4)[3] == 0  # two stars for each of the terms of degree 1 are too few


def test_too_few_stars_give_a_void_table(scene):
    image, sky, stars = scene
    table, _, used, degree, residual = fit_stars(stars, image, sky.rms, 2, 1000)
    assert used < 1000 and degree == 0 and np.isnan(residual) and not table.any()


def test_misfit_tells_a_wrong_profile_from_the_right_one(scene):
    image, sky, stars = scene

    def profile(fwhm):
        return lambda x, y, dx, dy: star(-dx[0], -dy[0], fwhm, (len(dy), len(dx)))

    right, wrong = (misfit(stars, image, sky.rms, profile(fwhm), fwhm) for fwhm in (2.2, 3.0))
    assert right < 0.03 and wrong > 4 * right
