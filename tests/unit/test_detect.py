import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.wcs import WCS

from otrain_core.detect import (
    COLUMNS,
    FLAG_MASKED,
    BroadenedPSF,
    detect_candidates,
    filtered_spread,
    gaussian_widths,
    psf_fluxes,
    window_ellipticities,
)
from otrain_core.errors import ImageError
from otrain_core.io import MASK_COSMIC, MASK_MISSING, MASK_SATURATED

SEEING, NOISE, ZERO_POINT = 2.5, 5.0, 25.0


class Moffat:
    """A PSF with wings, as a telescope has: beta 3."""

    def __init__(self, fwhm=SEEING, beta=3.0, half=12):
        self.alpha, self.beta, self.half = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1), beta, half

    def stamp(self, x, y):
        y0, x0 = int(np.floor(y + 0.5)) - self.half, int(np.floor(x + 0.5)) - self.half
        rows, columns = np.mgrid[: 2 * self.half + 1, : 2 * self.half + 1]
        profile = (1 + ((rows + y0 - y) ** 2 + (columns + x0 - x) ** 2) / self.alpha**2) ** -self.beta
        return profile / profile.sum(), y0, x0

    def flux_error(self):
        return NOISE / np.sqrt((self.stamp(0, 0)[0] ** 2).sum())


def add(image, psf, x, y, flux):
    stamp, y0, x0 = psf.stamp(x, y)
    padded = np.pad(image, 30)
    padded[y0 + 30 : y0 + 30 + stamp.shape[0], x0 + 30 : x0 + 30 + stamp.shape[1]] += flux * stamp
    image[:] = padded[30:-30, 30:-30]


def blank(seed, size=300):
    rng = np.random.default_rng(seed)
    diff = rng.normal(0, NOISE, (size, size)).astype(np.float32)
    return diff, np.full_like(diff, NOISE), np.zeros(diff.shape, np.uint8)


def grid_of_sources(snr, seed=1, size=300, step=50):
    diff, noise, mask = blank(seed, size)
    psf = Moffat()
    rng = np.random.default_rng(seed + 100)
    y, x = (
        axis.ravel() + rng.uniform(-3, 3, axis.size)
        for axis in np.mgrid[step // 2 : size : step, step // 2 : size : step]
    )
    flux = snr * psf.flux_error() * np.ones(x.size)
    for xi, yi, fi in zip(x, y, flux, strict=True):
        add(diff, psf, xi, yi, fi)
    return (diff, noise, mask), psf, pd.DataFrame({"x": x, "y": y, "flux": flux})


def detect(planes, **options):
    return detect_candidates(
        *planes, **({"image": "a", "telescope": "T", "seeing": SEEING, "zero_point": ZERO_POINT} | options)
    )


def pair(table, truth):
    distance = np.hypot(
        truth.x.to_numpy()[:, None] - table.x.to_numpy(), truth.y.to_numpy()[:, None] - table.y.to_numpy()
    )
    return distance.argmin(axis=1), distance.min(axis=1)


@pytest.fixture(scope="module")
def bright():
    planes, psf, truth = grid_of_sources(snr=60)
    return planes, psf, truth, detect(planes, psf=psf, size=32)


def test_every_bright_source_is_found_once_in_its_place(bright):
    _, _, truth, table = bright
    index, distance = pair(table, truth)
    assert len(table) == len(truth) == len(set(index))
    assert np.median(distance) < 0.05 and distance.max() < 0.15


def test_flux_and_magnitude_are_unbiased_with_honest_errors(bright):
    _, psf, truth, table = bright
    index, _ = pair(table, truth)
    measured = table.iloc[index]
    pull = (measured["flux"].to_numpy() - truth.flux.to_numpy()) / psf.flux_error()
    assert abs(pull.mean()) < 0.5 and 0.6 < pull.std() < 1.5
    true_mag = ZERO_POINT - 2.5 * np.log10(truth.flux.to_numpy())
    assert abs(np.median(measured["mag"].to_numpy() - true_mag)) < 0.01
    np.testing.assert_allclose(measured["snr"], 60, rtol=0.25)
    np.testing.assert_allclose(measured["magerr"], 1.0857 / measured["snr"], rtol=1e-3)


def test_shapes_of_point_sources(bright):
    table = bright[3]
    assert np.median(table["fwhm"]) == pytest.approx(SEEING, rel=0.04)
    assert np.median(table["ellipticity"]) < 0.1


def test_width_of_faint_sources_is_not_that_of_their_isophote():
    planes, psf, _ = grid_of_sources(snr=8, size=600)
    table = detect(planes, psf=psf)
    assert np.median(table["fwhm"]) == pytest.approx(SEEING, rel=0.12)
    assert table["fwhm"].between(0.4 * SEEING, 2.5 * SEEING).mean() > 0.95


def test_threshold_is_a_significance():
    planes = blank(3, 700)
    assert len(detect(planes, threshold=5.0)) <= 2  # noise alone: 0.1 expected
    faint, psf, truth = grid_of_sources(snr=9, size=600)
    _, distance = pair(detect(faint, psf=psf, threshold=5.0), truth)
    assert (distance < SEEING).mean() > 0.97


def test_noise_is_scaled_to_the_spread_of_the_filtered_difference():
    from scipy.ndimage import gaussian_filter

    diff, noise, mask = blank(8, 500)
    clear = mask > 0
    assert filtered_spread(diff, noise, clear, SEEING) == pytest.approx(1, abs=0.03)
    assert filtered_spread(diff, 4 * noise, clear, SEEING) == pytest.approx(0.25, abs=0.01)
    correlated = gaussian_filter(diff, 0.7)
    correlated *= NOISE / correlated.std()
    assert filtered_spread(correlated, noise, clear, SEEING) > 1.5
    # A wrong noise map changes neither what is found nor its significance.
    planes, psf, _ = grid_of_sources(snr=30)
    right, wrong = (detect((planes[0], factor * planes[1], planes[2]), psf=psf) for factor in (1, 3))
    np.testing.assert_allclose(right["snr"], wrong["snr"], rtol=1e-4)
    assert len(detect((planes[0], 20 * planes[1], planes[2]), psf=psf, rescale_noise=False)) == 0
    assert len(detect((correlated, noise, mask))) <= 2 < len(detect((correlated, noise, mask), rescale_noise=False))


def test_columns_identifiers_and_order(bright):
    table = bright[3]
    assert list(table.columns) == list(COLUMNS)
    assert table["candid"].tolist() == [f"T-a-{n:04d}" for n in range(1, len(table) + 1)]
    assert (np.diff(table["y"]) >= 0).all()
    assert table["ra"].isna().all() and set(table["method"]) == {"difference"}
    pd.testing.assert_frame_equal(table, detect(bright[0], psf=bright[1], size=32))


def test_sky_coordinates_follow_the_wcs(bright):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.cdelt = ["RA---TAN", "DEC--TAN"], [30, 40], [-1 / 3600, 1 / 3600]
    wcs.wcs.crpix = [151, 151]
    table = detect(bright[0], psf=bright[1], wcs=wcs)
    x, y = wcs.all_world2pix(table["ra"], table["dec"], 0)
    np.testing.assert_allclose(x, table["x"], atol=1e-6)
    np.testing.assert_allclose(y, table["y"], atol=1e-6)


def test_edge_is_half_a_cutout_or_what_is_asked(bright):
    planes, psf, _, table = bright
    assert not table["edge"].any()
    wide = detect(planes, psf=psf, size=80)
    inside = wide["x"].between(40, 259) & wide["y"].between(40, 259)
    assert (wide["edge"] == ~inside).all() and inside.any() and not inside.all()
    asked = detect(planes, psf=psf, edge=100)
    assert (asked["edge"] == ~(asked["x"].between(100, 199) & asked["y"].between(100, 199))).all()


@pytest.mark.parametrize(
    "bit, edge", [(MASK_MISSING, True), (MASK_SATURATED, False), (MASK_COSMIC | MASK_MISSING, False)]
)
def test_masked_pixels_are_never_detected_on(bit, edge):
    diff, noise, mask = blank(4)
    add(diff, Moffat(), 100, 100, 60 * Moffat().flux_error())
    mask[97:104, 102:112] = bit
    diff[mask > 0] = 1e6  # would be by far the brightest thing
    table = detect((diff, noise, mask), psf=Moffat(), threshold=6.0)
    assert len(table) == 1
    row = table.iloc[0]
    assert np.hypot(row["x"] - 100, row["y"] - 100) < 2 and mask[round(row["y"]), round(row["x"])] == 0
    assert row["flux"] == pytest.approx(60 * Moffat().flux_error(), rel=0.1)
    assert row["flags"] & FLAG_MASKED and bool(row["edge"]) is edge


def test_missing_values_do_not_spread():
    planes, psf, truth = grid_of_sources(snr=60)
    diff, noise, mask = (plane.copy() for plane in planes)
    diff[:, 140:145] = np.nan
    noise[10] = 0
    noise[11] = np.nan
    table = detect((diff, noise, mask), psf=psf)
    numbers = table.drop(columns=["ra", "dec"]).select_dtypes("number")
    assert len(table) > 25 and np.isfinite(numbers.to_numpy()).all()
    assert not table["x"].between(139.5, 144.5).any()


def test_negative_sources_only_when_asked():
    diff, noise, mask = blank(5)
    add(diff, Moffat(), 100, 100, -60 * Moffat().flux_error())
    assert len(detect((diff, noise, mask))) == 0
    table = detect((diff, noise, mask), psf=Moffat(), both_signs=True)
    row = table.loc[table["snr"].idxmax()]
    assert row["flux"] < 0 and np.isnan(row["mag"]) and row["snr"] == pytest.approx(60, rel=0.1)


def test_hot_pixel_is_narrow_and_fwhm_range_applies(bright):
    diff, noise, mask = blank(6)
    diff[50, 60] += 500
    table = detect((diff, noise, mask))
    assert len(table) == 1 and table["fwhm"][0] < 0.6 * SEEING
    assert len(detect((diff, noise, mask), fwhm_ratio=(0.6, 5.0))) == 0
    assert len(detect(bright[0], psf=bright[1], fwhm_ratio=(0.6, 5.0))) == len(bright[3])


def test_elongated_source_has_its_ellipticity():
    rows, columns = np.mgrid[:61, :61]
    image = 1e4 * np.exp(-0.5 * (((columns - 30) / 2.0) ** 2 + ((rows - 30) / 1.0) ** 2))
    clear = np.zeros(image.shape, bool)
    at = np.array([30.0])
    assert window_ellipticities(image, clear, at, at, seeing=3.0)[0] == pytest.approx(0.5, abs=0.06)
    round_image = 1e4 * np.exp(-0.5 * ((columns - 30) ** 2 + (rows - 30) ** 2) / 1.5**2)
    assert window_ellipticities(round_image, clear, at, at, seeing=3.0)[0] < 0.02
    width = gaussian_widths(round_image, np.ones_like(image), clear, at, at, seeing=3.0)[0]
    assert width == pytest.approx(1.5 * 2.3548, rel=0.02)


def test_psf_flux_of_noiseless_source_is_exact():
    image = np.zeros((60, 60))
    add(image, Moffat(), 30.3, 29.6, 1000.0)
    at = np.array([30.3]), np.array([29.6])
    flux, error, cover = psf_fluxes(image, np.ones_like(image), image < -1, *at, seeing=SEEING, psf=Moffat())
    assert flux[0] == pytest.approx(1000, rel=1e-6) and error[0] > 0 and cover[0] == 1


@pytest.mark.parametrize(
    "change, match",
    [
        ({"max_candidates": 10}, "image a: detect.max_candidates: 36 candidates, more than 10"),
        ({"seeing": np.nan}, "image a: detect.seeing: a positive seeing"),
        ({"seeing": 0.0}, "image a: detect.seeing: a positive seeing"),
    ],
)
def test_bad_input(bright, change, match):
    with pytest.raises(ImageError, match=match):
        detect(bright[0], psf=bright[1], **change)


def test_flux_is_unbiased_where_the_science_image_was_convolved():
    from scipy.ndimage import gaussian_filter

    diff, _, mask = blank(9, 400)
    psf = Moffat()
    truth = [(x, y, 300 * psf.flux_error()) for x in range(50, 400, 60) for y in range(50, 400, 60)]
    for x, y, flux in truth:
        add(diff, psf, x + 0.3, y - 0.2, flux)
    sigma = 0.8
    diff = gaussian_filter(diff, sigma)
    noise = np.full_like(diff, NOISE)
    target = np.hypot(SEEING, 2.3548 * sigma)
    broad = BroadenedPSF(psf, fwhm=SEEING, target=target)
    assert broad.stamp(30.3, 30.1)[0].sum() == pytest.approx(1, abs=1e-6)
    table = detect((diff, noise, mask), psf=broad, seeing=target)
    assert len(table) == len(truth)
    assert np.median(table["flux"]) == pytest.approx(truth[0][2], rel=0.01)
    narrow = detect((diff, noise, mask), psf=psf)
    assert np.median(narrow["flux"]) < 0.93 * truth[0][2]


def test_image_without_a_usable_pixel():
    diff, noise, mask = blank(7, 64)
    with pytest.raises(ImageError, match="detect: no usable pixel"):
        detect((np.full_like(diff, np.nan), noise, mask))


def load_script(name):
    path = Path(__file__).parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"script_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_script_writes_a_table_that_reads_back(bright, tmp_path, monkeypatch):
    from otrain_core import io

    planes, psf, _, table = bright
    script = load_script("detect")
    monkeypatch.setattr(script.PSFModel, "load", staticmethod(lambda path: psf))
    io.write_planes(tmp_path / "d.fits", dict(zip(("diff", "noise", "mask"), planes, strict=True)))
    record = {"seeing_px": SEEING, "zero_point": ZERO_POINT, "time": "2020-01-01T00:00:00", "filter": "R"}
    io.write_json(tmp_path / "psf.json", record)
    (tmp_path / "psf.fits").write_bytes(b"")
    arguments = {
        "difference": tmp_path / "d.fits",
        "psf": tmp_path / "psf.fits",
        "psf_record": tmp_path / "psf.json",
        "candidates": tmp_path / "c.csv",
        "image": "a",
        "telescope_name": "T",
        "size": 32,
    }
    script.main(**arguments, options={"threshold": 4.5})
    read = io.read_table(tmp_path / "c.csv")
    assert set(read["filter"]) == {"R"} and read["candid"].tolist() == table["candid"].tolist()
    np.testing.assert_allclose(read["flux"], table["flux"], rtol=1e-6)
    io.write_json(tmp_path / "psf.json", record | {"zero_point": None})
    with pytest.raises(ImageError, match="zero_point"):
        script.main(**arguments, options={})
