"""A WCS as the header that SWarp reads (TPV)."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.polynomials import nodes
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel

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
        Not equatorial, of another equinox, or no TPV within `LARGEST_ERROR` of the WCS.
    """
    _require_equatorial(wcs, name=name)
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": shape[1], "NAXIS2": shape[0]})
    header.update(wcs.to_header(relax=True))
    for key in [*(f"PC{i}_{j}" for i in (1, 2) for j in (1, 2)), "CDELT1", "CDELT2"]:
        header.remove(key, ignore_missing=True)
    for (row, column), value in np.ndenumerate(wcs.pixel_scale_matrix):
        header[f"CD{row + 1}_{column + 1}"] = value
    if wcs.wcs.lng == 1:
        _longitude_first(header)
    plain = [kind[-3:] for kind in wcs.wcs.ctype] in (["TAN", "TAN"], ["TPV", "TPV"])
    if not plain or wcs.sip is not None:
        from stdpipe.astrometry import wcs_sip2pv

        header = wcs_sip2pv(header)
    error = _largest_error(header, wcs, shape)
    if not error < LARGEST_ERROR:
        kinds = "/".join(wcs.wcs.ctype)
        raise ImageError(name, "wcs", f"SWarp reads TAN and TPV; {kinds} is off by {error:.2g} px when written as TPV")
    return header


def _require_equatorial(wcs: Any, *, name: str) -> None:
    """SWarp takes the numbers of a WCS as they are: right ascension and declination of the ICRS, or of the FK5 for J2000."""
    from astropy.coordinates import FK5, ICRS
    from astropy.wcs.utils import wcs_to_celestial_frame

    if wcs.wcs.lngtyp.strip() != "RA":
        kinds = "/".join(wcs.wcs.ctype)
        raise ImageError(name, "wcs", f"align: swarp needs right ascension and declination, found {kinds}")
    frame = wcs_to_celestial_frame(wcs)
    if not (isinstance(frame, ICRS) or frame.is_equivalent_frame(FK5(equinox="J2000"))):
        equinox = getattr(frame, "equinox", "")
        raise ImageError(name, "wcs", f"align: swarp needs ICRS or FK5 of J2000, found {frame.name.upper()} {equinox}")


def _longitude_first(header: fits.Header) -> None:
    """Exchange the two axes of the sky, in place: the distortion and the reference pixel are of the pixels and stay."""
    for first, second in (
        ("CTYPE1", "CTYPE2"),
        ("CRVAL1", "CRVAL2"),
        ("CUNIT1", "CUNIT2"),
        ("CD1_1", "CD2_1"),
        ("CD1_2", "CD2_2"),
    ):
        if first in header and second in header:
            header[first], header[second] = header[second], header[first]


def _largest_error(header: fits.Header, wcs: Any, shape: tuple[int, int]) -> float:
    """How far pixels of the frame move through `wcs` and back through the header [px]."""
    from astropy.wcs import WCS

    x, y = np.meshgrid(nodes(shape[1]), nodes(shape[0]))
    with np.errstate(invalid="ignore"):
        px, py = sky_to_pixel(WCS(header), *pixel_to_sky(wcs, x, y))
        return float(np.hypot(px - x, py - y).max())
