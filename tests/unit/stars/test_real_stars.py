import numpy as np
import pandas as pd
import pytest

from otrain_core.plan.pipelines import InjectOptions
from otrain_core.stars.inject import inject_sources
from otrain_core.stars.real_stars import add_real_stars
from otrain_core.stars.truth import TRUTH_COLUMNS
from tests.unit.synthetic_pair import GAIN

SHAPE = (420, 440)


def choose(science, *, removed=8, transplanted=8, vanished=0, seed=1, n_sources=40):
    image, psf, record = science
    rng = np.random.default_rng(seed)
    plain = InjectOptions(n_sources=n_sources, mix={"random": 1.0})
    data, truth = inject_sources(image, psf, record=record, rng=rng, options=plain)
    options = InjectOptions(
        removed_stars=removed, transplanted_stars=transplanted, vanished_stars=vanished, bright_mag=9.0
    )
    own = np.random.default_rng(seed + 100)
    both, table = add_real_stars(image, data, truth, psf, record=record, rng=own, options=options)
    return data, truth, both, table


def test_rows_of_real_stars(science, sky):
    image, psf, record = science
    data, truth, both, table = choose(science)
    assert list(table.columns) == TRUTH_COLUMNS
    pd.testing.assert_frame_equal(table[: len(truth)], truth)
    assert table["kind"].value_counts().to_dict() == {"random": 40, "removed": 8, "transplanted": 8}
    assert table["id"].tolist() == list(range(56))
    removed = table[table.kind == "removed"]
    away = np.hypot(removed.x.values[:, None] - sky.x, removed.y.values[:, None] - sky.y)
    assert away.min(axis=1).max() < 0.3
    np.testing.assert_allclose(removed.flux, sky.flux[away.argmin(axis=1)], rtol=0.1)
    np.testing.assert_allclose(removed.mag, record["zero_point"] - 2.5 * np.log10(removed.flux))
    x, y = image.wcs.all_world2pix(removed.ra, removed.dec, 0)
    np.testing.assert_allclose(np.column_stack([x, y]), removed[["x", "y"]], atol=1e-5)
    assert removed.usable.all()
    real = table[table.kind != "random"]
    apart = np.hypot(real.x.values[:, None] - truth.x.values, real.y.values[:, None] - truth.y.values)
    assert apart.min() > 3.5 * psf.fwhm


def test_transplanted_star_is_the_star_itself(science, sky):
    image, psf, _ = science
    data, _, both, table = choose(science)
    moved = table[table.kind == "transplanted"]
    added = both.astype(float) - data
    half = int(np.ceil(4 * psf.fwhm))
    for row in moved.itertuples():
        x, y = int(np.floor(row.x + 0.5)), int(np.floor(row.y + 0.5))
        box = added[y - half : y + half + 1, x - half : x + half + 1]
        profile = psf.stamp(row.x, row.y)[0]
        trim = psf.radius - half
        profile = profile[trim:-trim, trim:-trim] if trim > 0 else np.pad(profile, -trim)
        # The flux is measured with the PSF of the new place on the same pixels of the star.
        assert (profile * box).sum() / (profile**2).sum() == pytest.approx(row.flux, rel=0.05)
        # The shift is by whole pixels: the core equals that of one of the stars, except for the level.
        whole = np.hypot(row.x % 1 - sky.x % 1, row.y % 1 - sky.y % 1)
        candidates = np.flatnonzero((whole < 0.3) & (np.abs(sky.flux / row.flux - 1) < 0.2))
        assert len(candidates)
        core = box[half - 3 : half + 4, half - 3 : half + 4]
        off = []
        for k in candidates:
            cx, cy = int(np.floor(sky.x[k] + 0.5)), int(np.floor(sky.y[k] + 0.5))
            if 4 < cx < SHAPE[1] - 5 and 4 < cy < SHAPE[0] - 5:
                source = image.data[cy - 3 : cy + 4, cx - 3 : cx + 4].astype(float)
                off.append(np.ptp(source - core))
        assert min(off) < 2  # [ADU], for a noise of 8 ADU
        # The place was empty.
        assert np.hypot(sky.x - row.x, sky.y - row.y).min() > 2 * psf.fwhm
    touched = np.zeros(SHAPE, bool)
    for row in moved.itertuples():
        x, y = int(np.floor(row.x + 0.5)), int(np.floor(row.y + 0.5))
        touched[y - half : y + half + 1, x - half : x + half + 1] = True
    assert (both[~touched] == data[~touched]).all()


def test_vanished_stars_leave_less_than_their_noise(science, sky):
    _, psf, _ = science
    data, _, both, table = choose(science, vanished=8)
    gone = table[table.kind == "vanished"]
    assert table["kind"].value_counts().to_dict() == {"random": 40, "removed": 8, "transplanted": 8, "vanished": 8}
    assert (gone["flux"] < 0).all() and np.isfinite(gone["mag"]).all()
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for row in gone.itertuples():
        near = np.hypot(xx - row.x, yy - row.y) < 2 * psf.fwhm
        lost = (both.astype(float) - data)[near].sum()
        assert lost == pytest.approx(row.flux, rel=0.05)
        k = np.hypot(sky.x - row.x, sky.y - row.y).argmin()
        noise = np.sqrt(near.sum() * 300 / GAIN + sky.flux[k] / GAIN)
        assert lost == pytest.approx(-sky.flux[k], abs=4 * noise + 0.05 * sky.flux[k])
    elsewhere = np.ones(SHAPE, bool)
    for row in table[table.kind != "random"].itertuples():
        elsewhere &= np.hypot(xx - row.x, yy - row.y) > 6 * psf.fwhm
    np.testing.assert_array_equal(both[elsewhere], data[elsewhere])


def test_nothing_asked_for_changes_nothing(science):
    image, psf, record = science
    data, truth, both, table = choose(science, removed=0, transplanted=0)
    assert both is data and table is truth


def test_few_stars_are_shared(science):
    _, truth, _, table = choose(science, removed=500, transplanted=500)
    counts = table["kind"].value_counts()
    assert 5 < counts["removed"] < 100 and 5 < counts["transplanted"] <= counts["removed"] + 1
