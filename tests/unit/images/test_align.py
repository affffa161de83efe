"""Alignment: known shifts and turns are found, flux is kept, bad pixels stay where they are."""

import numpy as np
import pytest
from scipy import ndimage

from otrain_core.errors import ImageError
from otrain_core.images import align, resample
from otrain_core.images.align import align_reference
from otrain_core.images.common_stars import aperture_flux, find_stars
from otrain_core.images.frames import MASK_MISSING, MASK_SATURATED
from otrain_core.images.pixels import fill_bad
from otrain_core.images.prepare import prepare_image
from otrain_core.plan.pipelines import PrepareOptions
from tests.unit.synthetic_pair import make_sky, observe


@pytest.fixture(scope="module")
def sky():
    return make_sky()


@pytest.fixture(scope="module")
def science(sky):
    return observe(sky, seed=2)


def run(science, reference, *, method="auto", **options):
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    return align_reference(
        reference,
        science_data=prepared.sci,
        science_noise=prepared.noise,
        science_mask=prepared.mask,
        science_wcs=science.wcs,
        name=science.name,
        method=method,
        seeing=2.5,
        **options,
    )


def offset(science, aligned):
    """Largest median offset between the stars of the science image and of the aligned reference [px]."""
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none"))
    ours = find_stars(prepared.sci, prepared.noise, prepared.mask, threshold=20)
    theirs = find_stars(aligned.data, aligned.noise, aligned.mask, threshold=20)
    rows, columns = align._pairs(theirs[["x", "y"]].to_numpy(), ours[["x", "y"]].to_numpy(), 2.0)
    assert len(rows) > 40
    return max(abs(np.median(theirs[k].to_numpy()[rows] - ours[k].to_numpy()[columns])) for k in ("x", "y"))


CASES = {
    "wcs": {"wcs_error": (0.0, 0.0)},
    "wcs off by pixels": {"wcs_error": (2.6, -4.3)},
    "no wcs": {"wcs": False},
}


@pytest.mark.parametrize("case", CASES)
def test_a_turned_and_moved_reference_lands_on_the_stars(sky, science, case):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), **CASES[case])
    aligned = run(science, reference)
    assert aligned.record["align"] == ("stars" if case == "no wcs" else "wcs")
    assert aligned.record["align_n_stars"] > 60
    assert aligned.record["align_scatter"] < 0.15
    assert offset(science, aligned) < 0.02


def test_a_wrong_wcs_is_replaced_by_the_stars(sky, science):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), wcs_error=(60.0, 45.0))
    aligned = run(science, reference)
    assert aligned.record["align"] == "stars"
    assert offset(science, aligned) < 0.02


def test_a_mirrored_reference_is_found(sky, science):
    reference = observe(sky, seed=3, wcs=False)
    reference.data = np.ascontiguousarray(reference.data[:, ::-1])
    assert offset(science, run(science, reference, method="stars")) < 0.02


def test_a_half_turn_is_found(sky, science):
    reference = observe(sky, seed=3, wcs=False, angle=180.0)
    assert offset(science, run(science, reference, method="stars")) < 0.02


def test_the_same_grid_is_not_interpolated(science):
    aligned = run(science, science)
    prepared = prepare_image(science, seeing=2.5, options=PrepareOptions(cosmics="none", saturation_grow=1))
    np.testing.assert_allclose(aligned.data, prepared.sci, rtol=1e-6)
    assert aligned.smoothing.shape == (1, 1)


def test_the_pattern_of_the_stars_leaves_no_randomness(sky, science):
    reference = observe(sky, seed=3, angle=0.6, shift=(7.3, -4.6), wcs=False)
    first, second = (run(science, reference) for _ in range(2))
    np.testing.assert_array_equal(first.data, second.data)


def affine(shape, matrix, shift):
    def base(x, y):
        return matrix[0][0] * x + matrix[0][1] * y + shift[0], matrix[1][0] * x + matrix[1][1] * y + shift[1]

    return resample.Mapping(base, shape)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3, 3.0])
def test_resampling_keeps_the_flux(scale):
    y, x = np.mgrid[0:200, 0:200]
    data = (1000 * np.exp(-0.5 * ((x - 100.3) ** 2 + (y - 98.8) ** 2) / 4.0**2)).astype(np.float32)
    mapping = affine((150, 150), [[scale, 0.0], [0.0, scale]], (100 - 75.2 * scale, 100 - 74.9 * scale))
    planes = data, np.ones_like(data), np.zeros(data.shape, np.uint8)
    out, noise, mask, _ = resample.resample(*planes, mapping)
    assert np.nansum(out) == pytest.approx(data.sum(), rel=2e-3)
    # Independent pixels: the noise of a larger pixel grows with the root of its area.
    np.testing.assert_allclose(noise[mask == 0], scale, rtol=1e-3)


def test_one_missing_pixel_masks_a_few():
    rng = np.random.default_rng(1)
    data = rng.normal(0, 1, (100, 100)).astype(np.float32)
    mask = np.zeros(data.shape, np.uint8)
    data[50, 40], mask[50, 40] = np.nan, MASK_MISSING
    mask[20, 20] = MASK_SATURATED
    out, noise, masked, smoothing = resample.resample(
        data, np.ones_like(data), mask, affine((90, 90), [[1, 0], [0, 1]], (4.4, 5.3))
    )
    missing = (masked & MASK_MISSING) > 0
    assert missing.sum() == 5  # the pixel and its four neighbours
    assert missing[45, 36]
    np.testing.assert_array_equal(np.isnan(out), missing)
    assert 1 <= ((masked & MASK_SATURATED) > 0).sum() <= 5
    assert np.isfinite(noise[~missing]).all()


def test_outside_the_reference_is_missing():
    data = np.ones((50, 60), np.float32)
    planes = data, data, np.zeros(data.shape, np.uint8)
    out, _, mask, _ = resample.resample(*planes, affine((80, 90), [[1, 0], [0, 1]], (-10.5, -20.5)))
    inside = np.zeros(out.shape, bool)
    inside[21:70, 11:70] = True
    np.testing.assert_array_equal(mask == 0, inside)
    np.testing.assert_array_equal(np.isfinite(out), inside)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.4, 2.0])
def test_the_smoothing_is_the_autocorrelation_of_resampled_noise(scale):
    data = np.random.default_rng(1).normal(0, 1, (400, 400)).astype(np.float32)
    side = int(370 / scale)
    out, noise, _, smoothing = resample.resample(
        data,
        np.ones_like(data),
        np.zeros(data.shape, np.uint8),
        affine((side, side), [[scale, 0.01 * scale], [-0.01 * scale, scale]], (5, 9)),
    )
    good = (np.nan_to_num(out) / np.nan_to_num(noise, nan=1.0))[15:-15, 15:-15]
    middle = smoothing.shape[0] // 2
    assert good.var() == pytest.approx(smoothing[middle, middle], rel=0.03)
    for lag in (1, 2):
        assert (good[:, lag:] * good[:, :-lag]).mean() == pytest.approx(smoothing[middle, middle + lag], abs=0.02)


def test_holes_are_filled_from_their_neighbours():
    y, x = np.mgrid[0:40, 0:40]
    data = (x + 2.0 * y).astype(np.float32)
    bad = np.zeros(data.shape, np.uint8)
    data[20, 20], bad[20, 20] = np.nan, MASK_MISSING
    filled = fill_bad(data, bad)
    assert filled[20, 20] == pytest.approx(60, abs=0.5)
    np.testing.assert_array_equal(filled[bad == 0], data[bad == 0])


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


@pytest.mark.parametrize(
    ("change", "method", "match"),
    [
        ({"wcs": False}, "wcs", "science: wcs: .*the reference has no celestial WCS"),
        ({"shift": (340.0, 0.0)}, "wcs", "science: reference: the reference covers . % of the field"),
        ({"shift": (340.0, 0.0)}, "auto", "science: reference: the reference covers . % of the field"),
        ({"shift": (9999.0, 0.0)}, "auto", "science: reference: the reference covers 0 % of the field"),
    ],
)
def test_bad_references_are_named(sky, science, change, method, match):
    reference = observe(sky, seed=3, **change)
    with pytest.raises(ImageError, match=match):
        run(science, reference, method=method)


def test_other_stars_cannot_be_matched(science):
    reference = observe(make_sky(seed=99), seed=3, wcs=False)
    with pytest.raises(
        ImageError, match=r"science: align: the stars of the reference could not be matched \(\d+ stars"
    ):
        run(science, reference)


def test_a_science_image_without_wcs_is_named(sky):
    science = observe(sky, seed=2, wcs=False)
    with pytest.raises(ImageError, match="the science image has no celestial WCS"):
        run(science, observe(sky, seed=3), method="wcs")


def test_few_stars_leave_the_wcs_alone():
    sky = make_sky(n=3, margin=60)
    science, reference = observe(sky, seed=2), observe(sky, seed=3, shift=(2.5, 1.5), fwhm=2.5)
    aligned = run(science, reference)
    assert aligned.record["align"] == "wcs"
    assert aligned.record["align_n_stars"] == 0
    first, second = (np.nan_to_num(ndimage.gaussian_filter(np.nan_to_num(d), 1)) for d in (aligned.data, science.data))
    assert (
        np.hypot(
            *np.subtract(np.unravel_index(first.argmax(), first.shape), np.unravel_index(second.argmax(), second.shape))
        )
        < 1.5
    )
