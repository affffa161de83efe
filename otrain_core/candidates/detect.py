"""Candidates of one image: found on the difference or against a catalogue, measured in one way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import (
    FIT_RADIUS,
    BroadenedPSF,
    filtered_spread,
    gaussian_widths,
    negative_shares,
    point_source_scale,
    psf_fluxes,
    window_ellipticities,
)
from otrain_core.candidates.search import (
    FLAG_CENTROID,
    drop_catalogued,
    find_sources,
    gaussian_kernel,
    merge_searches,
    require_catalogue,
)
from otrain_core.errors import ImageError
from otrain_core.images.frames import MASK_MISSING
from otrain_core.images.pixels import any_near, nearest_pixel

__all__ = [
    "COLUMNS",
    "FLAG_CENTROID",
    "FLAG_COVER",
    "FLAG_MASKED",
    "BroadenedPSF",
    "detect_candidates",
    "filtered_spread",
    "gaussian_kernel",
    "gaussian_widths",
    "nearest_pixel",
    "psf_fluxes",
    "window_ellipticities",
]

MIN_COVER = 0.5  # with a smaller share of the PSF on usable pixels the photometry is flagged

# Bits of the column `flags` (and FLAG_CENTROID); the lower ones are those of the program that detects.
FLAG_MASKED = 256  # a masked pixel within one seeing FWHM
FLAG_COVER = 512  # less than half of the PSF falls on usable pixels

COLUMNS = {
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
    "flags": int,
    "edge": bool,
    "time": str,
    "filter": str,
    "method": str,
}


def detect_candidates(
    diff: np.ndarray,
    noise: np.ndarray,
    mask: np.ndarray,
    *,
    image: str,
    seeing: float,
    zero_point: float,
    wcs: Any = None,
    psf: Any = None,
    telescope: str = "",
    time: str = "",
    filter: str = "",
    size: int = 32,
    method: str = "sep",
    search: Sequence[str] = ("difference",),
    science: np.ndarray | None = None,
    science_psf: Any = None,
    science_seeing: float | None = None,
    catalogue: pd.DataFrame | None = None,
    catalogue_radius: float = 3.0,
    threshold: float = 4.5,
    min_area: int = 1,
    edge: int = 0,
    fwhm_ratio: tuple[float, float] = (0.0, 20.0),
    max_candidates: int = 5000,
    both_signs: bool = False,
    rescale_noise: bool = True,
) -> pd.DataFrame:
    """Find candidates and measure them.

    With `method` "sep", pixels are detected where the difference, filtered with a Gaussian of
    the seeing and weighted by the noise of every pixel, exceeds `threshold` (the matched
    filter of `sep`, Barbary 2016, after SExtractor, Bertin & Arnouts 1996), and positions are
    windowed centroids. "source-extractor" and "stdpipe" run Source Extractor itself as gmadet
    and STDPipe do (`otrain_core.candidates.search`), and positions and the lower flags are its own.

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
        uint8 (height, width), bits `otrain_core.io.MASK_*`; a masked pixel is not used.
    image, telescope : str
        Names, from which ``candid`` is made: ``{telescope}-{image}-0001`` in order of y, x.
    seeing : float
        FWHM of the PSF of the difference [px].
    zero_point : float
        Magnitude of 1 ADU.
    wcs : astropy.wcs.WCS, optional
        Without it ``ra`` and ``dec`` are NaN.
    psf : otrain_core.stars.psf.PSFModel, optional
        Its ``stamp(x, y) -> (array, y0, x0)`` gives the PSF; without it a Gaussian of the
        seeing is taken, which misses the wings of a real PSF.
    time, filter : str
        Copied to every candidate.
    size : int
        Side of the cutouts to come [px].
    method : str
        Back end that finds sources: "sep", "source-extractor" or "stdpipe".
    search : sequence of str
        "difference", "catalogue" or both.
    science : numpy.ndarray, optional
        Science image without background [ADU] (height, width), for the search "catalogue", which
        takes its noise to be that of the difference and uses the same pixels.
    science_psf, science_seeing : optional
        PSF and FWHM [px] of `science` where it was convolved for the difference (default: `psf`, `seeing`).
    catalogue : pandas.DataFrame, optional
        Columns ra and dec [deg]; should go deeper than the image.
    catalogue_radius : float
        A source this near to a catalogue entry is known [px].
    threshold : float
        [sigma]: after the matched filter (sep), of single pixels after its own filter
        (source-extractor), S/N of aperture photometry (stdpipe).
    min_area : int
        Smallest number of connected pixels above the threshold (stdpipe: above 2 sigma, at least 3).
    edge : int
        Candidates nearer than this to the border are flagged ``edge`` [px]; 0: half a cutout.
        So are those with a pixel within 1.5 FWHM that is missing for no other reason.
    fwhm_ratio : tuple of float
        Accepted range of FWHM over seeing; a FWHM that cannot be measured is outside.
    max_candidates : int
        Largest number of candidates of one search.
    both_signs : bool
        Also detect negative sources (their flux is negative, their magnitude NaN).
    rescale_noise : bool
        Multiply the noise by the robust spread of the filtered, noise-weighted difference, so
        that thresholds and errors hold where the noise of neighbouring pixels is correlated
        (after resampling and convolution) or the gain is not known well.

    Returns
    -------
    pandas.DataFrame
        Columns `COLUMNS`, sorted by y, then x. ``snr`` is |flux| / fluxerr; ``negative``
        is that of `otrain_core.candidates.measure.negative_shares`; ``method`` is "difference", "catalogue" or "both".

    Raises
    ------
    ImageError
        No usable pixel, no usable seeing, more than `max_candidates` candidates, or a search by
        catalogue without catalogue, WCS or science image.
    MissingProgramError
        The program of the method is not installed.
    """
    if not (np.isfinite(seeing) and seeing > 0):
        raise ImageError(image, "detect.seeing", f"a positive seeing [px] is needed, found {seeing}")
    if "catalogue" in search:
        require_catalogue(image, wcs=wcs, science=science, catalogue=catalogue)
    with np.errstate(invalid="ignore"):
        bad = (mask != 0) | ~np.isfinite(diff) | ~(noise > 0) | ~np.isfinite(noise)
    if bad.all():
        raise ImageError(image, "detect", "no usable pixel in the difference")
    data = np.where(bad, 0, diff).astype(np.float32)
    error = np.where(bad, np.median(noise[~bad]), noise).astype(np.float32)
    if rescale_noise:
        error *= np.float32(filtered_spread(data, error, bad, seeing))

    # Pixels that a cosmic ray or saturation took are no edge: what they leave behind is bogus to learn.
    missing = (mask == MASK_MISSING) | (~np.isfinite(diff) & (mask == 0))
    finding = {"image": image, "threshold": threshold, "min_area": min_area}
    tables = {name: None for name in ("difference", "catalogue") if name in search}
    for name in tables:
        if name == "difference":
            plane, hidden, plane_psf, plane_seeing = data, bad, psf, seeing
        else:
            hidden = bad | ~np.isfinite(science)
            plane = np.where(hidden, 0, science).astype(np.float32)
            plane_psf, plane_seeing = psf if science_psf is None else science_psf, science_seeing or seeing
        sources = find_sources(
            method, plane, error, hidden, seeing=plane_seeing, both_signs=both_signs and name == "difference", **finding
        )
        if name == "catalogue":
            sources = drop_catalogued(sources, catalogue, wcs, diff.shape, radius=catalogue_radius)
        _check_number(len(sources), max_candidates, name, image)
        table = _measure(sources, plane, error, hidden, seeing=plane_seeing, psf=plane_psf, zero_point=zero_point)
        table["edge"] = _at_edge(table, missing, edge or size // 2, plane_seeing)
        ratio = table["fwhm"] / plane_seeing
        tables[name] = table[(ratio >= fwhm_ratio[0]) & (ratio <= fwhm_ratio[1])].assign(method=name)
    table = tables[next(iter(tables))] if len(tables) == 1 else merge_searches(**tables, radius=seeing)

    x, y = table["x"].to_numpy(), table["y"].to_numpy()
    order = np.lexsort((x, y))
    table, x, y = table.iloc[order].reset_index(drop=True), x[order], y[order]
    table["negative"] = negative_shares(data, error, bad, x, y, seeing=seeing)
    located = wcs is not None and len(x) > 0
    table["ra"], table["dec"] = wcs.all_pix2world(x, y, 0) if located else (np.full(len(x), np.nan),) * 2
    table["image"], table["time"], table["filter"] = image, time, filter
    prefix = f"{telescope}-{image}" if telescope else image
    table["candid"] = [f"{prefix}-{number:04d}" for number in range(1, len(table) + 1)]
    return table[list(COLUMNS)].astype(COLUMNS)


def _check_number(number: int, most: int, search: str, image: str) -> None:
    if number > most:
        cause = (
            "the subtraction failed or the threshold is too low"
            if search == "difference"
            else "the star catalogue is not as deep as the image, or does not cover it"
        )
        raise ImageError(image, "detect.max_candidates", f"{number} candidates, more than {most}: {cause}")


def _measure(
    sources: pd.DataFrame,
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    *,
    seeing: float,
    psf: Any,
    zero_point: float,
) -> pd.DataFrame:
    """The measured columns of the sources of one plane."""
    x, y = sources["x"].to_numpy(), sources["y"].to_numpy()
    flux, fluxerr, cover = psf_fluxes(data, error, bad, x, y, seeing=seeing, psf=psf)
    if "fwhm" in sources:
        fwhm = sources["fwhm"].to_numpy()
    else:
        fwhm = gaussian_widths(data, error, bad, x, y, seeing=seeing)
        if psf is not None:
            fwhm *= point_source_scale(psf, data.shape, seeing)
    flags = sources["flags"].to_numpy() | np.where(cover < MIN_COVER, FLAG_COVER, 0)
    flags |= np.where(any_near(bad, x, y, seeing), FLAG_MASKED, 0)
    positive = flux > 0
    mag, magerr = np.full(len(x), np.nan), np.full(len(x), np.nan)
    mag[positive] = zero_point - 2.5 * np.log10(flux[positive])
    magerr[positive] = 2.5 / np.log(10) * fluxerr[positive] / flux[positive]
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
