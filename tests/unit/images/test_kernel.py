"""The fitted kernel: it is found, it varies, it keeps the flux."""

import numpy as np
import pytest
from scipy import ndimage

from otrain_core.images import kernel
from tests.unit.synthetic_pair import gaussian


def test_a_constant_kernel_is_recovered():
    rng = np.random.default_rng(1)
    source = np.zeros((300, 300), np.float32)
    x, y = (rng.integers(25, 275, 60) for _ in range(2))
    source[y, x] = rng.uniform(1e3, 1e5, 60)
    source = ndimage.gaussian_filter(source, 1.2)
    truth = 0.7 * gaussian(1.5, 8)
    target = ndimage.convolve(source, truth, mode="constant") + np.float32(3.0)
    bad = np.zeros(source.shape, bool)
    spoilt = target.copy()
    for row, column in zip(y[:20] + 3, x[:20] + 4, strict=True):
        bad[row, column], spoilt[row, column] = True, 1e5
    fit = kernel.fit_kernel(
        source,
        spoilt,
        np.full(source.shape, 1.0, np.float32),
        np.zeros(source.shape, np.float32),
        bad,
        x,
        y,
        basis=kernel.make_basis((0.9, 1.5, 3.0), 8),
        half=8,
        order=0,
        background_order=0,
    )
    assert fit.scale == pytest.approx(0.7, abs=2e-3)
    np.testing.assert_allclose(fit.at(150, 150), truth, atol=0.01 * truth.max())
    assert fit.background[0] == pytest.approx(3.0, abs=0.5)
    error = target - fit.apply(source) - fit.background_map()
    assert np.abs(error[20:-20, 20:-20]).max() < 2e-3 * target.max()


def test_only_the_first_basis_has_a_sum():
    kernels = kernel.make_basis((0.7, 1.5, 3.0), 9).kernels()
    assert len(kernels) == 28 + 15 + 6 + 1
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), [1] + [0] * 49, atol=1e-9)


@pytest.mark.parametrize("size", [(64, 65), (101, 80)])
def test_the_field_of_kernels_is_applied_at_every_pixel(size):
    rng = np.random.default_rng(1)
    kernels = rng.normal(0, 1, (3, 7, 7))
    field = kernel.KernelField(kernels, np.array([1.0, 2.0, 3.0]), size, 1, 1)
    source = rng.normal(0, 1, size).astype(np.float32)
    out = field.apply(source)
    padded = np.pad(source, 3)
    power, background = field.power(), field.background_map()
    for y, x in [(0, 0), (10, 33), (size[0] - 1, size[1] - 1), (40, 2)]:
        here = field.at(x, y)
        assert out[y, x] == pytest.approx((padded[y : y + 7, x : x + 7] * here[::-1, ::-1]).sum(), abs=1e-3)
        assert power[y, x] == pytest.approx((here**2).sum(), rel=1e-4)
    assert background[0, 0] == pytest.approx(1 - 2 - 3)
    assert background[-1, -1] == pytest.approx(1 + 2 + 3)


def test_stamps_are_convolved_as_the_image_is():
    basis = kernel.make_basis((0.7, 1.5, 3.0), 6)
    source = np.random.default_rng(1).normal(0, 1, (41, 41))
    stamps = kernel.convolve_stamps(source[None, 20 - 11 : 20 + 12, 20 - 11 : 20 + 12], basis, 5)
    for number in (0, 7, 30, len(basis.kernels()) - 1):
        expected = ndimage.convolve(source, basis.kernels()[number], mode="constant")[15:26, 15:26]
        np.testing.assert_allclose(stamps[0, number].reshape(11, 11), expected, atol=1e-9)


def test_the_gram_matrix_is_the_covariance_of_convolved_noise():
    basis = kernel.make_basis((0.7, 1.5, 3.0), 6)
    kernels = basis.kernels()
    gram = basis.gram()
    assert gram[3, 9] == pytest.approx((kernels[3] * kernels[9]).sum())
    # A smoothing of one pixel is white noise; one that is 0.5 at the neighbours along x adds their products.
    np.testing.assert_allclose(basis.gram(np.ones((1, 1))), gram)
    smoothing = np.array([[0, 0, 0], [0.5, 1, 0.5], [0, 0, 0]])
    moved = (kernels[3][:, 1:] * kernels[9][:, :-1]).sum() + (kernels[3][:, :-1] * kernels[9][:, 1:]).sum()
    assert basis.gram(smoothing)[3, 9] == pytest.approx(gram[3, 9] + 0.5 * moved)


def test_too_few_stamps_are_refused():
    plane = np.zeros((60, 60), np.float32)
    options = {"basis": kernel.make_basis((0.7, 1.5, 3.0), 6), "half": 5, "order": 0, "background_order": 0}
    at = np.array([30, 31])
    with pytest.raises(ValueError, match="2 usable stars; 3 are needed"):
        kernel.fit_kernel(plane, plane, plane + 1, plane, plane > 0, at, at, **options)


def test_the_photon_noise_is_the_slope_of_the_variance():
    data = np.tile(np.array([0.0, 0, 0, 1000, 5000]), (4, 1))
    photon, sky = kernel.photon_noise(data, 25 + data / 2.0)
    assert photon == pytest.approx(0.5)
    np.testing.assert_allclose(sky, 25)
    assert kernel.photon_noise(np.zeros((4, 5)), np.full((4, 5), 25.0))[0] == 0
