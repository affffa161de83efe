import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS

from otrain_core import io
from otrain_core.images.frames import read_image
from otrain_core.jobs.digest import code_files
from otrain_core.plan.telescopes import Detector, Telescope, read_telescopes
from otrain_core.sky.causes import KINDS
from otrain_core.sky.optics import limiting_magnitude
from otrain_core.sky.simulate import field_centre, simulate_files, simulate_pair

ROOT = Path(__file__).parents[3]
CLEAN = {key: 0 for key in ("cosmics", "hot_pixels", "bad_columns", "trails", "ghosts", "crosstalk")}


def telescope(**changes):
    detector = {"pixel_scale": 1.2, "gain": 1.5, "read_noise": 8.0, "saturation": 60000.0}
    sky = {"width": 320, "height": 256, "seeing": 3.0}
    for key, value in changes.items():
        (detector if key in Detector.model_fields else sky)[key] = value
    return Telescope.model_validate({"name": "test", "source": "simulated", "detector": detector, "sky": sky})


@pytest.fixture(scope="module")
def pair():
    damage = {"cosmics": 200, "hot_pixels": 300, "bad_columns": 3, "trails": 3, "ghosts": 3, "crosstalk": 1e-3}
    row = telescope(star_density=3000, saturation=20000.0, **damage)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return simulate_pair(row, index=2, seed=5)


def test_shapes_types_and_headers(pair):
    assert pair.science.shape == (256, 320)
    assert pair.science.dtype == pair.reference.dtype == np.float32
    assert np.isfinite(pair.science).all() and np.isfinite(pair.reference).all()
    for header in (pair.science_header, pair.reference_header):
        for key in ("GAIN", "RDNOISE", "SATURATE", "EXPTIME", "FILTER", "DATE-OBS", "MAGZP", "SEEING"):
            assert key in header
    assert pair.reference_header["DATE-OBS"] < pair.science_header["DATE-OBS"]
    assert pair.reference_header["SEEING"] < pair.science_header["SEEING"]
    assert list(pair.truth.columns)[:8] == ["kind", "x", "y", "ra", "dec", "mag", "flux", "size"]
    assert list(pair.truth.columns)[8:] == ["width", "angle", "color", "known"]
    assert set(pair.truth.kind) <= {"star", "galaxy", *KINDS}
    assert pair.truth[["x", "y", "ra", "dec", "size", "width", "angle"]].notna().all().all()


def test_one_seed_gives_the_same_bytes(pair):
    changing = {"variables": 3, "asteroids": 3, "color_term": 0.1, "reference_scale": 0.8}
    row = telescope(trails=2, ghosts=1, width=128, height=128, **changing)
    first, again = (simulate_pair(row, index=4, seed=9) for _ in range(2))
    assert first.science.tobytes() == again.science.tobytes()
    assert first.reference.tobytes() == again.reference.tobytes()
    assert first.science_header == again.science_header
    pd.testing.assert_frame_equal(first.truth, again.truth)
    for other in (simulate_pair(row, index=5, seed=9), simulate_pair(row, index=4, seed=10)):
        assert not np.array_equal(first.science, other.science)
        assert abs(first.truth.ra.median() - other.truth.ra.median()) > 0.1


def test_noise_has_a_seed_of_its_own():
    row = telescope(**CLEAN, saturation=1e9)
    first = simulate_pair(row, index=1, seed=1)
    second = simulate_pair(row, index=1, seed=1, noise_seed=2)
    pd.testing.assert_frame_equal(first.truth, second.truth)
    faint = first.science < np.median(first.science) + 3 * background_noise(first.science)
    change = (first.science - second.science)[faint]
    assert change.std() == pytest.approx(np.sqrt(2) * background_noise(first.science), rel=0.05)


def test_another_exposure_has_other_noise_and_other_artefacts():
    row = telescope(**CLEAN | {"cosmics": 300}, saturation=1e9)
    first, second = (simulate_pair(row, index=1, seed=1, exposure=number) for number in (0, 1))
    np.testing.assert_array_equal(first.reference, second.reference)
    stars, others = (pair.truth[pair.truth.kind == "star"] for pair in (first, second))
    pd.testing.assert_frame_equal(stars, others)
    places = [set(zip(t.x, t.y, strict=True)) for t in (first.truth, second.truth) for t in [t[t.kind == "cosmic"]]]
    assert places[0] and places[1] and not places[0] & places[1]


def background_noise(data):
    """Pixel noise from differences of neighbours, which no gradient reaches."""
    step = np.diff(data.astype(float), axis=1)
    return 1.4826 * np.median(np.abs(step - np.median(step))) / np.sqrt(2)


@pytest.mark.parametrize("pixel_scale, seeing, stars_per_mpx", [(1.2, 3.0, 200), (3.31, 4.3, 600), (0.58, 1.2, 200)])
def test_photometry_recovers_the_true_flux(pixel_scale, seeing, stars_per_mpx):
    """The second case has an FWHM of 1.3 px."""
    row = telescope(
        **CLEAN,
        pixel_scale=pixel_scale,
        seeing=seeing,
        seeing_spread=0.0,
        star_density=stars_per_mpx,
        tracking=0.1,
        galaxy_density=0,
        sky_mag=22.0,
        saturation=1e9,
        width=640,
        height=600,
    )
    pair = simulate_pair(row, index=3, seed=2)
    assert pair.science_header["SEEING"] == pytest.approx(seeing, rel=0.15)
    stars = pair.truth[pair.truth.kind == "star"]
    apart = np.hypot(*(stars[["x", "y"]].to_numpy()[:, None] - stars[["x", "y"]].to_numpy()).T)
    np.fill_diagonal(apart, np.inf)
    brighter = stars.flux.to_numpy()[:, None] < 200 * stars.flux.to_numpy()[None, :]
    radius = 4 * pair.science_header["SEEING"] / pixel_scale
    lonely = ~((apart < 2.5 * radius) & brighter).any(axis=1)
    inside = stars.x.between(40, 600) & stars.y.between(40, 560)
    noise = background_noise(pair.science) * np.sqrt(np.pi * radius**2)
    chosen = stars[lonely & inside & (stars.flux > 100 * noise)]
    assert len(chosen) >= 5
    y, x = np.indices(pair.science.shape)
    ratios, offsets = [], []
    for star in chosen.itertuples():
        r = np.hypot(x - star.x, y - star.y)
        aperture, ring = r < radius, (r > 1.2 * radius) & (r < 2 * radius)
        signal = pair.science - np.median(pair.science[ring])
        ratios.append(signal[aperture].sum() / star.flux)
        core = r < radius / 3
        offsets.append([((value * signal)[core].sum() / signal[core].sum()) for value in (x - star.x, y - star.y)])
    assert np.median(ratios) == pytest.approx(1.0, abs=0.01)  # a flat-field error of a percent per star is simulated
    assert np.abs(ratios - np.median(ratios)).max() < 0.04
    assert np.abs(np.median(offsets, axis=0)).max() < 0.05


@pytest.mark.parametrize("wcs_error", [0.0, 0.3])
def test_wcs_is_off_by_its_error(wcs_error):
    row = telescope(**CLEAN, wcs_error=wcs_error, star_density=100, galaxy_density=0, rotation=0.5)
    shifts = []
    for index in range(6):
        pair = simulate_pair(row, index=index, seed=7)
        x, y = WCS(pair.science_header).world_to_pixel_values(pair.truth.ra, pair.truth.dec)
        offset = np.hypot(x - pair.truth.x, y - pair.truth.y)
        assert offset.max() <= 2.5 * wcs_error * (np.sqrt(2) + 0.5) + 1e-3
        shifts.append(np.median(offset))
    assert np.mean(shifts) == pytest.approx(wcs_error * np.sqrt(np.pi / 2), rel=0.7, abs=1e-3)


def test_stars_are_at_the_positions_of_the_reference_wcs():
    row = telescope(**CLEAN, wcs_error=0.0, galaxy_density=0, saturation=1e9, pointing=12.0, rotation=0.6)
    pair = simulate_pair(row, index=6, seed=3)
    bright = pair.truth[pair.truth.kind == "star"].nlargest(8, "flux")
    xs, ys = WCS(pair.reference_header).world_to_pixel_values(bright.ra, bright.dec)
    found = 0
    for x, y in zip(xs, ys, strict=True):
        xi, yi = int(round(float(x))), int(round(float(y)))
        if not (6 <= xi < pair.reference.shape[1] - 6 and 6 <= yi < pair.reference.shape[0] - 6):
            continue
        box = pair.reference[yi - 5 : yi + 6, xi - 5 : xi + 6]
        peak = np.unravel_index(box.argmax(), box.shape)
        found += np.hypot(peak[0] - 5 - (y - yi), peak[1] - 5 - (x - xi)) < 1.0
    assert found >= 6


def test_artefacts_are_in_the_truth_and_in_the_pixels(pair):
    counts = pair.truth.kind.value_counts()
    for kind in set(KINDS) - {"warm_pixel", "hole", "no_data"}:
        assert counts.get(kind, 0) > 0, kind
    noise = background_noise(pair.science)
    hot = pair.truth[(pair.truth.kind == "hot_pixel") & (pair.truth.flux > 100 * noise)]
    level = np.median(pair.science)
    seen = [pair.science[int(row.y), int(row.x)] > level + 5 * noise for row in hot.itertuples()]
    assert len(seen) > 3 and np.mean(seen) > 0.9


def test_artefacts_are_on_the_science_frame_alone():
    clean, dirty = (
        simulate_pair(telescope(**(CLEAN | damage)), index=0, seed=1)
        for damage in ({}, {"cosmics": 500, "hot_pixels": 500, "bad_columns": 3, "trails": 3, "ghosts": 2})
    )
    np.testing.assert_array_equal(clean.reference, dirty.reference)
    assert not set(clean.truth.kind) & {"cosmic", "hot_pixel", "bad_column", "trail", "ghost"}
    assert (dirty.science != clean.science).any()


@pytest.mark.parametrize("scale", [0.4, 1.0, 1.7])
def test_reference_covers_the_science_field(scale):
    row = telescope(
        **CLEAN, reference_scale=scale, width=200, pointing=8.0, rotation=1.0, star_density=50, galaxy_density=0
    )
    for index in range(2):
        pair = simulate_pair(row, index=index, seed=4)
        height, width = pair.science.shape
        y, x = np.mgrid[0 : height - 1 : 9j, 0 : width - 1 : 9j]
        sky = WCS(pair.science_header).pixel_to_world(x, y)
        xr, yr = WCS(pair.reference_header).world_to_pixel(sky)
        inside = (xr > -0.5) & (yr > -0.5) & (xr < pair.reference.shape[1] - 0.5) & (yr < pair.reference.shape[0] - 0.5)
        assert inside.mean() > 0.95


def test_fields_do_not_overlap():
    centres = np.array([field_centre(index, np.random.default_rng(3)) for index in range(400)])
    sky = SkyCoord(centres[:, 0], centres[:, 1], unit="deg")
    separations = np.array([sky[i].separation(np.delete(sky, i)).deg.min() for i in range(0, 400, 7)])
    assert separations.min() > 1.4  # the diagonal of the widest telescope is 1.3 deg


def test_the_embedded_telescope_is_there():
    row = read_telescopes(ROOT / "config/telescopes")["demo"]
    assert row.source == "simulated" and row.assumptions["sky.seeing"] == "no telescope of this kind exists"


CHANGING = {"galaxy_density": 0, "saturation": 1e9, "seeing_spread": 0.0, "tracking": 0.0, "star_density": 300}


def fluxes(data, x, y, radius=5.0):
    """Aperture fluxes [ADU], a local sky taken off."""
    values = []
    ys, xs = np.indices(data.shape)
    for xi, yi in zip(x, y, strict=True):
        r = np.hypot(xs - xi, ys - yi)
        values.append((data - np.median(data[(r > 2 * radius) & (r < 3 * radius)]))[r < radius].sum())
    return np.array(values)


def lonely(truth, *, distance=18.0):
    apart = np.hypot(*(truth[["x", "y"]].to_numpy()[:, None] - truth[["x", "y"]].to_numpy()).T)
    np.fill_diagonal(apart, np.inf)
    brighter = truth.flux.to_numpy()[:, None] < 100 * truth.flux.to_numpy()[None, :]
    return ~((apart < distance) & brighter).any(axis=1) & truth.x.between(20, 299) & truth.y.between(20, 235)


def test_asteroids_are_in_the_science_image_alone():
    still, moving = (simulate_pair(telescope(**CLEAN, **CHANGING, asteroids=n), index=0, seed=3) for n in (0, 8))
    np.testing.assert_array_equal(still.reference, moving.reference)
    rows = moving.truth[moving.truth.kind == "asteroid"]
    assert len(rows) >= 3 and not (still.truth.kind == "asteroid").any()
    assert rows.mag.notna().all() and rows.color.isna().all()
    assert rows.known.sum() == (len(rows) + 1) // 2
    noise = background_noise(still.science)
    for row in rows[rows.flux > 50 * noise].itertuples():
        y, x = int(round(row.y)), int(round(row.x))
        cut = np.s_[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert (moving.science - still.science)[cut].sum() == pytest.approx(row.flux, rel=0.6)


def test_further_effects_do_not_change_the_other_random_streams():
    plain = simulate_pair(telescope(), index=1, seed=3)
    more = simulate_pair(telescope(variables=5, asteroids=5, color_term=0.1), index=1, seed=3)
    pd.testing.assert_series_equal(plain.truth.x[:50], more.truth.x[:50])
    np.testing.assert_array_equal(plain.reference, more.reference)


def test_images_of_a_telescope_without_flaws_are_unchanged():
    """Sums of a pair as they were before there were flaws, each of which has a random stream of its own."""
    damage = {"crosstalk": 1e-3, "bad_columns": 2, "color_term": 0.1, "star_density": 3000}
    changing = {"variables": 2, "asteroids": 2, "reference_scale": 0.8}
    row = telescope(saturation=20000.0, width=96, height=80, **damage, **changing)
    pair = simulate_pair(row, index=2, seed=5)
    assert pair.science.sum(dtype=float) == pytest.approx(1204487.2587718964, rel=1e-9)
    assert pair.reference.sum(dtype=float) == pytest.approx(1567693.0636405945, rel=1e-9)
    assert pair.truth.x.sum() == pytest.approx(2181.186428771813, rel=1e-9) and len(pair.truth) == 47


FLAWS = {
    "defocus": 0.5,
    "warm_pixels": 500,
    "banding": 0.3,
    "quantisation": 0.5,
    "resampled": "lanczos",
    "reference_resampled": "bilinear",
    "reference_smoothing": 0.5,
    "reference_holes": 0.5,
    "no_data": 0.1,
    "reference_no_data": 0.1,
    "sky_removed": "both",
    "offset": 2.0,
    "clipped": True,
}


def test_flaws_do_not_shift_stars_relative_to_the_header_wcs():
    row = telescope(**CLEAN, **FLAWS, wcs_error=0.0, galaxy_density=0, star_density=1000, saturation=1e6)
    pair = simulate_pair(row, index=2, seed=3)
    again = simulate_pair(row, index=2, seed=3)
    assert pair.science.tobytes() == again.science.tobytes() and pair.reference.tobytes() == again.reference.tobytes()
    assert {"warm_pixel", "hole", "no_data"} <= set(pair.truth.kind)
    stars = pair.truth[(pair.truth.kind == "star")].nlargest(12, "flux")
    stars = stars[stars.x.between(10, 309) & stars.y.between(10, 245)]
    x, y = WCS(pair.science_header).world_to_pixel_values(stars.ra, stars.dec)
    assert np.hypot(x - stars.x, y - stars.y).max() < 1e-3
    away = []
    for xi, yi in zip(x, y, strict=True):
        x0, y0 = int(round(float(xi))), int(round(float(yi)))
        box = pair.science[y0 - 4 : y0 + 5, x0 - 4 : x0 + 5].astype(float)
        if np.isfinite(box).all():
            ys, xs = np.indices(box.shape) - 4
            away.append([(xs * box).sum() / box.sum() + x0 - xi, (ys * box).sum() / box.sum() + y0 - yi])
    assert len(away) > 4 and np.abs(np.median(away, axis=0)).max() < 0.1


def test_headers_can_be_wrong():
    row = telescope(width=96, height=80, gain_error=0.2, saturation_error=-0.3, sky_removed="science")
    pair, right = simulate_pair(row, index=1, seed=3), simulate_pair(telescope(width=96, height=80), index=1, seed=3)
    assert pair.science_header["GAIN"] == pytest.approx(1.2 * 1.5)
    assert pair.reference_header["GAIN"] == pytest.approx(1.2 * 1.5 * 4)
    sky = right.science_header["SKYLEVEL"]
    assert pair.science_header["SATURATE"] == pytest.approx(0.7 * (60000 - sky))
    assert pair.reference_header["SATURATE"] == pytest.approx(0.7 * 60000)
    np.testing.assert_array_equal(pair.reference, right.reference)
    np.testing.assert_allclose(pair.science, right.science - sky, atol=0.01)


@pytest.mark.parametrize("scale, distorted", [(1.0, False), (0.8, True)])
def test_the_reference_of_another_telescope_is_distorted(scale, distorted):
    """Pixels of stars on the science image against the WCS of the header, which describes no distortion."""
    row = telescope(**CLEAN, wcs_error=0.4, reference_scale=scale, width=640, height=640, galaxy_density=0, rotation=0)
    pair = simulate_pair(row, index=0, seed=7)
    truth = pair.truth[pair.truth.kind == "star"]
    x, y = WCS(pair.science_header).world_to_pixel_values(truth.ra, truth.dec)
    terms = np.array([np.ones(len(truth)), truth.x, truth.y]).T
    left = [shift - terms @ np.linalg.lstsq(terms, shift, rcond=None)[0] for shift in (x - truth.x, y - truth.y)]
    assert (np.std(left) > 0.1) == distorted
    if not distorted:
        assert np.std(left) < 1e-3


SHIPPED = read_telescopes(ROOT / "config/telescopes")
PAPER = {"JAST": 0.58, "FRAM-CTA-N": 1.52, "TACA": None, "TCA": 3.31}


@pytest.mark.parametrize("name", PAPER)
def test_the_telescopes_of_the_paper_are_there(name):
    row = SHIPPED[name]
    assert row.source == "simulated"
    assert ("detector.pixel_scale" in row.assumptions) == (PAPER[name] is None)
    if PAPER[name] is not None:
        assert row.detector.pixel_scale == PAPER[name]
    assert row.sky.reference_scale != 1  # of another survey


def test_sampling_of_the_telescopes_of_the_paper():
    fwhm = {name: SHIPPED[name].sky.seeing / SHIPPED[name].detector.pixel_scale for name in PAPER}
    assert fwhm["TCA"] < 1.7 < 2.2 < fwhm["JAST"]
    assert min(fwhm, key=fwhm.get) == "TCA" and max(fwhm, key=fwhm.get) == "JAST"


@pytest.mark.parametrize("name, limit", [("FRAM-CTA-N", 17.0), ("TCA", 18.0)])
def test_known_limits_of_the_telescopes_of_the_paper(name, limit):
    empty = dict.fromkeys(("star_density", "galaxy_density", "variables", "asteroids"), 0)
    sky = SHIPPED[name].sky.model_copy(update=CLEAN | empty | {"width": 256, "height": 256})
    row = SHIPPED[name].model_copy(update={"sky": sky})
    limits = []
    for index in range(6):
        pair = simulate_pair(row, index=index, seed=1)
        header = pair.science_header
        limits.append(
            limiting_magnitude(
                fwhm=header["SEEING"] / row.detector.pixel_scale,
                beta=row.sky.psf_beta,
                noise=background_noise(pair.science),
                zero_point=header["MAGZP"],
            )
        )
    assert np.median(limits) == pytest.approx(limit, abs=0.25)


def test_simulate_files_writes_what_the_next_steps_read(tmp_path):
    paths = {name: tmp_path / name for name in ("science.fits", "reference.fits", "truth.csv")}
    simulate_files(
        science=paths["science.fits"],
        reference=paths["reference.fits"],
        truth=paths["truth.csv"],
        telescope=telescope(),
        image="sim0001",
        index=1,
        seed=1,
    )
    image = read_image(paths["science.fits"], name="sim0001")
    assert image.pixel_scale == pytest.approx(1.2, rel=1e-3)
    assert (image.gain, image.read_noise, image.saturation) == (1.5, 8.0, 60000.0)
    assert image.filter == "clear" and image.time and image.wcs is not None
    assert image.header["OBJECT"] == "sim0001"
    assert read_image(paths["reference.fits"], name="r").gain == pytest.approx(1.5 * 4)
    truth = io.read_table(paths["truth.csv"])
    assert (truth.kind == "star").sum() > 10


def test_no_step_of_a_real_telescope_runs_the_simulator():
    simulator = {"simulate.py", "drawn_sky.py", "readout.py", "optics.py", "artefacts.py", "simulated_catalogue.py"}
    users = {
        path.stem
        for path in (ROOT / "scripts").rglob("*.py")
        if simulator & {file.name for file in code_files(f"{path.parent.name}/{path.stem}", root=ROOT)}
    }
    # image is the job of run.fused, which simulates too; the detector network adds cosmic rays and hot pixels to its tiles.
    assert users == {"simulate", "simulated_catalogue", "image", "train_finder", "finder"}
