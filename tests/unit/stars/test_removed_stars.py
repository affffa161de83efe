"""Stars subtracted from the reference, and fading sources added to it."""

from dataclasses import replace

import numpy as np
import pytest

from otrain_core.images.wcs import sky_to_pixel
from otrain_core.plan.pipelines import InjectOptions, PsfOptions
from otrain_core.stars.inject import inject_sources
from otrain_core.stars.real_stars import add_real_stars
from otrain_core.stars.removed_stars import remove_stars
from tests.unit.stars.test_real_stars import SHAPE, choose
from tests.unit.synthetic_pair import GAIN, observe, turned


@pytest.fixture(scope="module")
def sharp(sky):
    """Deeper and sharper reference, rotated and shifted."""
    return observe(sky, seed=2, fwhm=2.0, angle=3.0, shift=(8.0, -5.0), factor=3.0, level=300.0, name="reference")


def test_removed_stars_leave_less_than_the_noise(science, sharp, sky):
    _, _, _, table = choose(science, removed=16)
    stars = table[table.kind == "removed"]
    before = sharp.data.copy()
    cleaned, record = remove_stars(sharp, stars, name="a")
    np.testing.assert_array_equal(sharp.data, before)
    assert len(record["removed"]) >= 0.7 * len(stars)
    assert sorted(record["removed"] + [row["id"] for row in record["failed"]]) == stars["id"].tolist()
    assert record["residual"]["n"] == len(record["removed"]) and record["residual"]["chi2"] < 2
    gone = stars[stars["id"].isin(record["removed"])]
    x, y = turned(sky, angle=3.0, shift=(8.0, -5.0))
    index = np.hypot(gone.x.values[:, None] - sky.x, gone.y.values[:, None] - sky.y).argmin(axis=1)
    light = before.astype(float) - cleaned.data
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for k in index:
        flux = 3 * sky.flux[k]
        near = np.hypot(xx - x[k], yy - y[k]) < 5
        noise = np.sqrt(near.sum() * 300 / GAIN + flux / GAIN)
        assert light[near].sum() == pytest.approx(flux, abs=4 * noise + 0.02 * flux)
    others = np.setdiff1d(np.arange(len(sky.x)), index)
    for k in others[:40]:
        column, row = int(round(x[k])), int(round(y[k]))
        if 0 <= column < SHAPE[1] and 0 <= row < SHAPE[0] and np.hypot(x[index] - x[k], y[index] - y[k]).min() > 15:
            assert light[row, column] == 0


def test_stars_that_cannot_be_removed(science, sharp):
    _, _, _, table = choose(science, removed=12)
    stars = table[table.kind == "removed"].reset_index(drop=True)
    first = stars.iloc[0]
    x, y = sharp.wcs.all_world2pix(first.ra, first.dec, 0)
    broken = replace(sharp, data=sharp.data.copy())
    broken.data[int(y) - 1 : int(y) + 3, int(x) - 1 : int(x) + 3] = np.nan
    stars.loc[1, ["ra", "dec"]] = 200.0, -20.0
    stars.loc[2, "flux"] *= 5
    stars.loc[3, "dec"] += 12 / 3600  # 12 px beside the star
    _, record = remove_stars(broken, stars, name="a")
    reasons = {row["id"]: row["reason"] for row in record["failed"]}
    assert "missing" in reasons[stars.id[0]] or "not found" in reasons[stars.id[0]]
    assert reasons[stars.id[1]] == "outside the reference"
    assert (
        reasons[stars.id[2]]
        == "its flux ratio between reference and science image differs from that of the other stars"
    )
    assert stars.id[3] in reasons and stars.id[3] not in record["removed"]
    assert len(record["removed"]) >= 4


def test_common_shift_of_the_wcs_is_found(science, sky):
    stars = choose(science, removed=10)[3].query("kind == 'removed'")
    off = observe(sky, seed=2, fwhm=2.0, factor=3.0, level=300.0, wcs_error=(3.0, -2.0))
    _, record = remove_stars(off, stars, name="a")
    assert len(record["removed"]) >= 7


def test_without_wcs_nothing_is_removed(science, sharp, sky):
    image, psf, record = science
    stars = choose(science)[3].query("kind == 'removed'")
    blind = observe(sky, seed=2, wcs=False)
    for reference, table, reason in (
        (blind, stars, "the reference has no WCS"),
        (sharp, stars.assign(ra=np.nan, dec=np.nan), "the science image has no WCS"),
    ):
        same, found = remove_stars(reference, table, name="a")
        assert same is reference and found["removed"] == []
        assert [row["reason"] for row in found["failed"]] == [reason] * len(stars)
    lost = replace(image, wcs=None)
    _, table = choose((lost, psf, record))[2:]
    assert table["kind"].value_counts().to_dict() == {"random": 40, "transplanted": 8}
    assert remove_stars(sharp, stars.iloc[:0], name="a")[1]["failed"] == []


def test_reference_without_a_psf_is_no_crash(science, sharp):
    stars = choose(science)[3].query("kind == 'removed'")
    empty = np.random.default_rng(1).normal(300, 10, SHAPE).astype(np.float32)
    same, record = remove_stars(replace(sharp, data=empty), stars, name="a")
    assert record["removed"] == [] and "the PSF of the reference could not be measured" in record["failed"][0]["reason"]


def test_the_psf_of_the_reference_has_the_options_of_the_pipeline(science, sharp):
    stars = choose(science, removed=10)[3].query("kind == 'removed'")
    strict = PsfOptions(method="psfex", photometry="catalogue", min_stars=900)
    same, record = remove_stars(sharp, stars, name="a", options=strict)
    assert same is sharp and "at least 900 are needed" in record["failed"][0]["reason"]
    # Neither PSFEx nor a catalogue is needed for a reference.
    _, record = remove_stars(sharp, stars, name="a", options=strict.model_copy(update={"min_stars": 4}))
    assert len(record["removed"]) >= 7


@pytest.mark.parametrize("centre", [(0.0, 5.0), (30.0, 89.95)], ids=["across ra 0", "at the pole"])
def test_stars_are_found_wherever_the_field_is(science, sharp, centre):
    image, psf, record = science
    image, reference = (replace(frame, wcs=frame.wcs.deepcopy()) for frame in (image, sharp))
    for frame in (image, reference):
        frame.wcs.wcs.crval = centre
        frame.wcs.wcs.set()
    truth = choose((image, psf, record), removed=10)[3]
    assert truth["ra"].between(0, 360).all()
    if centre[0] == 0.0:
        assert truth["ra"].min() < 1 and truth["ra"].max() > 359
    stars = truth[truth["kind"] == "removed"]
    _, record = remove_stars(reference, stars, name="a")
    assert len(record["removed"]) >= 7


def fading(science, n=12):
    """Truth of an image with stars to be removed, in which half of the injected sources fade."""
    image, psf, record = science
    options = InjectOptions(
        n_sources=n, mix={"random": 1.0}, negative_fraction=0.5, removed_stars=8, transplanted_stars=0
    )
    data, truth = inject_sources(image, psf, record=record, rng=np.random.default_rng(3), options=options)
    _, truth = add_real_stars(image, data, truth, psf, record=record, rng=np.random.default_rng(4), options=options)
    return truth


def test_fading_sources_are_added_to_the_reference_at_its_flux_scale(science, sharp, sky):
    truth = fading(science)
    rows = truth[(truth["kind"] == "removed") | (truth["flux"] < 0)]
    changed, record = remove_stars(sharp, rows, name="a")
    added = rows[(rows["flux"] < 0) & rows["id"].isin(record["removed"])]
    assert len(added) >= 4
    x, y = sky_to_pixel(sharp.wcs, added["ra"], added["dec"])
    gained = changed.data.astype(float) - sharp.data
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for px, py, flux in zip(x, y, added["flux"], strict=True):
        near = np.hypot(xx - px, yy - py) < 6
        noise = np.sqrt(3 * abs(flux) / GAIN)  # photon noise
        assert gained[near].sum() == pytest.approx(-3 * flux, abs=5 * noise + 0.05 * 3 * abs(flux))
    assert sorted(record["removed"] + [row["id"] for row in record["failed"]]) == sorted(rows["id"])
    again, _ = remove_stars(sharp, rows, name="a")
    other, _ = remove_stars(sharp, rows, name="b")
    assert again.data.tobytes() == changed.data.tobytes() != other.data.tobytes()


def test_without_stars_for_the_flux_scale_nothing_fades(science, sharp):
    truth = fading(science)
    rows = truth[truth["flux"] < 0]
    same, record = remove_stars(sharp, rows, name="a")
    assert same is sharp and record["removed"] == []
    assert {row["reason"] for row in record["failed"]} == {
        "fewer than 3 fitted stars for the flux scale of the reference"
    }
