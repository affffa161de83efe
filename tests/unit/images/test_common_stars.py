"""Stars of an image: detection, measurement, choice of stamps, and residuals in a difference."""

import numpy as np
import pandas as pd
import pytest

from otrain_core.images.common_stars import (
    alike_stars,
    aperture_flux,
    choose_stamps,
    find_stars,
    flux_relation,
    star_residual,
)
from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.prepare import prepare_image
from otrain_core.plan.pipelines import PrepareOptions
from tests.unit.synthetic_pair import make_sky, observe


@pytest.fixture(scope="module")
def science():
    return observe(make_sky(), seed=2)


def test_stars_are_where_they_are_as_bright_and_as_large():
    sky = make_sky(n=25, margin=30, logflux=(4, 5), seed=4)
    prepared = prepare_image(observe(sky, seed=2, fwhm=2.5), seeing=2.5, options=PrepareOptions(cosmics="none"))
    stars = find_stars(prepared.sci, prepared.noise, prepared.mask, threshold=20)
    distance = np.hypot(stars["x"].to_numpy()[:, None] - sky.x, stars["y"].to_numpy()[:, None] - sky.y)
    nearest = distance.argmin(axis=1)
    alone = (distance < 12).sum(axis=1) == 1
    assert alone.sum() > 15
    assert distance.min(axis=1)[alone].max() < 0.1
    np.testing.assert_allclose(stars["flux"].to_numpy()[alone], sky.flux[nearest][alone], rtol=0.03)
    assert stars["flux"].is_monotonic_decreasing
    # Twice the half-light radius of a Gaussian is its FWHM; the pixel adds in quadrature.
    assert np.median(stars["fwhm"][alone]) == pytest.approx(np.hypot(2.5, 2.355 / np.sqrt(12)), rel=0.05)


def test_no_star_is_found_on_masked_pixels(science):
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    mask = prepared.mask.copy()
    mask[100:200, 100:200] |= MASK_MISSING
    stars = find_stars(prepared.sci, prepared.noise, mask)
    inside = stars["x"].between(99, 201) & stars["y"].between(99, 201)
    assert len(stars) > 50
    assert not inside.any()


def test_the_aperture_flux_does_not_hang_on_the_level():
    y, x = np.mgrid[0:80, 0:80]
    data = (500 * np.exp(-0.5 * ((x - 40.2) ** 2 + (y - 38.7) ** 2) / 1.5**2)).astype(np.float32)
    mask = np.zeros(data.shape, np.uint8)
    for level in (0, 300):
        flux = aperture_flux(data + np.float32(level), mask, [40.2], [38.7], 7.0)
        assert flux[0] == pytest.approx(data.sum(), rel=1e-3)


def test_pure_noise_has_no_stars():
    data = np.random.default_rng(1).normal(0, 1, (200, 200)).astype(np.float32)
    stars = find_stars(data, np.ones_like(data), np.zeros(data.shape, np.uint8), threshold=8)
    assert list(stars.columns) == ["x", "y", "flux", "peak", "fwhm"]
    assert len(stars) == 0


def test_stamps_are_spread_and_clean():
    rng = np.random.default_rng(1)
    stars = pd.DataFrame({"x": rng.uniform(0, 200, 500), "y": rng.uniform(0, 200, 500), "flux": rng.uniform(1, 9, 500)})
    stars.loc[stars["x"] < 100, "flux"] *= 100  # all bright stars are on one side
    stars["flux_reference"] = stars["flux"]
    bad = np.zeros((200, 200), bool)
    bad[50:60, 150:160] = True
    x, y = choose_stamps(stars, bad, half=5, margin=12, max_stamps=64)
    assert len(x) == 64
    assert min(x.min(), y.min()) >= 12
    assert max(x.max(), y.max()) < 188
    assert not bad[y, x].any()
    assert 24 <= (x > 100).sum() <= 40


def test_stars_that_changed_take_no_part():
    stars = pairs(40, scatter=0.03)
    stars.loc[[2, 3, 7], "flux_reference"] *= [0.3, 0.01, 5]
    alike = alike_stars(stars)
    assert len(alike) == 37 and not alike.index.isin([2, 3, 7]).any()
    assert alike["flux"].is_monotonic_decreasing
    stars["flux_reference"] = 10 ** np.random.default_rng(1).uniform(0, 40, 40)  # nothing in common
    assert len(alike_stars(stars)) == 40


def lamp(*, share=0.0, moved=0.0):
    """Difference with eight stars of 1e5 ADU, FWHM 3 px (15/16 of the flux within one FWHM), that leave a fraction of
    their flux or a dipole."""
    rows, columns = np.indices((120, 240))
    rng = np.random.default_rng(1)
    diff = rng.normal(0, 5, rows.shape)
    stars = []
    for number in range(8):
        x, y = 20 + 27.3 * number, 40.2 + 5 * number
        profiles = [np.exp(-0.5 * ((columns - x - d) ** 2 + (rows - y) ** 2) / (3 / 2.355) ** 2) for d in (0, moved)]
        first, second = (1e5 * profile / profile.sum() for profile in profiles)
        diff += first - (1 - share) * second
        stars.append((x, y, 1e5))
    return diff.astype(np.float32), np.full(diff.shape, 5, np.float32), pd.DataFrame(stars, columns=["x", "y", "flux"])


@pytest.mark.parametrize(("options", "expected"), [({}, 0.0), ({"share": 0.2}, 0.1875), ({"moved": 9.0}, 0.9375)])
def test_the_residual_is_the_share_of_the_flux_that_stays(options, expected):
    value, n = star_residual(*lamp(**options), radius=3.0)
    assert n == 8
    assert value == pytest.approx(expected, abs=0.01)


def test_masked_and_faint_stars_say_nothing_about_the_residual():
    diff, noise, stars = lamp(share=0.2)
    diff[40:42, 20] = np.nan
    assert star_residual(diff, noise, stars, radius=3.0)[1] == 7
    stars.loc[3:, "flux"] = 100
    value, n = star_residual(diff, noise, stars, radius=3.0)
    assert n == 2
    assert np.isnan(value)


def pairs(n, *, exponent=1.0, scatter=0.0):
    rng = np.random.default_rng(3)
    flux = 10 ** rng.uniform(3, 5, n)
    return pd.DataFrame({"flux": flux, "flux_reference": 2 * flux**exponent * np.exp(rng.normal(0, scatter, n))})


@pytest.mark.parametrize("exponent", [1.0, 0.6])
def test_the_exponent_of_the_fluxes_is_found(exponent):
    relation = flux_relation(pairs(100, exponent=exponent, scatter=0.05))
    assert relation["flux_slope"] == pytest.approx(exponent, abs=0.03)
    assert relation["flux_slope_low"] < exponent < relation["flux_slope_high"]
    assert relation["flux_slope_high"] - relation["flux_slope_low"] < 0.1


@pytest.mark.parametrize("digits", [6, 1])
def test_the_slope_and_its_interval_are_those_of_scipy(digits):
    from scipy.stats import theilslopes

    stars = pairs(80, exponent=0.9, scatter=0.2)
    ours, theirs = (np.log(stars[name]).round(digits) for name in ("flux", "flux_reference"))  # one digit: many ties
    relation = flux_relation(pd.DataFrame({"flux": np.exp(ours), "flux_reference": np.exp(theirs)}))
    bright = ours.nlargest(40).index
    slope, _, low, high = theilslopes(theirs[bright], ours[bright])
    assert [relation[f"flux_slope{end}"] for end in ("", "_low", "_high")] == pytest.approx([slope, low, high])


def test_the_scatter_of_the_flux_ratios_is_found():
    assert flux_relation(pairs(400, scatter=0.3))["flux_scatter"] == pytest.approx(0.3, rel=0.15)
    assert np.isnan(flux_relation(pairs(7))["flux_slope"])
