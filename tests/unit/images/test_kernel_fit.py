"""Fit of a kernel: recovery of a known kernel and flux ratio, rejection of stamps, cross-validation."""

import numpy as np
import pytest
from scipy import ndimage

from otrain_core.images import kernel_fit, kernel_stamps
from otrain_core.images.kernel import make_basis
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
    stamps = kernel_stamps.cut_stamps(
        source,
        spoilt,
        np.full(source.shape, 1.0, np.float32),
        np.zeros(source.shape, np.float32),
        bad,
        x,
        y,
        basis=make_basis((0.9, 1.5, 3.0), 8),
        half=8,
        background_order=1,
    )
    fit = kernel_fit.fit_kernel(stamps, order=0, background_order=0)
    assert fit.scale == pytest.approx(0.7, abs=2e-3)
    np.testing.assert_allclose(fit.at(150, 150), truth, atol=0.01 * truth.max())
    assert fit.background[0] == pytest.approx(3.0, abs=0.5)
    error = target - fit.apply(source) - fit.background_map()
    assert np.abs(error[20:-20, 20:-20]).max() < 2e-3 * target.max()


def random_stamps(seed: int = 2) -> kernel_stamps.Stamps:
    """Thirty noisy stars, blurred a little more in the target."""
    rng = np.random.default_rng(seed)
    source = np.zeros((200, 200), np.float32)
    x, y = (rng.integers(20, 180, 30) for _ in range(2))
    source[y, x] = rng.uniform(1e3, 1e5, 30)
    source = ndimage.gaussian_filter(source, 1.2)
    target = ndimage.gaussian_filter(source, 0.9) + rng.normal(0, 3, source.shape)
    noise = np.full(source.shape, 9.0, np.float32)
    basis = make_basis((0.6, 1.2, 2.4), 6)
    none = np.zeros(source.shape, bool)
    return kernel_stamps.cut_stamps(
        source, target, noise + source / 2, noise / 9, none, x, y, basis=basis, half=6, background_order=2
    )


def test_the_equations_are_those_of_the_design_written_out():
    stamps = random_stamps()
    weight = stamps.weight(stamps.data, stamps.good)
    system, keep = kernel_fit._System(stamps, 1, 1), np.arange(30) % 4 > 0
    system.weigh(weight, stamps.first)
    matrix, vector = system._assembled(keep)
    bases, sky = stamps.columns[:, : stamps.n_bases], stamps.columns[:, stamps.n_bases : system.n_columns]
    varying = bases[:, 1:, None, :] * system.terms[:, None, :, None]  # (stamp, basis, term, pixel)
    design = np.concatenate([bases[:, :1], varying.reshape(30, -1, bases.shape[-1]), sky], axis=1)[keep]
    weighted = design * weight[keep][:, None, :]
    np.testing.assert_allclose(matrix, np.einsum("sap,sbp->ab", weighted, design), rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(vector, np.einsum("sap,sp->a", weighted, stamps.data[keep]), rtol=1e-9, atol=1e-6)
    power = (weight * stamps.source_variance).sum(axis=1)[keep]
    terms = system.terms[keep]
    expected = np.einsum("s,bc,sp,sr->bpcr", power, stamps.noise_gram[1:, 1:], terms, terms)
    inner = slice(1, system.size - system.n_sky)
    np.testing.assert_allclose(
        system._noise(keep)[inner, inner], expected.reshape((inner.stop - 1,) * 2), rtol=1e-9, atol=1e-12
    )


def test_stamps_cut_once_serve_fits_of_all_orders():
    together, alone = random_stamps(), random_stamps()
    kernel_fit.fit_kernel(together, order=0, background_order=1)
    second, first = (kernel_fit.fit_kernel(stamps, order=1, background_order=2) for stamps in (together, alone))
    np.testing.assert_array_equal(second.kernels, first.kernels)
    assert second.scale == pytest.approx(1, abs=5e-3)
    assert np.isfinite(second.predicted_chi2).all()


def test_one_stamp_that_no_kernel_explains_does_not_spoil_the_fit():
    stamps = random_stamps()
    brightest = int(stamps.data.sum(axis=1).argmax())
    stamps.data[brightest] += 1e4  # such as a ghost in one of the images, over all pixels of the stamp
    fit = kernel_fit.fit_kernel(stamps, order=0, background_order=0)
    assert fit.scale == pytest.approx(1, abs=5e-3)
    assert fit.record["n_stamps"] + fit.record["n_rejected"] == 30
    assert fit.record["n_rejected"] <= 3
    assert fit.record["model_error"] < 0.02
