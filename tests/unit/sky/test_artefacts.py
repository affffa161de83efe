import numpy as np
import pandas as pd
import pytest

from otrain_core.sky import artefacts
from otrain_core.sky.causes import name_artefacts
from otrain_core.sky.optics import FieldPSF

SHAPE = (120, 160)


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def table(rows):
    return pd.DataFrame(rows)


def test_cosmic_rays_deposit_their_charge_at_their_position(rng):
    for _ in range(30):
        image = np.zeros(SHAPE)
        (row,) = artefacts.add_cosmics(image, rng, n=1, gain=2.0)
        assert row["kind"] == "cosmic"
        assert image.min() >= 0
        if not (35 < row["x"] < SHAPE[1] - 35 and 35 < row["y"] < SHAPE[0] - 35):
            continue
        assert image.sum() == pytest.approx(row["flux"], rel=1e-6)
        ys, xs = np.nonzero(image > 0.01 * image.max())
        names = name_artefacts(table([row]), xs, ys, margin=2.5)
        assert np.mean(names == "cosmic") > 0.95


def test_cosmics_are_sharper_than_stars_but_some_are_diffuse(rng):
    widths = []
    for _ in range(200):
        image = np.zeros(SHAPE)
        (row,) = artefacts.add_cosmics(image, rng, n=1, gain=1.0)
        widths.append(image.max() / image.sum() if row["size"] < 3 else np.nan)
    shares = np.array(widths)[np.isfinite(widths)]
    assert (shares > 0.5).any()  # nearly all charge in one pixel
    assert (shares < 0.25).any()  # spread over a few, as an undersampled star


def test_cosmics_scale_with_gain():
    images = []
    for gain in (1.0, 4.0):
        image = np.zeros(SHAPE)
        artefacts.add_cosmics(image, np.random.default_rng(2), n=5, gain=gain)
        images.append(image)
    np.testing.assert_allclose(images[0], 4 * images[1])


def test_hot_pixels_change_the_image_by_their_flux(rng):
    image = np.zeros(SHAPE)
    rows = artefacts.add_hot_pixels(image, rng, n=80, noise=10.0)
    assert len(rows) == 80
    assert image.sum() == pytest.approx(sum(row["flux"] for row in rows), rel=1e-6)
    assert (image > 0).sum() > 80 / 2
    assert (image < 0).any() and image.min() >= -15 * 10.0 * np.e
    assert all(image[int(row["y"]), int(row["x"])] != 0 for row in rows)


def test_bad_columns_touch_their_column_alone(rng):
    for _ in range(10):
        image = np.full(SHAPE, 500.0)
        (row,) = artefacts.add_bad_columns(image, rng, n=1, noise=10.0)
        ys, xs = np.nonzero(np.abs(image - 500) > 1)
        assert set(xs) == {int(row["x"])}
        assert ys.size == row["size"]
        assert ys.max() == SHAPE[0] - 1
        assert row["y"] == pytest.approx(ys.mean())


def test_trails_have_the_width_of_the_seeing(rng):
    checked = 0
    for _ in range(40):
        image = np.zeros((300, 300))
        (row,) = artefacts.add_trails(image, rng, n=1, fwhm=3.0, beta=3.0, noise=10.0)
        assert image.min() >= 0
        peak = image[int(row["y"]) - 1 : int(row["y"]) + 2, int(row["x"]) - 1 : int(row["x"]) + 2].max()
        if row["width"] > 4 or peak < 0.9 * image.max():
            continue  # a plane, or a tumbling satellite that is faint at its centre
        angle = np.deg2rad(row["angle"])
        across = np.linspace(-6, 6, 241)
        xs = np.clip(np.rint(row["x"] - across * np.sin(angle)), 0, 299).astype(int)
        ys = np.clip(np.rint(row["y"] + across * np.cos(angle)), 0, 299).astype(int)
        above = np.ptp(across[image[ys, xs] > 0.5 * image[ys, xs].max()])
        assert above == pytest.approx(row["width"], abs=1.2)
        checked += 1
    assert checked > 10


def test_ghosts_are_as_large_as_they_say(rng):
    stars = pd.DataFrame({"x": [20.0], "y": [30.0], "flux": [1e9]})
    centre = np.array([149.5, 149.5])
    for _ in range(10):
        image = np.zeros((300, 300))
        (row,) = artefacts.add_ghosts(image, rng, n=1, stars=stars, fwhm=2.5, noise=5.0)
        assert image.min() >= 0
        assert image.max() <= 5.0 * 4 * 1.001
        assert image.sum() == pytest.approx(row["flux"], rel=1e-3)
        r = np.hypot(*(np.indices(image.shape) - np.array([row["y"], row["x"]])[:, None, None]))
        assert image[r > row["size"] / 2 + 12].max(initial=0) < 0.02 * image.max()
        # beside its star, or opposite about the optical axis
        ratio = (np.array([row["x"], row["y"]]) - centre) / (np.array([20.0, 30.0]) - centre)
        assert ratio[0] == pytest.approx(ratio[1])
        assert 0.9 <= abs(ratio[0]) <= 1.05


def test_faint_stars_do_not_have_ghosts(rng):
    stars = pd.DataFrame({"x": [20.0], "y": [30.0], "flux": [10.0]})
    rows = artefacts.add_ghosts(np.zeros(SHAPE), rng, n=3, stars=stars, fwhm=2.5, noise=5.0)
    assert len(rows) == 3
    empty = artefacts.add_ghosts(np.zeros(SHAPE), rng, n=2, stars=stars.iloc[:0], fwhm=2.5, noise=5.0)
    assert len(empty) == 2


def saturated_star():
    y, x = np.indices(SHAPE)
    return 100 + 4e5 * np.exp(-0.5 * ((x - 80) ** 2 + (y - 60) ** 2) / 2.0**2)


def test_bleeding_conserves_charge_along_the_column(rng):
    image = saturated_star()
    before = image.copy()
    rows = artefacts.saturate(image, rng, level=30000.0, bleed=True)
    assert image.max() <= 30000.0
    np.testing.assert_allclose(image.sum(axis=0), before.sum(axis=0), rtol=1e-9)
    assert [row["kind"] for row in rows] == ["saturated", "bleed"]
    saturated, bleed = rows
    assert saturated["x"] == pytest.approx(80, abs=0.1)
    assert bleed["angle"] == 90 and bleed["size"] > saturated["size"]
    full = np.nonzero(image[:, 80] == 30000.0)[0]
    assert full.min() >= bleed["y"] - bleed["size"] / 2 and full.max() <= bleed["y"] + bleed["size"] / 2


def test_without_bleeding_the_excess_is_lost(rng):
    image = saturated_star()
    expected = np.minimum(image, 30000.0)
    rows = artefacts.saturate(image, rng, level=30000.0, bleed=False)
    np.testing.assert_array_equal(image, expected)
    assert [row["kind"] for row in rows] == ["saturated"]


def test_nothing_saturated_nothing_changed(rng):
    image = np.full(SHAPE, 100.0)
    assert artefacts.saturate(image, rng, level=1000.0, bleed=True) == []
    assert (image == 100).all()


def test_crosstalk_is_mirrored(rng):
    image = np.zeros(SHAPE)
    image[40:43, 20:25] = 1000.0
    rows = artefacts.add_crosstalk(image, factor=0.01, level=1200.0)
    assert image[41, SHAPE[1] - 1 - 22] == pytest.approx(10.0)
    (row,) = rows
    assert (row["x"], row["y"], row["size"]) == (SHAPE[1] - 1 - 22, 41, 5)
    assert row["flux"] == pytest.approx(15 * 10.0)
    assert artefacts.add_crosstalk(image, factor=0.0, level=1200.0) == []


def field_psf(fwhm=2.5):
    return FieldPSF(
        (200, 300), fwhm=fwhm, beta=3.0, ellipticity=0.0, variation=0.0, trail=0.0, rng=np.random.default_rng(1)
    )


def test_asteroids_are_trailed_point_sources(rng):
    psf = field_psf()
    angles = []
    for _ in range(40):
        image = np.zeros(psf.shape, np.float32)
        (row,) = artefacts.add_asteroids(image, rng, n=1, psf=psf, zero_point=25.0, brightest=15.0, faintest=19.0)
        assert row["kind"] == "asteroid" and 15 <= row["mag"] <= 19
        assert row["flux"] == pytest.approx(10 ** (0.4 * (25 - row["mag"])))
        assert psf.fwhm <= row["size"] <= 4 * psf.fwhm + 0.01
        if not (40 < row["x"] < 260 and 40 < row["y"] < 160):
            continue
        assert image.sum() == pytest.approx(row["flux"], rel=0.01)
        ys, xs = np.nonzero(image > 0.1 * image.max())
        weights = image[ys, xs]
        x, y = np.average(xs, weights=weights), np.average(ys, weights=weights)
        assert (x, y) == pytest.approx((row["x"], row["y"]), abs=0.3)
        xx, yy = np.average((xs - x) ** 2, weights=weights), np.average((ys - y) ** 2, weights=weights)
        xy = np.average((xs - x) * (ys - y), weights=weights)
        if row["size"] > 1.8 * psf.fwhm:
            found = np.degrees(0.5 * np.arctan2(2 * xy, xx - yy)) % 180
            angles.append((found - row["angle"] + 90) % 180 - 90)
    assert len(angles) >= 3 and np.abs(angles).max() < 10


def test_half_of_the_asteroids_are_known(rng):
    psf = field_psf()
    image = np.zeros(psf.shape, np.float32)
    rows = artefacts.add_asteroids(image, rng, n=10, psf=psf, zero_point=25.0, brightest=15.0, faintest=19.0)
    assert sum(row["known"] for row in rows) == 5
    assert artefacts.add_asteroids(image, rng, n=0, psf=psf, zero_point=25.0, brightest=15.0, faintest=19.0) == []
