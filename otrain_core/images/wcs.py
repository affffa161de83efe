"""Pixels and the sky: one pair of functions for all steps."""

from __future__ import annotations

from typing import Any

import numpy as np


def pixel_to_sky(wcs: Any, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Sky positions of pixels, whatever the order of the axes and the celestial frame of the WCS.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    x, y : array-like
        Pixels, from 0, any shape.

    Returns
    -------
    ra, dec : numpy.ndarray
        ICRS [deg], ra from 0 to 360, of the shape of `x`; NaN where the WCS has no position.
    """
    sky = wcs.pixel_to_world(np.asarray(x, dtype=float), np.asarray(y, dtype=float)).icrs
    return np.asarray(sky.ra.deg), np.asarray(sky.dec.deg)


def sky_to_pixel(wcs: Any, ra: Any, dec: Any, *, shape: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of sky positions, the inverse of `pixel_to_sky`.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    ra, dec : array-like
        ICRS [deg], any shape.
    shape : (height, width), optional
        Of the image. A SIP distortion is a polynomial that folds back far from the image: with the shape, what lies
        more than half an image off it gets its place without the distortion.

    Returns
    -------
    x, y : numpy.ndarray
        Pixels, from 0, of the shape of `ra`; NaN where the position is not on the projection (TAN: more than
        90 degrees away).
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import wcs_to_celestial_frame

    ra, dec = np.broadcast_arrays(np.asarray(ra, dtype=float), np.asarray(dec, dtype=float))
    if ra.size == 0:
        return np.empty(ra.shape), np.empty(ra.shape)
    sky = SkyCoord(ra.ravel(), dec.ravel(), unit="deg", frame="icrs").transform_to(wcs_to_celestial_frame(wcs))
    world = np.empty((ra.size, 2))
    world[:, wcs.wcs.lng], world[:, wcs.wcs.lat] = sky.spherical.lon.deg, sky.spherical.lat.deg
    pixels = np.asarray(wcs.wcs_world2pix(world, 0))
    if wcs.has_distortion:
        near = np.isfinite(pixels).all(axis=1)
        if shape is not None:
            size = np.array([shape[1], shape[0]], dtype=float)
            near &= (np.abs(pixels - (size - 1) / 2) < size).all(axis=1)
        if near.any():
            pixels[near] = wcs.all_world2pix(world[near], 0, quiet=True)
    return pixels[:, 0].reshape(ra.shape), pixels[:, 1].reshape(ra.shape)
