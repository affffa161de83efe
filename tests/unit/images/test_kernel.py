"""The kernel varies over the field, and only its first basis has a sum that is not 0."""

import numpy as np
import pytest

from otrain_core.images import kernel


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


def test_the_gram_matrix_is_the_covariance_of_convolved_noise():
    basis = kernel.make_basis((0.7, 1.5, 3.0), 6)
    kernels = basis.kernels()
    gram = basis.gram()
    assert gram[3, 9] == pytest.approx((kernels[3] * kernels[9]).sum())
    # A smoothing of one pixel means white noise; values of 0.5 at the neighbours along x add their products.
    np.testing.assert_allclose(basis.gram(np.ones((1, 1))), gram)
    smoothing = np.array([[0, 0, 0], [0.5, 1, 0.5], [0, 0, 0]])
    moved = (kernels[3][:, 1:] * kernels[9][:, :-1]).sum() + (kernels[3][:, :-1] * kernels[9][:, 1:]).sum()
    assert basis.gram(smoothing)[3, 9] == pytest.approx(gram[3, 9] + 0.5 * moved)
