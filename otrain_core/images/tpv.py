"""A WCS as the header that SWarp reads (TPV)."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.polynomials import nodes

LARGEST_ERROR = 0.05  # of a WCS that is rewritten for SWarp [px]


def swarp_header(wcs: Any, shape: tuple[int, int], *, name: str) -> fits.Header:
    """Header of an image frame that SWarp understands.

    It reads plain TAN and TPV. Other projections and SIP are rewritten as TPV by a fit
    over the frame (STDPipe's `wcs_sip2pv`).

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial and equatorial.
    shape : tuple of int
        (height, width).
    name : str
        Of the image, for errors.

    Raises
    ------
    ImageError
        Not equatorial, or no TPV within `LARGEST_ERROR` of the WCS.
    """
    from astropy.wcs import WCS

    if wcs.wcs.lngtyp.strip() != "RA":
        kinds = "/".join(wcs.wcs.ctype)
        raise ImageError(name, "wcs", f"align: swarp needs right ascension and declination, found {kinds}")
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": shape[1], "NAXIS2": shape[0]})
    header.update(wcs.to_header(relax=True))
    for key in [*(f"PC{i}_{j}" for i in (1, 2) for j in (1, 2)), "CDELT1", "CDELT2"]:
        header.remove(key, ignore_missing=True)
    for (row, column), value in np.ndenumerate(wcs.pixel_scale_matrix):
        header[f"CD{row + 1}_{column + 1}"] = value
    plain = [kind[-3:] for kind in wcs.wcs.ctype] in (["TAN", "TAN"], ["TPV", "TPV"])
    if plain and wcs.sip is None:
        return header
    from stdpipe.astrometry import wcs_sip2pv

    header = wcs_sip2pv(header)
    x, y = np.meshgrid(nodes(shape[1]), nodes(shape[0]))
    with np.errstate(invalid="ignore"):
        px, py = WCS(header).wcs_world2pix(*wcs.all_pix2world(x, y, 0), 0)
        error = np.hypot(px - x, py - y).max()
    if not error < LARGEST_ERROR:
        kinds = "/".join(wcs.wcs.ctype)
        raise ImageError(name, "wcs", f"SWarp reads TAN and TPV; {kinds} is off by {error:.2g} px when written as TPV")
    return header
