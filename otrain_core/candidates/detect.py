"""Candidates of one image: found on the difference or against a catalogue, measured in one way (step `detect`)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import (
    FIT_RADIUS,
    difference_psf,
    filtered_significance,
    filtered_spread,
    gaussian_widths,
    negative_shares,
    point_source_scale,
    psf_fluxes,
    window_ellipticities,
)
from otrain_core.candidates.planes import Planes
from otrain_core.candidates.search import drop_catalogued, find_sources, merge_searches, require_catalogue
from otrain_core.candidates.surroundings import name_surroundings
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_MISSING, Held, read_planes
from otrain_core.images.pixels import any_near
from otrain_core.images.wcs import image_wcs, pixel_to_sky
from otrain_core.io import raise_if_failed, read_json, read_table, write_table
from otrain_core.stars.psf_model import PSFModel

if TYPE_CHECKING:
    from otrain_core.plan.pipelines import DetectOptions

AUTO_THRESHOLDS = (4.5, 4.25, 4.0, 3.75, 3.5, 3.25, 3.0)  # of the threshold "auto" [sigma]
SAME_PLACE = 0.5  # sources nearer than this are one [px]
MIN_COVER = 0.5  # with a smaller share of the PSF on usable pixels the photometry is flagged

# Bits of the column `flags` (and FLAG_CENTROID); the lower ones are those of the program that detects.
FLAG_MASKED = 256  # a masked pixel within one seeing FWHM
FLAG_COVER = 512  # less than half of the PSF falls on usable pixels

CANDIDATE_COLUMNS = {
    "candid": str,
    "image": str,
    "x": float,
    "y": float,
    "ra": float,
    "dec": float,
    "flux": float,
    "fluxerr": float,
    "mag": float,
    "magerr": float,
    "snr": float,
    "fwhm": float,
    "ellipticity": float,
    "negative": float,
    "cause": str,
    "flags": int,
    "edge": bool,
    "time": str,
    "filter": str,
    "zero_point_source": str,
    "method": str,
}


def detect_files(
    *,
    difference: str | Path | Held,
    psf: str | Path,
    psf_record: str | Path,
    candidates: str | Path,
    image: str,
    telescope: str,
    size: int,
    options: DetectOptions,
    wcs: str | Path | None = None,
    subtract_record: str | Path | None = None,
    catalogue: str | Path | None = None,
    finder: Any = None,
) -> None:
    """Read the difference and what is known of its PSF, write the table of candidates.

    Parameters
    ----------
    difference : path-like or Held
        Planes of the difference, as the step `subtract` writes them.
    psf, psf_record : path-like
        PSF of the science image and its record.
    candidates : path-like
        Table to write.
    image, telescope : str
    size : int
        Side of the cutouts to come [px].
    options : DetectOptions
    wcs : path-like, optional
        FITS header file with the WCS, for images that have none; one refined with the PSF comes first.
    subtract_record : path-like, optional
        Record of the subtraction, which tells whether the science image was convolved to the seeing of the reference.
    catalogue : path-like, optional
        Table of known sources (ra, dec).
    finder : object, optional
        As for `detect_candidates`.

    Raises
    ------
    ImageError
        No zero point in the record, and those of `detect_candidates`.
    """
    planes, header = read_planes(difference, image=image)
    record = read_json(psf_record)
    raise_if_failed(psf)
    if record.get("zero_point") is None:
        raise ImageError(image, "zero_point", f"{psf_record} holds no zero point")
    science_psf = PSFModel.load(psf)
    subtraction = read_json(subtract_record) if subtract_record else {}
    model, seeing = difference_psf(science_psf, record["seeing_px"], subtraction, planes)
    table = detect_candidates(
        planes["diff"],
        planes["noise"],
        planes["mask"],
        image=image,
        telescope=telescope,
        seeing=seeing,
        zero_point=record["zero_point"],
        zero_point_source=record.get("zero_point_source") or "",
        size=size,
        options=options,
        wcs=image_wcs(header, wcs, image=image, record=record),
        psf=model,
        science=planes.get("science"),
        science_psf=science_psf,
        science_seeing=record["seeing_px"],
        reference=planes.get("reference"),
        catalogue=read_table(catalogue) if catalogue else None,
        time=record.get("time") or "",
        filter=record.get("filter") or "",
        finder=finder,
    )
    write_table(candidates, table)


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
        bool, pixels that no artefact took: the edge of the image.
    seeing : float
        FWHM of the PSF [px].
    psf : object or None
        With the method ``stamp``; None: a Gaussian of the seeing.
    """

    data: np.ndarray
    error: np.ndarray
    bad: np.ndarray
    missing: np.ndarray
    seeing: float
    psf: Any


def detect_candidates(
    diff: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
    image: str,
    seeing: float,
    zero_point: float,
    size: int,
    options: DetectOptions,
    wcs: Any = None,
    psf: Any = None,
    telescope: str = "",
    time: str = "",
    filter: str = "",
    zero_point_source: str = "",
    science: np.ndarray | None = None,
    science_psf: Any = None,
    science_seeing: float | None = None,
    reference: np.ndarray | None = None,
    catalogue: pd.DataFrame | None = None,
    finder: Any = None,
) -> pd.DataFrame:
    """Find candidates and measure them.

    With the method "sep", pixels are detected where the difference, filtered with a Gaussian of
    the seeing and weighted by the noise of every pixel, exceeds the threshold (the matched
    filter of `sep`, Barbary 2016, after SExtractor, Bertin & Arnouts 1996), and positions are
    windowed centroids. "source-extractor" and "stdpipe" run Source Extractor itself as gmadet
    and STDPipe do (`otrain_core.candidates.search`), and positions and the lower flags are its own. "finder" asks a
    detector network, whose score the column ``finder_score`` then has.

    Whatever found a candidate, its columns mean the same: fluxes, S/N and magnitudes are
    those of the PSF that fit best (weighted least squares within 1.5 FWHM), so a point source
    gets its total flux; FWHMs are the width of the circular Gaussian that fits best, which stays
    meaningful at low S/N. The one exception is the FWHM of "source-extractor": gmadet cuts on
    FWHM_IMAGE, so that is what the column holds.

    The search "catalogue" (section 2.1 of Makhlouf et al. 2022) finds sources on the science
    image and keeps those that no catalogue entry is near; they are measured on the science image.
    Candidates of both searches within one seeing FWHM are one, with the row of the difference.

    Parameters
    ----------
    diff, noise : numpy.ndarray
        Difference and its 1-sigma noise [ADU], (height, width). NaN: missing.
    mask : numpy.ndarray
        uint8 (height, width), bits `otrain_core.images.frames.MASK_*`; a masked pixel is not used.
    image, telescope : str
        Names, from which ``candid`` is made: ``{telescope}-{image}-0001`` in order of y, x.
    seeing : float
        FWHM of the PSF of the difference [px].
    zero_point : float
        Magnitude of 1 ADU.
    size : int
        Side of the cutouts to come [px].
    options : DetectOptions
        ``edge`` 0 is half a cutout; a candidate with a pixel within 1.5 FWHM that is missing for no other
        reason than the edge is flagged ``edge`` too. A FWHM that cannot be measured is outside ``fwhm_ratio``.
        ``rescale_noise`` multiplies the noise by the robust spread of the filtered, noise-weighted difference.
    wcs : astropy.wcs.WCS, optional
        Without it ``ra`` and ``dec`` are NaN.
    psf : otrain_core.stars.psf_model.PSFModel, optional
        Its ``stamp(x, y) -> (array, y0, x0)`` gives the PSF; without it a Gaussian of the
        seeing is taken, which misses the wings of a real PSF.
    time, filter, zero_point_source : str
        Copied to every candidate; with the source "assumed" magnitudes are instrumental.
    science : numpy.ndarray, optional
        Science image without background [ADU] (height, width), for the search "catalogue", which
        takes its noise to be that of the difference and uses the same pixels.
    science_psf, science_seeing : optional
        PSF and FWHM [px] of `science` where it was convolved for the difference (default: `psf`, `seeing`).
    reference : numpy.ndarray, optional
        Reference without background on the same pixels, for the column ``cause``.
    catalogue : pandas.DataFrame, optional
        Columns ra and dec [deg]; should go deeper than the image.
    finder : otrain_core.classify.finder.Finder, optional
        Needed by the method "finder".

    Returns
    -------
    pandas.DataFrame
        Columns `CANDIDATE_COLUMNS`, sorted by y, then x. ``snr`` is |flux| / fluxerr (the flux of a negative source
        is negative, its magnitude that of |flux|); ``negative`` is that of `otrain_core.candidates.measure.negative_shares`;
        ``cause`` is what made it if it is False, see `otrain_core.candidates.surroundings`;
        ``method`` is "difference", "catalogue" or "both".

    Raises
    ------
    ImageError
        No usable pixel, no usable seeing, more than ``max_candidates`` candidates, or a search by
        catalogue without catalogue, WCS or science image.
    MissingProgramError
        The program of the method is not installed.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "detect.seeing", f"a positive seeing [px] is needed, found {seeing}")
    if options.method == "finder" and (finder is None or science is None or reference is None):
        raise ImageError(
            image, "detect.finder", "the method finder needs a network, the science image and the reference"
        )
    if "catalogue" in options.search:
        require_catalogue(image, wcs=wcs, science=science, catalogue=catalogue)
    clean = _difference_plane(diff, noise, mask, image=image, seeing=seeing, psf=psf, rescale=options.rescale_noise)
    tables = {}
    for name in ("difference", "catalogue"):
        if name not in options.search:
            continue
        plane = clean
        if name == "catalogue" and science is not None:
            plane = _science_plane(clean, science, psf=science_psf, seeing=science_seeing)
        if options.method == "finder" and science is not None and reference is not None:
            planes = Planes.of(science, reference, diff, noise, mask, seeing=seeing, image=image)
            sources = finder.find(planes, threshold=options.finder_score, both_signs=options.both_signs).assign(flags=0)
        else:
            sources = _without_doubles(_sources(plane, name, options, image=image))
        if name == "catalogue":
            sources = drop_catalogued(sources, catalogue, wcs, diff.shape, radius=options.catalogue_radius)
        _check_number(len(sources), options.max_candidates, name, image)
        table = _properties(sources, plane, zero_point=zero_point)
        if "score" in sources:
            table["finder_score"] = sources["score"].to_numpy()
        table["edge"] = _at_edge(table, plane.missing, options.edge or size // 2, plane.seeing)
        ratio = table["fwhm"] / plane.seeing
        low, high = options.fwhm_ratio
        tables[name] = table[(ratio >= low) & (ratio <= high)].assign(method=name)
    table = tables[next(iter(tables))] if len(tables) == 1 else merge_searches(**tables, radius=seeing)

    table = table.iloc[np.lexsort((table["x"], table["y"]))].reset_index(drop=True)
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    table["negative"] = negative_shares(clean.data, clean.error, clean.bad, x, y, seeing=seeing)
    table["cause"] = name_surroundings(
        table, data=clean.data, noise=clean.error, mask=mask, reference=reference, seeing=seeing
    )
    table["ra"], table["dec"] = np.nan, np.nan
    if wcs is not None and len(x) > 0:
        table["ra"], table["dec"] = pixel_to_sky(wcs, x, y)
    table["image"], table["time"], table["filter"] = image, time, filter
    table["zero_point_source"] = zero_point_source
    prefix = f"{telescope}-{image}" if telescope else image
    table["candid"] = [f"{prefix}-{number:04d}" for number in range(1, len(table) + 1)]
    columns = CANDIDATE_COLUMNS | ({"finder_score": float} if "finder_score" in table else {})
    return table[list(columns)].astype(columns)


def _sources(plane: Plane, search: str, options: DetectOptions, *, image: str) -> pd.DataFrame:
    """Sources of one plane; with the threshold "auto" that of the first step with as many as are wanted."""
    steps = AUTO_THRESHOLDS if options.threshold == "auto" else (float(options.threshold),)
    first = _first_step(plane, options) if len(steps) > 1 and search == "difference" else 0
    threshold = steps[first]
    found = _find(plane, search, options, threshold, image=image)
    while first and len(found) > options.max_candidates:  # a step too far
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
    """First of `AUTO_THRESHOLDS` that may give as many sources as are wanted, by the peaks of the filtered difference.

    A source has a peak, so that steps before it need not be tried.
    """
    from scipy.ndimage import maximum_filter

    if options.method != "sep":  # the others' thresholds are not those of the filtered difference
        return 0
    filtered = np.nan_to_num(filtered_significance(plane.data, plane.error, plane.bad, plane.seeing))
    count = np.zeros(len(AUTO_THRESHOLDS), dtype=int)
    for signed in (filtered, -filtered) if options.both_signs else (filtered,):
        peaks = signed[signed == maximum_filter(signed, 3)]
        count += [int((peaks > threshold).sum()) for threshold in AUTO_THRESHOLDS]
    enough = np.flatnonzero(count >= options.target_candidates)
    return int(enough[0]) if len(enough) else len(AUTO_THRESHOLDS) - 1


def _without_doubles(sources: pd.DataFrame) -> pd.DataFrame:
    """Of sources whose centroids ran to one place the first: they are one source, divided by the deblending."""
    from scipy.spatial import cKDTree

    pairs = cKDTree(sources[["x", "y"]].to_numpy(float)).query_pairs(SAME_PLACE) if len(sources) else set()
    return sources.drop(index=sorted({max(pair) for pair in pairs})).reset_index(drop=True)


def _difference_plane(
    diff: np.ndarray, noise: np.ndarray, mask: np.ndarray, *, image: str, seeing: float, psf: Any, rescale: bool
) -> Plane:
    """The difference with its unusable pixels filled, and the noise that its pixels have."""
    with np.errstate(invalid="ignore"):
        bad = (mask != 0) | ~np.isfinite(diff) | ~(noise > 0) | ~np.isfinite(noise)
    if bad.all():
        raise ImageError(image, "detect", "no usable pixel in the difference")
    data = np.where(bad, 0, diff).astype(np.float32)
    error = np.where(bad, np.median(noise[~bad]), noise).astype(np.float32)
    if rescale:
        error *= np.float32(filtered_spread(data, error, bad, seeing))
    # Pixels that a cosmic ray or saturation took are no edge: what they leave behind is bogus to learn.
    missing = (mask == MASK_MISSING) | (~np.isfinite(diff) & (mask == 0))
    return Plane(data, error, bad, missing, seeing, psf)


def _science_plane(clean: Plane, science: np.ndarray, *, psf: Any, seeing: float | None) -> Plane:
    """The science image with the noise and the unusable pixels of the difference."""
    bad = clean.bad | ~np.isfinite(science)
    data = np.where(bad, 0, science).astype(np.float32)
    return Plane(data, clean.error, bad, clean.missing, seeing or clean.seeing, clean.psf if psf is None else psf)


def _check_number(number: int, most: int, search: str, image: str) -> None:
    if number > most:
        cause = (
            "the subtraction failed or the threshold is too low"
            if search == "difference"
            else "the star catalogue is not as deep as the image, or does not cover it"
        )
        raise ImageError(image, "detect.max_candidates", f"{number} candidates, more than {most}: {cause}")


def _properties(sources: pd.DataFrame, plane: Plane, *, zero_point: float) -> pd.DataFrame:
    """The measured columns of the sources of one plane."""
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


def _at_edge(table: pd.DataFrame, missing: np.ndarray, margin: int, seeing: float) -> np.ndarray:
    """Nearer than `margin` px to the border, or with a missing pixel within 1.5 FWHM."""
    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    height, width = missing.shape
    outside = (x < margin) | (y < margin) | (x > width - 1 - margin) | (y > height - 1 - margin)
    return outside | any_near(missing, x, y, FIT_RADIUS * seeing)
