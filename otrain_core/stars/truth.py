"""Functions for all sources that are added to an image: magnitude limits, sky positions, usable places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.pixels import any_near, nearest_pixel
from otrain_core.images.wcs import pixel_to_sky

TRUTH_COLUMNS = ["id", "x", "y", "ra", "dec", "mag", "flux", "kind", "usable"]

USABLE_REACH = 1.5  # radius without missing or saturated pixels around a usable place [FWHM]
NEAR_SATURATION = 0.9  # fraction of the saturation level above which a pixel counts as saturated


def limits(image: Image, record: Mapping[str, Any]) -> tuple[float, float]:
    """Limiting magnitude (5 sigma) and zero point [mag] in the record of a PSF.

    Raises
    ------
    ImageError
        One of them is missing or not finite (key ``limit_mag``).
    """
    limit, zero_point = record.get("limit_mag"), record.get("zero_point")
    if limit is None or zero_point is None or not np.isfinite([limit, zero_point]).all():
        raise ImageError(image.name, "limit_mag", "the record of the PSF has no finite limit_mag and zero_point")
    return float(limit), float(zero_point)


def add_light(image: Image, added: np.ndarray, data: np.ndarray | None = None) -> np.ndarray:
    """Add light to an image and limit the sum to the saturation.

    Parameters
    ----------
    image : Image
    added : numpy.ndarray
        (height, width) [ADU].
    data : numpy.ndarray, optional
        Pixels that the light is added to [ADU] (default: those of the image).

    Returns
    -------
    numpy.ndarray
        float32 (height, width) [ADU].
    """
    total = (image.data if data is None else data) + added
    if np.isfinite(image.saturation):
        # Pixels that exceeded the limit before keep their value.
        total = np.minimum(total, np.fmax(image.data, image.saturation))
    return total.astype(np.float32)


def sky_positions(image: Image, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ICRS ra, dec [deg] of positions (n,) [px]; NaN without a WCS."""
    if image.wcs is None or len(x) == 0:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    return pixel_to_sky(image.wcs, x, y)


def usable_places(image: Image, x: np.ndarray, y: np.ndarray, *, fwhm: float) -> np.ndarray:
    """Which places have no missing or nearly saturated pixel of the image within 1.5 FWHM.

    Parameters
    ----------
    image : Image
    x, y : numpy.ndarray
        (n,) [px].
    fwhm : float
        [px].

    Returns
    -------
    numpy.ndarray
        (n,) bool.
    """
    bad = ~np.isfinite(image.data) | (image.data >= NEAR_SATURATION * image.saturation)
    column = np.clip(nearest_pixel(x), 0, bad.shape[1] - 1)
    row = np.clip(nearest_pixel(y), 0, bad.shape[0] - 1)
    # Pixels outside the image count as missing.
    return ~any_near(np.pad(bad, 1, constant_values=True), column + 1, row + 1, USABLE_REACH * fwhm)
