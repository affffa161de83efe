"""Convert pixels in an asinh scale, as in the stacks of Pan-STARRS, to linear pixels."""

from __future__ import annotations

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError

A = 2.5 * np.log10(np.e)  # magnitudes per unit of the natural logarithm
KEYS = ("BSOFTEN", "BOFFSET")


def linear_pixels(data: np.ndarray, header: fits.Header, *, image: str) -> np.ndarray:
    """Linearise the pixels of an image in an asinh scale.

    ``flux = BOFFSET + 2 BSOFTEN sinh(x / A)`` (Waters et al. 2020, ApJS 251, 4, Sect. 6.5; based on the magnitudes of
    Lupton, Gunn & Szalay 1999, AJ 118, 1406). Without the keyword BSOFTEN the data are returned unchanged.

    Parameters
    ----------
    data : numpy.ndarray
        (height, width), as read.
    header : astropy.io.fits.Header
        BSOFTEN and BOFFSET are removed in place, so that the conversion is not repeated.
    image : str
        Name of the image, for errors.

    Returns
    -------
    numpy.ndarray
        (height, width)

    Raises
    ------
    ImageError
        BSOFTEN or BOFFSET is not a number, or BSOFTEN is not positive.
    """
    if KEYS[0] not in header:
        return data
    values = []
    for key, default in zip(KEYS, (np.nan, 0.0), strict=True):
        try:
            values.append(float(header.get(key, default)))
        except (TypeError, ValueError):
            raise ImageError(image, key, f"must be a number, not {header[key]!r}") from None
        header.remove(key, ignore_missing=True)
    softening, offset = values
    if not (np.isfinite(softening) and softening > 0):
        raise ImageError(image, KEYS[0], f"must be positive, not {softening:g}: the asinh scale cannot be undone")
    if not np.isfinite(offset):
        raise ImageError(image, KEYS[1], f"must be a finite number, not {offset:g}: the asinh scale cannot be undone")
    with np.errstate(over="ignore"):
        return (offset + 2 * softening * np.sinh(data.astype(float) / A)).astype(np.float32)
