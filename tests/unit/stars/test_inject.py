import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image, read_image
from otrain_core.io import read_json, read_table, write_json
from otrain_core.plan.pipelines import InjectOptions, PsfOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.stars.inject import find_anchors, inject_files, inject_sources
from otrain_core.stars.psf import measure_psf, psf_files
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.truth import TRUTH_COLUMNS
from tests.unit.synthetic_field import field


def blank(shape=(384, 384), *, sky=100.0, rms=9.0, seed=0, **more):
    data = np.random.default_rng(seed).normal(sky, rms, shape).astype(np.float32)
    return Image(name="blank", data=data, header=fits.Header(), gain=1.5, **more)


def inject(image, model, record, *, seed, noise=True, **changes):
    """Inject sources at random positions; `changes` are further options."""
    options = InjectOptions.model_validate({"mix": {"random": 1.0}} | changes)
    rng = np.random.default_rng(seed)
    return inject_sources(image, model, record=record, rng=rng, options=options, noise=noise)


@pytest.fixture(scope="module", params=[(1.2, 0.0), (2.0, 0.3), (3.5, 0.1)], ids=["undersampled", "varying", "wide"])
def measured(request):
    image, *_ = field(fwhm=request.param[0], variation=request.param[1])
    return measure_psf(image)


@pytest.fixture(scope="module")
def one():
    image, *_ = field(fwhm=1.8)
    return measure_psf(image)


def test_flux_is_conserved_without_noise(measured):
    model, record = measured
    image = blank(rms=0.0)
    data, truth = inject(image, model, record, seed=1, n_sources=200, noise=False)
    r = model.radius
    whole = truth.x.between(r, 383 - r) & truth.y.between(r, 383 - r)
    assert 0.5 < whole.mean() < 1
    # Only the light beyond the edge is lost.
    partial = sum(
        flux * model.stamp(x, y)[0][inside(model, x, y, image.shape)].sum()
        for x, y, flux in zip(truth.x, truth.y, truth.flux, strict=True)
    )
    added = (data.astype(float) - image.data).sum()
    assert added == pytest.approx(partial, rel=1e-5)
    assert partial < truth.flux.sum()


def inside(model, x, y, shape):
    _, y0, x0 = model.stamp(x, y)
    rows, columns = y0 + np.arange(model.size), x0 + np.arange(model.size)
    return ((rows >= 0) & (rows < shape[0]))[:, None] & ((columns >= 0) & (columns < shape[1]))


def test_flux_is_recovered_within_the_noise(measured):
    """Aperture fluxes, which do not depend on the model, scatter about the truth as expected from photon and sky noise."""
    model, record = measured
    pulls = []
    for seed in range(8):
        image = blank(seed=seed)
        data, truth = inject(
            image, model, record, seed=100 + seed, n_sources=60, grid=8, bright_mag=6.0, faint_mag=-2.0
        )
        gap = np.maximum(*(np.abs(truth[c].values[:, None] - truth[c].values) for c in ("x", "y")))
        np.fill_diagonal(gap, np.inf)
        r = model.radius
        free = (gap.min(axis=1) > 2 * r + 2) & truth.x.between(r + 1, 382 - r) & truth.y.between(r + 1, 382 - r)
        for row in truth[free].itertuples():
            y, x = int(np.floor(row.y + 0.5)), int(np.floor(row.x + 0.5))
            box = data[y - r : y + r + 1, x - r : x + r + 1].astype(float) - 100
            pulls.append((box.sum() - row.flux) / np.sqrt(box.size * 81 + row.flux / 1.5))
    pulls = np.array(pulls)
    assert pulls.size > 40
    assert abs(pulls.mean()) < 4 / np.sqrt(pulls.size)
    assert 0.75 < pulls.std() < 1.3


def test_shot_noise_is_that_of_the_electrons(one):
    model, record = one
    image = blank(rms=0.0)
    sums = [inject(image, model, record, seed=s, n_sources=1, grid=1, bright_mag=5, faint_mag=-5) for s in range(300)]
    flux = sums[0][1].flux[0]
    kept = [
        (data.astype(float) - 100).sum()
        for data, truth in sums
        if truth.x.between(30, 350).all() and truth.y.between(30, 350).all()
    ]
    assert np.var(kept) == pytest.approx(flux / 1.5, rel=0.3)
    assert np.mean(kept) == pytest.approx(flux, abs=4 * np.sqrt(flux / 1.5 / len(kept)))


def test_centroids_are_the_true_positions(measured):
    model, record = measured
    data, truth = inject(blank(rms=0.0), model, record, seed=5, n_sources=9, grid=3, noise=False)
    r = model.radius
    for row in truth[truth.x.between(r + 1, 382 - r) & truth.y.between(r + 1, 382 - r)].itertuples():
        y0, x0 = int(np.floor(row.y + 0.5)) - r, int(np.floor(row.x + 0.5)) - r
        box = data[y0 : y0 + 2 * r + 1, x0 : x0 + 2 * r + 1].astype(float) - 100
        assert (box * (x0 + np.arange(box.shape[1]))).sum() / box.sum() == pytest.approx(row.x, abs=0.05)
        assert (box * (y0 + np.arange(box.shape[0]))[:, None]).sum() / box.sum() == pytest.approx(row.y, abs=0.05)


def test_every_cell_gets_its_share(one):
    model, record = one
    image = blank((300, 450))
    _, truth = inject(image, model, record, seed=1, n_sources=200, grid=9)
    cells = np.floor((truth.y + 0.5) / 300 * 9) * 9 + np.floor((truth.x + 0.5) / 450 * 9)
    counts = np.bincount(cells.astype(int), minlength=81)
    assert set(counts) == {200 // 81, 200 // 81 + 1}
    assert truth.x.between(-0.5, 449.5).all()
    assert truth.mag.between(record["limit_mag"] - 4.5, record["limit_mag"] + 0.5).all()
    np.testing.assert_allclose(truth.mag, record["zero_point"] - 2.5 * np.log10(truth.flux))
    assert list(truth.columns) == TRUTH_COLUMNS
    assert (truth.kind == "random").all()


def test_missing_stays_missing_and_the_sum_stops_at_saturation(one):
    model, record = one
    image = blank(saturation=400.0)
    image.data[100:200, 100:200] = np.nan
    image.data[5, 5] = 900.0
    data, _ = inject(image, model, record, seed=1, n_sources=300, bright_mag=8.0)
    np.testing.assert_array_equal(np.isnan(data), np.isnan(image.data))
    assert data[5, 5] == 900.0
    assert np.count_nonzero(data == 400.0) > 50
    data[5, 5] = 0
    assert np.nanmax(data) == 400.0
    assert data.dtype == np.float32


def test_positions_on_the_sky(one):
    model, record = one
    wcs = WCS(naxis=2)
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [0.001, 10], [192, 192], [-1e-3, 1e-3]
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    _, truth = inject(blank(wcs=wcs), model, record, seed=1)
    x, y = wcs.all_world2pix(truth.ra, truth.dec, 0)
    np.testing.assert_allclose(np.column_stack([x, y]), truth[["x", "y"]], atol=1e-5)
    assert truth.ra.between(0, 360).all()
    _, truth = inject(blank(), model, record, seed=1)
    assert truth.ra.isna().all()


def test_random_mix_is_the_plain_scheme(one):
    """Order of the random numbers for random positions: positions, then magnitudes, then photons source by source."""
    model, record = one
    data, truth = inject(blank(), model, record, seed=7, n_sources=30, grid=3)
    for mix in ({"random": 1.0}, {"random": 0.3, "star": 0.0}):
        again, same = inject(blank(), model, record, seed=7, n_sources=30, grid=3, mix=mix)
        assert again.tobytes() == data.tobytes() and same.equals(truth)
    rng = np.random.default_rng(7)
    cells = np.concatenate([np.tile(np.arange(9), 3), rng.choice(9, 3, replace=False)])
    rng.shuffle(cells)
    x = (cells % 3 + rng.random(30)) * 384 / 3 - 0.5
    y = (cells // 3 + rng.random(30)) * 384 / 3 - 0.5
    mag = rng.uniform(record["limit_mag"] - 4.5, record["limit_mag"] + 0.5, 30)
    np.testing.assert_array_equal(truth[["x", "y", "mag"]].to_numpy(), np.column_stack([x, y, mag]))
    stamp, y0, x0 = model.stamp(x[0], y[0])
    assert rng.poisson(truth.flux[0] * stamp * 1.5).shape == stamp.shape


def galaxies(image, places, *, flux=2e4, scale=3.0):
    """Exponential discs convolved with a Gaussian PSF of FWHM 1.8 px."""
    from scipy import ndimage

    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    light = np.zeros(image.shape)
    for xi, yi in places:
        disc = np.exp(-np.hypot(x - xi, y - yi) / scale)
        light += flux * disc / disc.sum()
    image.data = image.data + ndimage.gaussian_filter(light, 1.8 / 2.3548).astype(np.float32)
    return image


@pytest.fixture(scope="module")
def busy():
    image, x, y, _ = field(fwhm=1.8, n=100)
    places = [(60.0 + 65 * i, 50.0 + 70 * j) for i in range(5) for j in range(5)]
    places = [(px, py) for px, py in places if np.hypot(x - px, y - py).min() > 14]
    assert len(places) >= 8
    return galaxies(image, places), np.column_stack([x, y]), np.array(places)


def nearest(truth, points):
    return np.hypot(truth.x.values[:, None] - points[:, 0], truth.y.values[:, None] - points[:, 1]).min(axis=1)


def test_anchors_are_what_they_are_called(busy):
    image, stars, places = busy
    found, wide = find_anchors(image)
    assert len(found) > 40 and (nearest(found, stars) < 1).all()
    assert len(wide) >= 0.7 * len(places) and (nearest(wide, places) < 1).mean() > 0.8
    # An exponential disc has half of its light within 1.68 scale lengths.
    assert np.median(wide["size"]) == pytest.approx(1.68 * 3, rel=0.25)


def test_mix_of_places(busy, one):
    image, stars, places = busy
    model, record = one
    mix = {"random": 0.6, "galaxy": 0.1, "star": 0.3}
    rows = []
    for seed in range(10):
        _, truth = inject(image, model, record, seed=seed, n_sources=60, mix=mix)
        assert truth.kind.value_counts().to_dict() == {"random": 36, "star": 18, "galaxy": 6}
        rows.append(truth)
    by = {kind: [table[table.kind == kind] for table in rows] for kind in ("random", "galaxy", "star")}
    beside = np.concatenate([nearest(table, stars) for table in by["star"]]) / model.fwhm
    assert beside.max() < 3.2 and np.mean(beside < 1) == pytest.approx(1 / 3, abs=0.12)
    away = np.concatenate([nearest(table, places) for table in by["galaxy"]])
    assert np.median(away) == pytest.approx(np.log(2) * 1.68 * 3, rel=0.5)
    assert np.median(np.concatenate([nearest(table, places) for table in by["random"]])) > 20
    assert not rows[0][["x", "y"]].equals(rows[1][["x", "y"]])


def test_share_without_anchors_is_random(one):
    model, record = one
    _, truth = inject(blank(), model, record, seed=1, n_sources=50, mix={"galaxy": 1, "star": 1})
    assert (truth.kind == "random").all() and len(truth) == 50


def test_snapshots_take_the_psf_of_the_nearest_cell():
    image, *_ = field(fwhm=2.0, variation=0.5)
    model, record = measure_psf(image)
    flat = blank(rms=0.0)
    common = {"n_sources": 1, "grid": 1, "noise": False, "bright_mag": 5, "faint_mag": -5}
    widths = set()
    for seed in range(12):
        own, truth = inject(flat, model, record, seed=seed, **common)
        one, same = inject(flat, model, record, seed=seed, psf_snapshots=1, **common)
        fine, _ = inject(flat, model, record, seed=seed, psf_snapshots=96, **common)
        assert same.equals(truth)
        np.testing.assert_allclose(fine, own, atol=2e-2 * (own.max() - 100))
        if truth[["x", "y"]].stack().between(20, 360).all():
            y, x = int(np.floor(truth.y[0] + 0.5)), int(np.floor(truth.x[0] + 0.5))
            r = model.radius
            box = (one[y - r : y + r + 1, x - r : x + r + 1].astype(float) - 100) / truth.flux[0]
            centre = model.stamp(192 + truth.x[0] - x, 192 + truth.y[0] - y)[0]
            np.testing.assert_allclose(box, centre, atol=2e-5)
            widths.add(np.abs(box - (own[y - r : y + r + 1, x - r : x + r + 1] - 100) / truth.flux[0]).max() > 1e-3)
    assert True in widths


def test_an_unknown_limit_is_told(one):
    with pytest.raises(ImageError, match="image blank: limit_mag: .* no finite"):
        inject(blank(), one[0], one[1] | {"limit_mag": None}, seed=1)


def test_variables_stand_exactly_on_stars(busy, one):
    image, (model, record) = busy[0], one
    _, truth = inject(image, model, record, seed=3, n_sources=40, mix={"random": 0.5, "star": 0.25, "variable": 0.25})
    stars, _ = find_anchors(image)
    changed = truth[truth.kind == "variable"]
    away = [np.hypot(stars.x - x, stars.y - y).min() for x, y in zip(changed.x, changed.y, strict=True)]
    assert len(changed) == 10 and max(away) < 1e-6 and len(changed[["x", "y"]].drop_duplicates()) == 10


def test_the_default_mix_has_galaxies_and_stars(busy):
    model, record = measure_psf(busy[0])
    _, truth = inject_sources(busy[0], model, record=record, rng=np.random.default_rng(1))
    counts = truth.kind.value_counts()
    assert len(truth) == 150 and counts["star"] == 22 and 0 < counts["galaxy"] <= 22


def test_inject_files_keeps_injected_sources_whatever_the_real_stars(tmp_path):
    image, *_ = field(fwhm=2.0, n=80, logflux=(3.0, 4.5))
    header = fits.Header({"GAIN": 1.5, "SATURATE": 6e4, "MAGZP": 24.0, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    header.update({"CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 192.0, "CRPIX2": 192.0, "CDELT1": -1e-3, "CDELT2": 1e-3})
    fits.writeto(tmp_path / "science.fits", image.data, header)
    common = {"science": tmp_path / "science.fits", "psf": tmp_path / "psf.fits", "record": tmp_path / "psf.json"}
    psf_files(**common, image="a", detector=Detector(), wcs=None, options=PsfOptions())
    tables = []
    for n in (0, 4):
        paths = {"injected": tmp_path / f"{n}.fits", "truth": tmp_path / f"{n}.csv"}
        options = InjectOptions(
            n_sources=20, bright_mag=8.0, mix={"random": 1.0}, removed_stars=n, transplanted_stars=n
        )
        about = {"image": "a", "telescope": "t", "detector": Detector(), "wcs": None}
        inject_files(**common, **paths, **about, seed=1, options=options)
        tables.append(read_table(paths["truth"]))
    assert tables[1][:20].equals(tables[0])
    assert tables[1]["kind"].value_counts().to_dict() == {"random": 20, "removed": 4, "transplanted": 4}
    assert tables[1]["id"].tolist() == list(range(28))


def test_inject_files_takes_the_refined_wcs(tmp_path):
    image, *_ = field(n=60)
    header = fits.Header({"GAIN": 1.5, "SATURATE": 6e4, "MAGZP": 24.0, "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    header.update({"CRVAL1": 10.0, "CRVAL2": 20.0, "CRPIX1": 192.0, "CRPIX2": 192.0, "CDELT1": -1e-3, "CDELT2": 1e-3})
    fits.writeto(tmp_path / "science.fits", image.data, header)
    common = {"science": tmp_path / "science.fits", "psf": tmp_path / "psf.fits", "record": tmp_path / "psf.json"}
    psf_files(**common, image="a", detector=Detector(), wcs=None, options=PsfOptions())
    refined = WCS(header)
    refined.wcs.crval = [10.01, 20.0]
    record = read_json(common["record"])
    write_json(common["record"], record | {"wcs": refined.to_header_string(relax=True)})
    paths = {"injected": tmp_path / "injected.fits", "truth": tmp_path / "injected.csv"}
    about = {"image": "a", "telescope": "t", "detector": Detector(), "wcs": None}
    inject_files(**common, **paths, **about, seed=1, options=InjectOptions())
    truth = read_table(paths["truth"])
    np.testing.assert_allclose(refined.all_world2pix(truth.ra, truth.dec, 0), [truth.x, truth.y], atol=1e-3)


def test_inject_files_gives_every_image_its_own_stream(tmp_path):
    image, *_ = field(n=60)
    header = fits.Header({"GAIN": 1.5, "SATURATE": 6e4, "MAGZP": 24.0, "OBJECT": "field", "BZERO": 32768})
    fits.writeto(tmp_path / "science.fits", image.data, header)
    detector = Detector(pixel_scale=2.0)
    common = {"science": tmp_path / "science.fits", "psf": tmp_path / "psf.fits", "record": tmp_path / "psf.json"}
    psf_files(**common, image="a", detector=detector, wcs=None, options=PsfOptions())
    out = {}
    options = InjectOptions(n_sources=20, mix={"random": 1.0}, removed_stars=0, transplanted_stars=0)
    for key, name in (("first", "a"), ("again", "a"), ("other", "b")):
        paths = {"injected": tmp_path / f"{key}.fits", "truth": tmp_path / f"{key}.csv"}
        about = {"image": name, "telescope": "t", "detector": detector, "wcs": None}
        inject_files(**common, **paths, **about, seed=1, options=options)
        out[key] = [path.read_bytes() for path in paths.values()]
    assert out["first"] == out["again"]
    assert out["first"] != out["other"]
    assert len(read_table(tmp_path / "first.csv")) == 20
    injected = read_image(tmp_path / "first.fits", name="a", detector=detector)
    assert (injected.gain, injected.saturation, injected.zero_point) == (1.5, 6e4, 24.0)
    assert injected.header["OBJECT"] == "field"
    assert (injected.data - image.data).max() > 10


def test_sources_that_fade_are_not_in_the_image(one):
    model, record = one
    image = blank(rms=0.0)
    plain, everything = inject(image, model, record, seed=5, n_sources=40, grid=4, noise=False)
    data, truth = inject(image, model, record, seed=5, n_sources=40, grid=4, noise=False, negative_fraction=0.25)
    assert (truth["flux"] < 0).sum() == 10
    np.testing.assert_array_equal(truth[["x", "y", "mag"]], everything[["x", "y", "mag"]])
    np.testing.assert_allclose(truth["flux"].abs(), everything["flux"])
    kept = truth["flux"] > 0
    light = (data.astype(float) - image.data).sum()
    assert light == pytest.approx(
        sum(
            flux * model.stamp(x, y)[0][inside(model, x, y, image.shape)].sum()
            for x, y, flux in zip(truth.x[kept], truth.y[kept], truth.flux[kept], strict=True)
        ),
        rel=1e-4,
    )
    assert light < (plain.astype(float) - image.data).sum()


COUNTS = {"GAIN": 1.5, "RDNOISE": 4.5, "SATURATE": 6e4, "EXPTIME": 60.0, "MAGZP": 25.0}


@pytest.mark.parametrize(
    ("cards", "factor", "detector"),
    [
        ({}, 1.0, {}),
        ({"BUNIT": "adu/s", "SATURATE": 1000.0}, 1 / 60, {}),
        ({"BUNIT": "electron", "SATURATE": 9e4}, 1.5, {}),
        ({"BUNIT": "electron/s", "SATURATE": 1500.0}, 1.5 / 60, {}),
        ({"GAIN": 139.0}, 1.0, {"gain": 1.5, "wins": "config"}),
    ],
    ids=["counts", "counts per second", "electrons", "electrons per second", "a gain that is a setting"],
)
def test_noise_of_injected_sources_is_that_of_their_photons_whatever_the_unit(tmp_path, cards, factor, detector):
    """A frame in any unit gives the same sources and noise in electrons, also when the next step reads it."""
    image, *_ = field(fwhm=2.2, n=90, sky=300.0)
    fits.writeto(tmp_path / "science.fits", image.data * np.float32(factor), fits.Header(COUNTS | cards))
    about = {"image": "a", "detector": Detector(pixel_scale=1.2, **detector), "wcs": None}
    common = {"science": tmp_path / "science.fits", "psf": tmp_path / "psf.fits", "record": tmp_path / "psf.json"}
    psf_files(**common, **about, options=PsfOptions())
    paths = {"injected": tmp_path / "injected.fits", "truth": tmp_path / "injected.csv"}
    options = InjectOptions(n_sources=40, mix={"random": 1.0}, removed_stars=0, transplanted_stars=0)
    inject_files(**common, **paths, **about, telescope="t", seed=1, options=options)
    before = read_image(common["science"], name="a", detector=about["detector"])
    after = read_image(paths["injected"], name="a", detector=about["detector"])
    record = read_json(common["record"])
    assert (after.gain, after.read_noise, after.saturation) == (before.gain, before.read_noise, before.saturation)
    assert record["background_rms"] * record["gain"] == pytest.approx(1.5 * np.sqrt(300 / 1.5 + 9), rel=0.05)
    truth = read_table(paths["truth"])
    r = PSFModel.load(common["psf"]).radius
    whole = truth[truth.x.between(r, 383 - r) & truth.y.between(r, 383 - r)]
    light = (after.data.astype(float) - before.data) * after.gain
    expected = truth.flux.sum() * after.gain
    lost = expected - whole.flux.sum() * after.gain
    # Poisson noise in electrons: the error of the sum of all sources is its square root.
    assert -5 * np.sqrt(expected) - lost < light.sum() - expected < 5 * np.sqrt(expected)
    gap = np.hypot(whole.x.to_numpy()[:, None] - truth.x.to_numpy(), whole.y.to_numpy()[:, None] - truth.y.to_numpy())
    alone = whole[np.sort(gap, axis=1)[:, 1] > 2 * r]
    peak = alone.loc[alone.flux.idxmax()]
    y, x = int(peak.y + 0.5), int(peak.x + 0.5)
    stamp, *_ = PSFModel.load(common["psf"]).stamp(peak.x, peak.y)
    counts = peak.flux * after.gain * stamp
    chi2 = ((light[y - r : y + r + 1, x - r : x + r + 1] - counts) ** 2 / np.maximum(counts, 1))[counts > 5]
    assert len(chi2) > 10 and 0.5 < chi2.mean() < 1.7
