import galsim
import numpy as np
import pandas as pd
import pytest

from otrain_core.sky.optics import Distortion, FieldPSF, draw_sources, limiting_magnitude


def field_psf(fwhm, *, beta=3.0, variation=0.1, trail=0.2, ellipticity=0.05, defocus=0.0, defocus_tilt=(0, 0)):
    return FieldPSF(
        (300, 400),
        fwhm=fwhm,
        beta=beta,
        ellipticity=ellipticity,
        variation=variation,
        trail=trail,
        rng=np.random.default_rng(3),
        defocus=defocus,
        defocus_tilt=defocus_tilt,
    )


@pytest.fixture(scope="module", params=[1.3, 2.5, 4.5, 8.0])
def psf(request):
    return field_psf(request.param)


def test_flux_is_conserved_wherever_the_star_falls_on_the_pixels(psf):
    rng = np.random.default_rng(1)
    sums = [psf.stamp(*rng.uniform(50, 250, 2), psf.half)[0].sum() for _ in range(40)]
    assert np.all(np.abs(np.array(sums) - 1) < 0.01)


def test_centroid_is_the_position(psf):
    for x, y in [(120.0, 80.0), (120.5, 80.25), (119.61, 80.49)]:
        stamp, y0, x0 = psf.stamp(x, y, psf.half)
        ys, xs = np.indices(stamp.shape)
        assert (xs * stamp).sum() / stamp.sum() + x0 == pytest.approx(x, abs=0.02)
        assert (ys * stamp).sum() / stamp.sum() + y0 == pytest.approx(y, abs=0.02)


def test_stamp_agrees_with_a_direct_drawing_by_galsim(psf):
    # a node of the grid, so that only the sub-pixel interpolation is tested
    x, y = (psf.shape[1] - 1) * 0.5, (psf.shape[0] - 1) * 0.25
    stamp, y0, x0 = psf.stamp(x, y, psf.half)
    direct = psf.smeared(x, y).drawImage(
        nx=stamp.shape[1], ny=stamp.shape[0], scale=1.0, offset=(x - x0 - psf.half, y - y0 - psf.half)
    )
    assert np.abs(stamp - direct.array).max() < 0.005 * direct.array.max()


def test_between_nodes_the_psf_follows_the_profile():
    psf = field_psf(2.5, variation=0.2)
    x, y = 0.86 * 399, 0.9 * 299
    stamp, y0, x0 = psf.stamp(x, y, 12)
    direct = psf.smeared(x, y).drawImage(nx=25, ny=25, scale=1.0, offset=(x - x0 - 12, y - y0 - 12))
    assert np.abs(stamp - direct.array).max() < 0.02 * direct.array.max()


def test_wings_of_bright_stars_join_the_core():
    psf = field_psf(2.5, trail=0.0, variation=0.0)
    stamp, _, _ = psf.stamp(100.0, 100.0, psf.half + 40)
    row = stamp[psf.half + 40]
    edge = 40 + 2 * psf.half + 1  # first column of the wings
    step = np.log(row[edge + 1 : edge - 4 : -1])
    assert np.all(np.diff(step) > 0)
    assert np.ptp(np.diff(step)) < 0.1
    assert stamp.sum() == pytest.approx(1, abs=0.002)


def test_fwhm_includes_the_pixel():
    psf = field_psf(2.0, variation=0.0, trail=0.0, ellipticity=0.0)
    assert psf.fwhm == pytest.approx(2.0, rel=0.03)
    fine = galsim.Convolve(psf.profile(0, 0), galsim.Pixel(1.0)).calculateFWHM()
    assert fine == pytest.approx(2.0, rel=0.01)


def test_fwhm_grows_towards_the_corners_and_trailing_widens():
    psf = field_psf(2.5, variation=0.3, trail=0.0)
    corners = [psf.profile(x, y).original.fwhm for x in (0, 399) for y in (0, 299)]
    assert np.mean(corners) / psf.profile(199.5, 149.5).original.fwhm == pytest.approx(1.3, rel=0.01)
    assert field_psf(2.5, trail=2.0).fwhm > 1.05 * field_psf(2.5, trail=0.0).fwhm


def test_defocus_makes_a_ring_that_changes_over_the_field():
    psf = field_psf(2.5, variation=0.0, trail=0.0, ellipticity=0.0, defocus=15.0, defocus_tilt=(0.4, 0.0))
    stamp, y0, x0 = psf.stamp(200.0, 150.0, psf.half)
    y, x = np.indices(stamp.shape)
    r = np.hypot(x + x0 - 200, y + y0 - 150)
    ring, middle = stamp[(r > 4.0) & (r < 6.5)].mean(), stamp[r < 1].mean()
    assert stamp.sum() == pytest.approx(1, abs=0.01) and ring > 1.5 * middle
    assert stamp[r < 8.5].sum() > 0.85
    left, right = (psf.stamp(edge, 150.0, psf.half)[0].max() for edge in (10.0, 390.0))
    assert left > 1.5 * right
    assert psf.fwhm > 2 * field_psf(2.5, variation=0.0, trail=0.0, ellipticity=0.0).fwhm


def test_limiting_magnitude_is_that_of_psf_photometry():
    psf = field_psf(3.0, variation=0.0, trail=0.0, ellipticity=0.0)
    stamp, _, _ = psf.stamp(100.0, 100.0, psf.half)
    noise = 7.0
    flux = 5 * noise / np.sqrt((stamp.astype(float) ** 2).sum())
    limit = limiting_magnitude(fwhm=3.0, beta=3.0, noise=noise, zero_point=25.0)
    assert limit == pytest.approx(25 - 2.5 * np.log10(flux), abs=0.03)


def distortion(seed=5, amplitude=0.2, shape=(300, 400)):
    return Distortion(shape, amplitude=amplitude, rng=np.random.default_rng(seed))


def test_distortion_is_smooth_and_scales_with_its_amplitude():
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:300:20, :400:20])
    dx, dy = distortion().shift(x, y)
    twice = distortion(amplitude=0.4).shift(x, y)
    np.testing.assert_allclose(twice[0], 2 * dx)
    np.testing.assert_allclose(twice[1], 2 * dy)
    assert 0.05 < np.hypot(dx, dy).max() < 5 * 0.2
    near = distortion().shift(x + 1, y)
    assert np.abs(near[0] - dx).max() < 0.03


def test_no_cubic_polynomial_removes_the_distortion():
    """What is left after alignment makes dipoles."""
    y, x = (axis.ravel().astype(float) for axis in np.mgrid[:300:10, :400:10])
    u, v = x / 200 - 1, y / 150 - 1
    terms = np.array([u**i * v**j for i in range(4) for j in range(4 - i)]).T
    left = []
    for seed in range(8):
        dx, _ = distortion(seed).shift(x, y)
        assert dx.std() > 0.05
        left.append((dx - terms @ np.linalg.lstsq(terms, dx, rcond=None)[0]).std())
    assert 0.01 < np.mean(left) < 0.15


def test_sources_are_drawn_with_their_flux_and_where_they_are():
    psf = field_psf(2.5, variation=0.0, trail=0.0)
    galaxy = {"radius": 2.0, "bulge": 0.3, "axis_ratio": 0.7, "angle": 20.0}
    sources = pd.DataFrame(
        [
            {"kind": "star", "x": 100.3, "y": 80.6, "flux": 5000.0} | galaxy,
            {"kind": "galaxy", "x": 290.1, "y": 200.2, "flux": 8000.0} | galaxy,
            {"kind": "star", "x": -300.0, "y": 100.0, "flux": 10.0} | galaxy,
            {"kind": "star", "x": 399.0, "y": 20.0, "flux": 3000.0} | galaxy,
        ]
    )
    image = draw_sources(sources, psf, scale=1.0, turn=0.0, faint=0.01)
    assert image.shape == (300, 400) and image.dtype == np.float32
    y, x = np.indices(image.shape)
    for source in sources.iloc[:2].itertuples():
        part = np.hypot(x - source.x, y - source.y) < 45
        assert image[part].sum() == pytest.approx(source.flux, rel=0.02)
        assert np.average(x[part], weights=image[part]) == pytest.approx(source.x, abs=0.1)
        assert np.average(y[part], weights=image[part]) == pytest.approx(source.y, abs=0.1)
    assert image[20, 398] > 100  # a star on the edge is cut, not lost
