import numpy as np
import pytest

from otrain_core.images.frames import Image
from otrain_core.stars.one_star import fit_star, others
from otrain_core.stars.psf_stars import measure_sky
from tests.unit.synthetic_pair import GAIN

SHAPE = (420, 440)


def test_fit_is_unbiased(science, sky):
    image, psf, _ = science
    background = measure_sky(image)
    pulls, ratio = [], []
    segments = np.zeros(SHAPE, int)
    for x, y, flux in zip(sky.x, sky.y, sky.flux, strict=True):
        if np.sort(np.hypot(sky.x - x, sky.y - y))[1] > 18:
            fit = fit_star(background, segments, 1, psf, x + 0.3, y - 0.3, gain=GAIN)
            if fit is not None:
                pulls.append((fit.flux - flux) / np.hypot(fit.fluxerr, 0.01 * flux))
                ratio.append(fit.flux / flux)
                assert np.hypot(fit.x - x, fit.y - y) < 0.3 and fit.chi2 < 3
    assert len(pulls) > 20
    assert np.median(ratio) == pytest.approx(1, abs=0.02) and np.std(pulls) < 2


def alone(psf, *, x=60.3, y=50.7, flux=2e4, neighbour=None):
    """Background-subtracted image with one star, or two, on noise of 1 ADU."""
    data = np.random.default_rng(2).normal(0, 1, (100, 120))
    for px, py, light in [(x, y, flux), *([neighbour] if neighbour else [])]:
        stamp, y0, x0 = psf.stamp(px, py)
        data[y0 : y0 + stamp.shape[0], x0 : x0 + stamp.shape[1]] += light * stamp
    image = Image(name="alone", data=data.astype(np.float32), header=None, gain=1e6)
    return measure_sky(image)


def test_one_star_alone(science):
    _, psf, _ = science
    sky = alone(psf)
    fit = fit_star(sky, np.zeros((100, 120), int), 1, psf, 60.0, 51.0, gain=1e6)
    assert fit.flux == pytest.approx(2e4, abs=4 * fit.fluxerr)
    # King (1983): sigma^2 times the noise-equivalent area; slightly more, because position and level are fitted too.
    king = sky.rms * np.sqrt(psf.noise_area(60, 51))
    assert king < fit.fluxerr < 1.5 * king + 0.01 * 2e4
    assert (fit.x, fit.y) == pytest.approx((60.3, 50.7), abs=0.01)
    assert fit.covered == 1 and fit.chi2 < 2


def test_pixels_of_neighbours_are_left_out(science):
    _, psf, _ = science
    sky = alone(psf, neighbour=(66.0, 50.7, 2e4))
    segments = np.zeros((100, 120), int)
    segments[:, :63], segments[:, 63:] = 1, 2
    fit = fit_star(sky, segments, 1, psf, 60.3, 50.7, gain=1e6)
    assert fit.flux == pytest.approx(2e4, rel=0.05)
    assert fit.covered < 1
    assert others(segments, 1)[0].tolist() == [column >= 62 for column in range(120)]


def test_a_star_at_the_edge_or_without_pixels_has_no_fit(science):
    _, psf, _ = science
    sky = alone(psf)
    nothing = np.zeros((100, 120), int)
    assert fit_star(sky, nothing, 1, psf, 2.0, 50.0, gain=1e6) is None
    sky.missing[:] = True
    assert fit_star(sky, nothing, 1, psf, 60.3, 50.7, gain=1e6) is None
