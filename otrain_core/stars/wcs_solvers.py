"""Fit a WCS to matched stars by SCAMP or by astropy."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.io import fits

from otrain_core.images.frames import Image
from otrain_core.images.wcs import pixel_to_sky, sky_to_pixel
from otrain_core.temporary import temporary_folder

if TYPE_CHECKING:
    from astropy.table import Table

MIN_MATCHES = 6  # least number of stars for a linear fit in x and y
MATCHES_PER_TERM = 3  # stars per coefficient of the distortion, as in STDPipe for SCAMP
MAG_FLOOR = 0.05  # least uncertainty of a magnitude for SCAMP [mag]


def match_stars(wcs: Any, objects: Table, stars: Table, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Match objects and stars that are mutual nearest neighbours within a radius.

    Parameters
    ----------
    wcs : astropy.wcs.WCS
    objects : astropy.table.Table
        ``x``, ``y`` [px].
    stars : astropy.table.Table
        ``RAJ2000``, ``DEJ2000`` [deg].
    radius : float
        [arcsec].

    Returns
    -------
    first, second : numpy.ndarray
        int (n,), rows of `objects` and of `stars`.
    distance : numpy.ndarray
        (n,) [arcsec], in increasing order.
    """
    from stdpipe.astrometry import spherical_match

    ra, dec = pixel_to_sky(wcs, objects["x"], objects["y"])
    first, second, distance = spherical_match(ra, dec, stars["RAJ2000"], stars["DEJ2000"], radius / 3600)
    order = np.argsort(distance, kind="stable")
    first, second, distance = first[order], second[order], distance[order] * 3600
    mutual = np.zeros(len(first), bool)
    mutual[np.intersect1d(np.unique(first, return_index=True)[1], np.unique(second, return_index=True)[1])] = True
    return first[mutual], second[mutual], distance[mutual]


def _affordable(degree: int, n_stars: int) -> int:
    """Highest degree, up to `degree`, that this number of stars determines in both axes; at least 1."""
    while degree > 1 and n_stars < MATCHES_PER_TERM * (degree + 1) * (degree + 2):
        degree -= 1
    return degree


def solve_by_scamp(image: Image, objects: Table, stars: Table, *, degree: int, radius: float) -> tuple[Any, int]:
    """Fit a WCS by SCAMP (Bertin 2006, ASPC 351, 112), which matches the pattern of the stars.

    Parameters
    ----------
    image : Image
        With a WCS.
    objects, stars : astropy.table.Table
        Sources of the image and stars of the catalogue, see `find_objects` and `star_table` of
        `otrain_core.stars.astrometry`.
    degree : int
        Of the distortion; it is lowered if there are too few stars.
    radius : float
        Radius of the match [arcsec].

    Returns
    -------
    wcs : astropy.wcs.WCS or None
        TAN, or TAN-SIP with a distortion; None without a solution.
    degree : int
        Degree used; 0 without a solution.

    Raises
    ------
    MissingProgramError
        SCAMP is not installed.
    """
    from astropy.wcs import WCS
    from stdpipe.astrometry import refine_wcs_scamp

    from otrain_core.images.tpv import swarp_header
    from otrain_core.programs import find_program

    program = find_program("scamp")
    degree = _affordable(degree, min(len(objects), len(stars)))
    objects = objects.copy()  # STDPipe adds columns to it
    objects["magerr"] = np.hypot(objects["magerr"], MAG_FLOOR)
    # STDPipe converts SIP to TPV for SCAMP, but not if the matrix contains no rotation.
    original = image.wcs if image.wcs.sip is None else WCS(swarp_header(image.wcs, image.shape, name=image.name))
    with temporary_folder("scamp") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = refine_wcs_scamp(
            objects,
            stars,
            wcs=original,
            header=_frame(image.shape),
            sr=radius / 3600,
            order=degree,
            cat_col_mag="mag",
            cat_col_mag_err="magerr",
            get_header=True,
            extra={"NTHREADS": 1},
            _workdir=folder,
            _exe=program,
        )
        if header is None:
            return None, 0
        return _reread(_as_sip(WCS(header), image.shape, degree)), degree


def solve_by_astropy(image: Image, objects: Table, stars: Table, *, degree: int, radius: float) -> tuple[Any, int]:
    """Fit a WCS by astropy to stars matched within a radius; parameters and results as in `solve_by_scamp`."""
    from stdpipe.pipeline import refine_astrometry

    wcs, used = image.wcs, 0
    for _ in range(2):
        pairs = _pairs(wcs, objects, stars, radius)
        if len(pairs[0]) < MIN_MATCHES:
            return None, 0
        used = _affordable(degree, len(pairs[0]))
        # Clipped pairs are passed, because the fit is not robust and STDPipe's own match fails with statsmodels 0.15.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                wcs = refine_astrometry(
                    objects[pairs[0]],
                    stars[pairs[1]],
                    wcs=wcs,
                    sr=radius / 3600,
                    order=used if used > 1 else None,  # SIP terms begin with degree 2
                    method="astropy",
                    use_photometry=False,
                    n_iter=1,
                )
            except (ValueError, RuntimeError, np.linalg.LinAlgError):
                return None, 0
        if wcs is None:
            return None, 0
        wcs = _reread(wcs)
    return wcs, used


def _pairs(wcs: Any, objects: Table, stars: Table, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows of matched objects and stars, without chance matches, whose offsets differ from those of the others."""
    first, second, _ = match_stars(wcs, objects, stars, radius)
    x, y = sky_to_pixel(wcs, stars["RAJ2000"][second], stars["DEJ2000"][second])
    dx, dy = x - objects["x"][first], y - objects["y"][first]
    off = np.hypot(dx - np.median(dx), dy - np.median(dy)) if len(first) else dx
    keep = off <= 3 * max(1.2 * np.median(off), 0.05) if len(first) else np.zeros(0, bool)
    return first[keep], second[keep]


def _as_sip(wcs: Any, shape: tuple[int, int], degree: int) -> Any:
    """Convert a WCS to TAN-SIP by a fit on a grid.

    Unlike TPV, SIP has no constant and linear terms, so that the reference pixel and the matrix change too.
    """
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import fit_wcs_from_points

    x, y = (grid.ravel() for grid in np.meshgrid(np.linspace(0, shape[1] - 1, 25), np.linspace(0, shape[0] - 1, 25)))
    sky = SkyCoord(*pixel_to_sky(wcs, x, y), unit="deg")
    return fit_wcs_from_points((x, y), sky, proj_point="center", sip_degree=degree if degree > 1 else None)


def _frame(shape: tuple[int, int]) -> fits.Header:
    """FITS header of an image of this shape."""
    return fits.Header(
        {"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": shape[1], "NAXIS2": shape[0], "EQUINOX": 2000.0}
    )


def _reread(wcs: Any) -> Any:
    """The WCS after it is written to a header string and read back."""
    from astropy.wcs import WCS

    return WCS(fits.Header.fromstring(wcs.to_header_string(relax=True)))
