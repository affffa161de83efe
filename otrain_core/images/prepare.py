"""Measure the mask, background and noise of an image (step `prepare`, after the injection)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from otrain_core.errors import ImageError, first_line
from otrain_core.images.cosmics import cosmic_rays, star_like, star_templates
from otrain_core.images.frames import (
    MASK_BAD,
    MASK_COSMIC,
    MASK_MISSING,
    MASK_SATURATED,
    Held,
    Image,
    read_image,
    write_planes,
)
from otrain_core.images.windows import dilated
from otrain_core.io import read_json
from otrain_core.plan.pipelines import PrepareOptions
from otrain_core.plan.telescopes import Detector
from otrain_core.widths import FWHM_PER_SIGMA

DEFAULTS = PrepareOptions()


@dataclass
class Prepared:
    """A prepared image; all planes are (height, width).

    Attributes
    ----------
    sci : numpy.ndarray
        float32, background-subtracted [ADU]. NaN in missing and bad pixels and in those
        hit by a cosmic ray. Hit pixels are not interpolated as L.A.Cosmic does, because
        under a star the interpolated value is wrong by more than the noise. Saturated
        pixels keep their value.
    noise : numpy.ndarray
        float32, 1 sigma [ADU]: measured sky noise plus the photon noise of the sources.
        NaN where `sci` is.
    mask : numpy.ndarray
        uint8, bits MASK_MISSING, MASK_SATURATED, MASK_COSMIC and MASK_BAD of
        `otrain_core.images.frames`; 0 for a good pixel.
    background : numpy.ndarray
        float32 [ADU], finite everywhere.
    """

    sci: np.ndarray
    noise: np.ndarray
    mask: np.ndarray
    background: np.ndarray


def prepare_files(
    *,
    injected: str | Path | Image,
    psf_record: str | Path,
    prepared: str | Path | Held,
    image: str,
    detector: Detector,
    options: PrepareOptions,
) -> None:
    """Read an injected image and its PSF record, and write the prepared planes (step `prepare`).

    Parameters
    ----------
    injected : path-like or Image
        Image written by `otrain_core.stars.inject`.
    psf_record : path-like
        Record written by `otrain_core.stars.psf`.
    prepared : path-like or Held
        Output: the planes ``sci``, ``noise``, ``mask`` and ``background`` of `Prepared`.
    image : str
        Name of the image in the sheet.
    detector : otrain_core.plan.telescopes.Detector
    options : PrepareOptions

    Raises
    ------
    ImageError
        See `read_image` and `prepare_image`.
    """
    frame = read_image(injected, name=image, detector=detector, locate=False)
    psf = read_json(psf_record)
    result = prepare_image(
        frame, seeing=psf["seeing_px"], ellipticity=psf["ellipticity"], angle=psf["angle"], options=options
    )
    planes = {"sci": result.sci, "noise": result.noise, "mask": result.mask, "background": result.background}
    write_planes(prepared, planes, frame.header.copy(strip=True))


def prepare_image(
    image: Image,
    *,
    seeing: float,
    ellipticity: float = 0.0,
    angle: float = 0.0,
    options: PrepareOptions = DEFAULTS,
) -> Prepared:
    """Measure the mask, background and noise of an image.

    Parameters
    ----------
    image : Image
        As read, with any injected sources.
    seeing : float
        FWHM of the stars [px].
    ellipticity, angle : float
        1 - b/a of the stars, and the direction of their major axis, from +x towards +y [deg].
    options : PrepareOptions
        The boxes of the background are at least eight times the seeing: smaller ones (gmadet uses 20 px)
        follow the wings of the stars and remove part of their flux.

    Returns
    -------
    Prepared

    Raises
    ------
    ImageError
        Too few pixels are neither missing nor saturated (key ``data`` or ``SATURATE``), or
        the sky noise cannot be measured (key ``data``).
    """
    missing = ~np.isfinite(image.data)
    saturated = _saturated(image, missing, options.saturation_fraction, options.saturation_grow)
    _check_usable(image, missing, saturated)
    excluded = missing | saturated
    data = np.where(missing, np.float32(0), image.data).astype(np.float32)
    background, rms, sources = _measured_background(image, data, excluded, seeing, options)
    data[missing] = background[missing]
    hit = np.zeros(image.shape, bool)
    if options.cosmics == "astroscrappy":
        templates = star_templates(seeing, ellipticity, angle)
        hit = _cosmics(image, data, background, rms, excluded, templates, options)
    bad = np.zeros(image.shape, bool)
    if options.bad_pixel_sigma > 0:
        bad = _bad_columns(data - background, rms, excluded, options.bad_pixel_sigma)
    sci = data - background
    noise = np.sqrt(rms**2 + np.where(sources, np.maximum(sci, 0), 0) / image.gain)
    mask = np.zeros(image.shape, np.uint8)
    for pixels, bit in ((missing, MASK_MISSING), (saturated, MASK_SATURATED), (hit, MASK_COSMIC), (bad, MASK_BAD)):
        mask[pixels] |= np.uint8(bit)
    void = missing | hit | bad
    sci[void] = np.nan
    noise[void] = np.nan
    return Prepared(sci.astype(np.float32), noise.astype(np.float32), mask, background.astype(np.float32))


def _measured_background(
    image: Image, data: np.ndarray, excluded: np.ndarray, seeing: float, options: PrepareOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background and rms by the chosen method (float32 [ADU]), and a bool plane of the pixels of sources."""
    box = int(max(options.background_box, np.ceil(8 * seeing)))
    background, rms, sources = _background(image, data, excluded, box, options.background_filter, seeing)
    if options.background_method == "photutils":
        background, rms = _photutils_background(image, data, excluded, sources, box, options.background_filter)
    return background, rms, sources


def _saturated(image: Image, missing: np.ndarray, fraction: float, grow: int) -> np.ndarray:
    if not np.isfinite(image.saturation):
        return np.zeros(image.shape, bool)
    with np.errstate(invalid="ignore"):
        saturated = image.data >= fraction * image.saturation
    if grow and saturated.any():
        padded, (height, width) = np.pad(saturated, grow), saturated.shape
        reach = np.arange(-grow, grow + 1)
        for dy, dx in np.argwhere(reach**2 + reach[:, None] ** 2 <= (grow + 0.5) ** 2):
            saturated |= padded[dy : dy + height, dx : dx + width]
    return saturated & ~missing


def _check_usable(image: Image, missing: np.ndarray, saturated: np.ndarray) -> None:
    if missing.all():
        raise ImageError(image.name, "data", "all pixels are NaN")
    good = np.count_nonzero(~missing & ~saturated)
    if good < 0.05 * missing.size:
        raise ImageError(
            image.name,
            "SATURATE",
            f"{100 * np.count_nonzero(saturated) / missing.size:.0f} % of the pixels are saturated "
            f"and {100 * missing.mean():.0f} % are missing; at least 5 % usable pixels are needed",
        )


def _background(
    image: Image, data: np.ndarray, excluded: np.ndarray, box: int, filter_size: int, seeing: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Background and its rms by sep in boxes, in two passes: the second pass masks the sources found in the first.

    Returns
    -------
    background, rms : numpy.ndarray
        float32 [ADU].
    sources : numpy.ndarray
        bool, pixels that belong to a source.
    """
    import sep

    height, width = image.shape
    options = {"bw": min(box, width), "bh": min(box, height), "fw": filter_size, "fh": filter_size}
    first = sep.Background(data, mask=excluded, **options)
    if np.ptp(data[~excluded]) == 0 or not first.globalrms > 0:
        raise ImageError(image.name, "data", "the noise of the sky cannot be measured (no spread between pixels)")
    residual = data - first.back(dtype=np.float32)
    residual[excluded] = 0
    width_px = max(seeing / FWHM_PER_SIGMA, 0.7)
    smooth = ndimage.gaussian_filter(residual, width_px, truncate=3)
    # The threshold is 3 sigma of the smoothed noise; the smoothing reduces white noise by this factor.
    limit = 3 * first.rms(dtype=np.float32) / (2 * np.sqrt(np.pi) * width_px)
    sources = smooth > limit
    sources = _opened(sources)
    reach = int(np.ceil(seeing))
    sources = dilated(sources, reach)
    crowded = (sources | excluded).mean()
    second = sep.Background(data, mask=excluded | sources, **options) if crowded < 0.7 else first
    return second.back(dtype=np.float32), second.rms(dtype=np.float32), sources


def _opened(plane: np.ndarray) -> np.ndarray:
    """Morphological opening of a bool plane with a square of 2 x 2 pixels."""
    square = plane[1:, 1:] & plane[1:, :-1] & plane[:-1, 1:] & plane[:-1, :-1]
    out = np.zeros_like(plane)
    for rows in (slice(1, None), slice(None, -1)):
        for columns in (slice(1, None), slice(None, -1)):
            out[rows, columns] |= square
    return out


def _photutils_background(
    image: Image, data: np.ndarray, excluded: np.ndarray, sources: np.ndarray, box: int, filter_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Background and its rms by photutils, float32 [ADU]; an even `filter_size` is rounded up to the next odd number."""
    from astropy.stats import SigmaClip
    from photutils.background import Background2D, SExtractorBackground

    masked = excluded | sources
    if masked.mean() >= 0.7:
        masked = excluded
    box = min(box, *image.shape)
    try:
        result = Background2D(
            data,
            box,
            mask=masked,
            filter_size=filter_size | 1,
            exclude_percentile=80.0,  # boxes with less than a fifth of their pixels are filled from their neighbours
            sigma_clip=SigmaClip(sigma=3.0, maxiters=10),
            bkg_estimator=SExtractorBackground(),
        )
        return result.background.astype(np.float32), result.background_rms.astype(np.float32)
    except ValueError as error:
        raise ImageError(
            image.name, "data", f"photutils could not measure the background ({first_line(error)})"
        ) from None


def _cosmics(
    image: Image,
    data: np.ndarray,
    background: np.ndarray,
    rms: np.ndarray,
    excluded: np.ndarray,
    templates: np.ndarray,
    options: PrepareOptions,
) -> np.ndarray:
    """Pixels hit by cosmic rays (or hot pixels, which look the same); detections that are undersampled stars are dropped."""
    residual = data - background
    hit = cosmic_rays(
        residual,
        rms**2 + np.maximum(residual, 0) / np.float32(image.gain),
        rms,
        excluded,
        sigclip=options.cosmics_sigclip,
        objlim=options.cosmics_objlim,
        iterations=options.cosmics_iterations,
    )
    groups, n_groups = ndimage.label(hit, np.ones((3, 3)))
    if n_groups == 0:
        return hit
    places = np.argwhere(hit)
    number, value = groups[hit], residual[hit]
    last = np.flatnonzero(np.diff(number[order := np.lexsort((value, number))], append=n_groups + 1))
    peaks = places[order[last]]
    stars = star_like(residual, rms, peaks, templates=templates, gain=image.gain)
    hit[hit] = ~stars[number - 1]
    return hit


def _bad_columns(residual: np.ndarray, rms: np.ndarray, excluded: np.ndarray, limit: float) -> np.ndarray:
    """Segments of columns, 64 rows long, whose median differs from that of the nine columns centred on them.

    The limit is in standard errors of the median.
    """
    bad = np.zeros(residual.shape, bool)
    for start in range(0, residual.shape[0], 64):
        rows = slice(start, start + 64)
        values = np.where(excluded[rows], np.nan, residual[rows])
        count = np.isfinite(values).sum(axis=0)
        usable = count >= 8
        if usable.sum() < 16:
            continue
        median = np.zeros(residual.shape[1])
        median[usable] = np.nanmedian(values[:, usable], axis=0)
        median -= ndimage.median_filter(median, size=9, mode="nearest")
        sigma = 1.2533 * np.median(rms[rows], axis=0) / np.sqrt(np.maximum(count, 1))
        bad[rows, usable & (np.abs(median) > limit * sigma)] = True
    return bad
