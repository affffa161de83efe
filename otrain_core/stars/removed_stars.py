"""Subtract real stars from the reference, or add fading sources to it, with the PSF of the reference."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.pixels import add_stamp, value_at
from otrain_core.images.wcs import sky_to_pixel
from otrain_core.plan.pipelines import PsfOptions
from otrain_core.stars.one_star import StarFit, fit_star
from otrain_core.stars.psf import measure_psf
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky
from otrain_core.stars.real_stars import MAX_CHI2, MIN_SNR
from otrain_core.stars.truth import add_light, usable_places

log = logging.getLogger("otrain.real_stars")

PSF_DEFAULTS = PsfOptions()
BLEND_RADIUS, BLEND_FLUX = 2.0, 0.1  # a blended star has a neighbour within [FWHM], with this fraction of its flux
SEARCH_RADIUS = 4.0  # largest distance of a star from its position by the WCS [FWHM]
FOUND_RADIUS = 1.5  # the same after the correction of the common shift [FWHM]
MIN_SCALE = 3  # least number of fitted stars for the flux ratio of the two images
MAX_FLUX_SCATTER = 0.25  # largest deviation of a star's flux ratio from the median, relative to it


def remove_stars(
    reference: Image, stars: pd.DataFrame, *, name: str, options: PsfOptions = PSF_DEFAULTS
) -> tuple[Image, dict[str, Any]]:
    """Subtract stars from a reference with the PSF of the reference, and add fading sources to it.

    Every star is identified by its sky position, after correction of a shift common to all
    stars. Its flux, position and local level are fitted, and the star is subtracted; the
    uncertainty of the residual is that of the fitted flux. Rows of negative flux are fading
    sources: they are added at their sky position, after the same shift, with the flux ratio
    of the two images given by the fitted stars.

    Parameters
    ----------
    reference : Image
        As read, with its background.
    stars : pandas.DataFrame
        id, ra, dec [deg], flux [ADU of the science image].
    name : str
        Name of the science image, for the log and for the random photon noise of added sources.
    options : PsfOptions
        Options of the science image for the selection of PSF stars.

    Returns
    -------
    reference : Image
        A changed copy; the same object if nothing was subtracted or added.
    record : dict
        ``removed`` (ids of the stars subtracted and of the sources added), ``failed`` (list of id and reason) and
        ``residual``: number ``n`` and medians over the subtracted stars of ``chi2``, ``excess`` (see
        `otrain_core.stars.one_star.StarFit`) and ``flux_error`` (relative error of the flux).
    """
    record: dict[str, Any] = {"removed": [], "failed": [], "residual": {"n": 0}}
    if len(stars) == 0:
        return reference, record
    ids = stars["id"].astype(int).tolist()
    ra, dec = stars["ra"].to_numpy(float), stars["dec"].to_numpy(float)

    def nothing(reason: str) -> tuple[Image, dict[str, Any]]:
        log.warning("image %s: no star was subtracted from the reference: %s", name, reason)
        return reference, record | {"failed": [{"id": number, "reason": reason} for number in ids]}

    if reference.wcs is None:
        return nothing("the reference has no WCS")
    if not np.isfinite(ra + dec).any():
        return nothing("the science image has no WCS")
    try:
        sky = measure_sky(reference)
        # The reference needs no zero point, and its WCS is used as it is.
        stars_of = options.model_copy(update={"method": "empirical", "astrometry": "none", "photometry": "header"})
        psf, _ = measure_psf(reference, options=stars_of, sky=sky)
    except ImageError as error:
        return nothing(f"the PSF of the reference could not be measured: {error.message}")
    x, y = sky_to_pixel(reference.wcs, ra, dec, shape=reference.shape)
    flux = stars["flux"].to_numpy(float)
    fits, reasons = _fit_removed(reference, sky, psf, np.where(flux > 0, x, np.nan), y)
    _leave_out_strangers(fits, reasons, flux)
    light = np.zeros(reference.shape)
    for fit in fits.values():
        stamp, y0, x0 = psf.stamp(fit.x, fit.y)
        add_stamp(light, fit.flux * stamp, y0, x0)
    added = _add_fading(light, reference, psf, fits, reasons, x=x, y=y, flux=flux, rng=_stream(name))
    done = [*fits, *added]
    record["failed"] = [{"id": ids[k], "reason": str(reasons[k])} for k in range(len(ids)) if k not in done]
    record["removed"] = [ids[k] for k in done]
    if not fits:
        return reference, record
    record["residual"] = {
        "n": len(fits),
        "chi2": float(np.median([fit.chi2 for fit in fits.values()])),
        "excess": float(np.median([fit.excess for fit in fits.values()])),
        "flux_error": float(np.median([fit.fluxerr / fit.flux for fit in fits.values()])),
    }
    return replace(reference, data=add_light(reference, -light)), record


def _fit_removed(
    reference: Image, sky: Sky, psf: PSFModel, x: np.ndarray, y: np.ndarray
) -> tuple[dict[int, StarFit], np.ndarray]:
    """Fit the stars at these positions of the reference; returns the fits by row, and the reasons for rows without one."""
    found, segments = _extract(reference, sky)
    index, reasons = _find(x, y, found, psf, reference)
    usable = usable_places(reference, found["x"], found["y"], fwhm=psf.fwhm)
    fits: dict[int, StarFit] = {}
    for k in np.flatnonzero(index >= 0).tolist():
        fit, reason = None, "saturated or missing pixels in the reference"
        if usable[index[k]]:
            fit, reason = _fit_reference_star(reference, sky, segments, found, int(index[k]), psf)
        if fit is None:
            reasons[k] = reason
        else:
            fits[k] = fit
    return fits, reasons


def _stream(name: str) -> np.random.Generator:
    """Random number generator that depends only on the name of the image."""
    return np.random.default_rng(crc32(f"fading/{name}".encode()))


def _add_fading(
    light: np.ndarray,
    reference: Image,
    psf: PSFModel,
    fits: dict[int, StarFit],
    reasons: np.ndarray,
    *,
    x: np.ndarray,
    y: np.ndarray,
    flux: np.ndarray,
    rng: np.random.Generator,
) -> list[int]:
    """Add sources of negative `flux` to the reference: their light is subtracted from `light`, in place.

    `light` is the image that is subtracted from the reference. Returns the rows of the sources that were added;
    `reasons` is changed in place for the others.
    """
    fading = np.flatnonzero(flux < 0)
    if len(fading) == 0:
        return []
    if len(fits) < MIN_SCALE:
        reasons[fading] = f"fewer than {MIN_SCALE} fitted stars for the flux scale of the reference"
        return []
    ratio = float(np.median([fit.flux / flux[k] for k, fit in fits.items()]))
    shift_x, shift_y = (
        np.median([fit.x - x[k] for k, fit in fits.items()]),
        np.median([fit.y - y[k] for k, fit in fits.items()]),
    )
    px, py = x[fading] + shift_x, y[fading] + shift_y
    inside = value_at(np.ones(reference.shape, bool), px, py, outside=False)
    usable = inside.copy()
    usable[inside] = usable_places(reference, px[inside], py[inside], fwhm=psf.fwhm)
    reasons[fading] = np.where(inside, "saturated or missing pixels in the reference", "outside the reference")
    for k, at_x, at_y in zip(fading[usable], px[usable], py[usable], strict=True):
        stamp, y0, x0 = psf.stamp(at_x, at_y)
        counts = rng.poisson(-flux[k] * ratio * stamp * reference.gain) / reference.gain
        add_stamp(light, -counts, y0, x0)
    return fading[usable].tolist()


def _leave_out_strangers(fits: dict[int, StarFit], reasons: np.ndarray, science: np.ndarray) -> None:
    """Drop, in place, stars whose flux ratio to the science image differs from that of the others."""
    if len(fits) < 5:
        return
    ratio = np.array([fit.flux / science[k] for k, fit in fits.items()])
    error = np.array([fit.fluxerr / science[k] for k, fit in fits.items()])
    allowed = MAX_FLUX_SCATTER * np.median(ratio) + 5 * error
    for k, far in zip(list(fits), np.abs(ratio - np.median(ratio)) > allowed, strict=True):
        if far:
            del fits[k]
            reasons[k] = "its flux ratio between reference and science image differs from that of the other stars"


def _extract(image: Image, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
    """Sources and segmentation map of the reference; both are empty if a buffer of sep overflows."""
    try:
        return sky.sources
    except Exception as error:
        log.warning("image %s: sources of the reference cannot be extracted (%s)", image.name, error)
        return np.zeros(0, dtype=[(key, float) for key in ("x", "y", "flux")]), np.zeros(image.shape, dtype=int)


def _find(
    x: np.ndarray, y: np.ndarray, found: np.ndarray, psf: PSFModel, reference: Image
) -> tuple[np.ndarray, np.ndarray]:
    """Index of the source at each position after correction of the common shift (-1: none), and the reason if none."""
    from scipy.spatial import cKDTree

    height, width = reference.shape
    inside = np.isfinite(x + y)
    inside[inside] = (x[inside] > 0) & (y[inside] > 0) & (x[inside] < width - 1) & (y[inside] < height - 1)
    reasons = np.where(inside, "not found in the reference", "outside the reference").astype(object)
    index = np.full(len(x), -1)
    if not inside.any() or len(found) == 0:
        return index, reasons
    points = np.column_stack([found["x"], found["y"]])
    tree, wanted = cKDTree(points), np.column_stack([x, y])[inside]
    away, nearest = tree.query(wanted, distance_upper_bound=max(SEARCH_RADIUS * psf.fwhm, 5.0))
    near = np.isfinite(away)
    if near.any():
        shift = np.median(points[nearest[near]] - wanted[near], axis=0)
        away, nearest = tree.query(wanted + shift, distance_upper_bound=FOUND_RADIUS * psf.fwhm)
        index[inside] = np.where(np.isfinite(away), nearest, -1)
    return index, reasons


def _fit_reference_star(
    reference: Image, sky: Sky, segments: np.ndarray, found: np.ndarray, index: int, psf: PSFModel
) -> tuple[StarFit | None, str]:
    """PSF fit of one source of the reference, or None and the reason why it cannot be subtracted."""
    x, y = float(found["x"][index]), float(found["y"][index])
    away = np.hypot(found["x"] - x, found["y"] - y)
    away[index] = np.inf
    if (found["flux"][away < BLEND_RADIUS * psf.fwhm] > BLEND_FLUX * found["flux"][index]).any():
        return None, "blended in the reference"
    fit = fit_star(sky, segments, index + 1, psf, x, y, gain=reference.gain)
    if fit is None:
        return None, "cannot be fitted in the reference"
    if fit.covered < 0.9:
        return None, "blended in the reference"
    if fit.flux < MIN_SNR * fit.fluxerr:
        return None, f"S/N below {MIN_SNR:g} in the reference"
    if fit.chi2 > MAX_CHI2:
        return None, "poorly fitted in the reference"
    return fit, ""
