"""Check the WCS of an image against a star catalogue, or refine it by SCAMP or astropy (through STDPipe).

The result of both methods is a WCS that `astropy.wcs.WCS.to_header_string` writes without
loss: TAN, or TAN-SIP with a distortion. The TPV form of SCAMP is converted to SIP, and SIP
is converted back to TPV for SWarp, see `otrain_core.images.swarp`.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.wcs import sky_to_pixel
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.wcs_solvers import MIN_MATCHES, match_stars, solve_by_astropy, solve_by_scamp

if TYPE_CHECKING:
    import pandas as pd
    from astropy.table import Table

log = logging.getLogger("otrain.astrometry")

MIN_SNR = 10.0
MIN_CHECKED = 20  # least number of sources and of catalogue stars for a check of a WCS
GOOD_RMS = 0.4  # largest rms of good matches over the radius; chance matches, uniform in the circle, have 0.7


def find_objects(image: Image, *, fwhm: float) -> Table:
    """Detect the sources of an image with sep through STDPipe.

    Parameters
    ----------
    image : Image
    fwhm : float
        FWHM of the stars [px].

    Returns
    -------
    astropy.table.Table
        ``x``, ``y`` (windowed), ``xerr``, ``yerr`` [px]; ``flux``, ``fluxerr`` within a radius of
        2 `fwhm` [ADU]; ``mag``, ``magerr``, ``flags`` (0 for a good source), and others of STDPipe; the
        brightest first.
    """
    from stdpipe.photometry import get_objects_sep

    missing = ~np.isfinite(image.data)
    unusable = missing.copy()
    if np.isfinite(image.saturation):
        unusable |= np.nan_to_num(image.data, nan=np.inf) >= 0.9 * image.saturation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_objects_sep(
            np.ascontiguousarray(image.data, np.float32),
            mask=unusable,
            mask_detect=missing,
            thresh=4.0,
            fwhm=float(fwhm),
            aper=2.0,
            r0=0.5,
            gain=image.gain,
            edge=int(np.ceil(2 * fwhm)),
            minarea=4,
            sn=MIN_SNR,
            centroid=True,
            verbose=False,
        )


def star_table(image: Image, catalogue: pd.DataFrame | None) -> Table:
    """Stars of a catalogue in the form of STDPipe.

    Parameters
    ----------
    image : Image
        For errors.
    catalogue : pandas.DataFrame or None
        ``ra``, ``dec`` [deg], ``mag``; optional ``magerr``, ``color`` (g - r), ``kind``.

    Returns
    -------
    astropy.table.Table
        RAJ2000, DEJ2000 [deg], mag, magerr, g, r. `r` is the magnitude of the catalogue, and g - r is its
        colour (NaN if unknown).

    Raises
    ------
    ImageError
        There is no catalogue, or no star in it (key ``catalogue``).
    """
    from astropy.table import Table

    if catalogue is None or len(catalogue) == 0:
        raise ImageError(image.name, "catalogue", "the star catalogue of this field is missing or empty")
    stars = catalogue[np.isfinite(catalogue["ra"]) & np.isfinite(catalogue["dec"])]
    if "kind" in stars:
        stars = stars[stars["kind"] != "galaxy"]
    if len(stars) == 0:
        raise ImageError(image.name, "catalogue", "the star catalogue of this field contains no star")
    unknown = np.full(len(stars), np.nan)
    mag = np.asarray(stars["mag"], float)
    color = np.asarray(stars["color"], float) if "color" in stars else unknown
    magerr = np.asarray(stars["magerr"], float) if "magerr" in stars else unknown
    return Table(
        {
            "RAJ2000": np.asarray(stars["ra"], float),
            "DEJ2000": np.asarray(stars["dec"], float),
            "mag": mag,
            "magerr": np.nan_to_num(magerr, nan=0.0),
            "g": mag + color,
            "r": mag,
        }
    )


def require_wcs(image: Image) -> None:
    """Refuse an image without a WCS.

    Raises
    ------
    ImageError
        The image has no WCS (key ``WCS``).
    """
    if image.wcs is None:
        raise ImageError(
            image.name,
            "WCS",
            "there is no celestial WCS in the header, and this pipeline needs one to match stars with the catalogue; "
            "give a WCS (column wcs)",
        )


def refine_wcs(
    image: Image,
    catalogue: pd.DataFrame | None,
    *,
    options: PsfOptions,
    fwhm: float,
    objects: Table | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Refine the WCS of an image with a star catalogue.

    The solution is accepted if it is not worse than the original WCS: at least 90 % as many
    stars are matched, and their rms is not larger. Otherwise the original WCS is kept, if it
    agrees with the stars.

    Parameters
    ----------
    image : Image
        With a WCS.
    catalogue : pandas.DataFrame
        Stars of the field, see `star_table`.
    options : PsfOptions
        `astrometry`: "scamp" (Bertin 2006, ASPC 351, 112) matches the pattern of the stars, which may be
        off by up to an arcminute; "astropy" needs the stars within `match_radius`. `astrometry_degree` is
        lowered if there are fewer than three stars per coefficient.
    fwhm : float
        FWHM of the stars [px].
    objects : astropy.table.Table, optional
        Result of `find_objects`, if already known.

    Returns
    -------
    wcs : astropy.wcs.WCS
        If the original WCS is kept, the same object as ``image.wcs``.
    record : dict
        ``method`` ("none" if the original WCS is kept), ``n_stars`` (matched), ``rms_arcsec`` and
        ``rms_arcsec_before`` (rms of the distances, clipped at three times itself), ``n_catalogue``,
        ``degree``, ``reason`` (why the original WCS is kept, else "").

    Raises
    ------
    ImageError
        No WCS (key ``WCS``), no catalogue (key ``catalogue``), or neither the solution nor the
        original WCS agrees with the stars (key ``astrometry``).
    MissingProgramError
        SCAMP is not installed.
    """
    method = options.astrometry
    good, stars, radius = _to_match(image, catalogue, objects, fwhm=fwhm, options=options)
    n_before, rms_before = _agreement(image.wcs, good, stars, radius)
    wcs, used = None, 0
    if len(good) >= MIN_MATCHES:
        solve = solve_by_scamp if method == "scamp" else solve_by_astropy
        wcs, used = solve(image, good, stars, degree=options.astrometry_degree, radius=radius)
    n_after, rms_after = _agreement(wcs, good, stars, radius)
    # Only 30 %, because the catalogue and the image may differ in depth.
    needed = max(MIN_MATCHES, 0.3 * min(len(good), _in_frame(image, stars)))
    record = {
        "method": method,
        "n_stars": n_after,
        "rms_arcsec": rms_after,
        "rms_arcsec_before": rms_before,
        "n_catalogue": len(stars),
        "degree": used,
        "reason": "",
    }
    agrees = n_after >= needed and rms_after < GOOD_RMS * radius
    original_agrees = n_before >= needed and rms_before < GOOD_RMS * radius
    if agrees and (not original_agrees or (rms_after <= rms_before and n_after >= 0.9 * n_before)):
        return wcs, record
    if wcs is None:
        reason = f"{method} found no solution with {len(good)} sources and {len(stars)} catalogue stars"
    else:
        reason = f"the solution of {method} is worse ({n_after} stars, rms {rms_after:.2f} arcsec)"
    if not original_agrees:
        raise ImageError(
            image.name,
            "astrometry",
            f"{reason}, and the original WCS does not agree with the catalogue "
            f"({n_before} stars within {radius:.1f} arcsec)",
        )
    log.warning("image %s: astrometry: %s; the original WCS is kept", image.name, reason)
    record |= {"method": "none", "n_stars": n_before, "rms_arcsec": rms_before, "degree": 0, "reason": reason}
    return image.wcs, record


def check_wcs(
    image: Image,
    catalogue: pd.DataFrame | None,
    *,
    options: PsfOptions,
    fwhm: float,
    objects: Table | None = None,
) -> dict[str, Any]:
    """Refuse a WCS that contradicts the stars of a catalogue.

    A shift common to all stars is only logged.

    Parameters
    ----------
    image : Image
        With a WCS.
    catalogue : pandas.DataFrame
        Stars of the field, see `star_table`.
    options : PsfOptions
        `match_radius` is used.
    fwhm : float
        FWHM of the stars [px].
    objects : astropy.table.Table, optional
        Result of `find_objects`, if already known.

    Returns
    -------
    dict
        As the record of `refine_wcs`, with ``method`` "none"; ``reason`` is not empty if there are too few stars for
        the check.

    Raises
    ------
    ImageError
        No WCS, or a WCS that contradicts the stars (key ``WCS``); no catalogue (key ``catalogue``).
    """
    good, stars, radius = _to_match(image, catalogue, objects, fwhm=fwhm, options=options)
    n_stars, rms = _agreement(image.wcs, good, stars, radius)
    record = {
        "method": "none",
        "n_stars": n_stars,
        "rms_arcsec": rms,
        "rms_arcsec_before": rms,
        "n_catalogue": len(stars),
        "degree": 0,
        "reason": "",
    }
    expected = min(len(good), _in_frame(image, stars))
    if expected < MIN_CHECKED:
        reason = (
            f"not checked: there are {len(good)} sources and {_in_frame(image, stars)} catalogue stars in the image; "
            f"at least {MIN_CHECKED} of each are needed"
        )
        log.warning("image %s: WCS: %s", image.name, reason)
        return record | {"reason": reason}
    shift, scatter = _offset(image.wcs, good, stars, radius)
    if n_stars < max(MIN_MATCHES, 0.3 * expected) or scatter > GOOD_RMS * options.match_radius:
        spread = f", scatter {scatter:.1f} px" if np.isfinite(scatter) else ""
        raise ImageError(
            image.name,
            "WCS",
            f"the catalogue stars are not where this WCS puts them ({n_stars} of {expected} within {radius:.1f} arcsec"
            f"{spread}); give a correct WCS (column wcs) or set psf.astrometry to refine it",
        )
    if shift > fwhm:
        log.warning("image %s: WCS: off by %.1f px; set psf.astrometry to refine it", image.name, shift)
    return record


def _to_match(
    image: Image, catalogue: pd.DataFrame | None, objects: Table | None, *, fwhm: float, options: PsfOptions
) -> tuple[Table, Table, float]:
    """Sources without flags, stars of the catalogue, and the radius for their match [arcsec]."""
    require_wcs(image)
    stars = star_table(image, catalogue)
    objects = find_objects(image, fwhm=fwhm) if objects is None else objects
    return objects[objects["flags"] == 0], stars, options.match_radius * image.pixel_scale


def _offset(wcs: Any, objects: Table, stars: Table, radius: float) -> tuple[float, float]:
    """Length of the common offset of matched stars, and the rms of their offsets about it [px]."""
    first, second, _ = match_stars(wcs, objects, stars, radius)
    if len(first) == 0:
        return np.nan, np.inf
    x, y = sky_to_pixel(wcs, stars["RAJ2000"][second], stars["DEJ2000"][second])
    dx, dy = x - objects["x"][first], y - objects["y"][first]
    middle = np.median(dx), np.median(dy)
    # For a normal distribution in two dimensions, the rms is 1.2 times the median distance.
    return float(np.hypot(*middle)), float(1.2 * np.median(np.hypot(dx - middle[0], dy - middle[1])))


def _in_frame(image: Image, stars: Table) -> int:
    """Number of catalogue stars inside the image, by its WCS."""
    height, width = image.shape
    with np.errstate(invalid="ignore"):
        x, y = sky_to_pixel(image.wcs, stars["RAJ2000"], stars["DEJ2000"], shape=image.shape)
        return int(np.count_nonzero((x > 0) & (x < width - 1) & (y > 0) & (y < height - 1)))


def _agreement(wcs: Any, objects: Table, stars: Table, radius: float) -> tuple[int, float]:
    """Number of matched stars and rms of their distances [arcsec], clipped at three times itself."""
    if wcs is None or len(objects) == 0:
        return 0, np.nan
    *_, distance = match_stars(wcs, objects, stars, radius)
    if distance.size == 0:
        return 0, np.nan
    rms = 1.2 * np.median(distance)  # for a normal distribution in two dimensions
    for _ in range(10):
        kept = distance[distance <= 3 * rms]
        if kept.size == 0 or np.isclose(np.sqrt(np.mean(kept**2)), rms):
            break
        rms = np.sqrt(np.mean(kept**2))
    return int(kept.size), float(rms)
