"""Real stars as new sources: a check of the classifier that needs no simulation.

A star that is taken out of the reference, with the reference's own PSF, appears in the
difference as a new source with the true PSF and the true noise of the science image. A
star cut from one place of the science image and set down at another does too; its own
sky noise comes along, so that the noise under it is higher by up to the square root of
two. A star that is taken out of the science image has faded: what it leaves there is smooth, but as
noisy as it was itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
from scipy import ndimage

from otrain_core.errors import ImageError
from otrain_core.images.frames import Image
from otrain_core.images.pixels import add_stamp, value_at
from otrain_core.images.wcs import sky_to_pixel
from otrain_core.plan.pipelines import InjectOptions, PsfOptions
from otrain_core.stars.kinds import STAMP_RADIUS
from otrain_core.stars.one_star import StarFit, fit_star, others
from otrain_core.stars.psf import measure_psf
from otrain_core.stars.psf_model import PSFModel
from otrain_core.stars.psf_stars import Sky, measure_sky, select_stars
from otrain_core.stars.truth import TRUTH_COLUMNS, add_light, limits, sky_positions, usable_places

log = logging.getLogger("otrain.real_stars")

DEFAULTS, PSF_DEFAULTS = InjectOptions(), PsfOptions()
MIN_SNR = 8.0
MAX_CHI2 = 3.0  # per pixel of the core
FREE_RADIUS = 2.5  # of the place it is set down: nothing is detected this near [FWHM]
APART = 4.0  # real stars keep this far from injected sources [FWHM]
MAX_SHIFT = 0.25  # of the side of the image, so that the PSF is about that of the new place
BLEND_RADIUS, BLEND_FLUX = 2.0, 0.1  # [FWHM], share of the star's flux
SEARCH_RADIUS = 4.0  # a star is searched this far from where the WCS puts it [FWHM],
FOUND_RADIUS = 1.5  # and must stand this near to it after the common shift [FWHM]
MIN_SCALE = 3  # fitted stars that give the flux ratio of the two images
MAX_FLUX_SCATTER = 0.25  # of the flux ratio of the two images about its median


def choose_stars(
    image: Image,
    psf: PSFModel,
    sky: Sky,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    n: int,
    options: InjectOptions,
    avoid: pd.DataFrame | None = None,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Isolated, unsaturated, round stars of an image with magnitudes in the range of the injection.

    They are drawn at random, but so that the magnitudes are about evenly filled.

    Parameters
    ----------
    image : Image
        As it came.
    psf : PSFModel
    sky : Sky
        Of this image.
    record : mapping
        Of `otrain_core.stars.psf.measure_psf`.
    rng : numpy.random.Generator
    n : int
        Stars wanted; fewer are returned where there are fewer.
    options : InjectOptions
        The range of magnitudes is that of the injected sources; a star must have S/N 8 besides.
    avoid : pandas.DataFrame, optional
        x, y of what the stars must keep away from.

    Returns
    -------
    stars : pandas.DataFrame
        x, y [px], mag, flux [ADU] and label (number in `segments`).
    segments : numpy.ndarray
        Source that every pixel belongs to (0: none).
    """
    limit, zero_point = limits(image, record)
    stars = select_stars(image, sky, min_snr=MIN_SNR, max_ellipticity=0.3, max_stars=100_000)
    rows: list[dict[str, float]] = []
    if len(stars.x):
        free = usable_places(image, stars.x, stars.y, fwhm=psf.fwhm)
        free &= distance_to(avoid, stars.x, stars.y) > APART * psf.fwhm
        height, width = image.shape
        edge = np.minimum(np.minimum(stars.x, width - 1 - stars.x), np.minimum(stars.y, height - 1 - stars.y))
        free &= edge > STAMP_RADIUS * psf.fwhm + 2
        index = np.flatnonzero(free)
        bins = np.floor(-2.5 * np.log10(stars.flux[index])).astype(int)
        _, bins, counts = np.unique(bins, return_inverse=True, return_counts=True)
        # Efraimidis & Spirakis (2006): random order with weights.
        order = index[np.argsort(-np.log(rng.random(index.size)) * counts[bins], kind="stable")]
        for star in order:
            if len(rows) == n:
                break
            label = stars.labels[star]
            fit = fit_star(sky, stars.segments, label, psf, stars.x[star], stars.y[star], gain=image.gain)
            if fit is None or fit.covered < 1 or fit.chi2 > MAX_CHI2 or fit.flux < MIN_SNR * fit.fluxerr:
                continue
            mag = zero_point - 2.5 * np.log10(fit.flux)
            if limit - options.bright_mag <= mag <= limit + options.faint_mag:
                rows.append({"x": fit.x, "y": fit.y, "mag": mag, "flux": fit.flux, "label": label})
    return pd.DataFrame(rows, columns=["x", "y", "mag", "flux", "label"]).astype({"label": int}), stars.segments


def add_real_stars(
    image: Image,
    data: np.ndarray,
    truth: pd.DataFrame,
    psf: PSFModel,
    *,
    record: Mapping[str, Any],
    rng: np.random.Generator,
    options: InjectOptions = DEFAULTS,
    sky: Sky | None = None,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Name stars to be taken out of the reference, take some out of the image, and set others down elsewhere in it.

    Parameters
    ----------
    image : Image
        As it came, without injected sources.
    data : numpy.ndarray
        float32 (height, width), the same with injected sources [ADU].
    truth : pandas.DataFrame
        Of the injected sources, columns `otrain_core.stars.inject.TRUTH_COLUMNS`.
    psf : PSFModel
    record : mapping
        Of `otrain_core.stars.psf.measure_psf`.
    rng : numpy.random.Generator
        A stream of its own, so that the injected sources do not depend on the numbers here.
    options : InjectOptions
        `removed_stars`, `vanished_stars` and `transplanted_stars`: how many; fewer where the image has fewer that fit,
        and none to remove without WCS.
    sky : Sky, optional
        Of the image, where it is measured already.

    Returns
    -------
    data : numpy.ndarray
        float32 (height, width) [ADU].
    truth : pandas.DataFrame
        With rows of the kinds "removed" (place and flux of the star in the science image), "vanished" (the same, the
        flux negative) and "transplanted" (the new place) at the end.
    """
    removed_stars = options.removed_stars
    if image.wcs is None and removed_stars:
        log.warning("image %s: WCS: there is none, so no star is taken out of the reference", image.name)
        removed_stars = 0
    wanted = removed_stars + options.vanished_stars + options.transplanted_stars
    if wanted == 0:
        return data, truth
    sky = sky or measure_sky(image)
    stars, segments = choose_stars(image, psf, sky, record=record, rng=rng, n=wanted, options=options, avoid=truth)
    # Where there are too few, all kinds get their share.
    first, second = (round(len(stars) * n / wanted) for n in (removed_stars, removed_stars + options.vanished_stars))
    removed, vanished, copied = stars[:first], stars[first:second], stars[second:]
    added, moved = transplant(image, psf, sky, segments, copied, rng=rng, avoid=pd.concat([truth, stars]))
    for star in vanished.itertuples():
        stamp, y0, x0 = psf.stamp(star.x, star.y)
        add_stamp(added, -star.flux * stamp, y0, x0)
    kinds = {"removed": removed, "vanished": vanished.assign(flux=-vanished["flux"]), "transplanted": moved}
    rows = pd.concat([table.assign(kind=kind) for kind, table in kinds.items()], ignore_index=True)
    if len(rows) == 0:
        return data, truth
    next_id = int(truth["id"].max()) + 1 if len(truth) else 0
    rows["id"] = next_id + np.arange(len(rows))
    rows["ra"], rows["dec"] = sky_positions(image, rows["x"].to_numpy(), rows["y"].to_numpy())
    rows["usable"] = usable_places(image, rows["x"], rows["y"], fwhm=psf.fwhm)
    return add_light(image, added, data), pd.concat([truth, rows[TRUTH_COLUMNS]], ignore_index=True)


def transplant(
    image: Image,
    psf: PSFModel,
    sky: Sky,
    segments: np.ndarray,
    stars: pd.DataFrame,
    *,
    rng: np.random.Generator,
    avoid: pd.DataFrame,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Copies of stars at empty places, moved by whole pixels so that nothing is resampled.

    What belongs to a neighbour that is detected is replaced by the PSF fit; fainter ones come along. The stamp ends softly over its
    last quarter. A star
    without an empty place within a quarter of the image's side is left out.

    Returns
    -------
    added : numpy.ndarray
        float64 (height, width), light to be added [ADU].
    moved : pandas.DataFrame
        x, y (new), mag, flux.
    """
    height, width = image.shape
    added = np.zeros(image.shape)
    radius = int(np.ceil(STAMP_RADIUS * psf.fwhm))
    reach = MAX_SHIFT * min(height, width)
    with np.errstate(invalid="ignore"):
        blocked = (segments > 0) | sky.missing | (image.data >= 0.9 * image.saturation)
    empty = ndimage.distance_transform_edt(~blocked) > FREE_RADIUS * psf.fwhm
    places = avoid[["x", "y"]]
    offset = np.arange(-radius, radius + 1)
    away = np.hypot(offset[:, None], offset) / (STAMP_RADIUS * psf.fwhm)
    edge = np.clip((away - 0.75) / 0.25, 0, 1)
    taper = 0.5 * (1 + np.cos(np.pi * edge))
    rows = []
    for star in stars.itertuples():
        cx, cy = int(np.floor(star.x + 0.5)), int(np.floor(star.y + 0.5))
        box = np.s_[cy - radius : cy + radius + 1, cx - radius : cx + radius + 1]
        fit = fit_star(sky, segments, star.label, psf, star.x, star.y, gain=image.gain)
        if fit is None:
            continue
        model = np.zeros(taper.shape)
        stamp, y0, x0 = psf.stamp(star.x, star.y)
        add_stamp(model, star.flux * stamp, y0 - cy + radius, x0 - cx + radius)
        foreign = sky.missing[box] | others(segments[box], star.label)
        light = np.where(foreign, model, sky.data[box].astype(np.float64) - fit.level) * taper
        for _ in range(200):
            dx, dy = (int(value) for value in np.round(rng.uniform(-reach, reach, 2)))
            x, y = cx + dx, cy + dy
            if not (radius <= x < width - radius and radius <= y < height - radius) or not empty[y, x]:
                continue
            if distance_to(places, np.array([x]), np.array([y]))[0] > APART * psf.fwhm:
                add_stamp(added, light, y - radius, x - radius)
                rows.append({"x": star.x + dx, "y": star.y + dy, "mag": star.mag, "flux": star.flux})
                places = pd.concat([places, pd.DataFrame({"x": [x], "y": [y]})])
                break
    return added, pd.DataFrame(rows, columns=["x", "y", "mag", "flux"])


def remove_stars(
    reference: Image, stars: pd.DataFrame, *, name: str, options: PsfOptions = PSF_DEFAULTS
) -> tuple[Image, dict[str, Any]]:
    """Take stars out of a reference with the reference's own PSF, and add sources that fade.

    Every star is found by its sky position, after a shift common to all; flux, position
    and local level are fitted, and the star is subtracted. What the fit leaves is as
    uncertain as the flux of the star in the reference. Rows of negative flux are sources that
    the science image lost: they are added at their sky position, after the same shift, with the
    flux ratio of the two images that the fitted stars have.

    Parameters
    ----------
    reference : Image
        As read, background in.
    stars : pandas.DataFrame
        id, ra, dec [deg], flux [ADU of the science image].
    name : str
        Name of the science image, for the log, and for the photon noise of what is added.
    options : PsfOptions
        Those of the science image: which stars make the PSF of the reference.

    Returns
    -------
    reference : Image
        A copy without the stars; the same object where none was removed or added.
    record : dict
        ``removed`` (ids, also of what was added), ``failed`` (list of id and reason) and ``residual``: medians over the
        removed stars of ``chi2`` (per pixel of the core, PSF error allowed), ``excess`` (not
        allowed) and ``flux_error`` (of the fit, as a share of the flux).
    """
    record: dict[str, Any] = {"removed": [], "failed": [], "residual": {"n": 0}}
    if len(stars) == 0:
        return reference, record
    ids = stars["id"].astype(int).tolist()
    ra, dec = stars["ra"].to_numpy(float), stars["dec"].to_numpy(float)

    def nothing(reason: str) -> tuple[Image, dict[str, Any]]:
        log.warning("image %s: no star taken out of the reference: %s", name, reason)
        return reference, record | {"failed": [{"id": number, "reason": reason} for number in ids]}

    if reference.wcs is None:
        return nothing("the reference has no WCS")
    if not np.isfinite(ra + dec).any():
        return nothing("the science image has no WCS")
    try:
        sky = measure_sky(reference)
        # The reference needs no zero point and has its WCS.
        stars_of = options.model_copy(update={"method": "empirical", "astrometry": "none", "photometry": "header"})
        psf, _ = measure_psf(reference, options=stars_of, sky=sky)
    except ImageError as error:
        return nothing(f"no PSF of the reference: {error.message}")
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
    """Fits of the stars at positions of the reference, by their number, and why others have none."""
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
    """Random numbers that belong to an image, whatever else is done."""
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
    """Add sources of negative `flux` to the reference: `light` is what is taken from it, changed in place.

    Returns the numbers of those that were added; `reasons` says why of the others.
    """
    fading = np.flatnonzero(flux < 0)
    if len(fading) == 0:
        return []
    if len(fits) < MIN_SCALE:
        reasons[fading] = f"fewer than {MIN_SCALE} stars give the flux scale of the reference"
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
    """Drop, in place, stars whose flux over that of the science image is not that of the others."""
    if len(fits) < 5:
        return
    ratio = np.array([fit.flux / science[k] for k, fit in fits.items()])
    error = np.array([fit.fluxerr / science[k] for k, fit in fits.items()])
    allowed = MAX_FLUX_SCATTER * np.median(ratio) + 5 * error
    for k, far in zip(list(fits), np.abs(ratio - np.median(ratio)) > allowed, strict=True):
        if far:
            del fits[k]
            reasons[k] = "its flux in the reference does not fit that of the others"


def _extract(image: Image, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
    """Sources and segmentation map; empty where the buffers of sep overflow."""
    try:
        return sky.sources
    except Exception as error:
        log.warning("image %s: sources of the reference cannot be extracted (%s)", image.name, error)
        return np.zeros(0, dtype=[(key, float) for key in ("x", "y", "flux")]), np.zeros(image.shape, dtype=int)


def _find(
    x: np.ndarray, y: np.ndarray, found: np.ndarray, psf: PSFModel, reference: Image
) -> tuple[np.ndarray, np.ndarray]:
    """Source at each position (-1: none), after the shift common to all, and why there is none."""
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
    """PSF fit of one source of the reference, or why it cannot be subtracted."""
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


def distance_to(points: pd.DataFrame | None, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Distance of each position to the nearest of the points (columns x, y) [px]; infinite without any."""
    from scipy.spatial import cKDTree

    if points is None or len(points) == 0:
        return np.full(len(x), np.inf)
    return cKDTree(points[["x", "y"]].to_numpy(float)).query(np.column_stack([x, y]))[0]
