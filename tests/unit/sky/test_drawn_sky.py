"""Stars and galaxies: colours, variables, clouds, and stars that the reference lacks."""

import numpy as np
import pytest
from astropy.wcs import WCS

from otrain_core.sky.simulate import simulate_pair
from tests.unit.sky.test_simulate import CHANGING, CLEAN, fluxes, lonely, telescope


def test_stars_are_seen_at_both_epochs_and_scintillate():
    row = telescope(**CLEAN, saturation=1e9, galaxy_density=0, pixel_scale=1.2)
    pair = simulate_pair(row, index=0, seed=1)
    stars = pair.truth[pair.truth.kind == "star"]
    ideal = 10 ** (0.4 * (pair.science_header["MAGZP"] - stars.mag))
    assert (stars.flux / ideal).std() == pytest.approx(0.007, rel=0.3)


def test_variables_changed_since_the_reference_was_taken():
    changes, ratios = [], []
    for index in range(4):
        pair = simulate_pair(telescope(**CLEAN, **CHANGING, variables=12), index=index, seed=3)
        variables = pair.truth[pair.truth.kind == "variable"]
        change = variables.mag - (pair.science_header["MAGZP"] - 2.5 * np.log10(variables.flux))
        assert np.abs(change).between(0.25, 2.05).all()
        assert variables.color.notna().all()
        assert variables.known.sum() == (len(variables) + 1) // 2
        assert (pair.truth[pair.truth.kind == "star"].known == 0).all()
        changes += list(change)
        chosen = variables[lonely(pair.truth)[variables.index] & (variables.flux > 3000)]
        xr, yr = WCS(pair.reference_header).world_to_pixel_values(chosen.ra, chosen.dec)
        ratios += list(fluxes(pair.reference, xr, yr) / 10 ** (0.4 * (pair.reference_header["MAGZP"] - chosen.mag)))
    assert len(ratios) > 3 and np.abs(np.array(ratios) - 1).max() < 0.15
    assert len(changes) > 25 and min(changes) < 0 < max(changes)


@pytest.mark.parametrize("color_term", [0.0, 0.2])
def test_the_flux_of_a_star_follows_its_color(color_term):
    pair = simulate_pair(telescope(**CLEAN, **CHANGING, color_term=color_term), index=1, seed=3)
    stars = pair.truth[pair.truth.kind == "star"]
    assert stars.color.between(-0.4, 1.7).all() and stars.color.std() > 0.3
    change = (pair.science_header["MAGZP"] - 2.5 * np.log10(stars.flux)) - stars.mag
    slope, offset = np.polyfit(stars.color - 0.6, change, 1)
    assert slope == pytest.approx(color_term, abs=0.005)
    assert offset == pytest.approx(0, abs=0.003)


def test_clouds_dim_stars_in_patches_of_the_science_image():
    row = telescope(**CLEAN, clouds=0.5, star_density=2000)
    pair, clear = (
        simulate_pair(row, index=2, seed=3),
        simulate_pair(telescope(**CLEAN, star_density=2000), index=2, seed=3),
    )
    np.testing.assert_array_equal(pair.reference, clear.reference)
    stars = clear.truth.kind == "star"
    passed = pair.truth.flux[stars] / clear.truth.flux[stars]
    assert 0.5 <= passed.min() < 0.7 and 0.9 < passed.max() <= 1
    x, y, passed = pair.truth.x[stars].to_numpy(), pair.truth.y[stars].to_numpy(), passed.to_numpy()
    away = np.hypot(x - x[:, None], y - y[:, None])
    near = np.abs(passed - passed[:, None])[(away > 0) & (away < 5)]
    assert near.max() < 0.1


def test_stars_missing_in_the_reference_are_known_variables():
    row = telescope(**CLEAN, **CHANGING, reference_missing=0.4, wcs_error=0.0)
    pair, whole = simulate_pair(row, index=0, seed=3), simulate_pair(telescope(**CLEAN, **CHANGING), index=0, seed=3)
    np.testing.assert_array_equal(pair.science, whole.science)
    missing = pair.truth[pair.truth.kind == "variable"]
    assert (missing.known == 1).all() and len(missing) == pytest.approx(0.4 * len(pair.truth), rel=0.4)
    bright = missing[lonely(pair.truth)[missing.index] & (missing.flux > 3000)]
    x, y = WCS(pair.reference_header).world_to_pixel_values(bright.ra, bright.dec)
    assert len(bright) and (fluxes(pair.reference, x, y) < 0.1 * bright.flux).all()
