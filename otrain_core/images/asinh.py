"""Pixels in an asinh scale, as in the stacks of Pan-STARRS, made linear."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError

A = 2.5 * np.log10(np.e)  # magnitudes per unit of the natural logarithm
KEYS = ("BSOFTEN", "BOFFSET")


def linear_pixels(data: np.ndarray, header: fits.Header, *, image: str) -> np.ndarray:
    """Linear pixels, and the keywords of the scale taken out of the header, so that nobody does it again.

    ``flux = BOFFSET + 2 BSOFTEN sinh(x / A)`` (Waters et al. 2020, ApJS 251, 4, Sect. 6.5; the magnitudes of Lupton,
    Gunn & Szalay 1999, AJ 118, 1406). Without a keyword BSOFTEN the data come back as they are.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width), as read.
    header : astropy.io.fits.Header
        Changed in place.
    image : str
        For errors.

    Raises
    ------
    ImageError
        A value that is no number, or a softening that is not positive.
    """
    if KEYS[0] not in header:
        return data
    values = []
    for key, default in zip(KEYS, (np.nan, 0.0), strict=True):
        try:
            values.append(float(header.get(key, default)))
        except (TypeError, ValueError):
            raise ImageError(image, key, f"a number is needed, found {header[key]!r}") from None
        header.remove(key, ignore_missing=True)
    softening, offset = values
    if not (np.isfinite(softening) and softening > 0 and np.isfinite(offset)):
        raise ImageError(image, KEYS[0], f"a positive softening is needed to undo the asinh scale, found {softening:g}")
    with np.errstate(over="ignore"):
        return (offset + 2 * softening * np.sinh(data.astype(float) / A)).astype(np.float32)
