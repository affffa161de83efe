import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_BAD, MASK_COSMIC, MASK_MISSING, MASK_SATURATED, read_planes, write_planes
from otrain_core.images.prepare import prepare_files, prepare_image
from otrain_core.io import write_json
from otrain_core.plan.pipelines import PrepareOptions
from otrain_core.plan.telescopes import Detector
from tests.unit.synthetic_field import field, star

NO_COSMICS = PrepareOptions(cosmics="none")


def seeing_of(fwhm):
    """FWHM of the pixel-integrated PSF."""
    return np.sqrt(fwhm**2 + 2.3548**2 / 12)


def add_tracks(image, n=60, seed=2):
    """Add cosmic rays of one to six pixels; returns the affected pixels."""
    rng = np.random.default_rng(seed)
    truth = np.zeros(image.shape, bool)
    for _ in range(n):
        y, x, angle, length = *rng.uniform(10, 370, 2), rng.uniform(0, np.pi), rng.uniform(0, 6)
        steps = np.arange(0, length + 0.1, 0.5)
        rows, columns = (y + steps * np.sin(angle)).astype(int), (x + steps * np.cos(angle)).astype(int)
        image.data[rows, columns] += rng.uniform(300, 5000)
        truth[rows, columns] = True
    return truth


@pytest.mark.parametrize("fwhm", [1.3, 1.5, 2.0, 3.0])
def test_cosmics_are_masked_and_stars_survive(fwhm):
    image, x, y, flux = field(fwhm=fwhm, n=250, logflux=(2.7, 5.0), seed=8)
    hits = add_tracks(image)
    prepared = prepare_image(image, seeing=seeing_of(fwhm))
    found = (prepared.mask & MASK_COSMIC) > 0
    assert found[hits].mean() > 0.85
    assert np.isnan(prepared.sci[found]).all()
    clear = ndimage.maximum_filter(hits, 7)
    columns, rows = (np.clip(np.floor(v + 0.5).astype(int), 0, 383) for v in (x, y))
    isolated = ~clear[rows, columns]
    eaten = ndimage.maximum_filter(found, 3)[rows, columns] & isolated
    assert isolated.sum() > 150
    assert eaten.sum() <= 0.03 * isolated.sum()


def test_background_does_not_swallow_stars():
    image, x, y, flux = field(fwhm=3.0, n=40, logflux=(3, 4), shape=(512, 512), noise=False, sky=0.0)
    stars = image.data.copy()
    stars += 2e5 * star(256, 256, 6.0, image.shape).astype(np.float32)
    rows, columns = np.mgrid[:512, :512]
    slope = 300 + 0.1 * columns + 60 * np.sin(rows / 200)
    noise = np.random.default_rng(1).normal(0, 8, image.shape)
    image.data = (stars + slope + noise).astype(np.float32)
    prepared = prepare_image(image, seeing=3.0, options=NO_COSMICS)
    assert np.abs(prepared.background - slope)[30:-30, 30:-30].max() < 4
    assert np.abs(np.median(prepared.background - slope)) < 0.5
    box = prepared.sci[236:277, 236:277]
    assert box.sum() == pytest.approx(stars[236:277, 236:277].sum(), rel=0.01)


@pytest.mark.parametrize("box", [20, 64])
def test_photutils_finds_the_same_background(box):
    image, *_ = field(fwhm=3.0, n=60, logflux=(3, 4.5), shape=(512, 512))
    rows, columns = np.mgrid[:512, :512]
    image.data += (0.02 * columns + 10 * np.sin(rows / 200)).astype(np.float32)
    image.data[200:260, 100:190] = np.nan
    options = PrepareOptions(cosmics="none", background_box=box)
    ours = prepare_image(image, seeing=3.0, options=options)
    theirs = prepare_image(image, seeing=3.0, options=options.model_copy(update={"background_method": "photutils"}))
    assert not np.array_equal(ours.background, theirs.background)
    np.testing.assert_array_equal(ours.mask, theirs.mask)
    inner = (slice(32, -32), slice(32, -32))  # at the edges the map of photutils is flat, that of sep has a slope
    difference = (ours.background - theirs.background)[inner]
    assert np.std(difference) < 1.0
    assert np.abs(np.median(difference)) < 0.2
    assert np.nanmedian(theirs.noise / ours.noise) == pytest.approx(1, abs=0.02)
    assert theirs.background.dtype == theirs.noise.dtype == np.float32
    assert np.isfinite(theirs.background).all()


def test_small_boxes_leave_the_stars_their_flux():
    image, x, y, flux = field(fwhm=3.0, n=40, logflux=(4.2, 4.8), shape=(512, 512), seed=7)
    options = PrepareOptions(cosmics="none", background_box=20, background_method="photutils")
    prepared = prepare_image(image, seeing=3.0, options=options)
    inside = (np.abs(x - 255) < 230) & (np.abs(y - 255) < 230)
    alone = np.hypot(x[:, None] - x, y[:, None] - y) + 1e3 * np.eye(len(x)) > 25
    shares = [
        prepared.sci[round(v) - 7 : round(v) + 8, round(u) - 7 : round(u) + 8].sum() / f
        for u, v, f in zip(*(a[inside & alone.all(axis=1)] for a in (x, y, flux)), strict=True)
    ]
    assert len(shares) > 10
    assert np.median(shares) == pytest.approx(1, abs=0.015)


def test_noise_is_that_of_the_pixels():
    image, *_ = field(fwhm=2.5, n=30, logflux=(4.5, 5.0), seed=3)
    clean, *_ = field(fwhm=2.5, n=30, logflux=(4.5, 5.0), seed=3, noise=False)
    prepared = prepare_image(image, seeing=seeing_of(2.5), options=NO_COSMICS)
    truth = np.sqrt(clean.data / 1.5 + 9)
    sky = clean.data < 201
    assert np.median(prepared.noise[sky] / truth[sky]) == pytest.approx(1, abs=0.03)
    bright = clean.data > 1000
    assert np.median(prepared.noise[bright] / truth[bright]) == pytest.approx(1, abs=0.05)
    assert np.std((prepared.sci - clean.data + 200)[sky] / prepared.noise[sky]) == pytest.approx(1, abs=0.04)
    assert (prepared.noise > 0).all()


def test_saturated_and_missing_pixels():
    image, *_ = field(n=60, saturation=3000.0)
    image.data[40:60, 40:60] = np.nan
    image.data[200:330, 200:330] = np.nan
    full = image.data >= 0.9 * 3000
    prepared = prepare_image(image, seeing=2.2)
    missing, saturated = (prepared.mask & MASK_MISSING) > 0, (prepared.mask & MASK_SATURATED) > 0
    np.testing.assert_array_equal(missing, np.isnan(image.data))
    assert full.sum() > 20
    assert saturated[full].all()
    rows, columns = np.nonzero(full)
    inner = (rows < 380) & ~missing[np.minimum(rows + 2, 383), columns]
    assert saturated[rows[inner] + 2, columns[inner]].all()
    assert np.isfinite(prepared.sci[saturated & (prepared.mask == MASK_SATURATED)]).all()
    assert np.isnan(prepared.sci[missing]).all()
    assert np.isnan(prepared.noise[missing]).all()
    np.testing.assert_array_equal(np.isnan(prepared.sci), np.isnan(prepared.noise))
    assert np.isfinite(prepared.background).all()
    assert np.abs(prepared.background - 200).max() < 10
    assert prepared.mask.dtype == np.uint8
    assert prepared.sci.dtype == prepared.noise.dtype == prepared.background.dtype == np.float32
    exact = prepare_image(image, seeing=2.2, options=PrepareOptions(saturation_grow=0, cosmics="none"))
    np.testing.assert_array_equal((exact.mask & MASK_SATURATED) > 0, full)


def test_input_is_left_alone():
    image, *_ = field(n=60)
    image.data[3, 3] = np.nan
    before = image.data.copy()
    prepare_image(image, seeing=2.2)
    np.testing.assert_array_equal(image.data, before)


def test_bad_columns_on_request():
    image, *_ = field(n=60)
    image.data[100:250, 77] += 60
    image.data[:, 200] = 0
    unasked = prepare_image(image, seeing=2.2)
    assert not (unasked.mask & MASK_BAD).any()
    prepared = prepare_image(image, seeing=2.2, options=PrepareOptions(bad_pixel_sigma=8.0))
    bad = (prepared.mask & MASK_BAD) > 0
    assert bad[128:250, 77].all()
    assert bad[:, 200].all()
    assert not bad[:, [50, 120, 300]].any()
    assert np.count_nonzero(bad.any(axis=0)) <= 4
    assert np.isnan(prepared.sci[bad]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda image: image.data.fill(np.nan), "data: all pixels are NaN"),
        (lambda image: image.data.fill(6e4), "SATURATE: 100 % of the pixels are saturated"),
        (lambda image: image.data.fill(100.0), "data: the noise of the sky cannot be measured"),
    ],
)
def test_unusable_image_is_refused(change, message):
    image, *_ = field(n=5)
    change(image)
    with pytest.raises(ImageError, match=f"image field: {message}"):
        prepare_image(image, seeing=2.0)


def test_files(tmp_path):
    image, *_ = field(n=40)
    write_planes(tmp_path / "injected.fits", {"sci": image.data}, fits.Header({"GAIN": 1.5, "MAGZP": 25.0}))
    write_json(tmp_path / "psf.json", {"seeing_px": 2.2, "ellipticity": 0.0, "angle": 0.0})
    prepare_files(
        injected=tmp_path / "injected.fits",
        psf_record=tmp_path / "psf.json",
        prepared=tmp_path / "prepared.fits",
        image="one",
        detector=Detector(pixel_scale=2.0, saturation=6e4),
        options=PrepareOptions(background_box=32),
    )
    planes, header = read_planes(tmp_path / "prepared.fits", image="one")
    assert sorted(planes) == ["background", "mask", "noise", "sci"]
    assert header["MAGZP"] == 25.0
    np.testing.assert_allclose(planes["sci"] + planes["background"], image.data, atol=0.01)
