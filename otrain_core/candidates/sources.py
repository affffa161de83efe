"""Find the sources on one plane of an image, and measure them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import (
    FIT_RADIUS,
    filtered_significance,
    filtered_spread,
    gaussian_widths,
    point_source_scale,
    psf_fluxes,
    window_ellipticities,
)
from otrain_core.candidates.search import find_sources
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.pixels import any_near

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import DetectOptions

AUTO_THRESHOLDS = (4.5, 4.25, 4.0, 3.75, 3.5, 3.25, 3.0)  # steps of the threshold "auto" [sigma]
SAME_PLACE = 0.5  # sources closer than this are the same source [px]
MIN_COVER = 0.5  # photometry with a smaller share of the PSF on usable pixels is flagged
# Bits of the column `flags`, with FLAG_CENTROID; the lower bits are set by the program that detects.
FLAG_MASKED = 256  # a masked pixel within one seeing FWHM
FLAG_COVER = 512  # less than half of the PSF falls on usable pixels


@dataclass
class Plane:
    """One plane on which sources are found and measured, all (height, width).

    Attributes
    ----------
    data, error : numpy.ndarray
        float32 [ADU], finite everywhere; `error` is 1 sigma.
    bad : numpy.ndarray
        bool, pixels that are not used.
    missing : numpy.ndarray
        bool, pixels that are missing because of the edge of the image, not because of an artefact.
    seeing : float
        FWHM of the PSF [px].
    psf : object or None
        PSF with the method ``stamp``; None for a Gaussian of the seeing.
    """

    data: np.ndarray
    error: np.ndarray
    bad: np.ndarray
    missing: np.ndarray
    seeing: float
    psf: Any


def plane_sources(plane: Plane, search: str, options: DetectOptions, *, image: str) -> pd.DataFrame:
    """Sources of one plane.

    The threshold "auto" is the first step of `AUTO_THRESHOLDS` that gives at least ``target_candidates`` sources.

    Parameters
    ----------
    plane : Plane
    search : {"difference", "catalogue"}
        Negative sources and the threshold "auto" apply to the difference only.
    options : DetectOptions
    image : str
        Name, for errors and messages.

    Returns
    -------
    pandas.DataFrame
        See `otrain_core.candidates.search.find_sources`.
    """
    steps = AUTO_THRESHOLDS if options.threshold == "auto" else (float(options.threshold),)
    first = _first_step(plane, options) if len(steps) > 1 and search == "difference" else 0
    threshold = steps[first]
    found = _find(plane, search, options, threshold, image=image)
    while first and len(found) > options.max_candidates:  # the estimate of the first step was too low
        first -= 1
        threshold = steps[first]
        found = _find(plane, search, options, threshold, image=image)
    for lower in steps[first + 1 :]:
        if len(found) >= options.target_candidates or search != "difference":
            break
        more = _find(plane, search, options, lower, image=image)
        if len(more) > options.max_candidates:
            break
        found, threshold = more, lower
    if len(steps) > 1 and search == "difference":
        sentence = "image %s: detect.threshold: auto is %.2f sigma, %d candidates"
        logging.getLogger("otrain").info(sentence, image, threshold, len(found))
    return found


def _find(plane: Plane, search: str, options: DetectOptions, threshold: float, *, image: str) -> pd.DataFrame:
    return find_sources(
        options.method,
        plane.data,
        plane.error,
        plane.bad,
        image=image,
        seeing=plane.seeing,
        threshold=threshold,
        min_area=options.min_area,
        both_signs=options.both_signs and search == "difference",
    )


def _first_step(plane: Plane, options: DetectOptions) -> int:
    """Index of the first of `AUTO_THRESHOLDS` that may give ``target_candidates`` sources.

    Every source has a peak in the filtered difference, so higher thresholds with fewer peaks need not be tried.
    """
    from scipy.ndimage import maximum_filter

    if options.method != "sep":  # the thresholds of the other methods do not refer to the filtered difference
        return 0
    filtered = np.nan_to_num(filtered_significance(plane.data, plane.error, plane.bad, plane.seeing))
    count = np.zeros(len(AUTO_THRESHOLDS), dtype=int)
    for signed in (filtered, -filtered) if options.both_signs else (filtered,):
        peaks = signed[signed == maximum_filter(signed, 3)]
        count += [int((peaks > threshold).sum()) for threshold in AUTO_THRESHOLDS]
    enough = np.flatnonzero(count >= options.target_candidates)
    return int(enough[0]) if len(enough) else len(AUTO_THRESHOLDS) - 1


def without_doubles(sources: pd.DataFrame) -> pd.DataFrame:
    """Keep the first of several sources whose centroids converged to one position: the deblending split one source."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(sources[["x", "y"]].to_numpy(float)).query_pairs(SAME_PLACE) if len(sources) else set()
    return sources.drop(index=sorted({max(pair) for pair in pairs})).reset_index(drop=True)


def difference_plane(
    diff: np.ndarray, noise: np.ndarray, mask: np.ndarray, *, image: str, seeing: float, psf: Any, rescale: bool
) -> Plane:
    """The difference with its unusable pixels filled, and its noise.

    Parameters
    ----------
    diff, noise, mask, image, seeing, psf
        See `otrain_core.candidates.detect.detect_candidates`.
    rescale : bool
        Multiply the noise by the spread of the filtered difference.

    Raises
    ------
    ImageError
        There is no usable pixel.
    """
    with np.errstate(invalid="ignore"):
        bad = (mask != 0) | ~np.isfinite(diff) | ~(noise > 0) | ~np.isfinite(noise)
    if bad.all():
        raise ImageError(image, "detect", "no usable pixel in the difference")
    data = np.where(bad, 0, diff).astype(np.float32)
    error = np.where(bad, np.median(noise[~bad]), noise).astype(np.float32)
    if rescale:
        error *= np.float32(filtered_spread(data, error, bad, seeing))
    # Pixels lost to cosmic rays or saturation are not an edge: their residuals are bogus candidates to learn from.
    missing = (mask == MASK_MISSING) | (~np.isfinite(diff) & (mask == 0))
    return Plane(data, error, bad, missing, seeing, psf)


def science_plane(clean: Plane, science: np.ndarray, *, psf: Any, seeing: float | None) -> Plane:
    """The science image with the noise and the unusable pixels of the difference."""
    bad = clean.bad | ~np.isfinite(science)
    data = np.where(bad, 0, science).astype(np.float32)
    return Plane(data, clean.error, bad, clean.missing, seeing or clean.seeing, clean.psf if psf is None else psf)


def plane_properties(sources: pd.DataFrame, plane: Plane, *, zero_point: float) -> pd.DataFrame:
    """The measured columns of the sources of one plane: x, y, flux, fluxerr, mag, magerr, snr, fwhm, ellipticity, flags."""
    x, y = sources["x"].to_numpy(), sources["y"].to_numpy()
    data, error, bad, seeing, psf = plane.data, plane.error, plane.bad, plane.seeing, plane.psf
    flux, fluxerr, cover = psf_fluxes(data, error, bad, x, y, seeing=seeing, psf=psf)
    if "fwhm" in sources:
        fwhm = sources["fwhm"].to_numpy()
    else:
        fwhm = gaussian_widths(data, error, bad, x, y, seeing=seeing)
        if psf is not None:
            fwhm *= point_source_scale(psf, data.shape, seeing)
    flags = sources["flags"].to_numpy() | np.where(cover < MIN_COVER, FLAG_COVER, 0)
    flags |= np.where(any_near(bad, x, y, seeing), FLAG_MASKED, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(flux == 0, np.nan, np.abs(flux))
        mag, magerr = zero_point - 2.5 * np.log10(size), 2.5 / np.log(10) * fluxerr / size
    return pd.DataFrame(
        {
            "x": x,
            "y": y,
            "flux": flux,
            "fluxerr": fluxerr,
            "mag": mag,
            "magerr": magerr,
            "snr": np.abs(flux) / fluxerr,
            "fwhm": fwhm,
            "ellipticity": window_ellipticities(data, bad, x, y, seeing=seeing),
            "flags": flags,
        }
    )


def at_edge(table: pd.DataFrame, missing: np.ndarray, margin: int, seeing: float) -> np.ndarray:
    """Whether each source is closer than `margin` px to the border, or has a missing pixel within 1.5 FWHM."""
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    height, width = missing.shape
    outside = (x < margin) | (y < margin) | (x > width - 1 - margin) | (y > height - 1 - margin)
    return outside | any_near(missing, x, y, FIT_RADIUS * seeing)
