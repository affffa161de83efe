"""Convert a WCS to a header that SWarp can read (TAN or TPV)."""

from __future__ import annotations

from typing import Any

import numpy as np
from astropy.io import fits

from otrain_core.errors import ImageError
from otrain_core.images.polynomials import nodes
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel

LARGEST_ERROR = 0.05  # largest error of a WCS that is converted for SWarp [px]


def swarp_header(wcs: Any, shape: tuple[int, int], *, name: str) -> fits.Header:
    """FITS header of an image with a WCS that SWarp can read.

    SWarp reads TAN without distortion and TPV. Other projections and SIP are converted to
    TPV by a fit over the image (STDPipe's `wcs_sip2pv`).

    Parameters
    ----------
    wcs : astropy.wcs.WCS
        Celestial and equatorial.
    shape : tuple of int
        (height, width) of the image.
    name : str
        Of the image, for errors.

    Returns
    -------
    astropy.io.fits.Header

    Raises
    ------
    ImageError
        The WCS is not equatorial or not of J2000, or its TPV form is off by more than `LARGEST_ERROR`.
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
        raise ImageError(
            name, "wcs", f"SWarp reads only TAN and TPV, and the conversion of {kinds} to TPV is off by {error:.2g} px"
        )
    return header


def _require_equatorial(wcs: Any, *, name: str) -> None:
    """Refuse a WCS that is not in right ascension and declination of ICRS or FK5 J2000, because SWarp ignores the frame."""
    from astropy.coordinates import FK5, ICRS
    from astropy.wcs.utils import wcs_to_celestial_frame

    if wcs.wcs.lngtyp.strip() != "RA":
        kinds = "/".join(wcs.wcs.ctype)
        raise ImageError(
            name, "wcs", f"subtract.align: swarp needs a WCS in right ascension and declination, not {kinds}"
        )
    frame = wcs_to_celestial_frame(wcs)
    if not (isinstance(frame, ICRS) or frame.is_equivalent_frame(FK5(equinox="J2000"))):
        where = f"{frame.name.upper()} {getattr(frame, 'equinox', '')}".strip()
        raise ImageError(name, "wcs", f"subtract.align: swarp needs a WCS in ICRS or FK5 J2000, not {where}")


def _longitude_first(header: fits.Header) -> None:
    """Exchange the two sky axes, in place; reference pixel and distortion belong to the pixel axes and are kept."""
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
    """Largest shift of a pixel that is projected by `wcs` and back by the header [px]."""
    from astropy.wcs import WCS

    x, y = np.meshgrid(nodes(shape[1]), nodes(shape[0]))
    with np.errstate(invalid="ignore"):
        px, py = sky_to_pixel(WCS(header), *pixel_to_sky(wcs, x, y))
        return float(np.hypot(px - x, py - y).max())
