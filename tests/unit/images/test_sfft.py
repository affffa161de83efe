"""SFFT: flux, noise, residuals of stars, and kernel."""

import numpy as np
import pytest

from otrain_core.errors import ImageError
from otrain_core.images import sfft
from otrain_core.images.kernel import KernelField
from otrain_core.plan.pipelines import SubtractOptions
from tests.unit.synthetic_pair import difference, make_sky, observe

SHAPE = (220, 240)


@pytest.fixture(scope="module")
def sky():
    return make_sky(shape=SHAPE, n=110)


@pytest.mark.parametrize(("fwhm", "fwhm_reference", "convolved"), [(3.4, 2.5, "reference"), (2.5, 3.4, "science")])
def test_flux_noise_and_kernel(sky, fwhm, fwhm_reference, convolved):
    new = [(120.3, 101.8, 6000.0)]
    science = observe(sky, seed=2, fwhm=fwhm, level=150, extra=new)
    reference = observe(sky, seed=3, fwhm=fwhm_reference, angle=0.2, shift=(3.4, 2.6), factor=2.0)
    result = difference(science, reference, method="sfft")
    assert (result.record["method"], result.record["convolved"]) == ("sfft", convolved)
    assert result.record["flux_scale"] == pytest.approx(0.5, rel=0.015)
    assert 0.95 < result.record["noise_spread"] < 1.05
    assert abs(result.record["noise_centre"]) < 0.1
    assert (result.kernel is None) == (convolved == "reference")
    rows, columns = np.indices(SHAPE)
    aperture = np.hypot(columns - 120.3, rows - 101.8) < 9
    other = difference(science, reference)
    assert result.diff[aperture].sum() == pytest.approx(other.diff[aperture].sum(), rel=0.01)
    assert result.diff[aperture].sum() == pytest.approx(6000, rel=0.1)
    x, y = np.rint([sky.x, sky.y]).astype(int)
    inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)
    scatter = (result.diff / result.noise)[y[inside], x[inside]]
    assert np.isfinite(scatter).mean() > 0.95
    # The noise of a convolved science image is an error of the regressors, which this fit does not model.
    assert np.sqrt(np.nanmedian(scatter**2)) < {"reference": 1.2, "science": 2.0}[convolved] * 0.6745
    assert (np.abs(scatter) > 5).mean() < 0.1
    if convolved == "science":
        kernel = KernelField.from_kernels(result.kernel.astype(float), SHAPE).at(120, 101)
        assert kernel.sum() == pytest.approx(1, abs=1e-3)
        y0, x0 = (np.arange(-(n // 2), n // 2 + 1) for n in kernel.shape)
        spread = (kernel * (x0**2 + y0[:, None] ** 2)).sum() / 2
        assert spread == pytest.approx((3.4**2 - 2.5**2) / 2.3548**2, rel=0.15)


def test_a_psf_that_varies_over_the_field_is_followed(sky):
    science, reference = observe(sky, seed=2, fwhm=3.2, variation=0.5), observe(sky, seed=3, fwhm=2.3, shift=(0.4, 0.3))
    x, y = np.rint([sky.x, sky.y]).astype(int)[:, sky.flux > 2e4]
    inside = (x > 25) & (y > 25) & (x < SHAPE[1] - 25) & (y < SHAPE[0] - 25)

    def residual(order):
        result = difference(science, reference, method="sfft", kernel_order=order)
        assert result.record["kernel_order"] == order
        return np.nanmedian(np.abs(result.diff / result.noise)[y[inside], x[inside]])

    varying, constant = residual(1), residual(0)
    assert varying < 0.35 * constant, (varying, constant)


def test_the_width_follows_the_seeing_and_is_bounded():
    options = SubtractOptions(method="sfft")
    assert sfft.free_half_width(1.5, 1.4, options) == 3
    assert sfft.free_half_width(4.0, 3.0, options) == 5
    assert sfft.free_half_width(12.0, 3.0, options) == sfft.MAX_HALF_WIDTH
    assert sfft.free_half_width(4.0, 3.0, SubtractOptions(kernel_half_width=6)) == 6


def test_too_few_stars_are_refused():
    few = make_sky(shape=SHAPE, n=3, margin=70)
    with pytest.raises(ImageError, match="stars"):
        difference(observe(few, seed=2), observe(few, seed=3, fwhm=2.2), method="sfft")
