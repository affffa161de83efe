"""Resampling: flux and bad pixels are conserved, and the noise and its correlation are predicted correctly."""

import numpy as np
import pytest

from otrain_core.images import resample
from otrain_core.images.frames import MASK_MISSING, MASK_SATURATED


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
    # For independent pixels, the noise of a larger pixel grows with the square root of its area.
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


def test_the_affine_mapping_nearest_to_one_with_distortion():
    mapping = affine((150, 200), [[0.0, -2.0], [2.0, 0.0]], (300.0, 10.0))
    np.testing.assert_allclose(mapping.affine(), [[0, -2, 300], [2, 0, 10]], atol=1e-9)
    bent = resample.Mapping(lambda x, y: (x + 2e-5 * (x - 100) ** 2, y), (150, 200))
    matrix = bent.affine()
    places = np.array([[0.0, 100.0, 199.0], [0.0, 75.0, 149.0], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(matrix @ places, bent(*places[:2]), atol=0.15)
