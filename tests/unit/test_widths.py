import numpy as np
import pytest
from scipy.special import erfinv

from otrain_core.widths import FWHM_PER_SIGMA, SIGMA_PER_MAD, mad_sigma, moffat_alpha


def test_constants_are_those_of_a_gaussian():
    np.testing.assert_allclose(FWHM_PER_SIGMA, 2 * np.sqrt(2 * np.log(2)), rtol=3e-4)
    np.testing.assert_allclose(SIGMA_PER_MAD, 1 / (np.sqrt(2) * erfinv(0.5)), rtol=1e-4)


@pytest.mark.parametrize("beta", [1.5, 2.5, 4.765])
def test_moffat_profile_is_half_of_its_peak_at_half_its_fwhm(beta):
    alpha = moffat_alpha(3.2, beta)
    assert (1 + (1.6 / alpha) ** 2) ** -beta == pytest.approx(0.5, rel=1e-12)


def test_mad_is_that_of_the_noise_and_does_not_see_outliers():
    assert mad_sigma(np.array([1.0, 2.0, 3.0, 4.0, 1e9])) == pytest.approx(1.4826)
    assert mad_sigma(np.array([1.0, 2.0, 3.0]), 0.0) == pytest.approx(2 * 1.4826)
    noise = np.random.default_rng(1).normal(5, 2.0, 100_000)
    assert mad_sigma(noise) == pytest.approx(2.0, rel=0.01)
