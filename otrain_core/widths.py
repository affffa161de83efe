"""Widths of profiles and of noise: FWHM and standard deviation, Moffat profiles, median absolute deviation."""

from __future__ import annotations

from typing import Any

import numpy as np

FWHM_PER_SIGMA = 2.355  # FWHM of a Gaussian over its standard deviation
SIGMA_PER_MAD = 1.4826  # standard deviation of Gaussian noise over its median absolute deviation


def moffat_alpha(fwhm: Any, beta: float) -> Any:
    """Scale `alpha` of a Moffat profile ``(1 + (r / alpha)**2)**-beta``, in the unit of `fwhm`.

    Source: Moffat 1969, A&A 3, 455.
    """
    return fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))


def mad_sigma(values: np.ndarray, middle: float | None = None) -> Any:
    """Standard deviation of Gaussian noise from the median absolute deviation about `middle`.

    Parameters
    ----------
    values : numpy.ndarray
        Any shape, without NaN.
    middle : float, optional
        Default: the median of the values.

    Returns
    -------
    float
        In the unit of the values; NaN for no values.
    """
    if middle is None:
        middle = np.median(values)
    return SIGMA_PER_MAD * np.median(np.abs(values - middle))
