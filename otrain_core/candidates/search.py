"""Find the sources on a plane with sep, Source Extractor or STDPipe, and compare them with a catalogue."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from otrain_core.candidates.measure import SIGMA
from otrain_core.errors import ImageError
from otrain_core.images.extraction import extract
from otrain_core.images.pixels import value_at
from otrain_core.images.wcs import sky_to_pixel
from otrain_core.temporary import temporary_folder

PEAK_MOVED = 1.5  # a windowed centroid farther than this from its start has failed [seeing]
FLAG_CENTROID = 1024  # the windowed centroid failed and the isophotal one is used

# Filter of gmadet's `default.conv`: a pyramid of about 2 px FWHM.
PYRAMID = ((1, 2, 1), (2, 4, 2), (1, 2, 1))
# STDPipe detects at its default of 2 sigma per pixel, then cuts on the S/N of aperture photometry.
STDPIPE_PIXEL_THRESHOLD = 2.0
STDPIPE_MIN_AREA = 3
STDPIPE_ANNULUS = (5.0, 7.0)  # background annulus of its photometry [FWHM]


def gaussian_kernel(fwhm: float) -> np.ndarray:
    """Matched filter of a Gaussian PSF with this FWHM [px]: float32, square with an odd side, of sum 1."""
    half = max(1, int(np.ceil(1.5 * fwhm)))
    offset = np.arange(-half, half + 1)
    profile = np.exp(-0.5 * (offset / (SIGMA * fwhm)) ** 2)
    kernel = np.outer(profile, profile)
    return (kernel / kernel.sum()).astype(np.float32)


def find_sources(
    method: str,
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    *,
    image: str,
    seeing: float,
    threshold: float,
    min_area: int,
    both_signs: bool = False,
) -> pd.DataFrame:
    """Positions of the sources of one plane.

    Parameters
    ----------
    method : str
        "sep", "source-extractor" or "stdpipe": see `find_sep`, `find_source_extractor`, `find_stdpipe`.
    data, error : numpy.ndarray
        float32 (height, width) [ADU], finite everywhere; `error` is 1 sigma.
    bad : numpy.ndarray
        bool (height, width), pixels on which nothing is detected.
    image : str
        Name, for errors.
    seeing : float
        FWHM of the PSF [px].
    threshold, min_area : float, int
        Threshold and smallest number of pixels, as defined by the method.
    both_signs : bool
        Also find negative sources.

    Returns
    -------
    pandas.DataFrame
        x, y [px], flags, and fwhm [px] if the method measures it.

    Raises
    ------
    ImageError
        Far too many pixels are above the threshold, or the program failed.
    MissingProgramError
        The program of the method is not installed.
    """
    find: Callable[..., pd.DataFrame]
    find = {"sep": find_sep, "source-extractor": find_source_extractor, "stdpipe": find_stdpipe}[method]
    tables = [
        find(sign * data, error, bad, image=image, seeing=seeing, threshold=threshold, min_area=min_area)
        for sign in ((1, -1) if both_signs else (1,))
    ]
    return pd.concat(tables, ignore_index=True)


def find_sep(
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    *,
    image: str,
    seeing: float,
    threshold: float,
    min_area: int,
) -> pd.DataFrame:
    """Detect pixels above the threshold after the matched filter of `sep` (Barbary 2016); compute windowed centroids."""
    import sep

    sep.set_sub_object_limit(4096)
    try:
        objects = extract(
            data,
            threshold,
            most=max(300_000, data.size // 4),
            err=error,
            mask=bad,
            minarea=min_area,
            filter_kernel=gaussian_kernel(seeing),
            filter_type="matched",
            clean=False,  # with a matched filter, the cleaning of sep also removes isolated sources
        )
    except Exception as problem:  # sep raises a bare Exception when its buffer overflows
        raise ImageError(
            image, "detect", f"far too many pixels above the threshold, the subtraction failed ({problem})"
        ) from None
    # Start from the filtered peak: the barycentre of a blend or a ring may be in a hole.
    x0, y0 = objects["xcpeak"].astype(float), objects["ycpeak"].astype(float)
    xw, yw, _ = sep.winpos(data, x0, y0, np.full(len(x0), SIGMA * seeing), mask=bad)
    centred = np.hypot(xw - x0, yw - y0) < PEAK_MOVED * seeing
    centred &= ~value_at(bad, xw, yw, outside=True)
    x, y = np.where(centred, xw, objects["x"]), np.where(centred, yw, objects["y"])
    masked = value_at(bad, x, y, outside=True)
    x[masked], y[masked] = x0[masked], y0[masked]
    flags = objects["flag"].astype(int) | np.where(centred, 0, FLAG_CENTROID)
    table = pd.DataFrame({"x": x, "y": y, "flags": flags})
    return table[~value_at(bad, x, y, outside=True)].reset_index(drop=True)


def find_source_extractor(
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    *,
    image: str,
    seeing: float,
    threshold: float,
    min_area: int,
) -> pd.DataFrame:
    """Run Source Extractor as gmadet does, with our noise as MAP_RMS.

    The filter is ``default.conv``, the background mesh 64 px; deblending and cleaning have their default values. The
    threshold applies to the filtered image, in units of the noise of single pixels. Masked pixels have infinite noise and
    are not interpolated, so nothing is detected on them. Positions are isophotal barycentres. ``fwhm`` is FWHM_IMAGE, NaN
    if Source Extractor gives 0.
    """
    found = _run_source_extractor(
        np.where(bad, 0, data).astype(np.float32),
        image=image,
        mask=bad,
        err=np.where(bad, np.inf, error),
        thresh=threshold,
        minarea=min_area,
        sn=0,
        reject_negative=False,
        convolve=True,
        extra={"INTERP_TYPE": "NONE"},
    )
    return _tidy(found, bad)


def find_stdpipe(
    data: np.ndarray,
    error: np.ndarray,
    bad: np.ndarray,
    *,
    image: str,
    seeing: float,
    threshold: float,
    min_area: int,
) -> pd.DataFrame:
    """Run STDPipe: noise-weighted detection, forced photometry, rejection of masked artefacts.

    Source Extractor detects groups of at least `min_area` pixels (and at least 3) above 2 sigma.
    `stdpipe.photometry.measure_objects` measures them within one FWHM. Sources with an S/N below `threshold`, with a masked
    pixel in their footprint or aperture (`stdpipe.pipeline.filter_transient_candidates`, without queries over the network),
    or centred on a masked pixel are rejected. Positions are isophotal barycentres; there is no cut on the FWHM.
    """
    from astropy.utils.exceptions import AstropyWarning
    from stdpipe.photometry import measure_objects
    from stdpipe.pipeline import filter_transient_candidates

    masked = np.where(bad, np.nan, data).astype(np.float32)
    found = _run_source_extractor(
        masked,
        image=image,
        mask=bad,
        err=np.where(bad, np.inf, error),
        thresh=STDPIPE_PIXEL_THRESHOLD,
        minarea=max(min_area, STDPIPE_MIN_AREA),
        aper=seeing,
        sn=threshold,
        convolve=False,
    )
    if len(found):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", AstropyWarning)
            warnings.simplefilter("ignore", RuntimeWarning)
            found = measure_objects(
                found, masked, mask=bad, fwhm=seeing, aper=1.0, bkgann=STDPIPE_ANNULUS, sn=threshold, bg=0, err=error,
                verbose=False,
            )  # fmt: skip
    if len(found):
        found = filter_transient_candidates(
            found, sr=1 / 3600, fwhm=seeing, vizier=[], skybot=False, ned=False, verbose=False
        )
    return _tidy(found, bad).drop(columns="fwhm")


def _run_source_extractor(
    data: np.ndarray, *, image: str, convolve: bool, extra: dict[str, Any] | None = None, **options: Any
) -> Any:
    """Table of `stdpipe.photometry.get_objects_sextractor`, with pixels from 0.

    Raises
    ------
    ImageError
        Source Extractor failed.
    MissingProgramError
        Source Extractor is not installed.
    """
    from otrain_core.programs import find_program

    program = find_program("source-extractor")
    from stdpipe.photometry import get_objects_sextractor

    # Source Extractor loses objects without an error when its pixel stack overflows.
    extra = {"MEMORY_PIXSTACK": max(300_000, data.size // 2), "BACK_SIZE": 64, "NTHREADS": 1} | (extra or {})
    with temporary_folder("detect") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # astropy does not know some units in the output
        if convolve:
            kernel = folder / "default.conv"
            rows = "\n".join(" ".join(str(value) for value in row) for row in PYRAMID)
            kernel.write_text(f"CONV NORM\n{rows}\n")
            extra |= {"FILTER": "Y", "FILTER_NAME": str(kernel)}
        found = get_objects_sextractor(
            data,
            extra=extra,
            extra_params=["XPEAK_IMAGE", "YPEAK_IMAGE"],
            sort=False,
            _exe=program,
            _workdir=folder,
            **options,
        )
    if found is None:
        raise ImageError(image, "detect.method", f"{program} failed on this image")
    return found


def _tidy(found: Any, bad: np.ndarray) -> pd.DataFrame:
    """x, y, flags and fwhm; a source centred on a masked pixel is moved to its peak, or dropped if that is masked too."""
    x, y = (np.array(found[name], dtype=float) for name in ("x", "y"))
    masked = value_at(bad, x, y, outside=True)
    x[masked], y[masked] = (np.asarray(found[name], dtype=float)[masked] - 1 for name in ("XPEAK_IMAGE", "YPEAK_IMAGE"))
    fwhm = np.array(found["fwhm"], dtype=float)
    fwhm[~(fwhm > 0)] = np.nan
    table = pd.DataFrame({"x": x, "y": y, "flags": np.asarray(found["flags"]).astype(int), "fwhm": fwhm})
    return table[~value_at(bad, x, y, outside=True)].reset_index(drop=True)


def require_catalogue(image: str, *, wcs: Any, science: np.ndarray | None, catalogue: pd.DataFrame | None) -> None:
    """Check that the search by catalogue has the catalogue, the WCS and the science image.

    Raises
    ------
    ImageError
        One of them is missing; the message says how to provide it.
    """
    key = "detect.search"
    if catalogue is None:
        raise ImageError(
            image,
            key,
            "the search catalogue needs a star catalogue; give one in column catalogue of the telescope sheet",
        )
    if missing := [name for name in ("ra", "dec") if name not in catalogue]:
        raise ImageError(
            image,
            key,
            f"the star catalogue has no column {missing[0]!r}; the file named in column catalogue of the telescope "
            "sheet needs the columns ra and dec [deg]",
        )
    if wcs is None:
        raise ImageError(
            image,
            key,
            "the search catalogue needs a celestial WCS to compare the image with the star catalogue (column catalogue "
            "of the telescope sheet); give a header with one in column wcs of the image sheet",
        )
    if science is None:
        raise ImageError(image, key, "the search catalogue needs the science image in addition to the difference")


def catalogue_pixels(catalogue: pd.DataFrame, wcs: Any, shape: tuple[int, int]) -> np.ndarray:
    """Pixel positions x, y of the catalogue entries on and around an image of this shape, (N, 2)."""
    x, y = sky_to_pixel(wcs, catalogue["ra"].to_numpy(float), catalogue["dec"].to_numpy(float), shape=shape)
    height, width = shape
    with np.errstate(invalid="ignore"):
        near = (np.abs(x - (width - 1) / 2) < width) & (np.abs(y - (height - 1) / 2) < height)
    return np.column_stack([x, y])[near]


def drop_catalogued(
    sources: pd.DataFrame, catalogue: pd.DataFrame, wcs: Any, shape: tuple[int, int], *, radius: float
) -> pd.DataFrame:
    """The sources (columns x, y) without a catalogue entry within `radius` px."""
    known = catalogue_pixels(catalogue, wcs, shape)
    return sources[_unmatched(sources, {"x": known[:, 0], "y": known[:, 1]}, radius=radius)].reset_index(drop=True)


def merge_searches(difference: pd.DataFrame, catalogue: pd.DataFrame, *, radius: float) -> pd.DataFrame:
    """Merge the candidates of both searches.

    A candidate of the catalogue search within `radius` px of one of the difference is the same source: the row of the
    difference is kept, and its column ``method`` becomes "both".
    """
    if not len(difference) or not len(catalogue):
        return difference if len(difference) else catalogue
    difference = difference.copy()
    difference.loc[~_unmatched(difference, catalogue, radius=radius), "method"] = "both"
    rest = catalogue[_unmatched(catalogue, difference, radius=radius)]
    return pd.concat([difference, rest], ignore_index=True)


def _unmatched(one: Any, other: Any, *, radius: float) -> np.ndarray:
    """Which rows of `one` have no row of `other` within `radius`, by their columns x and y."""
    from scipy.spatial import cKDTree

    ours, theirs = (np.column_stack([np.asarray(t[name], float) for name in "xy"]) for t in (one, other))
    theirs = theirs[np.isfinite(theirs).all(axis=1)]
    if not len(ours) or not len(theirs):
        return np.ones(len(ours), dtype=bool)
    return cKDTree(theirs).query(ours)[0] > radius
