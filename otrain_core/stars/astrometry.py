"""The WCS of an image, refined on a star catalogue by SCAMP or by astropy, through STDPipe.

Whatever the method, what is handed on is a WCS that `astropy.wcs.WCS.to_header_string`
writes and reads back as it is: TAN, or TAN-SIP with a distortion. SCAMP's own form (TPV)
is turned into SIP for that, and SIP back into TPV for SWarp, see `otrain_core.images.swarp`.
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
MIN_CHECKED = 20  # sources and stars below which nothing is said about a WCS
GOOD_RMS = 0.4  # of the radius; of chance matches, uniform in the circle, it is 0.7


def find_objects(image: Image, *, fwhm: float) -> Table:
    """Sources of an image by STDPipe's detection with sep.

    Parameters
    ----------
    image : Image
    fwhm : float
        Of the stars [px].

    Returns
    -------
    astropy.table.Table
        ``x``, ``y`` (windowed), ``xerr``, ``yerr`` [px], ``flux``, ``fluxerr`` in a radius of
        2 `fwhm` [ADU], ``mag``, ``magerr``, ``flags`` (0: nothing wrong) and more, brightest first.
    """
    from stdpipe.photometry import get_objects_sep

    missing = ~np.isfinite(image.data)
    spoilt = missing.copy()
    if np.isfinite(image.saturation):
        spoilt |= np.nan_to_num(image.data, nan=np.inf) >= 0.9 * image.saturation
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_objects_sep(
            np.ascontiguousarray(image.data, np.float32),
            mask=spoilt,
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
    """Stars of a catalogue as STDPipe takes them: RAJ2000, DEJ2000, mag, magerr, g, r (g - r: its color).

    Raises
    ------
    ImageError
        No catalogue, or no star in it (key ``catalogue``).
    """
    from astropy.table import Table

    if catalogue is None or len(catalogue) == 0:
        raise ImageError(image.name, "catalogue", "the star catalogue of this field is missing or empty")
    stars = catalogue[np.isfinite(catalogue["ra"]) & np.isfinite(catalogue["dec"])]
    if "kind" in stars:
        stars = stars[stars["kind"] != "galaxy"]
    if len(stars) == 0:
        raise ImageError(image.name, "catalogue", "the catalogue of this field holds no star")
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
    """Raise for an image without WCS.

    Raises
    ------
    ImageError
        Key ``WCS``.
    """
    if image.wcs is None:
        raise ImageError(
            image.name,
            "WCS",
            "no celestial WCS in the header, and this pipeline needs one to find its stars in the catalogue; "
            "give one (column wcs)",
        )


def refine_wcs(
    image: Image,
    catalogue: pd.DataFrame | None,
    *,
    options: PsfOptions,
    fwhm: float,
    objects: Table | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Refine the WCS of an image on a catalogue.

    The solution is taken if it is no worse than the WCS that came: as many stars
    matched (but for a tenth) at no larger rms. Else that WCS is kept, if the stars agree with it.

    Parameters
    ----------
    image : Image
        With a WCS.
    catalogue : pandas.DataFrame
        ``ra``, ``dec`` [deg], ``mag``; ``kind``.
    options : PsfOptions
        `astrometry`: scamp (Bertin 2006, ASPC 351, 112) finds its stars by their pattern, up to an
        arcminute off; astropy's fit needs them within `match_radius`. `astrometry_degree` is lowered
        where there are fewer than three stars for each coefficient.
    fwhm : float
        Of the stars [px].
    objects : astropy.table.Table, optional
        As `find_objects` gives them.

    Returns
    -------
    wcs : astropy.wcs.WCS
        The WCS of `image` itself (the same object) where it is kept.
    record : dict
        ``method`` ("none" where the WCS that came is kept), ``n_stars`` (matched), ``rms_arcsec``
        and ``rms_arcsec_before`` (of distances, clipped at three times their own), ``n_catalogue``, ``degree``, ``reason`` (why
        the WCS that came is kept, else "").

    Raises
    ------
    ImageError
        No WCS (key ``WCS``), no catalogue (key ``catalogue``), or neither the solution nor the
        WCS that came agrees with the stars (key ``astrometry``).
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
    # Half of the stars in common is little: the catalogue and the image differ in depth.
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
    came_agrees = n_before >= needed and rms_before < GOOD_RMS * radius
    if agrees and (not came_agrees or (rms_after <= rms_before and n_after >= 0.9 * n_before)):
        return wcs, record
    if wcs is None:
        reason = f"{method} finds no solution with {len(good)} sources and {len(stars)} stars of the catalogue"
    else:
        reason = f"the solution of {method} is worse ({n_after} stars, rms {rms_after:.2f} arcsec)"
    if not came_agrees:
        raise ImageError(
            image.name,
            "astrometry",
            f"{reason}, and the WCS that came does not agree with the catalogue "
            f"({n_before} stars within {radius:.1f} arcsec)",
        )
    log.warning("image %s: astrometry: %s; the WCS that came is kept", image.name, reason)
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
    """Refuse a WCS that the stars of a catalogue contradict. A shift common to all stars is named, not refused.

    Parameters
    ----------
    image : Image
        With a WCS.
    catalogue : pandas.DataFrame
        ``ra``, ``dec`` [deg], ``mag``; ``kind``.
    options : PsfOptions
        `match_radius` is used.
    fwhm : float
        Of the stars [px].
    objects : astropy.table.Table, optional
        As `find_objects` gives them.

    Returns
    -------
    dict
        As the record of `refine_wcs`, with ``method`` "none"; ``reason`` says where the stars are too few to tell.

    Raises
    ------
    ImageError
        No WCS, or the stars are not where it puts them (key ``WCS``); no catalogue (key ``catalogue``).
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
            f"{len(good)} sources and {_in_frame(image, stars)} stars of the catalogue do not tell whether it is right"
        )
        log.warning("image %s: WCS: %s", image.name, reason)
        return record | {"reason": reason}
    shift, scatter = _offset(image.wcs, good, stars, radius)
    if n_stars < max(MIN_MATCHES, 0.3 * expected) or scatter > GOOD_RMS * options.match_radius:
        raise ImageError(
            image.name,
            "WCS",
            f"the stars of the catalogue are not where this WCS puts them ({n_stars} of {expected} within "
            f"{radius:.1f} arcsec); give a right one (column wcs) or refine it (psf.astrometry)",
        )
    if shift > fwhm:
        log.warning("image %s: WCS: off by %.1f px; psf.astrometry refines it", image.name, shift)
    return record


def _to_match(
    image: Image, catalogue: pd.DataFrame | None, objects: Table | None, *, fwhm: float, options: PsfOptions
) -> tuple[Table, Table, float]:
    """Sources without flags, stars of the catalogue, and the radius within which they match [arcsec]."""
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
    # 1.2 times the median distance is the rms of a normal distribution in two dimensions.
    return float(np.hypot(*middle)), float(1.2 * np.median(np.hypot(dx - middle[0], dy - middle[1])))


def _in_frame(image: Image, stars: Table) -> int:
    """Stars of the catalogue that the image shows, by its WCS."""
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
    rms = 1.2 * np.median(distance)  # of a normal distribution in two dimensions
    for _ in range(10):
        kept = distance[distance <= 3 * rms]
        if kept.size == 0 or np.isclose(np.sqrt(np.mean(kept**2)), rms):
            break
        rms = np.sqrt(np.mean(kept**2))
    return int(kept.size), float(rms)
