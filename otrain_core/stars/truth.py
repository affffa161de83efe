"""What every source added to an image shares: how bright it may be, where it is, and its row of the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.pixels import any_near, nearest_pixel
from otrain_core.images.wcs import pixel_to_sky

TRUTH_COLUMNS = ["id", "x", "y", "ra", "dec", "mag", "flux", "kind", "usable"]

USABLE_REACH = 1.5  # a place is usable with no missing or saturated pixel this near [FWHM]
NEAR_SATURATION = 0.9  # of the saturation level: no longer trusted


def limits(image: Image, record: Mapping[str, Any]) -> tuple[float, float]:
    """5-sigma limit and zero point of the record of a PSF [mag].

    Raises
    ------
    ImageError
        One of them is not known (key ``limit_mag``).
    """
    limit, zero_point = record.get("limit_mag"), record.get("zero_point")
    if limit is None or zero_point is None or not np.isfinite([limit, zero_point]).all():
        raise ImageError(image.name, "limit_mag", "the record of the PSF has no finite limit_mag and zero_point")
    return float(limit), float(zero_point)


def add_light(image: Image, added: np.ndarray, data: np.ndarray | None = None) -> np.ndarray:
    """Sum of the data (default: the image's) and light [ADU], float32, that stops at saturation."""
    total = (image.data if data is None else data) + added
    if np.isfinite(image.saturation):
        # A pixel that stood above the limit before keeps its value: the camera gave it.
        total = np.minimum(total, np.fmax(image.data, image.saturation))
    return total.astype(np.float32)


def sky_positions(image: Image, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ra, dec of positions [deg], ICRS; NaN without WCS."""
    if image.wcs is None or len(x) == 0:
        return np.full(len(x), np.nan), np.full(len(x), np.nan)
    return pixel_to_sky(image.wcs, x, y)


def usable_places(image: Image, x: np.ndarray, y: np.ndarray, *, fwhm: float) -> np.ndarray:
    """Whether no pixel within 1.5 FWHM is missing or (nearly) saturated in the image as it came.

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
    # What lies outside of the image is missing too.
    return ~any_near(np.pad(bad, 1, constant_values=True), column + 1, row + 1, USABLE_REACH * fwhm)
