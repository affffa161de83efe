from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS

from otrain_core.plan.telescopes import SimulatedSky
from otrain_core.sky import flaws
from otrain_core.sky.optics import Exposure, FieldPSF

SHAPE = (120, 160)


@pytest.fixture
def rng():
    return np.random.default_rng(4)


@pytest.fixture
def exposure():
    psf = FieldPSF(SHAPE, fwhm=2.5, beta=3.0, ellipticity=0, variation=0, trail=0, rng=np.random.default_rng(1))
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [50.0, 20.0], [80, 60]
    wcs.wcs.cd = [[-1 / 3600, 0], [0, 1 / 3600]]
    wcs.wcs.set()
    return Exposure(
        shape=SHAPE,
        wcs=wcs,
        psf=psf,
        zero_point=25.0,
        sky=400.0,
        gain=1.0,
        read_noise=0.0,
        saturation=5000.0,
        flat=0.0,
        bleed=False,
    )


def frame(rng):
    return (400 + 20 * rng.standard_normal(SHAPE)).astype(np.float32)


def flawed(exposure, rng, *, stars=None, stacked=None, warm=None, data=None, **sky):
    warm = np.zeros((0, 3)) if warm is None else warm
    data = frame(rng) if data is None else data
    return flaws.degrade(data, exposure, SimulatedSky(**sky), rng, warm=warm, stars=stars, stacked=stacked)


def test_without_flaws_nothing_changes(exposure, rng):
    before = frame(rng)
    data, rows = flawed(exposure, rng, data=before.copy())
    assert data.tobytes() == before.tobytes() and rows == []
    assert (exposure.shift == 0).all() and exposure.level == 0


def test_warm_pixels_are_sharp_in_a_frame_and_smeared_in_a_stack(exposure, rng):
    places = np.array([[0.25, 0.5, 100.0]])
    sharp, rows = flawed(exposure, rng, warm=places, warm_pixels=1, data=np.zeros(SHAPE, np.float32))
    assert [(row["kind"], row["x"], row["y"]) for row in rows] == [("warm_pixel", 40, 60)]
    assert sharp[60, 40] == pytest.approx(100 * exposure.noise, rel=0.2)
    assert np.count_nonzero(sharp) == 1
    again, _ = flawed(exposure, rng, warm=places, warm_pixels=1, data=np.zeros(SHAPE, np.float32))
    assert again[60, 40] != sharp[60, 40]
    options = {"warm_pixels": 1, "reference_warm_pixels": 0.5, "stacked": 1.0}
    smeared, rows = flawed(exposure, rng, warm=places, data=np.zeros(SHAPE, np.float32), **options)
    assert smeared.sum() == pytest.approx(50 * exposure.noise, rel=0.2)
    assert smeared[60, 41] > 0 and smeared[60, 40] < 0.9 * smeared.sum()
    options["reference_warm_pixels"] = 0.0
    clean, rows = flawed(exposure, rng, warm=places, data=np.zeros(SHAPE, np.float32), **options)
    assert not clean.any() and rows == []


def test_banding_is_constant_along_rows_and_columns(rng):
    pattern = flaws.banding((400, 300), rng, amplitude=2.0)
    np.testing.assert_allclose(pattern - pattern[:1] - pattern[:, :1] + pattern[0, 0], 0, atol=1e-5)
    assert pattern.mean(axis=1).std() == pytest.approx(2.0, rel=0.15)
    assert pattern.mean(axis=0).std() == pytest.approx(1.0, rel=0.15)


def test_the_converter_has_steps(exposure, rng):
    data, _ = flawed(exposure, rng, quantisation=2.0)
    steps = np.unique(data) / (2 * exposure.noise)
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
    assert 3 <= len(steps) <= 8


@pytest.mark.parametrize("method", ["bilinear", "lanczos"])
def test_resampling_shifts_sources_and_correlates_the_noise(exposure, rng, method):
    y, x = np.indices(SHAPE)
    star = (1000 * np.exp(-0.5 * ((x - 80) ** 2 + (y - 60) ** 2) / 1.5**2)).astype(np.float32)
    data, _ = flawed(exposure, rng, data=star.copy(), resampled=method)
    assert data.sum() == pytest.approx(star.sum(), rel=1e-4)
    centre = np.array([(x * data).sum(), (y * data).sum()]) / data.sum()
    np.testing.assert_allclose(centre, np.array([80, 60]) - exposure.shift, atol=0.01)
    assert np.abs(exposure.shift).max() > 0.05
    noise = rng.standard_normal((300, 300)).astype(np.float32)
    shifted = flaws.resample(noise, np.array([0.4, 0.4]), method=method)
    neighbours = np.corrcoef(shifted[:, 1:].ravel(), shifted[:, :-1].ravel())[0, 1]
    assert neighbours == pytest.approx({"bilinear": 0.24 / 0.52, "lanczos": 0.22}[method], abs=0.02)
    assert shifted.std() < 0.97


def test_holes_replace_only_bright_stars(exposure, rng):
    stars = pd.DataFrame({"x": [40.0, 80.0, 120.0], "y": [60.0, 30.0, 60.0], "flux": [1e6, 50.0, 2e6]})
    seen = set()
    for _ in range(30):
        before = frame(rng)
        data, rows = flawed(exposure, rng, stars=stars, stacked=1.0, reference_holes=1.0, data=before.copy())
        assert [(row["kind"], row["x"]) for row in rows] == [("hole", 40.0), ("hole", 120.0)]
        changed = np.isnan(data) | (data != before)
        y, x = np.nonzero(changed)
        inside = [np.hypot(x - row["x"], y - row["y"]) < row["size"] / 2 for row in rows]
        assert np.any(inside, axis=0).all() and changed[60, 40] and changed[60, 120]
        value = data[60, 40]
        seen.add("nan" if np.isnan(value) else "zero" if value == 0 else "low" if value < 400 else "negative")
    assert {"nan", "zero", "low"} <= seen


def test_gaps_have_about_the_given_fraction_and_lie_in_their_rows(rng):
    shares = []
    for _ in range(60):
        mask, rows = flaws.gaps(SHAPE, rng, share=0.1)
        shares.append(mask.mean())
        y, x = np.nonzero(mask)
        inside = np.zeros(len(x), bool)
        for row in rows:
            cos, sin = np.cos(np.deg2rad(row["angle"])), np.sin(np.deg2rad(row["angle"]))
            along, across = (x - row["x"]) * cos + (y - row["y"]) * sin, (y - row["y"]) * cos - (x - row["x"]) * sin
            inside |= (np.abs(along) <= row["size"] / 2 + 1e-3) & (np.abs(across) <= row["width"] / 2 + 1e-3)
        assert inside.all()
    assert 0.03 < np.mean(shares) < 0.12 and max(shares) < flaws.MAX_GAPS
    assert np.ptp(shares) > 0.05


@pytest.mark.parametrize("value", [None, 0.0, -999.0])
def test_gaps_have_the_configured_value(exposure, rng, value):
    data, rows = flawed(exposure, rng, no_data=0.2, no_data_value=value)
    gap = np.isnan(data) if value is None else data == value
    assert gap.any() and len(rows) and np.isfinite(data[~gap]).all()


def test_sky_offset_and_clipping(exposure, rng):
    data, _ = flawed(exposure, rng, sky_removed="science")
    assert np.median(data) == pytest.approx(0, abs=2) and exposure.level == -400
    data, _ = flawed(exposure, rng, sky_removed="reference", offset=3.0)
    assert np.median(data) == pytest.approx(400 + 3 * exposure.noise, abs=2)
    data, _ = flawed(exposure, rng, sky_removed="both", clipped=True, stacked=4.0)
    assert data.min() == 0 and np.mean(data == 0) == pytest.approx(0.5, abs=0.05)


def test_smoothing_is_for_the_reference(exposure, rng):
    before = frame(rng)
    same, _ = flawed(exposure, rng, data=before.copy(), reference_smoothing=2.0)
    smooth, _ = flawed(exposure, rng, data=before.copy(), reference_smoothing=2.0, stacked=1.0)
    assert same.std() == pytest.approx(20, rel=0.05) and smooth.std() < 5


def test_rows_of_the_reference_move_to_the_science_image(exposure, rng):
    reference = replace(exposure, wcs=exposure.wcs.deepcopy())
    reference.wcs.wcs.cd = exposure.wcs.wcs.cd @ (2 * np.array([[0, -1], [1, 0]]))
    reference.wcs.wcs.set()
    (row,) = flaws.on_science([flaws.row_of("hole", 79.0, 69.0, 4.0, width=3.0)], reference=reference, science=exposure)
    assert (row["x"], row["y"]) == (pytest.approx(59, abs=0.01), pytest.approx(59, abs=0.01))
    assert (row["size"], row["width"]) == (pytest.approx(8), pytest.approx(6))
    assert row["angle"] % 180 == pytest.approx(90)
