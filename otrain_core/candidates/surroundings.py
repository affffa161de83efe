"""Guess the cause of a False candidate from the pixels around it: real images have no truth to look it up in."""

from __future__ import annotations

import numpy as np
import pandas as pd

from otrain_core.images.frames import MASK_SATURATED
from otrain_core.images.pixels import any_near, stamps
from otrain_core.sky.causes import DIPOLE

SATURATED_REACH = 4.0  # a saturated pixel within this distance [seeing] belongs to the same star
MASK_REACH = 1.0  # a masked pixel within this distance [seeing] cuts into the source
STAR_REACH = 1.5  # a source of the reference within this distance [seeing] coincides with the candidate
STAR_SNR = 5.0  # S/N of the mean of the reference above which there is a source
PEAK_SHARE = 0.7  # share of the light in one pixel above which the candidate is sharper than a star
SHARPEST = 1.7  # seeing [px] below which a star can be as sharp
NOISE_SNR = 6.0  # S/N below which a candidate without another cause is noise


def name_surroundings(
    table: pd.DataFrame,
    *,
    data: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    reference: np.ndarray | None,
    seeing: float,
) -> np.ndarray:
    """The likeliest cause of each candidate if it is False.

    In this order: a saturated pixel within 4 FWHM ("saturated"), a masked pixel within one FWHM ("mask_edge"), most of
    the light in one pixel ("hot_pixel": a hot pixel or a cosmic ray), much negative signal beside the positive
    ("dipole"), a source of the reference within 1.5 FWHM ("star"), S/N below 6 ("noise").

    Parameters
    ----------
    table : pandas.DataFrame
        x, y [px], snr, negative (see `otrain_core.candidates.measure.negative_shares`).
    data, noise : numpy.ndarray
        Difference and its 1 sigma [ADU], (height, width), finite.
    mask : numpy.ndarray
        uint8 (height, width), bits of `otrain_core.images.frames`.
    reference : numpy.ndarray or None
        Without background, on the same pixels and in the same unit; NaN where missing.
    seeing : float
        FWHM [px].

    Returns
    -------
    numpy.ndarray
        (N,) str; '' if none of these applies.
    """
    x, y = table["x"].to_numpy(float), table["y"].to_numpy(float)
    if not len(x):
        return np.empty(0, "U10")
    conditions = {
        "saturated": any_near((mask & MASK_SATURATED) > 0, x, y, SATURATED_REACH * seeing),
        "mask_edge": any_near(mask != 0, x, y, MASK_REACH * seeing),
        "hot_pixel": _in_one_pixel(data, noise, x, y, seeing=seeing),
        "dipole": table["negative"].to_numpy(float) > DIPOLE,
        "star": _on_reference(reference, noise, x, y, seeing=seeing),
        "noise": table["snr"].to_numpy(float) < NOISE_SNR,
    }
    return np.select(list(conditions.values()), list(conditions), default="").astype("U10")


def _in_one_pixel(data: np.ndarray, noise: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float) -> np.ndarray:
    """Whether one pixel has most of the light in the 3 x 3 pixels around the candidate and is well above the noise."""
    if seeing < SHARPEST:
        return np.zeros(len(x), bool)
    values = np.abs(stamps(data, x, y, 1, fill=0)[0]).reshape(len(x), -1)
    sigma = stamps(noise, x, y, 1, fill=1)[0].reshape(len(x), -1)
    peak = values.max(axis=1)
    beyond = np.maximum(values - sigma, 0).sum(axis=1)  # light above the noise
    return (peak > 5 * sigma.max(axis=1)) & (peak - sigma.max(axis=1) > PEAK_SHARE * beyond)


def _on_reference(
    reference: np.ndarray | None, noise: np.ndarray, x: np.ndarray, y: np.ndarray, *, seeing: float
) -> np.ndarray:
    """Whether the reference has a source close by: a mean of 3 x 3 pixels far above the noise within `STAR_REACH`."""
    if reference is None:
        return np.zeros(len(x), bool)
    from scipy.ndimage import uniform_filter

    clean = np.where(np.isfinite(reference), reference, 0)
    # The noise of the reference is not known here; that of the difference is at least as large.
    significance = uniform_filter(clean, 3) * 3 / np.where(noise > 0, noise, np.inf)
    return any_near(significance > STAR_SNR, x, y, STAR_REACH * seeing)
