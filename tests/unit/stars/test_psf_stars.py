import numpy as np
import pytest

from otrain_core.errors import ImageError
from otrain_core.stars.psf_stars import measure_sky, select_stars
from tests.unit.synthetic_field import field, star


def select(image, **changes):
    options = {"min_snr": 20.0, "max_ellipticity": 0.3, "max_stars": 400}
    return select_stars(image, measure_sky(image), **options | changes)


def off(stars, x, y):
    return np.hypot(stars.x[:, None] - x, stars.y[:, None] - y).min(axis=1)


def test_the_sky_is_that_of_the_image():
    image, *_ = field(n=40)
    image.data[100:110] = np.nan
    sky = measure_sky(image)
    assert sky.level == pytest.approx(200, abs=1)
    assert sky.rms == pytest.approx(np.sqrt(200 / 1.5 + 9), rel=0.05)
    assert (sky.missing == np.isnan(image.data)).all()
    assert (sky.data[100:110] == 0).all()
    assert abs(np.median(sky.data[~sky.missing])) < 2


def test_an_image_without_noise_is_refused():
    image, *_ = field(n=5)
    image.data[:] = 7.0
    with pytest.raises(ImageError, match="image field: data: the noise of the sky cannot be measured"):
        measure_sky(image)


def test_stars_are_isolated_bright_and_unsaturated():
    image, x, y, flux = field(n=60, fwhm=2.2, saturation=6000.0, seed=3)
    stars = select(image)
    assert len(stars.x) > 20
    assert off(stars, x, y).max() < 0.5
    assert (np.diff(stars.flux) <= 0).all()  # brightest first
    row, column = np.round(stars.y).astype(int), np.round(stars.x).astype(int)
    assert (image.data[row, column] < 0.8 * 6000).all()
    # No star has a source with more than 2 % of its flux within five half-light radii.
    nearest = np.hypot(stars.x[:, None] - x, stars.y[:, None] - y)
    mine = nearest.argmin(axis=1)
    for k, own in enumerate(mine):
        near = np.flatnonzero((nearest[k] < 4 * stars.half_light) & (np.arange(len(x)) != own))
        assert (flux[near] < 0.1 * flux[own]).all()
    assert len(select(image, max_stars=7).x) == 7


def test_wide_and_sharp_things_are_no_stars():
    image, x, y, _ = field(n=70, fwhm=2.0, seed=4)
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(5, 378, (2, 60))
    image.data[rows, columns] += 20000
    wide = rng.uniform(20, 360, (15, 2))
    for px, py in wide:
        image.data += 5e4 * star(px, py, 5.0, image.shape).astype(np.float32)
    stars = select(image)
    assert len(stars.x) > 15
    assert off(stars, x, y).max() < 0.6
