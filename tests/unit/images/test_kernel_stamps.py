"""Stamps for the fit of a kernel: convolution with the bases, photon noise, least number."""

import numpy as np
import pytest
from scipy import ndimage

from otrain_core.images import kernel_stamps
from otrain_core.images.kernel import make_basis


def test_stamps_are_convolved_as_the_image_is():
    basis = make_basis((0.7, 1.5, 3.0), 6)
    source = np.random.default_rng(1).normal(0, 1, (41, 41))
    stamps = kernel_stamps.convolve_stamps(source[None, 20 - 11 : 20 + 12, 20 - 11 : 20 + 12], basis, 5)
    for number in (0, 7, 30, len(basis.kernels()) - 1):
        expected = ndimage.convolve(source, basis.kernels()[number], mode="constant")[15:26, 15:26]
        np.testing.assert_allclose(stamps[0, number].reshape(11, 11), expected, atol=1e-9)


def test_too_few_stamps_are_refused():
    plane = np.zeros((60, 60), np.float32)
    options = {"basis": make_basis((0.7, 1.5, 3.0), 6), "half": 5, "background_order": 0}
    at = np.array([30, 31])
    with pytest.raises(ValueError, match="2 usable stars; 3 are needed"):
        kernel_stamps.cut_stamps(plane, plane, plane + 1, plane, plane > 0, at, at, **options)


def test_the_photon_noise_is_the_slope_of_the_variance():
    data = np.tile(np.array([0.0, 0, 0, 1000, 5000]), (4, 1))
    photon, sky = kernel_stamps.photon_noise(data, 25 + data / 2.0)
    assert photon == pytest.approx(0.5)
    np.testing.assert_allclose(sky, 25)
    assert kernel_stamps.photon_noise(np.zeros((4, 5)), np.full((4, 5), 25.0))[0] == 0
